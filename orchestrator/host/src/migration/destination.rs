//! The destination's side of a migration.
//!
//! ```text
//! Pulling -> Following -> Deciding -> Voting -> Committing -> Running
//!    |           |            |          |           |
//!    +-----------+------------+----------+           +--> (a quorum's activation exists: there is no way back)
//!         declined: signed refusal, state discarded
//! ```
//!
//! *Deciding* needs five things, gathered side by side: the handover on stable storage, the ordered log's grant of the
//! next generation, a quorum's certificate of slot k, a quorum's fresh heads with nothing newer than k, and the replay
//! k-1 -> k that ends in exactly the certified digests, taken from the memory in place. Only then are votes for the
//! generation asked for, and only a durable activation certificate lets the guest run.
//!
//! The log is asked once the handover is durable and the heads agree: a host that was granted a generation never forgets
//! why, and no grant is given away for a slot from which nobody could go on.

use quorate_attest::id::{Generation, Slot};

/// What happened. Messages have been checked for form, signature and chain before they become inputs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// Pages of the base state are arriving.
    Pulling,
    /// The base state is in place and matches its certificate.
    Loaded,
    /// A further slot arrived.
    Slot(Slot),
    /// A slot was replayed and ended in its statement's digests.
    Replayed(Slot),
    /// The source gave the VM away at this slot.
    Handover(Slot),
    /// Base state, inputs and handover are on stable storage.
    HandoverDurable,
    /// The log granted this host the next generation.
    Granted,
    /// The log granted it to another host.
    Overruled,
    /// The slot has a quorum's certificate.
    Certified(Slot),
    /// A quorum's fresh heads show nothing newer than the handed-over slot.
    HeadsAgree,
    /// A quorum voted for this host.
    Elected(Generation),
    /// The activation certificate is on stable storage.
    GenerationDurable,
    /// A check outside this machine failed; whoever made it knows why. Of no effect once votes are out.
    Failed,
    /// So many verifiers refused their vote that this host can never be elected.
    VotesRefused,
    /// The connection to the source is gone.
    Lost,
    /// Time passed.
    Tick,
}

/// What is to be done, in this order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Pull the base state, each page verified on arrival.
    Pull,
    /// Tell the source that the base is in place.
    ReportLoaded,
    /// Replay a slot and compare.
    Replay(Slot),
    /// Tell the source that a slot was replayed.
    ReportReplayed(Slot),
    /// Make base, inputs and handover durable; answer with [`Input::HandoverDurable`].
    PersistHandover,
    /// Have the handover ordered; answer with [`Input::Granted`] or [`Input::Overruled`].
    OrderHandover(Slot),
    /// Gather a quorum's attestations of the slot.
    CollectCertificate(Slot),
    /// Ask the verifiers for their heads with a fresh nonce.
    AskHeads(Slot),
    /// Ask the verifiers to raise the generation.
    RequestVotes(Slot),
    /// Make the activation certificate durable; answer with [`Input::GenerationDurable`].
    PersistGeneration(Generation),
    /// Let the guest run.
    Run(Generation),
    /// Sign a refusal and discard the state.
    Decline(&'static str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Pulling,
    Following,
    Deciding,
    Voting,
    Committing(Generation),
    Over,
}

/// The state machine.
#[derive(Clone, Debug)]
pub struct Destination {
    phase: Phase,
    timeout_ms: u64,
    deadline_ms: u64,
    received: Slot,
    replayed: Slot,
    last: Option<Slot>,
    durable: bool,
    granted: bool,
    certified: bool,
    heads: bool,
    /// Before the restart votes may have been asked for.
    resumed: bool,
}

impl Destination {
    /// Begins with an accepted offer of slot `base`. Without progress for `timeout_ms` the destination declines.
    pub fn begin(now_ms: u64, timeout_ms: u64, base: Slot) -> (Self, Vec<Effect>) {
        (Self::new(Phase::Pulling, now_ms, timeout_ms, base), vec![Effect::Pull])
    }

    /// After a restart with a durable handover of slot `last`, with its state rebuilt from disk by replay.
    pub fn resume(now_ms: u64, timeout_ms: u64, last: Slot) -> (Self, Vec<Effect>) {
        let mut destination = Self::new(Phase::Following, now_ms, timeout_ms, last);
        let mut effects = destination.take_handover(last);
        (destination.durable, destination.resumed) = (true, true);
        effects.retain(|effect| *effect != Effect::PersistHandover);
        (destination, effects)
    }

    fn new(phase: Phase, now_ms: u64, timeout_ms: u64, base: Slot) -> Self {
        Self {
            phase,
            timeout_ms,
            deadline_ms: now_ms.saturating_add(timeout_ms),
            received: base,
            replayed: base,
            last: None,
            durable: false,
            granted: false,
            certified: false,
            heads: false,
            resumed: false,
        }
    }

