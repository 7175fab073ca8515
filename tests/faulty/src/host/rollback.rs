//! Sources that hand over an older state than the newest certified one.

use std::sync::{Mutex, PoisonError};

use quorate_attest::id::Slot;
use quorate_attest::key::SecretKey;
use quorate_host::conduct::{Conduct, EarlierSlots, Step, View};
use quorate_host::protocol::Handover;
use quorate_verifier::protocol::Propose;
use quorate_vmm::page_tree::Page;
use quorate_vmm::snapshot::PageSnapshot;

use super::gate::Gate;

/// Slots that must be certified beyond the one that is handed over, so that a quorum of verifiers knows better.
const SLOTS_AHEAD: u64 = 4;

/// A handover of slot `to`, complete and validly signed.
fn back_to(to: Slot, handover: &Handover, key: &SecretKey, earlier: &EarlierSlots<'_>) -> Option<Handover> {
    let (last, _) = earlier(to)?;
    let (_, before) = earlier(to.previous()?)?;
    let mut relinquish = handover.relinquish.clone();
    relinquish.slot = to;
    relinquish.statement = last.proposal.statement.digest();
    let relinquish = relinquish.signed(key);
    Some(Handover { last, before, relinquish, stopped_ns: handover.stopped_ns })
}

/// Hands over a certified slot that the destination has already passed.
#[derive(Clone, Copy, Debug)]
pub struct Rollback;

impl Conduct for Rollback {
    fn handover(&self, handover: Handover, key: &SecretKey, earlier: &EarlierSlots<'_>) -> Handover {
        let slot = handover.last.proposal.statement.slot;
        let older = slot.0.checked_sub(2).and_then(|to| back_to(Slot(to), &handover, key, earlier));
        older.unwrap_or(handover)
    }
}

/// Hands over the certified pair (j-1, j), from which the destination cannot see that the VM went on: newer slots were
/// certified, and answered to clients, but withheld from it.
#[derive(Debug, Default)]
pub struct RollbackPair {
    gate: Gate,
    withheld: Mutex<Option<Slot>>,
}

impl Conduct for RollbackPair {
    fn reached(&self, step: Step, view: &View<'_>) {
        self.gate.reached(step, view);
        if step == Step::OfferSent {
            *self.withheld.lock().unwrap_or_else(PoisonError::into_inner) = None;
        }
    }

    fn forward(&self, propose: Propose) -> Option<Propose> {
        let mut withheld = self.withheld.lock().unwrap_or_else(PoisonError::into_inner);
        withheld.get_or_insert(propose.proposal.statement.slot);
        None
    }

    fn pretends_caught_up(&self) -> bool {
        true
    }

    fn handover(&self, handover: Handover, key: &SecretKey, earlier: &EarlierSlots<'_>) -> Handover {
        let first = *self.withheld.lock().unwrap_or_else(PoisonError::into_inner);
        let older = first.and_then(|to| back_to(to, &handover, key, earlier));
        older.unwrap_or(handover)
    }

    fn alters_pages(&self) -> bool {
        true
    }

    fn page(&self, _index: u32, _page: &mut Page, _state: &PageSnapshot) {
        self.gate.wait(SLOTS_AHEAD, 0);
    }
}
