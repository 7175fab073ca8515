//! The recent slots of a VM, kept for verifiers and destinations that are behind.
//!
//! Proposals with their inputs are kept up to a number and a size; states (copy-on-write pages, registers) only for the
//! newest slots, because each keeps the pages alive that the guest has changed since.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_attest::id::Slot;
use quorate_attest::vm::{SlotCertificate, SlotStatement};
use quorate_verifier::protocol::{CHAIN_STATEMENTS_MAX, Propose};
use tokio::sync::watch;

use super::vm_thread::SlotState;

/// Slots whose inputs are kept.
const PROPOSALS_MAX: usize = 4096;
/// Bytes of inputs that are kept.
const INPUT_BYTES_MAX: usize = 64 << 20;
/// Slots whose state is kept.
const STATES_MAX: usize = 6;

/// Recent slots. Shared by the agent and its links to the verifiers.
#[derive(Debug)]
pub struct Window {
    inner: Mutex<Inner>,
    changed: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Inner {
    proposals: BTreeMap<Slot, Arc<Propose>>,
    proposal_bytes: usize,
    statements: BTreeMap<Slot, SlotStatement>,
    states: BTreeMap<Slot, Arc<SlotState>>,
    certificates: BTreeMap<Slot, SlotCertificate>,
    cosignatures: BTreeMap<Slot, Vec<String>>,
}

impl Default for Window {
    fn default() -> Self {
        Self { inner: Mutex::new(Inner::default()), changed: watch::channel(0).0 }
    }
}

impl Window {
    /// Adds a slot; its state may follow later.
    pub fn propose(&self, propose: Arc<Propose>) {
        let statement = propose.proposal.statement.clone();
        let slot = statement.slot;
        {
            let mut inner = self.lock();
            inner.proposal_bytes = inner.proposal_bytes.saturating_add(input_bytes(&propose));
            inner.statements.insert(slot, statement);
            if let Some(old) = inner.proposals.insert(slot, propose) {
                inner.proposal_bytes = inner.proposal_bytes.saturating_sub(input_bytes(&old));
            }
            while inner.proposals.len() > PROPOSALS_MAX || inner.proposal_bytes > INPUT_BYTES_MAX {
                let Some((_, old)) = inner.proposals.pop_first() else { break };
                inner.proposal_bytes = inner.proposal_bytes.saturating_sub(input_bytes(&old));
            }
            trim(&mut inner.statements, CHAIN_STATEMENTS_MAX);
        }
        self.notify();
    }

    /// Keeps a statement that somebody else proposed, so that chains reach back to it.
    pub fn remember(&self, certificate: SlotCertificate) {
        let mut inner = self.lock();
        inner.statements.insert(certificate.statement.slot, certificate.statement.clone());
        inner.certificates.insert(certificate.statement.slot, certificate);
    }

    /// Keeps statements from before this host had the VM.
    pub fn remember_statements(&self, statements: &[SlotStatement]) {
        let mut inner = self.lock();
        inner.statements.extend(statements.iter().map(|statement| (statement.slot, statement.clone())));
    }

    /// The statements directly before a slot, oldest first, at most `count`, without a gap.
    pub fn history(&self, before: Slot, count: usize) -> Vec<SlotStatement> {
        let inner = self.lock();
        let mut next = before;
        let mut history: Vec<_> = inner
            .statements
            .range(..before)
            .rev()
            .take(count)
            .take_while(|(slot, _)| std::mem::replace(&mut next, **slot).previous() == Some(**slot))
            .map(|(_, statement)| statement.clone())
            .collect();
        history.reverse();
        history
    }

    /// The oldest slot whose state is kept.
    pub fn first_state(&self) -> Option<Slot> {
        self.lock().states.first_key_value().map(|(slot, _)| *slot)
    }

    /// Adds the state of a slot.
    pub fn state_reached(&self, slot: Slot, state: Arc<SlotState>) {
        {
            let mut inner = self.lock();
            inner.states.insert(slot, state);
            // The newest certified state stays, whatever its age: it is what a verifier without state is offered.
            let anchor =
                inner.states.keys().rev().find(|slot| inner.certificates.contains_key(slot)).copied();
            while inner.states.len() > STATES_MAX {
                let Some(oldest) = inner.states.keys().find(|slot| Some(**slot) != anchor).copied() else {
                    break;
                };
                inner.states.remove(&oldest);
            }
        }
        self.notify();
    }

