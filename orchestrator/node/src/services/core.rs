//! One replica of one service: what to feed to its guest, what to sign about the outcome, and when to stop believing oneself. Pure: no
//! clock, file, socket or randomness.
//!
//! ```text
//! Wake ─▶ Fetch ─▶ Feed ─▶ Output: Applied ─▶ leaf, root of the service's log, receipt ─▶ Sign ─▶ Persist ─▶ idle
//!                            │
//!                            ├─ Refused, behind: the guest went back to a certified slot ─▶ Fetch from there, outcomes are compared
//!                            ├─ Refused, ahead: outcomes were lost here ─▶ AskPeers, f + 1 of whom tell them
//!                            └─ Refused, empty: genesis, or the state of the former image ─▶ Upgrade
//! Compared: f + 1 others say something else about an entry ─▶ Stop; then the guest's way from before that entry is gone again,
//!           and Resume when f + 1 others say the same
//! ```
//!
//! One thing is under way at a time; [`Core::is_idle`] says when the next may begin. A shell that dies between any two effects loses
//! nothing: what was not persisted is executed again, or is told by others.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::encoding::{Bounded, bounded_list};
use quorate_attest::group::GroupConfig;
use quorate_attest::id::{OperationId, ServiceId};
use quorate_attest::key::Signature;
use quorate_attest::merkle::{Digest, Sha256Tree, TreeHash};
use quorate_attest::quorum::QuorumRule;
use quorate_attest::receipt::LogLeaf;
use quorate_attest::service::{Applied, Executed, Genesis, Input, Ordered, Output, ServiceReceipt};
use quorate_attest::state_tree::StateCommitment;
use quorate_ordering::services::{ExecutedEntry, SignedReceipt};
use sha2::{Digest as _, Sha256};

use crate::log_tree::{NodePlace, Peaks};

/// Most receipts in one [`Evidence`].
const THEIRS_MAX: usize = 64;

/// Whose replica this is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The group of the service's replicas.
    pub group: Arc<GroupConfig>,
    /// This replica in it.
    pub replica: u16,
    /// The service.
    pub service: ServiceId,
}

/// An entry of the service's log, with what is known about it here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number.
    pub number: u64,
    /// Entry of the orchestrators' log that ordered it.
    pub log_index: u64,
    /// The operation that ordered it.
    pub operation: OperationId,
    /// The request; nothing for entry 0.
    pub request: Vec<u8>,
    /// What came of it, if it was executed here before.
    pub known: Option<ServiceReceipt>,
    /// Image that executes it: how many preceded that.
    pub version: usize,
    /// First entry that this image executes.
    pub began: u64,
}

/// An executed entry on its way to the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// What came of it.
    pub receipt: ServiceReceipt,
    /// This replica's signature; none if the signer has signed something else about this number.
    pub signature: Option<Signature>,
    /// The encoded reply; empty if it is not known any more.
    pub reply: Vec<u8>,
}

/// What one transaction makes durable: consecutive entries and the nodes of the tree that they complete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The entries.
    pub entries: Vec<Done>,
    /// The nodes.
    pub nodes: Vec<(NodePlace, Digest)>,
}

/// Why a replica stopped: what it says about an entry, and what others say.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Evidence {
    /// What this replica signed, or executed without a signature.
    pub ours: SignedReceipt,
    /// What this replica's guest answered when it executed the entry again, if that is why it stopped.
    pub again: Option<ServiceReceipt>,
    /// What `f + 1` others signed.
    #[borsh(deserialize_with = "bounded_list::<THEIRS_MAX, _, _>")]
    pub theirs: Vec<SignedReceipt>,
}

impl Bounded for Evidence {
    const LIMIT: usize = (THEIRS_MAX + 2) * (ServiceReceipt::LIMIT + 72);
}

/// What has happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// There may be something to do.
    Wake,
    /// Consecutive entries of one image, from the number that was asked for on; none if there is none yet.
    Fetched(Vec<Entry>),
    /// The guest's answer.
    Output(Output),
    /// The guest does not answer, or its state could not be brought to the next image.
    Gone,
    /// The state of the former image is in the guest.
    Imported,
    /// One for each receipt, in their order.
    Signed(Vec<Option<Signature>>),
    /// The batch is in the file.
    Persisted,
    /// What others tell about entries that were asked for.
    Peers(Vec<ExecutedEntry>),
    /// What others say about one entry that was executed here.
    Compared {
        /// What this replica says.
        ours: Box<SignedReceipt>,
        /// What they say.
        theirs: Vec<SignedReceipt>,
    },
    /// The file ends before the entry that was wrong.
    Truncated(Peaks),
}

