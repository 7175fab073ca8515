//! A VM arrives: effects of [`crate::migration::destination`].

mod end;
mod handover;
mod slots;

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_attest::id::{Nonce, Slot};
use quorate_attest::key::PublicKey;
use quorate_attest::vm::{ActivationCertificate, DecisionCertificate};
use quorate_verifier::core::measurement_of;
use quorate_verifier::protocol::{Propose, Refused, Register};
use quorate_vmm::checkpoint::Checkpoint;
use quorate_vmm::execution::Execution;
use quorate_vmm::state_stream::Moved;
use tokio::sync::mpsc;

use super::{Agent, Fatal, refused};
use crate::clock::monotonic_ms;
use crate::conduct::Step;
use crate::inquiries::fresh;
use crate::journal::{Base, Handed};
use crate::migration::destination::{Destination, Effect, Input};
use crate::protocol::{Accepted, FromHost, Handover, Offer};
use crate::pull;
use crate::timeline::Timeline;

/// A base state that was pulled and verified.
#[derive(Debug)]
pub struct Arrived {
    /// The machine, ready to replay.
    pub execution: Execution,
    /// The same state, to be made durable.
    pub checkpoint: Checkpoint,
    /// Bytes and pages moved.
    pub moved: Moved,
}

/// A migration to this host.
#[derive(Debug)]
pub struct Immigration {
    core: Destination,
    pub(super) source: PublicKey,
    answers: mpsc::UnboundedSender<FromHost>,
    pub(super) timeline: Timeline,
    pub(super) register: Arc<Register>,
    pub(super) base: Base,
    pub(super) queued: BTreeMap<Slot, Propose>,
    queued_bytes: usize,
    pub(super) base_durable: bool,
    pub(super) handover_waits: bool,
    /// Whether the base is loaded, which the source hears once it is durable: it stops the guest soon after.
    pub(super) loaded_waits: bool,
    /// The newest slot that was replayed meanwhile.
    pub(super) replayed_waits: Option<Slot>,
    /// Whether the last slot came with the handover and is not in the journal yet.
    last_is_new: bool,
    handover: Option<Handover>,
    /// What the orchestrators ordered: this migration.
    order: DecisionCertificate,
    /// What they granted.
    grant: Option<DecisionCertificate>,
    instance: Nonce,
    elected: Option<ActivationCertificate>,
    pub(super) moved: Moved,
    replay_ns: u64,
    failure: Option<Refused>,
}

impl Agent {
    pub(super) fn begin_immigration(
        &mut self,
        offer: Offer,
        source: PublicKey,
        scope: u64,
        answers: mpsc::UnboundedSender<FromHost>,
    ) -> Result<(), Fatal> {
        if self.immigration.is_some()
            || self.emigration.is_some()
            || self.is_recovering()
            || self.vm.as_ref().is_some_and(|vm| vm.running)
        {
            let _ = answers
                .send(refused("HostOccupied", "this host already holds a VM; one process serves one VM"));
            return Ok(());
        }
        if let Err(why) = self.check_offer(&offer, &source) {
            let _ = answers.send(FromHost::Refused(why.clone()));
            self.note(why, "offer");
            return Ok(());
        }
        self.drop_vm();
        self.recovery = None;
        self.migration = Some(scope);
        let Offer { spec, image, activation, base, input_log, statements, history, .. } = offer;
        let Offer { bulk_address, token, order, .. } = offer;
        let register = Arc::new(Register { spec, image });
        self.journal.adopt(&register)?;
        let mut timeline = Timeline::new("destination");
        timeline.begin("base state");
        let _ = answers.send(FromHost::Accepted(Accepted {}));
        self.reached(Step::OfferAccepted);
        let timeout_ms = self.loaded.config.migration_timeout_ms;
        let (core, _pull) = Destination::begin(monotonic_ms(), timeout_ms, base.statement.slot);
        let wanted = pull::Order {
            bulk: self.endpoint.bulk(),
            source,
            address: bulk_address,
            token,
            expected: measurement_of(&base.statement),
            input_log,
            memory_bytes: register.spec.memory_bytes,
        };
        self.warm_up_log();
        self.spawn_pull(base.statement.slot, wanted, &register, answers.clone());
        self.immigration = Some(Immigration {
            core,
            source,
            answers,
            timeline,
            register,
            base: Base { certificate: base, activation, statements, history },
            queued: BTreeMap::new(),
            queued_bytes: 0,
            base_durable: false,
            handover_waits: false,
            loaded_waits: false,
            replayed_waits: None,
            last_is_new: false,
            handover: None,
            order,
            grant: None,
            instance: Nonce::from_bytes(fresh()?),
            elected: None,
            moved: Moved::default(),
            replay_ns: 0,
            failure: None,
        });
        Ok(())
    }

