//! The exchange with the destination, and what it says.

use std::net::SocketAddr;

use quorate_attest::id::VmId;
use quorate_attest::key::PublicKey;
use quorate_attest::statement::Kind;
use quorate_attest::vm::ActivationCertificate;
use quorate_transport::Endpoint;
use quorate_verifier::protocol::Refused;
use tokio::sync::mpsc;

use super::Emigration;
use crate::agent::active::refusal;
use crate::agent::{Agent, AgentHandle, Event, Fatal, refused};
use crate::conduct::Step;
use crate::config::Loaded;
use crate::migration::source::Input;
use crate::protocol::{Activated, Declined, FromHost, ToHost};

impl Agent {
    pub(in crate::agent) fn destination_said(&mut self, message: Option<FromHost>) -> Result<(), Fatal> {
        match message {
            Some(FromHost::Accepted(_)) => {
                if let Some(emigration) = &mut self.emigration {
                    emigration.timeline.end("offer", 0, 0);
                }
                self.step_emigration(Input::Accepted)
            }
            Some(FromHost::Loaded(reached)) => {
                if let Some(emigration) = &mut self.emigration {
                    emigration.timeline.begin("following");
                }
                self.step_emigration(Input::Loaded(reached.slot))
            }
            Some(FromHost::Replayed(reached)) => self.step_emigration(Input::Replayed(reached.slot)),
            Some(FromHost::Activated(activated)) => self.destination_activated(*Box::new(activated)),
            Some(FromHost::Declined(declined)) => self.destination_declined(declined),
            Some(FromHost::Progress(progress)) => {
                self.reached(Step::BaseStreaming);
                if let Some(operator) =
                    self.emigration.as_ref().and_then(|emigration| emigration.operator.as_ref())
                {
                    let _ = operator.send(FromHost::Progress(progress));
                }
                self.step_emigration(Input::Pulling)
            }
            Some(FromHost::Refused(refused)) => {
                self.decline_noted(refused, "destination");
                self.step_emigration(Input::Declined)
            }
            Some(_) => Ok(()),
            None => self.step_emigration(Input::Lost),
        }
    }

    fn destination_activated(&mut self, activated: Activated) -> Result<(), Fatal> {
        let Some(vm) = &mut self.vm else { return Ok(()) };
        if let Err(error) = check_activation(&self.loaded, vm.id, &activated.certificate) {
            self.note(refusal(error.kind(), &error), "destination");
            return Ok(());
        }
        let generation = activated.certificate.activation.generation;
        vm.activated(activated.certificate);
        if let Some(emigration) = &mut self.emigration {
            emigration.timeline.end("handover", 0, 0);
            emigration.arrived = Some(activated.report);
        }
        self.reached(Step::ActivationSeen);
        self.step_emigration(Input::Activated(generation))
    }

    fn destination_declined(&mut self, declined: Declined) -> Result<(), Fatal> {
        let Declined { refusal: word, why, .. } = declined;
        if let (Some(vm), Some(emigration)) = (&self.vm, &mut self.emigration) {
            let members = self.loaded.group.past(word.group, word.epoch);
            let genuine =
                members.is_ok_and(|members| word.verify(&members.expected(vm.id, Kind::REFUSAL)).is_ok());
            if word.host == emigration.destination && genuine {
                emigration.refusal = Some(word);
            }
        }
        self.decline_noted(why, "destination");
        self.step_emigration(Input::Declined)
    }

    fn decline_noted(&mut self, why: Refused, by: &str) {
        if let Some(emigration) = &mut self.emigration {
            emigration.declined = Some(why.clone());
            emigration.declined_by = Some(by.to_owned());
        }
        self.note(why, by);
    }
}

impl Emigration {
    pub(super) fn send(&self, message: ToHost) {
        if let Some(destination) = &self.to_destination {
            // A lost connection is noticed by the reader.
            let _ = destination.send(message);
        }
    }
}

/// Checks that a generation began: votes with the members of the vote's epoch, the grant with those of its own.
fn check_activation(
    loaded: &Loaded,
    vm: VmId,
    certificate: &ActivationCertificate,
) -> Result<(), quorate_attest::VerifyError> {
    let (activation, decision) = (&certificate.activation, &certificate.grant.decision);
    let orchestrators = loaded.orchestrators.past(decision.group, decision.epoch)?;
    let members = loaded.group.past(activation.group, activation.epoch)?;
    certificate.verify(members, &members.expected(vm, Kind::ACTIVATE), Some(orchestrators))
}

/// Keeps the exchange with a destination: what the agent sends goes out, what comes back becomes events.
pub(super) async fn converse(
    endpoint: Endpoint,
    address: SocketAddr,
    destination: PublicKey,
    mut outbox: mpsc::UnboundedReceiver<ToHost>,
    agent: AgentHandle,
) {
    let exchange = async { endpoint.connect(address, &destination).await?.open().await };
    let exchange = match exchange.await {
        Ok(exchange) => exchange,
        Err(error) => {
            agent.send(Event::FromDestination(Some(refused(error.kind(), &error.to_string()))));
            return;
        }
    };
    let (mut sender, mut receiver) = exchange.split();
    receiver.set_patience(crate::EXCHANGE_PATIENCE);
    let reader = agent.clone();
    let reading = tokio::spawn(async move {
        loop {
            match receiver.recv::<FromHost>().await {
                Ok(Some(message)) => reader.send(Event::FromDestination(Some(message))),
                Ok(None) | Err(_) => return reader.send(Event::FromDestination(None)),
            }
        }
    });
    while let Some(message) = outbox.recv().await {
        if sender.send(&message).await.is_err() {
            break;
        }
    }
    let _ = sender.finish();
    reading.abort();
}