    /// Name of the phase, for people.
    pub fn phase(&self) -> &'static str {
        match self.phase {
            Phase::Pulling => "base state",
            Phase::Following => "following",
            Phase::Deciding => "decide",
            Phase::Voting => "votes",
            Phase::Committing(_) => "commit",
            Phase::Over => "over",
        }
    }

    /// Whether the migration ended, either way.
    pub fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    /// One step.
    pub fn step(&mut self, now_ms: u64, input: Input) -> Vec<Effect> {
        if self.phase == Phase::Over {
            return Vec::new();
        }
        if input != Input::Tick {
            self.deadline_ms = now_ms.saturating_add(self.timeout_ms);
        }
        match input {
            Input::Loaded if self.phase == Phase::Pulling => {
                self.phase = Phase::Following;
                let mut effects = vec![Effect::ReportLoaded];
                // Slots that arrived while the base was being pulled.
                effects.extend(
                    (self.replayed.0.saturating_add(1)..=self.received.0)
                        .map(|slot| Effect::Replay(Slot(slot))),
                );
                effects
            }
            Input::Slot(slot) => self.take_slot(slot),
            Input::Replayed(slot) => self.take_replayed(slot),
            Input::Handover(slot) => self.take_handover(slot),
            Input::HandoverDurable => {
                self.durable = true;
                self.order_when_sound()
            }
            Input::Granted => {
                self.granted = true;
                self.decide()
            }
            // Whoever is granted the generation runs the VM: there is nothing left to decide here.
            Input::Overruled if !self.granted => self.decline("MigrationConflict"),
            Input::Certified(slot) => {
                self.certified |= self.last == Some(slot);
                self.decide()
            }
            Input::HeadsAgree => {
                self.heads = true;
                self.order_when_sound()
            }
            Input::Elected(generation) if self.phase == Phase::Voting => {
                self.phase = Phase::Committing(generation);
                vec![Effect::PersistGeneration(generation)]
            }
            Input::GenerationDurable => match self.phase {
                Phase::Committing(generation) => {
                    self.phase = Phase::Over;
                    vec![Effect::Run(generation)]
                }
                _ => Vec::new(),
            },
            // With votes out, only their refusal may end it: a generation that was voted for in vain costs the VM time.
            Input::Failed if self.phase != Phase::Voting => self.decline("DestinationRefused"),
            Input::VotesRefused if self.phase == Phase::Voting => self.decline("DestinationRefused"),
            // After the handover the destination has everything it needs and goes on alone.
            Input::Lost if self.last.is_none() => self.decline("PeerTimeout"),
            Input::Tick if now_ms >= self.deadline_ms => self.time_out(now_ms),
            _ => Vec::new(),
        }
    }

    fn take_slot(&mut self, slot: Slot) -> Vec<Effect> {
        if self.last.is_some() {
            return self.decline("LogTrailingRecords");
        }
        if slot.0 != self.received.0.saturating_add(1) {
            return self.decline("LogChainBroken");
        }
        self.received = slot;
        if self.phase == Phase::Following { vec![Effect::Replay(slot)] } else { Vec::new() }
    }

    fn take_replayed(&mut self, slot: Slot) -> Vec<Effect> {
        self.replayed = self.replayed.max(slot);
        let mut effects = vec![Effect::ReportReplayed(slot)];
        effects.extend(self.decide());
        effects
    }

    fn take_handover(&mut self, slot: Slot) -> Vec<Effect> {
        if self.phase != Phase::Following {
            return self.decline("LogChainBroken");
        }
        if slot > self.received {
            return self.decline("LogTruncated");
        }
        // A slot before the newest one shown would throw away what this host has already seen certified.
        if slot < self.received {
            return self.decline("StaleSlot");
        }
        self.last = Some(slot);
        self.phase = Phase::Deciding;
        vec![Effect::CollectCertificate(slot), Effect::AskHeads(slot), Effect::PersistHandover]
    }

    /// From here on the log decides: either it grants the generation, or it overrules this host.
    fn waits_for_the_log(&self) -> bool {
        self.durable && self.heads && !self.granted
    }

    fn order_when_sound(&mut self) -> Vec<Effect> {
        match self.last {
            Some(slot) if self.phase == Phase::Deciding && self.waits_for_the_log() => {
                let mut effects = vec![Effect::OrderHandover(slot)];
                effects.extend(self.decide());
                effects
            }
            _ => self.decide(),
        }
    }

    fn decide(&mut self) -> Vec<Effect> {
        match self.last {
            Some(slot)
                if self.phase == Phase::Deciding
                    && self.durable
                    && self.granted
                    && self.certified
                    && self.heads
                    && self.replayed == slot =>
            {
                self.phase = Phase::Voting;
                vec![Effect::RequestVotes(slot)]
            }
            _ => Vec::new(),
        }
    }

    /// While votes are out, or may be out from before a restart, and while the log has not decided, the destination asks
    /// again instead of declining: the VM would stand still for longer, until the source has learned of it.
    fn time_out(&mut self, now_ms: u64) -> Vec<Effect> {
        match (self.phase, self.last) {
            (Phase::Voting, Some(slot)) => {
                self.deadline_ms = now_ms.saturating_add(self.timeout_ms);
                vec![Effect::RequestVotes(slot)]
            }
            (Phase::Deciding, Some(slot)) if self.resumed || self.waits_for_the_log() => {
                self.deadline_ms = now_ms.saturating_add(self.timeout_ms);
                match (self.heads, self.granted) {
                    (false, _) => vec![Effect::AskHeads(slot)],
                    (true, false) => vec![Effect::OrderHandover(slot)],
                    (true, true) => Vec::new(),
                }
            }
            _ => self.decline("PeerTimeout"),
        }
    }

    fn decline(&mut self, kind: &'static str) -> Vec<Effect> {
        match self.phase {
            // A quorum's votes exist: declining now could leave the VM without a host.
            Phase::Committing(_) => Vec::new(),
            _ => {
                self.phase = Phase::Over;
                vec![Effect::Decline(kind)]
            }
        }
    }
}