    pub(super) fn step_immigration(&mut self, input: Input) -> Result<(), Fatal> {
        let Some(immigration) = &mut self.immigration else { return Ok(()) };
        let effects = immigration.core.step(monotonic_ms(), input);
        self.perform_immigration(effects)
    }

    pub(super) fn tick_immigration(&mut self) -> Result<(), Fatal> {
        self.step_immigration(Input::Tick)
    }

    fn perform_immigration(&mut self, effects: Vec<Effect>) -> Result<(), Fatal> {
        for effect in effects {
            match effect {
                // Begun with the offer.
                Effect::Pull => {}
                Effect::ReportLoaded => self.report_loaded()?,
                Effect::Replay(slot) => self.replay(slot),
                Effect::ReportReplayed(slot) => self.report_replayed(slot),
                Effect::PersistHandover => {
                    self.begin_phase("handover durable");
                    self.persist_handover()?;
                }
                Effect::OrderHandover(_) => {
                    self.begin_phase("order of the handover");
                    self.order_handover();
                }
                Effect::CollectCertificate(slot) => {
                    self.begin_phase("certificate of slot k");
                    self.collect_certificate(slot);
                }
                Effect::AskHeads(slot) => {
                    self.begin_phase("heads");
                    self.ask_heads(slot);
                }
                Effect::RequestVotes(slot) => self.request_votes(slot),
                Effect::PersistGeneration(_) => self.persist_generation()?,
                Effect::Run(generation) => self.activate(generation)?,
                Effect::Decline(kind) => self.decline(kind)?,
            }
        }
        Ok(())
    }

    fn begin_phase(&mut self, name: &'static str) {
        if let Some(immigration) = &mut self.immigration {
            immigration.timeline.begin(name);
        }
    }

    fn end_phase(&mut self, name: &'static str, votes: u32) {
        if let Some(immigration) = &mut self.immigration {
            immigration.timeline.end(name, 0, votes);
        }
    }

    pub(super) fn answer_source(&self, message: FromHost) {
        if let Some(immigration) = &self.immigration {
            let _ = immigration.answers.send(message);
        }
    }

    /// Something is wrong: the state machine decides what that means now.
    pub(super) fn immigration_fails(&mut self, why: Refused) -> Result<(), Fatal> {
        let Some(immigration) = &mut self.immigration else { return Ok(()) };
        immigration.failure.get_or_insert(why);
        self.step_immigration(Input::Failed)
    }

    /// Takes up a handover that was durable before a restart.
    pub(super) fn resume_handover(
        &mut self,
        register: Arc<Register>,
        base: Base,
        last: Propose,
        handed: Handed,
    ) -> Result<(), Fatal> {
        let Handed { relinquish, before, order, instance } = handed;
        let handover = Handover { last, before, relinquish, stopped_ns: 0 };
        let slot = handover.last.proposal.statement.slot;
        let timeout_ms = self.loaded.config.migration_timeout_ms;
        let (core, effects) = Destination::resume(monotonic_ms(), timeout_ms, slot);
        let (answers, _nobody) = mpsc::unbounded_channel();
        self.migration = Some(self.handle.new_scope());
        self.immigration = Some(Immigration {
            core,
            source: handover.last.proposal.statement.body.host,
            answers,
            timeline: Timeline::new("destination"),
            register,
            base,
            queued: BTreeMap::new(),
            queued_bytes: 0,
            base_durable: true,
            handover_waits: false,
            loaded_waits: false,
            replayed_waits: None,
            last_is_new: false,
            handover: Some(handover),
            order,
            grant: None,
            instance,
            elected: None,
            moved: Moved::default(),
            replay_ns: 0,
            failure: None,
        });
        self.perform_immigration(effects)
    }
}
