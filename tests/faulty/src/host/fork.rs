//! Sources that show different histories to different verifiers.

use std::sync::{Mutex, MutexGuard, PoisonError};

use quorate_attest::id::Slot;
use quorate_host::conduct::{Conduct, Step, View};
use quorate_verifier::protocol::Propose;

use super::idle_slot;

/// Shows some verifiers a slot in which nothing happened, where the others see what did happen; and afterwards shows
/// those verifiers both.
///
/// Each history alone is true, so every honest verifier signs the one it sees first. It begins with the first slot after
/// the VM was offered to a destination.
#[derive(Debug)]
pub struct Fork {
    whom: Whom,
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug)]
enum Whom {
    Last,
    Half,
}

#[derive(Debug, Default)]
struct State {
    members: usize,
    offered: bool,
    other: Option<Propose>,
    /// What everybody else saw of that slot.
    shown: Option<Propose>,
}

impl Fork {
    /// Deceives the last verifier; the others are a quorum.
    pub fn last() -> Self {
        Self { whom: Whom::Last, state: Mutex::default() }
    }

    /// Deceives one half of the verifiers; neither half is a quorum.
    pub fn half() -> Self {
        Self { whom: Whom::Half, state: Mutex::default() }
    }

    fn deceives(&self, verifier: usize, members: usize) -> bool {
        match self.whom {
            Whom::Last => verifier + 1 == members,
            Whom::Half => verifier >= members.div_ceil(2),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn slot_of(propose: &Propose) -> Slot {
    propose.proposal.statement.slot
}

impl Conduct for Fork {
    fn reached(&self, step: Step, view: &View<'_>) {
        let mut state = self.lock();
        state.members = view.loaded.group.members.len();
        match step {
            Step::OfferSent => state.offered = true,
            Step::SlotDurable if state.offered && state.other.is_none() => state.other = idle_slot(view),
            _ => {}
        }
    }

    fn propose(&self, verifier: usize, propose: Propose) -> Propose {
        let mut state = self.lock();
        let Some(other) = state.other.clone() else { return propose };
        if slot_of(&propose) == slot_of(&other) {
            state.shown = Some(propose.clone());
        }
        if !self.deceives(verifier, state.members) || slot_of(&propose) < slot_of(&other) {
            return propose;
        }
        if slot_of(&propose) == slot_of(&other) {
            return other;
        }
        state.shown.clone().unwrap_or(propose)
    }
}
