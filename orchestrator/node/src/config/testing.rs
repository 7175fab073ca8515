//! Groups with fixed keys, for tests.

use quorate_attest::group::{GroupConfig, HASH_SHA256, Host, Member};
use quorate_attest::id::Epoch;
use quorate_attest::key::SecretKey;

/// The key of a seed: 1 is the operator's, 2 the host's.
pub(crate) fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

/// Four members in their first epoch; vote keys begin at `seed`, cosigner keys 10 and transport keys 20 later.
pub(crate) fn group(name: &str, seed: u8) -> GroupConfig {
    let member = |index: u8| Member {
        name: format!("{name}-{index}"),
        vote_key: key(seed + index).public(),
        cosigner_key: key(seed + 10 + index).public(),
        transport_key: key(seed + 20 + index).public(),
    };
    GroupConfig {
        name: format!("{name}s"),
        hash_algorithm: HASH_SHA256,
        epoch: Epoch::ZERO,
        genesis: None,
        f: 1,
        members: (0..4).map(member).collect(),
        operators: vec![key(1).public()],
        hosts: vec![Host { name: "host-a".into(), key: key(2).public() }],
    }
}
