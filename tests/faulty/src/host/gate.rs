//! Lets an attack begin when there is something to attack.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quorate_attest::id::Slot;
use quorate_host::conduct::{Step, View};

/// Longest time for which a transfer is held up. A VM without load does not give an attack what it needs.
const PATIENCE: Duration = Duration::from_secs(3);

/// What happened since the VM was offered.
#[derive(Clone, Copy, Debug, Default)]
struct Since {
    /// Newest slot when the offer was sent.
    offered: Option<Slot>,
    /// Slots that ended since.
    slots: u64,
    /// Those of them that consumed two inputs or more.
    busy: u64,
}

/// Holds up the transfer of the base state until the VM has gone on far enough.
#[derive(Debug, Default)]
pub(super) struct Gate {
    since: Mutex<Since>,
    changed: Condvar,
}

impl Gate {
    /// To be told of every step of the source.
    pub(super) fn reached(&self, step: Step, view: &View<'_>) {
        let Some(head) = view.vm.as_ref().and_then(|vm| vm.head) else { return };
        let mut since = self.lock();
        match (step, since.offered) {
            (Step::OfferSent, _) => *since = Since { offered: Some(head.slot), ..Since::default() },
            // The view shows the slot before the one that is durable now.
            (Step::SlotDurable, Some(offered)) if head.slot > offered => {
                since.slots += 1;
                since.busy += u64::from(head.body.end_input - head.body.first_input >= 2);
            }
            _ => {}
        }
        drop(since);
        self.changed.notify_all();
    }

    /// Waits until so many slots ended after the offer, so many of them with two inputs or more.
    pub(super) fn wait(&self, slots: u64, busy: u64) {
        let end = Instant::now() + PATIENCE;
        let mut since = self.lock();
        while since.slots < slots || since.busy < busy {
            let Some(left) = end.checked_duration_since(Instant::now()).filter(|left| !left.is_zero()) else {
                return;
            };
            since = self.changed.wait_timeout(since, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Since> {
        self.since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
