//! Who is who.

use std::sync::Arc;

use quorate_attest::group::{GroupConfig, HASH_SHA256, Member};
use quorate_attest::id::Epoch;
use quorate_attest::key::SecretKey;
use sha2::{Digest as _, Sha256};

/// Signs what liars execute in the place of requests.
pub const MALLORY: &str = "mallory";

/// The key of somebody with this name.
pub fn key(name: &[&str]) -> SecretKey {
    SecretKey::from_seed(Sha256::digest(name.join("/")).into())
}

/// The key of a member of a group.
pub fn member_key(group: &str, role: &str, index: u16) -> SecretKey {
    key(&[group, role, &index.to_string()])
}

/// The group that orders and the group of the service's replicas; member i of both runs on the same node.
#[derive(Clone, Debug)]
pub struct Groups {
    pub orchestrators: Arc<GroupConfig>,
    pub replicas: Arc<GroupConfig>,
}

impl Groups {
    pub fn new(n: u16, f: u64) -> Self {
        let group = |name: &str| {
            let member = |index: u16| {
                let public = |role| member_key(name, role, index).public();
                let (vote_key, cosigner_key, transport_key) =
                    (public("vote"), public("cosigner"), public("transport"));
                Member { name: format!("{name}-{index}"), vote_key, cosigner_key, transport_key }
            };
            let group = GroupConfig {
                name: name.into(),
                hash_algorithm: HASH_SHA256,
                epoch: Epoch(0),
                genesis: None,
                f,
                members: (0..n).map(member).collect(),
                operators: Vec::new(),
                hosts: Vec::new(),
            };
            group.validate().expect("a usable group");
            Arc::new(group)
        };
        Self { orchestrators: group("orchestrators"), replicas: group("services") }
    }
}
