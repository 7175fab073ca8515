//! The source's side of a migration.
//!
//! ```text
//! Offering -> Streaming -> Following -> Freezing -> HandedOver -> (retired)
//!     |           |            |            |            |
//!     +-----------+------------+------------+            +-> Reclaiming -> Electing -> (active again, later generation)
//!                 aborted: the VM never stopped                 |  ^
//!                                                               v  | the destination declined
//!                                                            Overruled -> (retired: the destination was activated)
//! ```
//!
//! The only step that cannot be undone by the source alone is `Relinquish`. Before it is durable the source may run on
//! in its generation; afterwards it runs again only in a *later* generation, which needs two things: a grant of the
//! ordered log, for which its abort competes with the destination's handover, and a quorum of the verifiers' votes. The
//! log grants a generation once, so the votes never split.

use quorate_attest::id::{Generation, Slot};

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The destination accepted the offer.
    Accepted,
    /// The destination is still pulling the base state.
    Pulling,
    /// The destination holds the base slot, verified, in place and on stable storage.
    Loaded(Slot),
    /// A slot was cut while the VM runs on.
    Cut(Slot),
    /// A slot got its certificate.
    Certified(Slot),
    /// The destination replayed a slot.
    Replayed(Slot),
    /// The guest is stopped; this is its last slot.
    Frozen(Slot),
    /// `Relinquish` is on stable storage.
    RelinquishDurable,
    /// The destination shows a quorum's activation.
    Activated(Generation),
    /// The destination refused.
    Declined,
    /// The connection to the destination is gone.
    Lost,
    /// The log granted this host a later generation.
    Granted,
    /// The log granted the next generation to another host.
    Overruled,
    /// The log did not decide.
    Unordered,
    /// A quorum activated this host again.
    Reclaimed(Generation),
    /// A quorum had activated another host.
    Superseded(Generation),
    /// Nobody is known to have a quorum.
    Undecided,
    /// Time passed.
    Tick,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send the offer.
    Offer,
    /// Send a slot's inputs to the destination.
    Forward(Slot),
    /// Stop the guest at its next doorbell and cut the last slot.
    Freeze,
    /// Sign `Relinquish` for the slot and make it durable; answer with [`Input::RelinquishDurable`].
    PersistRelinquish(Slot),
    /// Send the handover.
    Handover(Slot),
    /// Let the guest run on in its generation.
    RunOn,
    /// Have the log end a migration for which the guest never stopped.
    OrderRelease,
    /// Have the log end a migration after `Relinquish`, in favour of this host; answer with [`Input::Granted`],
    /// [`Input::Overruled`] or [`Input::Unordered`].
    OrderAbort,
    /// Ask the verifiers to activate this host in the generation that was granted; answer with [`Input::Reclaimed`] or
    /// [`Input::Undecided`].
    RequestVotes,
    /// Ask the verifiers whether another host was activated; answer with [`Input::Superseded`] or [`Input::Undecided`].
    AskWhoRuns,
    /// Discard the instance for good.
    Retire,
    /// The migration is over.
    Finish(Outcome),
}

/// How a migration ended for the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The destination runs the VM in this generation.
    Moved(Generation),
    /// The source runs the VM in the same generation as before.
    Aborted,
    /// The source runs the VM in this, newer generation.
    Returned(Generation),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Offering,
    Streaming,
    Following,
    Freezing,
    Frozen(Slot),
    Relinquishing(Slot),
    HandedOver,
    Reclaiming,
    Electing,
    Overruled,
    Over,
}

/// The state machine.
#[derive(Clone, Debug)]
pub struct Source {
    phase: Phase,
    timeout_ms: u64,
    deadline_ms: u64,
    newest: Slot,
    forwarded: Slot,
    certified: Option<Slot>,
    replayed: Option<Slot>,
}

