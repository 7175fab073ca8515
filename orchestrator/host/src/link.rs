//! The link to one verifier: a connection that is kept up, and a worker that brings every slot to that verifier in order.
//!
//! Links do not depend on each other, so a slow, silent or lying verifier delays nobody.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quorate_attest::group::Member;
use quorate_attest::id::Slot;
use quorate_attest::vm::ActivationCertificate;
use quorate_transport::{Connection, Endpoint, Exchange};
use quorate_verifier::protocol::{
    Attested, Challenge, FromVerifier, Pages, ProvenPage, Refused, Register, StateOffer, ToVerifier,
};
use tokio::sync::{mpsc, watch};

use super::conduct::Conduct;
use super::state_server::StateServer;
use super::window::Window;

/// How long a verifier may take for one answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
const RETRY_FIRST: Duration = Duration::from_millis(20);
const RETRY_MAX: Duration = Duration::from_secs(1);

/// A verifier as the host sees it.
#[derive(Clone, Debug)]
pub struct VerifierPeer {
    /// Index in the group.
    pub index: u16,
    /// Its keys.
    pub member: Member,
    /// Where it listens.
    pub address: SocketAddr,
}

/// What a link tells the agent.
#[derive(Clone, Debug)]
pub enum LinkEvent {
    /// The verifier attested a slot.
    Attested(u16, Attested),
    /// The verifier refused a slot.
    Refused(u16, Slot, Refused),
}

/// Why a question got no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// There is no connection at the moment.
    #[error("verifier {0} cannot be reached")]
    Unreachable(u16),
    /// The verifier did not answer in time or closed the connection.
    #[error("verifier {0} did not answer: {1}")]
    NoAnswer(u16, String),
}

/// What the worker of a link needs to know about the VM.
#[derive(Clone, Debug)]
pub struct LinkedVm {
    /// Introduction of the VM.
    pub register: Arc<Register>,
    /// Its recent slots.
    pub window: Arc<Window>,
    /// Serves its states to verifiers that need one.
    pub states: Arc<StateServer>,
    /// How this host came to run it.
    pub activation: watch::Receiver<Option<ActivationCertificate>>,
}

/// A link; dropping it ends its tasks.
#[derive(Debug)]
pub struct Link {
    /// The verifier.
    pub peer: VerifierPeer,
    connection: watch::Receiver<Option<Connection>>,
    tasks: Vec<tokio::task::AbortHandle>,
}

impl Drop for Link {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl Link {
    /// Starts to keep a connection to `peer`.
    pub fn connect(endpoint: Endpoint, peer: VerifierPeer) -> Self {
        let (sender, connection) = watch::channel(None);
        let task = tokio::spawn(keep_connected(endpoint, peer.clone(), sender));
        Self { peer, connection, tasks: vec![task.abort_handle()] }
    }

    /// Brings the slots of `vm` from `first` on to the verifier.
    pub fn follow(
        &mut self,
        vm: LinkedVm,
        first: Slot,
        conduct: Arc<dyn Conduct>,
        events: mpsc::UnboundedSender<LinkEvent>,
    ) {
        let worker =
            Worker { peer: self.peer.clone(), connection: self.connection.clone(), vm, conduct, events };
        self.tasks.push(tokio::spawn(worker.run(first)).abort_handle());
    }

    /// A sender of single questions to this verifier.
    pub fn asker(&self) -> Asker {
        Asker { index: self.peer.index, connection: self.connection.clone() }
    }
}

/// Asks single questions.
#[derive(Clone, Debug)]
pub struct Asker {
    index: u16,
    connection: watch::Receiver<Option<Connection>>,
}

impl Asker {
    /// Index of the verifier in the group.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Asks one question on an exchange of its own, and waits for the connection if there is none at the moment.
    ///
    /// # Errors
    /// No connection, or no answer in time.
    pub async fn ask(&self, question: &ToVerifier) -> Result<FromVerifier, AskError> {
        let connection = self.connected().await?;
        ask_on(&connection, self.index, question).await
    }
}

impl Asker {
    /// Opens an exchange for a conversation that is longer than a question and its answer.
    ///
    /// # Errors
    /// No connection.
    pub async fn open(&self) -> Result<Exchange, AskError> {
        let connection = self.connected().await?;
        let opened = tokio::time::timeout(ANSWER_TIMEOUT, connection.open()).await;
        match opened {
            Ok(Ok(exchange)) => Ok(exchange),
            Ok(Err(error)) => Err(AskError::NoAnswer(self.index, error.to_string())),
            Err(_) => Err(AskError::NoAnswer(self.index, "timeout".into())),
        }
    }

