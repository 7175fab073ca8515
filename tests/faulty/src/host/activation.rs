//! Hosts that run a VM that is not theirs to run.

use std::path::PathBuf;
use std::sync::Arc;

use quorate_attest::epoch::GroupChain;
use quorate_attest::id::{Nonce, OperationId};
use quorate_attest::vm::{Action, Activation, Decision, DecisionCertificate};
use quorate_host::agent::AgentHandle;
use quorate_host::conduct::{Conduct, Step, View, VmView};
use quorate_host::link::Asker;
use quorate_verifier::protocol::{Activate, FromVerifier, ToVerifier};

use crate::report::{Outcome, RefusedBy};

/// Identity of instances that nobody should vote for.
const OTHER_INSTANCE: Nonce = Nonce::from_bytes([0xda; 16]);

/// A source that goes on answering clients in its old generation after the VM was activated elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct KeepRunning;

impl Conduct for KeepRunning {
    fn keeps_running(&self) -> bool {
        true
    }

    fn releases_uncertified(&self) -> bool {
        true
    }
}

/// A destination that, once activated, wants votes for a second instance of the same generation.
#[derive(Clone, Copy, Debug)]
pub struct DoubleActivate;

impl Conduct for DoubleActivate {
    fn reached(&self, step: Step, view: &View<'_>) {
        let question = view.vm.as_ref().filter(|_| step == Step::Running).and_then(second_instance);
        if let Some(question) = question {
            Election::of("double-activate", view, question).spawn();
        }
    }
}

fn second_instance(vm: &VmView<'_>) -> Option<Activate> {
    let first = vm.activation.as_ref()?;
    let activation = Activation { instance: OTHER_INSTANCE, ..first.activation.clone() };
    let certificate = vm.window.certificate(activation.slot)?;
    Some(Activate { activation, grant: first.grant.clone(), relinquish: None, certificate })
}

/// A destination that does not wait for the handover: it signs the orchestrators' grant with its own key, asks for votes,
/// runs the guest at once and answers clients.
#[derive(Clone, Copy, Debug)]
pub struct EarlyActivate;

impl Conduct for EarlyActivate {
    fn reached(&self, step: Step, view: &View<'_>) {
        if step == Step::BaseLoaded
            && let Some(question) = own_word(view)
        {
            Election::of("early-activate", view, question).spawn();
        }
    }

    fn runs_unactivated(&self) -> bool {
        true
    }

    fn releases_uncertified(&self) -> bool {
        true
    }
}

fn own_word(view: &View<'_>) -> Option<Activate> {
    let (vm, group) = (view.vm.as_ref()?, &view.loaded.group);
    let head = vm.head?;
    let decision = Decision {
        group: view.loaded.orchestrators.id(),
        epoch: view.loaded.orchestrators.epoch,
        vm: vm.id,
        generation: vm.generation.next()?,
        operation: OperationId::ZERO,
        index: 0,
        action: Action::Grant { slot: head.slot, statement: head.digest(), host: view.loaded.key.public() },
    };
    let need = view.loaded.orchestrators.rule().ok()?.quorum() as u16;
    let signatures = (0..need).map(|index| (index, decision.sign(&view.loaded.key))).collect();
    let activation = Activation::of(&decision, group.id(), group.epoch, OTHER_INSTANCE)?;
    let certificate = vm.window.certificate(head.slot)?;
    Some(Activate {
        activation,
        grant: DecisionCertificate { decision, signatures },
        relinquish: None,
        certificate,
    })
}

/// Asks every verifier for its vote and reports what each said.
struct Election {
    attack: &'static str,
    group: Arc<GroupChain>,
    askers: Vec<Asker>,
    data_dir: PathBuf,
    agent: AgentHandle,
    question: Activate,
}

impl Election {
    fn of(attack: &'static str, view: &View<'_>, question: Activate) -> Self {
        Self {
            attack,
            group: Arc::clone(&view.loaded.group),
            askers: view.askers.clone(),
            data_dir: view.loaded.config.data_dir.clone(),
            agent: view.agent.clone(),
            question,
        }
    }

    fn spawn(self) {
        tokio::spawn(self.hold());
    }

    async fn hold(self) {
        let need = self.group.rule().map_or(0, |rule| rule.quorum());
        let mut outcome = Outcome { attack: self.attack, votes: 0, need, refusals: Vec::new() };
        for asker in &self.askers {
            match asker.ask(&ToVerifier::Activate(self.question.clone())).await {
                Ok(FromVerifier::Voted(_)) => outcome.votes += 1,
                Ok(FromVerifier::Refused(refused)) => {
                    let member = self.group.members.get(usize::from(asker.index()));
                    let name = member.map_or_else(String::new, |member| member.name.clone());
                    self.agent.note(refused.clone(), &name);
                    outcome.refusals.push(RefusedBy { name, refused });
                }
                other => tracing::info!(verifier = asker.index(), ?other, "no vote"),
            }
        }
        outcome.publish(&self.data_dir);
    }
}
