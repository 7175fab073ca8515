//! One replica of one service: what to feed to its guest, what to sign about the outcome, and when to stop believing oneself. Pure: no
//! clock, file, socket or randomness.
//!
//! ```text
//! Wake ─▶ Fetch ─▶ Feed ─▶ Output: Applied ─▶ leaf, root of the service's log, receipt ─▶ Sign ─▶ Persist ─▶ idle
//!                            │
//!                            ├─ Refused, behind: the guest went back to a certified slot ─▶ Fetch from there, outcomes are compared
//!                            ├─ Refused, ahead: outcomes were lost here, and are not the newest, which a guest repeats ─▶ AskPeers,
//!                            │  f + 1 of whom tell them
//!                            └─ Refused, empty: genesis, or the state of the former image ─▶ Upgrade
//! Where the guest stands is not known at first, nor after it went back or did not answer: then it is fed its newest entry once more.
//! Compared: f + 1 others say something else about an entry ─▶ Stop ─▶ Rewind ─▶ AskPeers: how much of the log is theirs too ─▶ Forget the
//!           rest ─▶ what the guest executes from there on is compared: Resume when f + 1 others say the same, else Stop again
//! ```
//!
//! One thing is under way at a time; [`Core::is_idle`] says when the next may begin. A shell that dies between any two effects loses
//! nothing: what was not persisted is executed again, or is told by others.

mod agreement;
mod events;
#[cfg(test)]
mod tests;

use quorate_attest::encoding::Bounded as _;
use quorate_attest::group::GroupConfig;
use quorate_attest::key::Signature;
use quorate_attest::merkle::{Digest, Sha256Tree, TreeHash};
use quorate_attest::quorum::QuorumRule;
use quorate_attest::receipt::LogLeaf;
use quorate_attest::service::{Applied, Executed, Genesis, Input, Ordered, Output, ServiceReceipt};
use quorate_attest::state_tree::StateCommitment;
use quorate_ordering::services::{ExecutedEntry, SignedReceipt, StopEvidence};
use sha2::{Digest as _, Sha256};

use crate::log_tree::Peaks;
pub use events::{Batch, Done, Effect, Entry, Event, Identity};

#[derive(Debug)]
enum Phase {
    Idle,
    Fetching,
    Feeding(Vec<Entry>),
    Importing {
        number: u64,
    },
    /// With the number that the guest wants next.
    Asking {
        next: u64,
    },
    Signing {
        log: Peaks,
        batch: Box<Batch>,
    },
    Persisting {
        log: Peaks,
    },
    Rewinding,
    /// Which part of the log is also that of others.
    Locating,
    /// With what the guest answered, if that is to be taken in place of what is forgotten.
    Truncating {
        number: u64,
        answer: Option<(Vec<Entry>, Applied)>,
    },
}

/// A replica that others contradict.
#[derive(Clone, Copy, Debug, Default)]
struct Doubt {
    /// Whether the guest was taken back since.
    rewound: bool,
    /// How often that was tried.
    attempts: u32,
    /// Whether `f + 1` others have the same log as far as this one goes.
    located: bool,
    /// Entries that were forgotten last because they have not.
    forgotten: u64,
    /// First entry that the guest executed afterwards.
    executed: Option<u64>,
}

impl Doubt {
    /// Whether an entry shows how the guest is now. In a log that others have not, every entry differs; of older entries it says nothing.
    fn is_about(&self, number: u64) -> bool {
        self.located && self.executed.is_some_and(|first| number >= first)
    }
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
    /// Whether the guest itself has shown that.
    sure: bool,
    doubt: Option<Doubt>,
    phase: Phase,
}

impl Core {
    /// A replica that goes on behind `log`. One that was stopped before stays so.
    pub fn new(identity: Identity, rule: QuorumRule, genesis: Genesis, log: Peaks, stopped: bool) -> Self {
        let (next, doubt) = (log.size(), stopped.then(Doubt::default));
        Self { identity, rule, genesis, log, next, sure: false, doubt, phase: Phase::Idle }
    }

    /// Whether nothing is under way.
    pub fn is_idle(&self) -> bool {
        matches!(self.phase, Phase::Idle)
    }

    /// Whether it does not serve because others contradict it.
    pub fn is_stopped(&self) -> bool {
        self.doubt.is_some()
    }

    /// Whether the guest has shown where it stands.
    pub fn is_sure(&self) -> bool {
        self.sure
    }

    /// Entries executed.
    pub fn size(&self) -> u64 {
        self.log.size()
    }

