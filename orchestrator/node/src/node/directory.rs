//! Who may connect, and as what: follows the executed state.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock};

use quorate_attest::epoch::GroupChain;
use quorate_attest::group::GroupConfig;
use quorate_attest::key::PublicKey;
use quorate_control::{Control, Which};
use quorate_transport::{Directory, Role};

/// Roles of all keys that the state knows. Everybody else is refused in the TLS handshake.
#[derive(Debug, Default)]
pub struct StateDirectory {
    roles: RwLock<BTreeMap<PublicKey, Role>>,
}

impl StateDirectory {
    /// Takes over who has a role in the state; answers the keys that lost theirs. `known` is what the configuration tells of the
    /// orchestrators: a node that joins must know the present ones before it has executed how they became members.
    pub fn follow(&self, control: &Control, known: &GroupChain) -> Vec<PublicKey> {
        let groups = [Which::Orchestrators, Which::Verifiers].map(|which| control.groups(which).current());
        let groups = match known.current() {
            newer if newer.epoch > groups[0].epoch => [newer, groups[1]],
            _ => groups,
        };
        let clients = control.clients().filter(|(_, client)| client.revoked.is_none());
        // One who has just been voted out may still fetch the entry that says so.
        let before = groups[0].epoch.previous().and_then(|epoch| known.config(epoch).ok());
        let before = before.or_else(|| {
            let executed = control.groups(Which::Orchestrators);
            executed.config(executed.current().epoch.previous()?).ok()
        });
        let former = before.into_iter().flat_map(|group| &group.members).map(|member| member.transport_key);
        self.update(groups[0], groups[1], former, clients.map(|(key, _)| *key))
    }

    /// Takes over the members, operators and hosts of both groups and the registered clients; answers the keys that lost their role.
    pub fn update(
        &self,
        orchestrators: &GroupConfig,
        verifiers: &GroupConfig,
        former: impl IntoIterator<Item = PublicKey>,
        clients: impl IntoIterator<Item = PublicKey>,
    ) -> Vec<PublicKey> {
        // Later ones win: a key that has a role in a group cannot be registered away from it.
        let clients = clients.into_iter().map(|key| (key, Role::Client));
        let mut roles: BTreeMap<PublicKey, Role> = clients.collect();
        roles.extend(former.into_iter().map(|key| (key, Role::Orchestrator)));
        for group in [verifiers, orchestrators] {
            roles.extend(group.hosts.iter().map(|host| (host.key, Role::Host)));
            roles.extend(group.operators.iter().map(|key| (*key, Role::Operator)));
        }
        roles.extend(verifiers.members.iter().map(|member| (member.transport_key, Role::Verifier)));
        roles.extend(orchestrators.members.iter().map(|member| (member.transport_key, Role::Orchestrator)));
        let mut known = self.roles.write().unwrap_or_else(PoisonError::into_inner);
        let lost =
            known.iter().filter(|(key, role)| roles.get(key) != Some(role)).map(|(key, _)| *key).collect();
        *known = roles;
        lost
    }
}

impl Directory for StateDirectory {
    fn role(&self, key: &PublicKey) -> Option<Role> {
        self.roles.read().unwrap_or_else(PoisonError::into_inner).get(key).copied()
    }
}

#[cfg(test)]
mod tests {
    use quorate_attest::group::{HASH_SHA256, Host, Member};
    use quorate_attest::id::Epoch;
    use quorate_attest::key::SecretKey;

    use super::*;

    fn key(seed: u8) -> PublicKey {
        SecretKey::from_seed([seed; 32]).public()
    }

    fn group(seed: u8) -> GroupConfig {
        let member = Member {
            name: format!("member-{seed}"),
            vote_key: key(seed),
            cosigner_key: key(seed + 1),
            transport_key: key(seed + 2),
        };
        GroupConfig {
            name: "demo".into(),
            hash_algorithm: HASH_SHA256,
            epoch: Epoch::ZERO,
            genesis: None,
            f: 0,
            members: vec![member],
            operators: vec![key(100)],
            hosts: vec![Host { name: "host-a".into(), key: key(101) }],
        }
    }

    #[test]
    fn a_key_that_left_the_state_may_not_connect_any_more() {
        let directory = StateDirectory::default();
        assert!(directory.update(&group(10), &group(20), [], [key(102)]).is_empty());
        let role = |seed| directory.role(&key(seed));
        assert_eq!([role(12), role(22)], [Some(Role::Orchestrator), Some(Role::Verifier)]);
        assert_eq!(
            [role(100), role(101), role(102)],
            [Some(Role::Operator), Some(Role::Host), Some(Role::Client)]
        );
        assert_eq!([role(10), role(11), role(99)], [None; 3], "vote and cosigner keys connect nobody");
        assert_eq!(directory.update(&group(30), &group(20), [], []), {
            let mut lost = vec![key(12), key(102)];
            lost.sort();
            lost
        });
        assert_eq!([role(12), role(32), role(102)], [None, Some(Role::Orchestrator), None]);
        directory.update(&group(30), &group(20), [], [key(32)]);
        directory.update(&group(30), &group(20), [key(12)], [key(32)]);
        assert_eq!(role(12), Some(Role::Orchestrator), "a former member may still learn that it is one");
        assert_eq!(role(32), Some(Role::Orchestrator), "a member's key cannot become a client's");
    }
}
