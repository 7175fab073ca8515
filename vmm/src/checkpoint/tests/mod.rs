mod damage;
mod files;
mod restore;

use super::file::{self, DecodeFailure};
use super::format::{HEADER_BYTES, SEAL_BYTES};
use super::{Checkpoint, CheckpointError};
use crate::execution::{Execution, Stop};
use crate::measurement::Measurement;
use crate::snapshot::PageSnapshot;
use crate::tests::fixture::{KVM_NEEDED, MEMORY, work_input, worker};

/// A recorder with the snapshot that follows it.
struct Recorder {
    execution: Execution,
    pages: PageSnapshot,
}

impl Recorder {
    fn start() -> Self {
        let execution = Execution::genesis(&worker(), MEMORY).expect(KVM_NEEDED);
        Self { execution, pages: PageSnapshot::genesis(&worker(), MEMORY).unwrap() }
    }

    /// Feeds one input for each seed, then cuts.
    fn interval(&mut self, seeds: &[u64]) -> Measurement {
        for seed in seeds {
            assert_eq!(self.execution.run().unwrap(), Stop::Idle);
            self.execution.feed(work_input(*seed, 50)).unwrap();
        }
        assert_eq!(self.execution.run().unwrap(), Stop::Idle);
        let cut = self.execution.cut().unwrap();
        self.pages.apply(self.execution.machine(), &cut.pages.changed);
        cut.pages.measurement
    }

    fn checkpoint(&mut self, seeds: &[u64]) -> Checkpoint {
        let measurement = self.interval(seeds);
        Checkpoint::take(&mut self.execution, &measurement, &self.pages).unwrap()
    }
}

fn full_bytes(checkpoint: &Checkpoint) -> Vec<u8> {
    let mut bytes = Vec::new();
    file::encode(checkpoint, None, &mut bytes).unwrap();
    bytes
}

fn incremental_bytes(checkpoint: &Checkpoint, parent: &Checkpoint) -> Vec<u8> {
    let mut bytes = Vec::new();
    file::encode(checkpoint, Some(parent.pages.tree()), &mut bytes).unwrap();
    bytes
}

fn decode(mut bytes: &[u8], parent: Option<&Checkpoint>) -> Result<Checkpoint, CheckpointError> {
    let total = bytes.len() as u64;
    file::decode(&mut bytes, total, parent).map_err(|failure| match failure {
        DecodeFailure::Refused(error) => error,
        DecodeFailure::Read(_) => super::error::invalid("length", "the file ends before its contents do"),
    })
}

fn refusal(bytes: &[u8], parent: Option<&Checkpoint>) -> CheckpointError {
    match decode(bytes, parent) {
        Err(error) => error,
        Ok(_) => panic!("a damaged checkpoint was read"),
    }
}

/// Where the table ends and the seal starts.
fn seal_at(bytes: &[u8]) -> usize {
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    HEADER_BYTES + word(244) + word(248) + word(252) + 36 * word(240)
}

/// What an attacker does who knows the format: the seal holds again.
fn seal_again(bytes: &mut [u8]) {
    let at = seal_at(bytes);
    let seal = blake3::hash(&bytes[..at]);
    bytes[at..at + SEAL_BYTES].copy_from_slice(seal.as_bytes());
}