impl Source {
    /// A migration that begins at `now_ms` with `base` as the slot whose state is offered. `newest` and `certified` are
    /// the VM's newest slot and newest certified slot; without progress for `timeout_ms` the source gives up.
    pub fn begin(
        now_ms: u64,
        timeout_ms: u64,
        base: Slot,
        newest: Slot,
        certified: Option<Slot>,
    ) -> (Self, Vec<Effect>) {
        let source = Self {
            phase: Phase::Offering,
            timeout_ms,
            deadline_ms: now_ms.saturating_add(timeout_ms),
            newest,
            forwarded: base,
            certified,
            replayed: None,
        };
        (source, vec![Effect::Offer])
    }

    /// After a restart with a durable `Relinquish` but without knowledge of the outcome.
    pub fn resume_relinquished(now_ms: u64, timeout_ms: u64, slot: Slot) -> Self {
        Self {
            phase: Phase::HandedOver,
            timeout_ms,
            deadline_ms: now_ms.saturating_add(timeout_ms),
            newest: slot,
            forwarded: slot,
            certified: None,
            replayed: None,
        }
    }

    /// Whether slots are cut only when the one before is certified and replayed, so that following converges.
    pub fn paces_cuts(&self) -> bool {
        matches!(self.phase, Phase::Following)
    }

    /// Whether another slot may be cut now.
    pub fn may_cut(&self) -> bool {
        match self.phase {
            Phase::Following => self.caught_up(),
            Phase::Offering | Phase::Streaming | Phase::Over => true,
            _ => false,
        }
    }