    /// Frees the memory of all states.
    pub fn forget_states(&self) {
        self.lock().states.clear();
    }

    /// Adds a certificate.
    pub fn certified(&self, certificate: SlotCertificate) {
        {
            let mut inner = self.lock();
            inner.certificates.insert(certificate.statement.slot, certificate);
            trim(&mut inner.certificates, CHAIN_STATEMENTS_MAX);
        }
        self.notify();
    }

    /// Adds a cosignature line over the head of the VM's statement log at a slot.
    pub fn cosigned(&self, slot: Slot, line: String) {
        let mut inner = self.lock();
        let lines = inner.cosignatures.entry(slot).or_default();
        if !line.is_empty() && !lines.contains(&line) {
            lines.push(line);
        }
        trim(&mut inner.cosignatures, 64);
    }

    /// Newest slot.
    pub fn newest(&self) -> Option<Slot> {
        self.lock().proposals.last_key_value().map(|(slot, _)| *slot)
    }

    /// A slot's proposal, while it is kept.
    pub fn proposal(&self, slot: Slot) -> Option<Arc<Propose>> {
        self.lock().proposals.get(&slot).cloned()
    }

    /// A slot's statement, while it is kept.
    pub fn statement(&self, slot: Slot) -> Option<SlotStatement> {
        self.lock().statements.get(&slot).cloned()
    }

    /// A slot's state, while it is kept.
    pub fn state(&self, slot: Slot) -> Option<Arc<SlotState>> {
        self.lock().states.get(&slot).cloned()
    }

    /// A slot's certificate, while it is kept.
    pub fn certificate(&self, slot: Slot) -> Option<SlotCertificate> {
        self.lock().certificates.get(&slot).cloned()
    }

    /// Cosignature lines at a slot.
    pub fn cosignatures(&self, slot: Slot) -> Vec<String> {
        self.lock().cosignatures.get(&slot).cloned().unwrap_or_default()
    }

    /// Certificates from a slot on, at most `count`.
    pub fn certificates_from(&self, from: Slot, count: usize) -> Vec<SlotCertificate> {
        self.lock()
            .certificates
            .range(from..)
            .take(count)
            .map(|(_, certificate)| certificate.clone())
            .collect()
    }

    /// The newest slot that has both a certificate and a kept state.
    pub fn newest_certified_state(&self) -> Option<(SlotCertificate, Arc<SlotState>)> {
        let inner = self.lock();
        inner.states.iter().rev().find_map(|(slot, state)| {
            inner.certificates.get(slot).map(|certificate| (certificate.clone(), Arc::clone(state)))
        })
    }

    /// The statements of `from..=to`, if all of them are kept.
    pub fn chain(&self, from: Slot, to: Slot) -> Option<Vec<SlotStatement>> {
        let inner = self.lock();
        (from.0..=to.0).map(|slot| inner.statements.get(&Slot(slot)).cloned()).collect()
    }

    /// Waits until something was added since the number seen last; returns the new number.
    pub async fn wait(&self, seen: u64) -> u64 {
        let mut changes = self.changed.subscribe();
        match changes.wait_for(|now| *now != seen).await {
            Ok(now) => *now,
            Err(_) => seen,
        }
    }

    /// The number of changes so far.
    pub fn changes(&self) -> u64 {
        *self.changed.borrow()
    }

    fn notify(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn input_bytes(propose: &Propose) -> usize {
    propose.inputs.iter().map(Vec::len).sum()
}

fn trim<V>(map: &mut BTreeMap<Slot, V>, max: usize) {
    while map.len() > max {
        map.pop_first();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tests::fixture::{group, statement};

    fn slots(statements: &[SlotStatement]) -> Vec<u64> {
        statements.iter().map(|statement| statement.slot.0).collect()
    }

    #[test]
    fn history_ends_at_the_first_gap_and_at_the_count() {
        let (window, group) = (Window::default(), group(4, 1));
        let kept: Vec<_> = [2, 3, 5, 6, 7].into_iter().map(|slot| statement(&group, slot, 0)).collect();
        window.remember_statements(&kept);
        assert_eq!(slots(&window.history(Slot(8), 10)), [5, 6, 7]);
        assert_eq!(slots(&window.history(Slot(8), 2)), [6, 7]);
        assert_eq!(slots(&window.history(Slot(4), 10)), [2, 3]);
        assert!(window.history(Slot(9), 10).is_empty() && window.history(Slot(0), 10).is_empty());
    }
}