/// What the shell has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Read entries, as many as one input may hold.
    Fetch {
        /// Number of the first.
        first: u64,
    },
    /// Give the guest of this image an input.
    Feed {
        /// Image: how many preceded it.
        version: usize,
        /// The input.
        input: Box<Input>,
    },
    /// Bring the state of the image before to the guest of this one.
    Upgrade {
        /// Image: how many preceded it.
        version: usize,
        /// First entry that it executes.
        number: u64,
    },
    /// Have these signed.
    Sign(Vec<ServiceReceipt>),
    /// Write this, then answer those who wait.
    Persist(Box<Batch>),
    /// Ask the other replicas about entries.
    AskPeers {
        /// Number of the first.
        first: u64,
    },
    /// Serve no more, keep the evidence, and forget what was executed from this number on.
    Stop {
        /// First entry that is wrong.
        number: u64,
        /// Why.
        evidence: Box<Evidence>,
    },
    /// Serve again.
    Resume,
}

#[derive(Debug)]
enum Phase {
    Idle,
    Fetching,
    Feeding(Vec<Entry>),
    Importing {
        number: u64,
    },
    Asking,
    Signing {
        log: Peaks,
        batch: Box<Batch>,
    },
    Persisting {
        log: Peaks,
    },
    /// With what the guest answered, if that is to be taken in place of what is forgotten.
    Truncating {
        number: u64,
        answer: Option<(Vec<Entry>, Applied)>,
    },
}

/// A replica.
#[derive(Debug)]
pub struct Core {
    identity: Identity,
    rule: QuorumRule,
    genesis: Genesis,
    /// The log as it is in the file.
    log: Peaks,
    /// Number that the guest is believed to want next.
    next: u64,
    stopped: bool,
    phase: Phase,
}