    async fn connected(&self) -> Result<Connection, AskError> {
        let mut connection = self.connection.clone();
        let connected = tokio::time::timeout(ANSWER_TIMEOUT, connection.wait_for(Option::is_some)).await;
        let connection = connected.ok().and_then(Result::ok).and_then(|connection| connection.clone());
        connection.ok_or(AskError::Unreachable(self.index))
    }
}

async fn ask_on(
    connection: &Connection,
    index: u16,
    question: &ToVerifier,
) -> Result<FromVerifier, AskError> {
    let exchange = async {
        let mut exchange = connection.open().await?;
        exchange.send(question).await?;
        exchange.recv::<FromVerifier>().await
    };
    match tokio::time::timeout(ANSWER_TIMEOUT, exchange).await {
        Ok(Ok(Some(answer))) => Ok(answer),
        Ok(Ok(None)) => Err(AskError::NoAnswer(index, "the stream ended".into())),
        Ok(Err(error)) => Err(AskError::NoAnswer(index, error.to_string())),
        Err(_) => Err(AskError::NoAnswer(index, "timeout".into())),
    }
}

async fn keep_connected(endpoint: Endpoint, peer: VerifierPeer, sender: watch::Sender<Option<Connection>>) {
    let mut pause = RETRY_FIRST;
    loop {
        match endpoint.connect(peer.address, &peer.member.transport_key).await {
            Ok(connection) => {
                pause = RETRY_FIRST;
                sender.send_replace(Some(connection.clone()));
                connection.closed().await;
                sender.send_replace(None);
            }
            Err(error) => {
                tracing::debug!(verifier = peer.index, error_kind = error.kind(), %error, "verifier not reachable");
            }
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(RETRY_MAX);
    }
}

struct Worker {
    peer: VerifierPeer,
    connection: watch::Receiver<Option<Connection>>,
    vm: LinkedVm,
    conduct: Arc<dyn Conduct>,
    events: mpsc::UnboundedSender<LinkEvent>,
}

/// What to do after one proposal.
enum Then {
    Next(Slot),
    Again,
    Pause,
}

impl Worker {
    async fn run(mut self, first: Slot) {
        let mut next = first;
        let mut pause = RETRY_FIRST;
        loop {
            let seen = self.vm.window.changes();
            if self.vm.window.newest().is_none_or(|newest| newest < next) {
                self.vm.window.wait(seen).await;
                continue;
            }
            let Some(connection) = self.connected().await else { return };
            match self.bring(&connection, next).await {
                Ok(Then::Next(slot)) => {
                    next = slot;
                    pause = RETRY_FIRST;
                }
                Ok(Then::Again) => {}
                Ok(Then::Pause) => {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
                Err(error) => {
                    tracing::debug!(verifier = self.peer.index, %error, "proposal not answered");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
        }
    }

    async fn connected(&mut self) -> Option<Connection> {
        let connection = self.connection.wait_for(Option::is_some).await.ok()?;
        connection.clone()
    }

    async fn bring(&self, connection: &Connection, slot: Slot) -> Result<Then, AskError> {
        let Some(propose) = self.vm.window.proposal(slot) else {
            // Too old to be kept: the verifier has to take a newer state.
            return self.offer_state(connection, slot).await;
        };
        let index = self.peer.index;
        let message = self.conduct.propose(usize::from(index), (*propose).clone());
        let exchange = async {
            let mut exchange = connection.open().await?;
            exchange.send(&ToVerifier::Propose(message)).await?;
            let mut answer = exchange.recv::<FromVerifier>().await?;
            if let Some(FromVerifier::Challenge(challenge)) = &answer {
                let Some(pages) = self.prove(slot, challenge).await else { return Ok(None) };
                exchange.send(&ToVerifier::Pages(pages)).await?;
                answer = exchange.recv::<FromVerifier>().await?;
            }
            Ok::<_, quorate_transport::TransportError>(answer)
        };
        let answer = match tokio::time::timeout(ANSWER_TIMEOUT, exchange).await {
            Ok(Ok(Some(answer))) => answer,
            Ok(Ok(None)) => return self.offer_state(connection, slot).await,
            Ok(Err(error)) => return Err(AskError::NoAnswer(index, error.to_string())),
            Err(_) => return Err(AskError::NoAnswer(index, "timeout".into())),
        };
        self.after(connection, slot, answer).await
    }

    async fn after(
        &self,
        connection: &Connection,
        slot: Slot,
        answer: FromVerifier,
    ) -> Result<Then, AskError> {
        match answer {
            FromVerifier::Attested(attested) => {
                self.tell(LinkEvent::Attested(self.peer.index, attested));
                Ok(Then::Next(Slot(slot.0.saturating_add(1))))
            }
            FromVerifier::Behind(behind) => Ok(Then::Next(behind.next)),
            FromVerifier::NeedRegistration(_) => {
                let register = ToVerifier::Register((*self.vm.register).clone());
                match ask_on(connection, self.peer.index, &register).await? {
                    FromVerifier::Refused(refused) => Ok(self.refused(slot, refused)),
                    _ => Ok(Then::Again),
                }
            }
            FromVerifier::NeedActivation(_) => {
                let Some(certificate) = self.vm.activation.borrow().clone() else { return Ok(Then::Pause) };
                match ask_on(connection, self.peer.index, &ToVerifier::Activated(certificate)).await? {
                    FromVerifier::Refused(refused) => Ok(self.refused(slot, refused)),
                    _ => Ok(Then::Again),
                }
            }
            FromVerifier::NeedState(behind) => self.offer_state(connection, behind.next).await,
            // A host that comes back begins with slots that some verifiers have passed.
            FromVerifier::Refused(refused) if self.is_passed(slot, &refused) => {
                Ok(Then::Next(Slot(slot.0.saturating_add(1))))
            }
            // Proposed before the members changed: who did not sign it then takes the state that the others certified.
            FromVerifier::Refused(refused) if refused.kind == "EpochRetired" && self.is_certified(slot) => {
                self.offer_state(connection, slot).await
            }
            FromVerifier::Refused(refused) => Ok(self.refused(slot, refused)),
            _ => Ok(Then::Pause),
        }
    }

    fn is_certified(&self, slot: Slot) -> bool {
        let newest = self.vm.window.newest_certified_state();
        newest.is_some_and(|(certificate, _)| certificate.statement.slot >= slot)
    }

    /// Whether the verifier has passed a slot, and this host has newer ones: it is beyond the slot, or in the generation
    /// of this host while the slot belongs to the one before.
    fn is_passed(&self, slot: Slot, refused: &Refused) -> bool {
        let earlier = || {
            let statement = self.vm.window.statement(slot);
            let activation = self.vm.activation.borrow();
            let generation = activation.as_ref().map(|certificate| certificate.activation.generation);
            statement.is_some_and(|statement| Some(statement.body.generation) < generation)
        };
        let passed = match refused.kind.as_str() {
            "StaleSlot" => true,
            "FencedGeneration" => earlier(),
            _ => false,
        };
        passed && self.vm.window.newest().is_some_and(|newest| slot < newest)
    }

    /// Offers a state to a verifier whose next slot would be `next`: the newest certified one, or, where the verifier has
    /// signed more than is certified, the one it signed last.
    async fn offer_state(&self, connection: &Connection, next: Slot) -> Result<Then, AskError> {
        let window = &self.vm.window;
        let certified = window.newest_certified_state();
        let certified = certified.filter(|(certificate, _)| certificate.statement.slot.next() >= Some(next));
        let (slot, certificate, chain, state) = match certified {
            Some((certificate, state)) => {
                let slot = certificate.statement.slot;
                let Some(chain) = window.chain(next.min(slot), slot) else { return Ok(Then::Pause) };
                (slot, Some(certificate), chain, state)
            }
            None => {
                let Some(signed) = next.previous() else { return Ok(Then::Pause) };
                let Some(state) = window.state(signed) else { return Ok(Then::Pause) };
                (signed, None, Vec::new(), state)
            }
        };
        let (bulk_address, token) = self.vm.states.offer(&state, self.peer.member.transport_key);
        let offer = StateOffer {
            vm: self.vm.register.spec.id(),
            certificate,
            chain,
            input_log: state.checkpoint.input_log.clone(),
            bulk_address,
            token,
        };
        match ask_on(connection, self.peer.index, &ToVerifier::StateOffer(offer)).await? {
            FromVerifier::Done(_) => Ok(Then::Next(Slot(slot.0.saturating_add(1)))),
            FromVerifier::Behind(behind) => Ok(Then::Next(behind.next)),
            FromVerifier::Refused(refused) if self.is_passed(slot, &refused) => {
                Ok(Then::Next(Slot(slot.0.saturating_add(1))))
            }
            FromVerifier::Refused(refused) => Ok(self.refused(slot, refused)),
            _ => Ok(Then::Pause),
        }
    }

    fn refused(&self, slot: Slot, refused: Refused) -> Then {
        self.tell(LinkEvent::Refused(self.peer.index, slot, refused));
        Then::Pause
    }

    /// The challenged pages with proofs; waits for the slot's state where a replay is still under way.
    async fn prove(&self, slot: Slot, challenge: &Challenge) -> Option<Pages> {
        let state = loop {
            let seen = self.vm.window.changes();
            if let Some(state) = self.vm.window.state(slot) {
                break state;
            }
            if self.vm.window.newest().is_some_and(|newest| newest > slot) {
                return None;
            }
            self.vm.window.wait(seen).await;
        };
        let pages = challenge.pages.iter().map(|&index| {
            let pages = &state.checkpoint.pages;
            Some(ProvenPage { index, bytes: pages.page(index)?.to_vec(), proof: pages.proof(index)? })
        });
        Some(Pages { pages: pages.collect::<Option<_>>()? })
    }

    fn tell(&self, event: LinkEvent) {
        // The agent may already be gone; then nobody needs to know.
        let _ = self.events.send(event);
    }
}