    /// Takes in what has happened. What does not belong to what is under way changes nothing.
    pub fn step(&mut self, event: Event) -> Vec<Effect> {
        if let Event::GuestBehind | Event::Gone | Event::Rewound = event {
            self.sure = false;
        }
        let phase = std::mem::replace(&mut self.phase, Phase::Idle);
        match (phase, event) {
            (Phase::Idle, Event::Wake) => self.wake(),
            (Phase::Idle, Event::Compared { ours, theirs }) => self.compared(*ours, &theirs),
            (Phase::Fetching, Event::Fetched(entries)) => self.feed(entries),
            (Phase::Feeding(entries), Event::Output(Output::Applied(applied))) => {
                self.applied(entries, applied)
            }
            (Phase::Feeding(entries), Event::Output(Output::Refused { next, .. })) => {
                self.refused(&entries, next)
            }
            (Phase::Importing { number }, Event::Imported) => self.fetch(number),
            (Phase::Importing { number }, Event::FormerBehind { next }) if next < number => self.fetch(next),
            (Phase::Asking { next }, Event::Peers(told)) => self.adopt(&told, next),
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
            (Phase::Locating, Event::Peers(told)) => self.locate(&told),
            (Phase::Rewinding, Event::Rewound) => {
                self.doubt.iter_mut().for_each(|doubt| doubt.rewound = true);
                Vec::new()
            }
            // The guest is asked again with the next Wake.
            (Phase::Feeding(_), Event::Gone | Event::Output(_))
            | (Phase::Importing { .. }, Event::Gone | Event::FormerBehind { .. })
            | (Phase::Rewinding, Event::Gone) => Vec::new(),
            (phase, _) => {
                self.phase = phase;
                Vec::new()
            }
        }
    }

    fn wake(&mut self) -> Vec<Effect> {
        let number = self.size();
        match &mut self.doubt {
            Some(doubt) if !doubt.rewound => {
                let attempt = doubt.attempts;
                doubt.attempts = attempt.saturating_add(1);
                self.phase = Phase::Rewinding;
                vec![Effect::Rewind { number, attempt }]
            }
            Some(doubt) if !doubt.located => match number.checked_sub(1) {
                Some(first) => {
                    self.phase = Phase::Locating;
                    vec![Effect::AskPeers { first }]
                }
                None => {
                    doubt.located = true;
                    self.fetch(0)
                }
            },
            _ if self.sure => self.fetch(self.next),
            _ => self.fetch(number.saturating_sub(1)),
        }
    }

    /// The replica may have been wrong for long before others were asked. Of two logs with the same root all entries are the same.
    fn locate(&mut self, told: &[ExecutedEntry]) -> Vec<Effect> {
        let size = self.size();
        let agreed = size.checked_sub(1).and_then(|newest| self.agreed(told, newest));
        let (Some(doubt), Some((receipt, _))) = (&mut self.doubt, agreed) else { return Vec::new() };
        if receipt.log_root == self.log.root() {
            doubt.located = true;
            return Vec::new();
        }
        doubt.forgotten = doubt.forgotten.saturating_mul(2).max(1);
        doubt.executed = None;
        let number = size.saturating_sub(doubt.forgotten);
        self.phase = Phase::Truncating { number, answer: None };
        vec![Effect::Forget { number }]
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
        // A guest whose place is not known may only repeat what it answered before it was taken back.
        let is_new = std::mem::replace(&mut self.sure, !executed.is_empty());
        if let (Some(doubt), true, true) = (&mut self.doubt, is_new, self.sure) {
            doubt.executed.get_or_insert(first);
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
        self.sure = true;
        // It repeats its newest answer, if that is what was lost.
        let wanted = next.min(self.size());
        if wanted != first.number {
            return self.fetch(wanted);
        }
        self.phase = Phase::Asking { next };
        vec![Effect::AskPeers { first: self.size() }]
    }

    /// Takes over what `f + 1` others say about entries that the guest has executed and whose outcomes were lost.
    fn adopt(&mut self, told: &[ExecutedEntry], next: u64) -> Vec<Effect> {
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
        // What others were faster with, the guest is still to execute.
        self.next = log.size().min(next);
        self.sign(log, batch)
    }

    fn compared(&mut self, ours: SignedReceipt, theirs: &[SignedReceipt]) -> Vec<Effect> {
        let number = ours.receipt.number;
        if number >= self.size() || self.doubt.is_some_and(|doubt| !doubt.is_about(number)) {
            return Vec::new();
        }
        let about: Vec<_> = theirs.iter().filter(|signed| signed.receipt.number == number).copied().collect();
        let Some(agreed) = self.agreement(&about) else { return Vec::new() };
        if agreed.iter().any(|signed| signed.receipt != ours.receipt) {
            return self.stop(StopEvidence { ours, again: None, theirs: agreed }, None);
        }
        let resumed = self.doubt.take().map(|_| Effect::Resume);
        [Effect::Agreed { size: number + 1 }].into_iter().chain(resumed).collect()
    }

    /// The guest went back and came to another result than before. If it went back by itself, the new one is taken, since it comes from
    /// a journalled slot, and others are asked. If it was taken back, `f + 1` others have the old one in their logs: the guest is still
    /// wrong.
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
        let evidence = StopEvidence { ours, again: Some(again), theirs: Vec::new() };
        let answer = self.doubt.is_none().then_some((entries, applied));
        self.stop(evidence, answer)
    }

    fn stop(&mut self, evidence: StopEvidence, answer: Option<(Vec<Entry>, Applied)>) -> Vec<Effect> {
        let number = evidence.ours.receipt.number;
        let attempts = self.doubt.map_or(0, |doubt| doubt.attempts);
        self.doubt = Some(Doubt { rewound: answer.is_some(), attempts, ..Doubt::default() });
        self.phase = Phase::Truncating { number, answer };
        vec![Effect::Stop { number, evidence: Box::new(evidence) }]
    }
}
