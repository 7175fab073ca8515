//! What was refused during a demo, by whom, collected from everybody who is honest.
//!
//! The clients' own counters, the report of the migration, and the logs of honest nodes count. What a Byzantine node
//! says about itself does not.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

use quorate_attest::encoding::Bounded;
use quorate_attest::group::GroupConfig;
use quorate_attest::statement::Kind;
use quorate_attest::vm::ConflictingCertificates;

use super::attacks::{Attack, Refuser};
use crate::cluster::{Cluster, log};
use quorate_host::client::Target;
use quorate_host::protocol::Report;

/// Name under which all clients of the demo appear.
const CLIENTS: &str = "clients";
/// Where a host that forged with its accomplices leaves what it got.
const CONFLICT_FILE: &str = "conflicting-certificates.bin";

/// Something that was refused.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Refused {
    /// Who refused.
    pub by: String,
    /// Error kind.
    pub kind: String,
    /// How often.
    pub count: u64,
    /// What was found the first time.
    pub detail: String,
}

/// Collects refusals.
#[derive(Debug, Default)]
pub struct Refusals {
    found: BTreeMap<(String, String), Refused>,
}

impl Refusals {
    /// Notes one kind that `by` refused.
    fn note(&mut self, by: &str, kind: &str, count: u64, detail: &str) {
        let first =
            || Refused { by: by.to_owned(), kind: kind.to_owned(), count: 0, detail: detail.to_owned() };
        self.found.entry((by.to_owned(), kind.to_owned())).or_insert_with(first).count += count;
    }

    /// The destination's word in the report of the migration.
    pub fn add_report(&mut self, report: &Report, destination: &str) {
        if let Some(refused) = &report.refused {
            self.note(destination, &refused.kind, 1, &refused.detail);
        }
    }

    /// What the clients refused.
    pub fn add_clients(&mut self, target: &Target) {
        for (kind, count) in target.refused() {
            self.note(CLIENTS, &kind, count, "answers that were not believed");
        }
        if target.conflict().is_some() {
            self.note(CLIENTS, "ConflictingCertificates", 1, "two certificates for one slot");
        }
    }

    /// The logs of all honest nodes.
    pub fn add_logs(&mut self, cluster: &Cluster) {
        for name in cluster.node_names() {
            if cluster.is_faulty(&name) {
                continue;
            }
            for refusal in log::refusals(&cluster.log_file(&name)) {
                self.note(&name, &refusal.kind, 1, &refusal.detail);
            }
        }
    }

    /// All refusals of one of these kinds by somebody who may refuse them.
    pub fn matching(&self, attack: &Attack) -> Vec<Refused> {
        let allowed = |by: &str| attack.refusers.iter().any(|refuser| is(*refuser, by));
        let matches =
            |refused: &&Refused| attack.kinds.contains(&refused.kind.as_str()) && allowed(&refused.by);
        self.found.values().filter(matches).cloned().collect()
    }

    /// Everything that was refused.
    pub fn all(&self) -> Vec<Refused> {
        self.found.values().cloned().collect()
    }
}

fn is(refuser: Refuser, by: &str) -> bool {
    match refuser {
        Refuser::Destination => by == super::scene::DESTINATION,
        Refuser::Verifier => by.starts_with("verifier"),
        Refuser::Client => by == CLIENTS,
        Refuser::Host => by.starts_with("host"),
        Refuser::Nobody => false,
        Refuser::Anyone => true,
    }
}

/// Two certificates for one slot that hold both, if a client or the attacker has them; and who signed both.
pub fn conflict(
    cluster: &Cluster,
    target: &Target,
    group: &GroupConfig,
) -> Option<(ConflictingCertificates, Vec<u16>)> {
    let expected = group.expected(target.vm(), Kind::SLOT_REPLAYED);
    let from_file = |path: PathBuf| ConflictingCertificates::decoded(&fs::read(path).ok()?).ok();
    let names = cluster.node_names();
    let files = names.iter().filter_map(|name| from_file(cluster.data_dir(name).join(CONFLICT_FILE)));
    // The attacker's file is believed as little as the attacker: it counts when both certificates verify.
    target.conflict().into_iter().chain(files).find_map(|pair| {
        let both = pair.verify(group, &expected).ok()?;
        Some((pair, both))
    })
}

#[cfg(test)]
mod tests {
    use super::super::attacks::by_name;
    use super::*;

    #[test]
    fn only_the_right_party_with_the_right_kind_counts() {
        let mut refusals = Refusals::default();
        refusals.note("host-a", "StaleSlot", 1, "");
        refusals.note("verifier-1", "StaleSlot", 1, "");
        refusals.note("host-b", "ProofInvalid", 1, "");
        let attack = by_name("rollback").unwrap();
        assert!(refusals.matching(attack).is_empty());
        refusals.note("host-b", "StaleSlot", 1, "first");
        refusals.note("host-b", "StaleSlot", 2, "second");
        let found = refusals.matching(attack);
        assert_eq!((found.len(), found[0].count, found[0].detail.as_str()), (1, 3, "first"));
        assert_eq!(refusals.all().len(), 4);
    }
}
