//! What the verifiers promised, read from their sign-logs: the proof that nobody signed twice.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use quorate_attest::encoding::{from_bytes, to_bytes};
use quorate_attest::id::{Generation, Slot, StatementDigest, VmId};
use quorate_verifier::core::Record;
use quorate_verifier::node::Change;
use quorate_verifier::sign_log::{FileStorage, LOG_FILE, PAYLOAD_BYTES_MAX, SignLog};

/// Frame kind of a batch of records.
const BATCH: u8 = 2;

/// Everything one verifier signed.
#[derive(Clone, Debug, Default)]
pub struct Signed {
    /// Statements by place.
    pub slots: BTreeMap<(VmId, Generation, Slot), BTreeSet<StatementDigest>>,
    /// Activations voted for, by generation; the encoding stands for the activation.
    pub votes: BTreeMap<(VmId, Generation), BTreeSet<Vec<u8>>>,
}

/// Reads the sign-log in a verifier's data directory, also of one that runs: a copy is read, and its end may be torn.
///
/// # Panics
/// The log is damaged.
pub fn read(data_dir: &Path) -> Signed {
    let copy = tempfile::tempdir().expect("a folder for the copy");
    let path = copy.path().join(LOG_FILE);
    fs::copy(data_dir.join(LOG_FILE), &path).expect("the sign-log is there");
    let opened =
        SignLog::open(FileStorage::open(&path).expect("the copy opens")).expect("the sign-log is whole");
    let mut signed = Signed::default();
    for entry in opened.entries.iter().filter(|entry| entry.kind == BATCH) {
        let batch: Vec<Change> = from_bytes(&entry.payload, PAYLOAD_BYTES_MAX).expect("records decode");
        for (vm, record) in batch {
            signed.add(vm, &record);
        }
    }
    signed
}

impl Signed {
    fn add(&mut self, vm: VmId, record: &Record) {
        match record {
            Record::Signed { signed, .. } => {
                let statement = &signed.proposal.statement;
                let place = (vm, statement.body.generation, statement.slot);
                self.slots.entry(place).or_default().insert(statement.digest());
            }
            Record::Voted { activation, .. } => {
                let votes = self.votes.entry((vm, activation.generation)).or_default();
                votes.insert(to_bytes(activation));
            }
            _ => {}
        }
    }

    /// Fails when something was signed twice.
    ///
    /// # Panics
    /// It was.
    pub fn assert_no_second_signature(&self, name: &str) {
        for (place, statements) in &self.slots {
            assert_eq!(statements.len(), 1, "{name} signed {statements:?} at {place:?}");
        }
        for (place, votes) in &self.votes {
            assert_eq!(votes.len(), 1, "{name} voted for {} instances at {place:?}", votes.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VM: VmId = VmId::from_bytes([1; 32]);

    fn signed(slot: u64, statements: &[u8]) -> Signed {
        let digests = statements.iter().map(|byte| StatementDigest::from_bytes([*byte; 32])).collect();
        Signed { slots: [((VM, Generation(0), Slot(slot)), digests)].into(), votes: BTreeMap::new() }
    }

    #[test]
    fn one_signature_a_place_passes() {
        signed(3, &[7]).assert_no_second_signature("verifier-0");
    }

    #[test]
    #[should_panic(expected = "verifier-0 signed")]
    fn planted_second_signature_is_seen() {
        signed(3, &[7, 8]).assert_no_second_signature("verifier-0");
    }

    #[test]
    #[should_panic(expected = "verifier-0 voted for 2 instances")]
    fn planted_second_vote_is_seen() {
        let votes = [((VM, Generation(1)), [vec![1], vec![2]].into())].into();
        Signed { slots: BTreeMap::new(), votes }.assert_no_second_signature("verifier-0");
    }
}
