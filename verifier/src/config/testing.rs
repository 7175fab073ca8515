//! A group with fixed keys, for tests.

use quorate_attest::group::{GroupConfig, HASH_SHA256, Member};
use quorate_attest::id::Epoch;
use quorate_attest::key::SecretKey;

/// Root keys have purpose 1, vote keys 2, cosigner keys 3, transport keys 4, operators 5.
pub fn key(purpose: u8, number: u8) -> SecretKey {
    let mut seed = [purpose; 32];
    seed[0] = number;
    SecretKey::from_seed(seed)
}

/// Four verifiers in their first epoch.
pub fn genesis() -> GroupConfig {
    let member = |number| Member {
        name: format!("verifier-{number}"),
        vote_key: key(2, number).public(),
        cosigner_key: key(3, number).public(),
        transport_key: key(4, number).public(),
    };
    GroupConfig {
        name: "demo".into(),
        hash_algorithm: HASH_SHA256,
        epoch: Epoch::ZERO,
        genesis: None,
        f: 1,
        members: (0..4).map(member).collect(),
        operators: Vec::new(),
        hosts: Vec::new(),
    }
}
