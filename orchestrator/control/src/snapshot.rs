//! The whole state as bytes, for a restart and for an orchestrator that joins.
//!
//! A snapshot holds the entries of the map, from which its root can be computed, and the chains of the two groups, which
//! the map holds as digests. Reading one checks every record, every link and every limit. Whether it is the right state is
//! shown by its root: the reader compares [`Control::commitment`] with a certified receipt.

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::encoding::{Bounded, DecodeError, from_bytes};
use quorate_attest::epoch::GroupChain;
use quorate_attest::id::{ServiceId, VmId};
use quorate_attest::key::PublicKey;
use quorate_attest::state_tree::StateTree;

use crate::command::Which;
use crate::control::Control;
use crate::state::{
    CLIENT_PREFIX, Client, FINISHED_COUNT_KEY, FINISHED_LIMIT, FINISHED_PREFIX, Finished, GroupEntry,
    SERVICE_PREFIX, SERVICE_PROGRESS_PREFIX, ServiceProgress, ServiceRecord, VM_PREFIX, VmEntry, group_key,
};

/// Most bytes of a snapshot.
pub const SNAPSHOT_LIMIT: usize = 256 << 20;

const MAGIC: [u8; 16] = *b"quorate-ctrl-v1\0";

type Entries = Vec<(Vec<u8>, Vec<u8>)>;

#[derive(BorshSerialize, BorshDeserialize)]
struct Snapshot {
    magic: [u8; 16],
    orchestrators: GroupChain,
    verifiers: GroupChain,
    entries: Entries,
}

impl Control {
    /// The state as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let (orchestrators, verifiers) = (&self.orchestrators, &self.verifiers);
        quorate_attest::encoding::to_bytes(&(MAGIC, orchestrators, verifiers, self.map.entries()))
    }

    /// Reads what [`Self::encode`] writes.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let Snapshot { magic, orchestrators, verifiers, entries } = from_bytes(bytes, SNAPSHOT_LIMIT)?;
        if magic != MAGIC {
            return Err(malformed(0, "not a state of version 1"));
        }
        let mut control = Self::empty(orchestrators, verifiers);
        control.load(entries)?;
        Ok(control)
    }

    fn load(&mut self, entries: Entries) -> Result<(), DecodeError> {
        let mut finished = Vec::new();
        let mut count = None;
        let (mut services, mut progress) = (Vec::new(), Vec::new());
        for (number, (key, value)) in entries.iter().enumerate() {
            let refused = || malformed(number, "record does not belong here");
            if number > 0 && entries[number - 1].0 >= *key {
                return Err(malformed(number, "keys do not ascend"));
            }
            if let Some(rest) = key.strip_prefix(FINISHED_PREFIX) {
                let place = u64::from_be_bytes(rest.try_into().map_err(|_| refused())?);
                finished.push((place, Finished::decoded(value)?));
            } else if key == FINISHED_COUNT_KEY {
                count = Some(from_bytes::<u64>(value, 8)?);
            } else if let Some(rest) = key.strip_prefix(SERVICE_PREFIX) {
                services.push((service_id(rest).ok_or_else(refused)?, ServiceRecord::decoded(value)?));
            } else if let Some(rest) = key.strip_prefix(SERVICE_PROGRESS_PREFIX) {
                progress.push((service_id(rest).ok_or_else(refused)?, ServiceProgress::decoded(value)?));
            } else if !self.load_record(key, value)? {
                return Err(refused());
            }
        }
        let count = count.ok_or_else(|| malformed(entries.len(), "number of ended migrations is missing"))?;
        self.load_all_finished(count, finished)?;
        self.load_all_services(services, progress)?;
        if !self.is_within_limits() {
            return Err(malformed(entries.len(), "more records than allowed"));
        }
        let groups = [Which::Orchestrators, Which::Verifiers].map(group_key);
        if entries.iter().filter(|(key, _)| groups.contains(&key.as_slice())).count() != groups.len() {
            return Err(malformed(entries.len(), "a group is missing"));
        }
        self.map = StateTree::from_sorted(entries);
        Ok(())
    }

    /// Takes one record; answers whether its key is one that the state has and agrees with it.
    fn load_record(&mut self, key: &[u8], value: &[u8]) -> Result<bool, DecodeError> {
        if let Some(rest) = key.strip_prefix(VM_PREFIX) {
            let Ok(id) = <[u8; 32]>::try_from(rest) else { return Ok(false) };
            let id = VmId::from_bytes(id);
            return Ok(match VmEntry::decoded(value)? {
                VmEntry::Live(vm) => vm.spec.id() == id && self.load_vm(id, vm),
                VmEntry::Deleted(index) => {
                    self.load_deleted(id, index);
                    true
                }
            });
        }
        if let Some(rest) = key.strip_prefix(CLIENT_PREFIX) {
            self.load_client(PublicKey::decoded(rest)?, Client::decoded(value)?);
            return Ok(true);
        }
        for which in [Which::Orchestrators, Which::Verifiers] {
            if key == group_key(which) {
                let config = self.groups(which).current();
                let entry = GroupEntry { epoch: config.epoch, config: config.digest() };
                return Ok(GroupEntry::decoded(value)? == entry);
            }
        }
        Ok(false)
    }

    /// Brings what services are together with how far they are: both lists ascend by service.
    fn load_all_services(
        &mut self,
        services: Vec<(ServiceId, ServiceRecord)>,
        progress: Vec<(ServiceId, ServiceProgress)>,
    ) -> Result<(), DecodeError> {
        let wrong = || malformed(0, "records of services do not belong together");
        if services.len() != progress.len() {
            return Err(wrong());
        }
        for ((id, record), (of, progress)) in services.into_iter().zip(progress) {
            if id != of || !self.load_service(id, record, progress) {
                return Err(wrong());
            }
        }
        Ok(())
    }

    /// Numbers the ended migrations by their places: the newest `FINISHED_LIMIT` of them are kept.
    fn load_all_finished(&mut self, count: u64, records: Vec<(u64, Finished)>) -> Result<(), DecodeError> {
        let kept = count.min(FINISHED_LIMIT);
        if records.len() as u64 != kept || count == u64::MAX {
            return Err(malformed(0, "another number of ended migrations is kept"));
        }
        self.load_finished_count(count);
        let newest_round = count - count % FINISHED_LIMIT;
        for (expected, (place, record)) in records.into_iter().enumerate() {
            let in_order = place == expected as u64;
            let number = if place < count % FINISHED_LIMIT {
                newest_round.checked_add(place)
            } else {
                newest_round.checked_sub(FINISHED_LIMIT).map(|round| round + place)
            };
            match number {
                Some(number) if in_order && self.load_finished(number, record) => {}
                _ => return Err(malformed(expected, "ended migration is in another place")),
            }
        }
        Ok(())
    }
}

fn service_id(key: &[u8]) -> Option<ServiceId> {
    <[u8; 32]>::try_from(key).ok().map(ServiceId::from_bytes)
}

fn malformed(offset: usize, reason: &str) -> DecodeError {
    DecodeError::Malformed { name: "Control", offset, reason: reason.to_owned() }
}
