//! A replica with a guest that is the real service in process, a signer that keeps its promises and a file that may forget nothing.

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_attest::group::{HASH_SHA256, Member};
use quorate_attest::id::{Epoch, ImageDigest, Nonce, OperationId};
use quorate_attest::key::SecretKey;
use quorate_attest::request::{Call, Request};
use quorate_attest::service::{Answer, Query, ServiceSpec, StateEntry};

use super::super::*;
use crate::services::tests::fixture::Machine;

const N: u8 = 4;

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

pub(super) fn vote_key(replica: u16) -> SecretKey {
    key(10 + replica as u8)
}

pub(super) fn group() -> Arc<GroupConfig> {
    let member = |index: u8| Member {
        name: format!("replica-{index}"),
        vote_key: key(10 + index).public(),
        cosigner_key: key(20 + index).public(),
        transport_key: key(30 + index).public(),
    };
    Arc::new(GroupConfig {
        name: "services".into(),
        hash_algorithm: HASH_SHA256,
        epoch: Epoch::ZERO,
        genesis: None,
        f: 1,
        members: (0..N).map(member).collect(),
        operators: Vec::new(),
        hosts: Vec::new(),
    })
}

pub(super) fn genesis() -> Genesis {
    let spec = ServiceSpec {
        name: "counter".into(),
        image: ImageDigest::from_bytes([1; 32]),
        memory_bytes: 32 << 20,
        replicas: group().id(),
        nonce: Nonce::ZERO,
        config: 0u64.to_le_bytes().to_vec(),
    };
    Genesis { spec, voters: vec![key(90).public()], f: 0 }
}

/// The `number`-th request: adds so much.
fn request(number: u64) -> Vec<u8> {
    let call =
        Call { op: 1, sequence: number, nonce: Nonce::ZERO, epoch: 0, body: number.to_le_bytes().to_vec() };
    Request::sign(&key(80), genesis().spec.id().instance(), call).encoded()
}

fn operation(number: u64) -> OperationId {
    OperationId::from_bytes(Sha256::digest(number.to_le_bytes()).into())
}

/// What a replica is made of around its core, with everything that survives a restart.
#[derive(Clone)]
pub(super) struct World {
    pub(super) replica: u16,
    pub(super) machines: BTreeMap<usize, Machine>,
    pub(super) file: Vec<Done>,
    pub(super) signed: BTreeMap<u64, ServiceReceipt>,
    pub(super) stopped: bool,
    pub(super) evidence: Vec<StopEvidence>,
    /// Numbers given out.
    pub(super) ordered: u64,
    /// First entries of the images after the first.
    pub(super) upgrades: Vec<u64>,
    pub(super) peers: Vec<ExecutedEntry>,
    /// What the host takes the guests back to; it does not answer without.
    pub(super) slot: Option<BTreeMap<usize, Machine>>,
    /// Attempts to have it do so.
    pub(super) rewinds: Vec<u32>,
    /// Entries that others are known to have, too.
    pub(super) agreed: u64,
    /// Replies that the host still alters on their way.
    pub(super) lies: u32,
    /// Effects until the process is killed.
    pub(super) fuse: Option<usize>,
}

pub(super) struct Killed;

fn export(machine: &Machine) -> (Vec<StateEntry>, StateCommitment) {
    let Output::Answered { state, answer, .. } = machine.query(&Query::Export { after: Vec::new() }) else {
        panic!("not exported");
    };
    match *answer {
        Answer::Entries { entries, more: false } => (entries, state),
        other => panic!("{other:?}"),
    }
}

impl World {
    fn new(replica: u16) -> Self {
        Self {
            replica,
            machines: BTreeMap::new(),
            file: Vec::new(),
            signed: BTreeMap::new(),
            stopped: false,
            evidence: Vec::new(),
            ordered: 1,
            upgrades: Vec::new(),
            peers: Vec::new(),
            slot: None,
            rewinds: Vec::new(),
            agreed: 0,
            lies: 0,
            fuse: None,
        }
    }

    pub(super) fn ordering(replica: u16, ordered: u64) -> Self {
        Self { ordered, ..Self::new(replica) }
    }

    pub(super) fn log(&self, size: u64) -> Peaks {
        let mut log = Peaks::default();
        for done in &self.file[..size as usize] {
            log.push(Sha256Tree::leaf(&done.receipt.leaf().encoded()));
        }
        log
    }

    pub(super) fn core(&self) -> Core {
        let identity = Identity { group: group(), replica: self.replica, service: genesis().spec.id() };
        let rule = group().rule().unwrap();
        Core::new(identity, rule, genesis(), self.log(self.file.len() as u64), self.stopped)
    }

    fn version(&self, number: u64) -> usize {
        self.upgrades.iter().filter(|from| **from <= number).count()
    }

    fn fetch(&self, first: u64) -> Vec<Entry> {
        let version = self.version(first);
        let last = if first == 0 { 1 } else { self.ordered.min(first + 7) };
        let entry = |number: u64| Entry {
            number,
            log_index: 100 + number,
            operation: operation(number),
            request: if number == 0 { Vec::new() } else { request(number) },
            known: self.file.get(number as usize).map(|done| done.receipt),
            version,
            began: version.checked_sub(1).map_or(0, |before| self.upgrades[before]),
        };
        (first..last).map(entry).take_while(|entry| self.version(entry.number) == version).collect()
    }

