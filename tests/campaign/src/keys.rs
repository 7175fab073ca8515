//! Keys and groups that every run uses.

use quorate_attest::epoch::GroupChain;
use quorate_attest::group::{GroupConfig, HASH_SHA256, Host, Member};
use quorate_attest::id::Epoch;
use quorate_attest::key::SecretKey;

/// Orchestrators and verifiers: four each, of which one may be Byzantine.
pub const MEMBERS: u16 = 4;
/// Hosts.
pub const HOSTS: u16 = 3;
/// Operators.
pub const OPERATORS: u16 = 2;

fn secret(purpose: u8, number: u16) -> SecretKey {
    let mut seed = [purpose; 32];
    seed[..2].copy_from_slice(&number.to_le_bytes());
    SecretKey::from_seed(seed)
}

/// Vote key of an orchestrator.
pub fn orchestrator(number: u16) -> SecretKey {
    secret(1, number)
}

/// Vote key of a verifier.
pub fn verifier(number: u16) -> SecretKey {
    secret(2, number)
}

/// Key of an operator.
pub fn operator(number: u16) -> SecretKey {
    secret(3, number)
}

/// Key of a host.
pub fn host(number: u16) -> SecretKey {
    secret(4, number)
}

fn group(name: &str, vote: fn(u16) -> SecretKey, purpose: u8) -> GroupConfig {
    let member = |number| Member {
        name: format!("{name}-{number}"),
        vote_key: vote(number).public(),
        cosigner_key: secret(purpose, number).public(),
        transport_key: secret(purpose + 1, number).public(),
    };
    GroupConfig {
        name: name.into(),
        hash_algorithm: HASH_SHA256,
        epoch: Epoch::ZERO,
        genesis: None,
        f: 1,
        members: (0..MEMBERS).map(member).collect(),
        operators: Vec::new(),
        hosts: Vec::new(),
    }
}

/// The orchestrators' group.
pub fn orchestrators() -> GroupConfig {
    let operators = (0..OPERATORS).map(|number| operator(number).public()).collect();
    GroupConfig { operators, ..group("order", orchestrator, 20) }
}

/// The verifiers' group with its hosts.
pub fn verifiers() -> GroupConfig {
    let host = |number: u16| Host { name: format!("host-{number}"), key: host(number).public() };
    GroupConfig { hosts: (0..HOSTS).map(host).collect(), ..group("verify", verifier, 30) }
}

/// A group in its first epoch.
pub fn chain(group: GroupConfig) -> GroupChain {
    GroupChain::new(group).unwrap_or_else(|error| panic!("the groups of a run are sound: {error}"))
}