    /// Name of the phase, for people.
    pub fn phase(&self) -> &'static str {
        match self.phase {
            Phase::Offering => "offer",
            Phase::Streaming => "base state",
            Phase::Following => "following",
            Phase::Freezing | Phase::Frozen(_) | Phase::Relinquishing(_) => "freeze",
            Phase::HandedOver => "handover",
            Phase::Reclaiming | Phase::Electing | Phase::Overruled => "reclaim",
            Phase::Over => "over",
        }
    }

    /// Whether `Relinquish` may have left this host.
    pub fn is_relinquished(&self) -> bool {
        matches!(
            self.phase,
            Phase::Relinquishing(_)
                | Phase::HandedOver
                | Phase::Reclaiming
                | Phase::Electing
                | Phase::Overruled
        )
    }

    /// One step.
    pub fn step(&mut self, now_ms: u64, input: Input) -> Vec<Effect> {
        if self.phase == Phase::Over {
            return Vec::new();
        }
        if is_progress(&input) {
            self.deadline_ms = now_ms.saturating_add(self.timeout_ms);
        }
        match input {
            Input::Accepted if self.phase == Phase::Offering => {
                self.phase = Phase::Streaming;
                self.forward()
            }
            Input::Loaded(slot) if self.phase == Phase::Streaming => {
                self.replayed = self.replayed.max(Some(slot));
                self.phase = Phase::Following;
                self.freeze_when_caught_up()
            }
            Input::Cut(slot) => {
                self.newest = self.newest.max(slot);
                match self.phase {
                    Phase::Streaming | Phase::Following => self.forward(),
                    _ => Vec::new(),
                }
            }
            Input::Certified(slot) => self.take_certified(slot),
            Input::Replayed(slot) => {
                self.replayed = self.replayed.max(Some(slot));
                self.freeze_when_caught_up()
            }
            Input::Frozen(slot) if self.phase == Phase::Freezing => {
                self.newest = slot;
                self.phase = Phase::Frozen(slot);
                self.relinquish_when_certified()
            }
            Input::RelinquishDurable => match self.phase {
                Phase::Relinquishing(slot) => {
                    self.phase = Phase::HandedOver;
                    vec![Effect::Handover(slot)]
                }
                _ => Vec::new(),
            },
            Input::Activated(generation) | Input::Superseded(generation) if self.is_relinquished() => {
                self.phase = Phase::Over;
                vec![Effect::Retire, Effect::Finish(Outcome::Moved(generation))]
            }
            Input::Reclaimed(generation) if self.is_relinquished() => {
                self.phase = Phase::Over;
                vec![Effect::RunOn, Effect::Finish(Outcome::Returned(generation))]
            }
            Input::Granted | Input::Overruled | Input::Unordered if self.phase == Phase::Reclaiming => {
                self.take_verdict_of_the_log(&input)
            }
            Input::Declined => self.give_up(),
            Input::Lost if self.phase != Phase::HandedOver => self.give_up(),
            Input::Tick if now_ms >= self.deadline_ms => {
                self.deadline_ms = now_ms.saturating_add(self.timeout_ms);
                self.give_up()
            }
            _ => Vec::new(),
        }
    }

    fn take_certified(&mut self, slot: Slot) -> Vec<Effect> {
        self.certified = self.certified.max(Some(slot));
        if self.phase == Phase::Electing && slot == self.newest {
            // Who asks for votes has to show this certificate.
            return vec![Effect::RequestVotes];
        }
        let mut effects = self.freeze_when_caught_up();
        effects.extend(self.relinquish_when_certified());
        effects
    }

    fn take_verdict_of_the_log(&mut self, input: &Input) -> Vec<Effect> {
        match input {
            Input::Granted => {
                self.phase = Phase::Electing;
                vec![Effect::RequestVotes]
            }
            Input::Overruled => {
                self.phase = Phase::Overruled;
                vec![Effect::AskWhoRuns]
            }
            // The verifiers may know more than a log that does not answer.
            _ => vec![Effect::AskWhoRuns],
        }
    }

    fn caught_up(&self) -> bool {
        self.certified == Some(self.newest) && self.replayed == Some(self.newest)
    }

    fn forward(&mut self) -> Vec<Effect> {
        let mut effects = Vec::new();
        while self.forwarded < self.newest {
            self.forwarded = Slot(self.forwarded.0.saturating_add(1));
            effects.push(Effect::Forward(self.forwarded));
        }
        effects
    }

    fn freeze_when_caught_up(&mut self) -> Vec<Effect> {
        if self.phase == Phase::Following && self.caught_up() {
            self.phase = Phase::Freezing;
            vec![Effect::Freeze]
        } else {
            Vec::new()
        }
    }

    /// The handover carries the certificate of the slot before the last one, so nothing is given away without it.
    fn relinquish_when_certified(&mut self) -> Vec<Effect> {
        match self.phase {
            Phase::Frozen(slot)
                if self.certified.is_some_and(|certified| certified.0.saturating_add(1) >= slot.0) =>
            {
                self.phase = Phase::Relinquishing(slot);
                vec![Effect::PersistRelinquish(slot)]
            }
            _ => Vec::new(),
        }
    }

    fn give_up(&mut self) -> Vec<Effect> {
        match self.phase {
            Phase::Offering | Phase::Streaming | Phase::Following => {
                self.phase = Phase::Over;
                vec![Effect::OrderRelease, Effect::Finish(Outcome::Aborted)]
            }
            Phase::Freezing | Phase::Frozen(_) => {
                self.phase = Phase::Over;
                vec![Effect::RunOn, Effect::OrderRelease, Effect::Finish(Outcome::Aborted)]
            }
            // The signature may already be on its way: only the log can tell who may run now. It is asked again after a
            // grant in vain, too, because somebody may have decided otherwise meanwhile.
            Phase::Relinquishing(_)
            | Phase::HandedOver
            | Phase::Reclaiming
            | Phase::Electing
            | Phase::Overruled => {
                self.phase = Phase::Reclaiming;
                vec![Effect::OrderAbort]
            }
            Phase::Over => Vec::new(),
        }
    }
}

/// Whether somebody else did something, so that the deadline moves. The answers to what this host asks itself do not count.
fn is_progress(input: &Input) -> bool {
    !matches!(
        input,
        Input::Tick
            | Input::Undecided
            | Input::Unordered
            | Input::Overruled
            | Input::Cut(_)
            | Input::Certified(_)
    )
}