    pub(super) fn perform(&mut self, effect: Effect) -> Result<Option<Event>, Killed> {
        if let Some(fuse) = &mut self.fuse {
            *fuse = fuse.checked_sub(1).ok_or(Killed)?;
        }
        Ok(match effect {
            Effect::Fetch { first } => Some(Event::Fetched(self.fetch(first))),
            Effect::Feed { version, input } => {
                let machine =
                    self.machines.entry(version).or_insert_with(|| Machine::new(genesis().spec.memory_bytes));
                let mut output = machine.feed(&input);
                if let Output::Applied(applied) = &mut output {
                    let altered = applied.executed.iter_mut().take(self.lies as usize);
                    self.lies -= altered.map(|executed| executed.reply.push(0)).count() as u32;
                }
                Some(Event::Output(output))
            }
            Effect::Upgrade { version, number } => {
                let former = self
                    .machines
                    .entry(version - 1)
                    .or_insert_with(|| Machine::new(genesis().spec.memory_bytes));
                if former.next() < number {
                    return Ok(Some(Event::FormerBehind { next: former.next() }));
                }
                let (entries, state) = export(former);
                let machine =
                    self.machines.entry(version).or_insert_with(|| Machine::new(genesis().spec.memory_bytes));
                let part = Input::Import { genesis: genesis(), number, entries, complete: Some(state) };
                assert!(matches!(machine.feed(&part), Output::Applied(_)));
                Some(Event::Imported)
            }
            Effect::Sign(receipts) => {
                let sign = |receipt: &ServiceReceipt| {
                    let first = *self.signed.entry(receipt.number).or_insert(*receipt);
                    (first == *receipt).then(|| receipt.sign(&vote_key(self.replica)))
                };
                Some(Event::Signed(receipts.iter().map(sign).collect()))
            }
            Effect::Persist(batch) => {
                for done in batch.entries {
                    assert_eq!(
                        done.receipt.number,
                        self.file.len() as u64,
                        "an entry is stored once, in its place"
                    );
                    self.file.push(done);
                }
                Some(Event::Persisted)
            }
            Effect::AskPeers { .. } => Some(Event::Peers(self.peers.clone())),
            Effect::Stop { number, evidence } => {
                self.stopped = true;
                self.evidence.push(*evidence);
                let log = self.log(number);
                self.file.truncate(number as usize);
                Some(Event::Truncated(log))
            }
            Effect::Rewind { attempt, .. } => {
                self.rewinds.push(attempt);
                Some(match &self.slot {
                    Some(slot) => {
                        self.machines = slot.clone();
                        Event::Rewound
                    }
                    None => Event::Gone,
                })
            }
            Effect::Forget { number } => {
                assert!(self.stopped);
                let log = self.log(number);
                self.file.truncate(number as usize);
                Some(Event::Truncated(log))
            }
            Effect::Agreed { size } => {
                assert!(size <= self.file.len() as u64);
                self.agreed = size;
                None
            }
            Effect::Resume => {
                self.stopped = false;
                None
            }
        })
    }

    pub(super) fn cycle(&mut self, core: &mut Core, event: Event) -> Result<(), Killed> {
        let mut events = vec![event];
        while let Some(event) = events.pop() {
            for effect in core.step(event) {
                events.extend(self.perform(effect)?);
            }
        }
        assert!(core.is_idle());
        Ok(())
    }

    /// Wakes the replica until it does not go on any more.
    pub(super) fn settle(&mut self, core: &mut Core) -> Result<(), Killed> {
        for _ in 0..200 {
            self.cycle(core, Event::Wake)?;
        }
        Ok(())
    }

    /// A replica that has executed all that is ordered, undisturbed.
    pub(super) fn settled(replica: u16, ordered: u64) -> (Self, Core) {
        let mut world = Self::ordering(replica, ordered);
        let mut core = world.core();
        assert!(world.settle(&mut core).is_ok());
        (world, core)
    }

    pub(super) fn ours(&self, number: u64) -> SignedReceipt {
        let done = &self.file[number as usize];
        SignedReceipt {
            replica: self.replica,
            receipt: done.receipt,
            signature: done.signature.unwrap_or(Signature::NONE),
        }
    }

    pub(super) fn told(&self, number: u64) -> ExecutedEntry {
        let SignedReceipt { replica, receipt, signature } = self.ours(number);
        ExecutedEntry { replica, receipt, signature, reply: self.file[number as usize].reply.clone() }
    }
}

/// What every honest replica holds after so many entries.
pub(super) fn honest(ordered: u64) -> Vec<Done> {
    World::settled(3, ordered).0.file
}

pub(super) fn receipts(file: &[Done]) -> Vec<ServiceReceipt> {
    file.iter().map(|done| done.receipt).collect()
}

/// A lie about an entry, signed by a replica.
pub(super) fn lie(truth: &ServiceReceipt, replica: u16) -> SignedReceipt {
    let receipt = ServiceReceipt { result: [0xbd; 32], ..*truth };
    SignedReceipt { replica, receipt, signature: receipt.sign(&vote_key(replica)) }
}

pub(super) fn truth(receipt: &ServiceReceipt, replica: u16) -> SignedReceipt {
    SignedReceipt { replica, receipt: *receipt, signature: receipt.sign(&vote_key(replica)) }
}

/// What replicas 1 and 2 answer when they are asked about all entries.
pub(super) fn told_by_two(file: &[Done]) -> Vec<ExecutedEntry> {
    let told = |done: &Done, replica| {
        let SignedReceipt { receipt, signature, .. } = truth(&done.receipt, replica);
        ExecutedEntry { replica, receipt, signature, reply: done.reply.clone() }
    };
    file.iter().flat_map(|done| [1, 2].map(|replica| told(done, replica))).collect()
}