impl Core {
    /// A replica that goes on behind `log`. One that was stopped before stays so.
    pub fn new(identity: Identity, rule: QuorumRule, genesis: Genesis, log: Peaks, stopped: bool) -> Self {
        let next = log.size();
        Self { identity, rule, genesis, log, next, stopped, phase: Phase::Idle }
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle)
    }

    /// Whether it does not serve because others contradict it.
    pub fn is_stopped(&self) -> bool {
        self.stopped
    }

    /// Entries executed.
    pub fn size(&self) -> u64 {
        self.log.size()
    }

    /// Takes in what has happened. What does not belong to what is under way changes nothing.
    pub fn step(&mut self, event: Event) -> Vec<Effect> {
        let phase = std::mem::replace(&mut self.phase, Phase::Idle);
        match (phase, event) {
            (Phase::Idle, Event::Wake) => self.fetch(self.next),
            (Phase::Idle, Event::Compared { ours, theirs }) => self.compared(*ours, &theirs),
            (Phase::Fetching, Event::Fetched(entries)) => self.feed(entries),
            (Phase::Feeding(entries), Event::Output(Output::Applied(applied))) => {
                self.applied(entries, applied)
            }
            (Phase::Feeding(entries), Event::Output(Output::Refused { next, .. })) => {
                self.refused(&entries, next)
            }
            (Phase::Importing { number }, Event::Imported) => self.fetch(number),
            (Phase::Asking, Event::Peers(told)) => self.adopt(&told),
            (Phase::Signing { log, mut batch }, Event::Signed(signatures))
                if signatures.len() == batch.entries.len() =>
            {
                for (entry, signature) in batch.entries.iter_mut().zip(signatures) {
                    entry.signature = signature;
                }
                self.phase = Phase::Persisting { log };
                vec![Effect::Persist(batch)]
            }
            (Phase::Persisting { log }, Event::Persisted) => {
                self.log = log;
                Vec::new()
            }
            (Phase::Truncating { number, answer }, Event::Truncated(log)) if log.size() == number => {
                self.next = number;
                self.log = log;
                answer.map_or_else(Vec::new, |(entries, applied)| self.applied(entries, applied))
            }
            // The guest is asked again with the next Wake.
            (Phase::Feeding(_) | Phase::Importing { .. }, Event::Gone | Event::Output(_)) => Vec::new(),
            (phase, _) => {
                self.phase = phase;
                Vec::new()
            }
        }
    }

    fn fetch(&mut self, first: u64) -> Vec<Effect> {
        self.next = first;
        self.phase = Phase::Fetching;
        vec![Effect::Fetch { first }]
    }

    fn feed(&mut self, entries: Vec<Entry>) -> Vec<Effect> {
        let Some(first) = entries.first().filter(|first| first.number == self.next) else {
            return Vec::new();
        };
        let version = first.version;
        let input = match first.number {
            0 => Input::Genesis(self.genesis.clone()),
            first => Input::Apply {
                first,
                requests: entries
                    .iter()
                    .map(|entry| Ordered { log_index: entry.log_index, request: entry.request.clone() })
                    .collect(),
            },
        };
        self.phase = Phase::Feeding(entries);
        vec![Effect::Feed { version, input: Box::new(input) }]
    }

    fn applied(&mut self, entries: Vec<Entry>, applied: Applied) -> Vec<Effect> {
        let Applied { first, executed } = applied;
        // A guest that answers anything else is as good as one that does not answer.
        if entries.first().map(|entry| entry.number) != Some(first) || executed.len() > entries.len() {
            return Vec::new();
        }
        let mut log = self.log.clone();
        let mut batch = Box::<Batch>::default();
        for (entry, Executed { reply, state }) in entries.iter().zip(&executed) {
            let result: Digest = Sha256::digest(reply).into();
            match &entry.known {
                Some(known) if known.result == result && known.state == *state => {}
                Some(known) => {
                    let again = ServiceReceipt { result, state: *state, ..*known };
                    return self.contradicts_itself(*known, again, entries, Applied { first, executed });
                }
                None if entry.number == log.size() => {
                    let receipt = self.receipt(entry, result, *state, &mut log, &mut batch);
                    batch.entries.push(Done { receipt, signature: None, reply: reply.clone() });
                }
                None => return Vec::new(),
            }
            self.next = entry.number + 1;
        }
        self.sign(log, batch)
    }

    fn receipt(
        &self,
        entry: &Entry,
        result: Digest,
        state: StateCommitment,
        log: &mut Peaks,
        batch: &mut Batch,
    ) -> ServiceReceipt {
        let Entry { number, log_index, operation, .. } = *entry;
        let leaf = LogLeaf { operation, result, state_root: state.root, state_size: state.size };
        batch.nodes.extend(log.push(Sha256Tree::leaf(&leaf.encoded())));
        let GroupConfig { epoch, .. } = *self.identity.group;
        let (group, service) = (self.identity.group.id(), self.identity.service);
        let (log_root, log_size) = (log.root(), log.size());
        ServiceReceipt {
            group,
            epoch,
            service,
            number,
            log_index,
            operation,
            result,
            log_root,
            log_size,
            state,
        }
    }

    fn sign(&mut self, log: Peaks, batch: Box<Batch>) -> Vec<Effect> {
        if batch.entries.is_empty() {
            return Vec::new();
        }
        let receipts = batch.entries.iter().map(|entry| entry.receipt).collect();
        self.phase = Phase::Signing { log, batch };
        vec![Effect::Sign(receipts)]
    }

    fn refused(&mut self, entries: &[Entry], next: u64) -> Vec<Effect> {
        let Some(first) = entries.first() else { return Vec::new() };
        if next == 0 && first.version > 0 {
            let number = first.began;
            self.phase = Phase::Importing { number };
            return vec![Effect::Upgrade { version: first.version, number }];
        }
        if next == first.number {
            // It is asked again, and whoever looks at the state of the service sees that it does not go on.
            return Vec::new();
        }
        if next <= self.size() {
            return self.fetch(next);
        }
        if self.stopped {
            // Its state is wrong. It has to go back first.
            self.next = self.size();
            return Vec::new();
        }
        self.phase = Phase::Asking;
        vec![Effect::AskPeers { first: self.size() }]
    }

    /// Takes over what `f + 1` others say about entries that the guest has executed and whose outcomes were lost.
    fn adopt(&mut self, told: &[ExecutedEntry]) -> Vec<Effect> {
        let mut log = self.log.clone();
        let mut batch = Box::<Batch>::default();
        while let Some((receipt, reply)) = self.agreed(told, log.size()) {
            let mut continued = log.clone();
            let nodes = continued.push(Sha256Tree::leaf(&receipt.leaf().encoded()));
            if continued.root() != receipt.log_root {
                break;
            }
            batch.nodes.extend(nodes);
            batch.entries.push(Done { receipt, signature: None, reply });
            log = continued;
        }
        self.next = log.size();
        self.sign(log, batch)
    }

    fn agreed(&self, told: &[ExecutedEntry], number: u64) -> Option<(ServiceReceipt, Vec<u8>)> {
        let about = || told.iter().filter(|entry| entry.receipt.number == number);
        let receipts: Vec<_> = about().map(ExecutedEntry::signed).collect();
        let agreed = self.agreement(&receipts).into_iter().find(|group| self.is_enough(group))?;
        let receipt = agreed.first()?.receipt;
        let reply = about().map(|entry| &entry.reply).find(|reply| {
            let digest: Digest = Sha256::digest(reply).into();
            digest == receipt.result
        });
        // Of an old entry nobody keeps it any more.
        Some((receipt, reply.cloned().unwrap_or_default()))
    }

    /// The receipts of others that are signed by whom they name, grouped by what they say, at most one of each replica.
    fn agreement(&self, receipts: &[SignedReceipt]) -> Vec<Vec<SignedReceipt>> {
        let Identity { group, replica, service } = &self.identity;
        let of_others: BTreeMap<u16, &SignedReceipt> = receipts
            .iter()
            .filter(|signed| signed.replica != *replica && signed.receipt.service == *service)
            .map(|signed| (signed.replica, signed))
            .collect();
        let mut groups: Vec<Vec<SignedReceipt>> = Vec::new();
        for (index, signed) in of_others {
            if signed.receipt.group != group.id()
                || signed.receipt.epoch != group.epoch
                || signed.receipt.verify_vote(group, index, &signed.signature).is_err()
            {
                continue;
            }
            match groups.iter_mut().find(|group| group.iter().any(|other| other.receipt == signed.receipt)) {
                Some(group) => group.push(*signed),
                None => groups.push(vec![*signed]),
            }
        }
        groups
    }

    fn is_enough(&self, agreed: &[SignedReceipt]) -> bool {
        agreed.len() as u64 >= self.rule.matching_replies()
    }

    fn compared(&mut self, ours: SignedReceipt, theirs: &[SignedReceipt]) -> Vec<Effect> {
        let number = ours.receipt.number;
        if number >= self.size() {
            return Vec::new();
        }
        let about: Vec<_> = theirs.iter().filter(|signed| signed.receipt.number == number).copied().collect();
        let groups = self.agreement(&about);
        let Some(agreed) = groups.into_iter().find(|group| self.is_enough(group)) else { return Vec::new() };
        let same = agreed.iter().all(|signed| signed.receipt == ours.receipt);
        match (same, self.stopped) {
            (true, true) => {
                self.stopped = false;
                vec![Effect::Resume]
            }
            (true, false) => Vec::new(),
            (false, _) => self.stop(Evidence { ours, again: None, theirs: agreed }, None),
        }
    }

    /// The guest went back and came to another result than before. The new one is taken: it comes from a certified slot. Whether it is
    /// the right one is the others' to say.
    fn contradicts_itself(
        &mut self,
        known: ServiceReceipt,
        again: ServiceReceipt,
        mut entries: Vec<Entry>,
        applied: Applied,
    ) -> Vec<Effect> {
        let replica = self.identity.replica;
        let ours = SignedReceipt { replica, receipt: known, signature: Signature::NONE };
        for entry in entries.iter_mut().filter(|entry| entry.number >= known.number) {
            entry.known = None;
        }
        let evidence = Evidence { ours, again: Some(again), theirs: Vec::new() };
        self.stop(evidence, Some((entries, applied)))
    }

    fn stop(&mut self, evidence: Evidence, answer: Option<(Vec<Entry>, Applied)>) -> Vec<Effect> {
        let number = evidence.ours.receipt.number;
        self.stopped = true;
        self.phase = Phase::Truncating { number, answer };
        vec![Effect::Stop { number, evidence: Box::new(evidence) }]
    }
}
