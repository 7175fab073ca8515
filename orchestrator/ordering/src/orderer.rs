//! Submits operations to all orchestrators and believes what a quorum of them says.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quorate_attest::encoding::{Bounded, to_bytes};
use quorate_attest::error::VerifyError;
use quorate_attest::group::{GroupConfig, Member};
use quorate_attest::id::OperationId;
use quorate_attest::operation::Operation;
use quorate_transport::{Connection, Endpoint, Exchange, TransportError};
use tokio::sync::Mutex;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use crate::gather::{Gather, Ordered};
use crate::protocol::{
    CosignedHeads, Entries, Find, FromOrchestrator, Prove, Proved, Question, Refused, Submit, Tail,
    ToOrchestrator,
};
use crate::services::{AskService, ServiceAnswer, ServiceNamed};

/// Pause before an orchestrator that was lost is asked again.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(1);
/// Time for one answer that needs no ordering.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Silence that a submitted operation may bear before the connection counts as lost.
const ORDER_PATIENCE: Duration = Duration::from_secs(30);

/// An orchestrator and where it listens.
#[derive(Clone, Debug)]
pub struct OrchestratorPeer {
    /// Index in the group.
    pub index: u16,
    /// Its name and keys.
    pub member: Member,
    /// UDP address.
    pub address: SocketAddr,
}

impl OrchestratorPeer {
    /// The members of `group` with their addresses, which `address_of` finds by name.
    ///
    /// # Errors
    /// The name of the first member without an address.
    pub fn of_group(
        group: &GroupConfig,
        address_of: impl Fn(&str) -> Option<SocketAddr>,
    ) -> Result<Vec<Self>, String> {
        (0u16..)
            .zip(&group.members)
            .map(|(index, member)| {
                let address = address_of(&member.name).ok_or_else(|| member.name.clone())?;
                Ok(Self { index, member: member.clone(), address })
            })
            .collect()
    }
}

/// Why the orchestrators did not answer with one voice.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// Too few answered in time. The operation may still be ordered: submit the same bytes again, or look for it.
    #[error("{got} of {need} orchestrators answered alike in time; the operation may still be ordered")]
    QuorumUnreachable {
        /// Equal answers.
        got: u64,
        /// Needed.
        need: u64,
    },
    /// So many refused that a quorum is impossible.
    #[error("{}: {}", .0.kind, .0.detail)]
    Refused(Refused),
    /// Quorums cannot be formed in this group.
    #[error(transparent)]
    Group(#[from] VerifyError),
}

impl OrderError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &str {
        match self {
            Self::QuorumUnreachable { .. } => "QuorumUnreachable",
            Self::Refused(refused) => &refused.kind,
            Self::Group(error) => error.kind(),
        }
    }
}

/// Connections to a group of orchestrators, made when first needed and again after a loss. Clones share them.
#[derive(Clone, Debug)]
pub struct Orderer {
    endpoint: Endpoint,
    group: Arc<GroupConfig>,
    peers: Arc<Vec<Peer>>,
}

#[derive(Debug)]
struct Peer {
    index: u16,
    member: Member,
    address: SocketAddr,
    connection: Mutex<Option<Connection>>,
}

impl Orderer {
    /// Uses `endpoint`, whose directory must list the orchestrators' transport keys.
    pub fn new(endpoint: Endpoint, group: Arc<GroupConfig>, peers: Vec<OrchestratorPeer>) -> Self {
        let peer = |OrchestratorPeer { index, member, address }| Peer {
            index,
            member,
            address,
            connection: Mutex::default(),
        };
        Self { endpoint, group, peers: Arc::new(peers.into_iter().map(peer).collect()) }
    }

    /// The orchestrators' group.
    pub fn group(&self) -> &Arc<GroupConfig> {
        &self.group
    }

    /// Name of an orchestrator.
    pub fn name(&self, index: u16) -> &str {
        self.group.members.get(usize::from(index)).map_or("?", |member| &member.name)
    }

    /// Connects to all orchestrators, so that the next order needs no handshake.
    pub async fn warm_up(&self) {
        let mut dials = JoinSet::new();
        for place in 0..self.peers.len() {
            let orderer = self.clone();
            dials.spawn(async move { drop(orderer.open(place).await) });
        }
        dials.join_all().await;
    }

    /// Has an operation ordered and executed. The same operation may be submitted any number of times, by anybody: it is
    /// executed once, and everybody gets its one outcome.
    ///
    /// # Errors
    /// No quorum answers alike within `limit`, or too many refuse.
    pub async fn order(&self, operation: &Operation, limit: Duration) -> Result<Ordered, OrderError> {
        let submit = ToOrchestrator::Submit(Submit { operation: operation.encoded() });
        self.gather(operation.id(), submit, limit).await
    }

    /// What became of an operation that somebody submitted.
    ///
    /// # Errors
    /// No quorum has executed it within `limit`.
    pub async fn find(&self, operation: OperationId, limit: Duration) -> Result<Ordered, OrderError> {
        self.gather(operation, ToOrchestrator::Find(Find { operation }), limit).await
    }

    async fn gather(
        &self,
        operation: OperationId,
        question: ToOrchestrator,
        limit: Duration,
    ) -> Result<Ordered, OrderError> {
        let (question, deadline) = (Arc::new(question), Instant::now() + limit);
        let mut gather = Gather::new(&self.group, operation);
        let mut refusals = Vec::new();
        let mut answers = JoinSet::new();
        for place in 0..self.peers.len() {
            let (orderer, question) = (self.clone(), Arc::clone(&question));
            answers.spawn(async move { orderer.insist(place, &question).await });
        }
        let (_, need) = gather.progress();
        while let Ok(Some(answer)) = timeout_at(deadline, answers.join_next()).await {
            match answer {
                Ok((index, FromOrchestrator::Applied(applied))) => match gather.add(index, &applied) {
                    Ok(Some(ordered)) => return Ok(ordered),
                    Ok(None) => {}
                    Err(error) => {
                        tracing::warn!(orchestrator = self.name(index), error_kind = error.kind(), %error, "bad receipt");
                    }
                },
                Ok((_, FromOrchestrator::Refused(refused))) => {
                    refusals.push(refused);
                    if (self.peers.len() as u64).saturating_sub(refusals.len() as u64) < need {
                        return Err(OrderError::Refused(refusals.swap_remove(0)));
                    }
                }
                _ => {}
            }
        }
        let (got, need) = gather.progress();
        Err(OrderError::QuorumUnreachable { got, need })
    }

    /// Asks one orchestrator again and again until it answers or nobody waits any more.
    async fn insist(&self, place: usize, question: &ToOrchestrator) -> (u16, FromOrchestrator) {
        let index = self.peers.get(place).map_or(u16::MAX, |peer| peer.index);
        let mut pause = RETRY_FIRST;
        loop {
            match self.ask_once(place, question, ORDER_PATIENCE).await {
                Ok(FromOrchestrator::NotYet(_)) => {}
                Ok(answer) => return (index, answer),
                Err(error) => tracing::debug!(orchestrator = self.name(index), %error, "no answer"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    async fn ask_once(
        &self,
        place: usize,
        question: &ToOrchestrator,
        patience: Duration,
    ) -> Result<FromOrchestrator, TransportError> {
        let asked = async {
            let mut exchange = self.open(place).await?;
            exchange.set_patience(patience);
            exchange.ask::<ToOrchestrator, FromOrchestrator>(question).await
        };
        let late = || TransportError::PeerTimeout { limit: patience };
        let answer = timeout(patience, asked).await.unwrap_or_else(|_| Err(late()));
        if answer.is_err()
            && let Some(peer) = self.peers.get(place)
        {
            peer.connection.lock().await.take();
        }
        answer
    }

    async fn open(&self, place: usize) -> Result<Exchange, TransportError> {
        let peer = self.peers.get(place).ok_or(TransportError::PeerUnknown { key: None })?;
        let mut slot = peer.connection.lock().await;
        if let Some(connection) = slot.as_ref().filter(|connection| !connection.is_closed()) {
            return connection.open().await;
        }
        let connection = self.endpoint.connect(peer.address, &peer.member.transport_key).await?;
        let exchange = connection.open().await;
        *slot = Some(connection);
        exchange
    }

    /// Asks all orchestrators until `f + 1` give the same answer, of whom one at least is honest.
    ///
    /// # Errors
    /// Too few agree in time: the state may just be changing, so that asking again helps.
    pub async fn ask_matching(&self, question: &Question, limit: Duration) -> Result<Vec<u8>, OrderError> {
        let need = self.group.rule()?.matching_replies();
        let deadline = Instant::now() + limit;
        let mut got = 0;
        while Instant::now() < deadline {
            let mut counts: BTreeMap<Vec<u8>, u64> = BTreeMap::new();
            let mut answers = self.ask_all(question);
            while let Ok(Some(answer)) = timeout_at(deadline, answers.join_next()).await {
                let Ok((_, Ok(FromOrchestrator::Told(told)))) = answer else { continue };
                let count = counts.entry(told.answer.clone()).or_default();
                *count += 1;
                if *count >= need {
                    return Ok(told.answer);
                }
            }
            got = counts.values().copied().max().unwrap_or(0);
            timeout_at(deadline, tokio::time::sleep(RETRY_FIRST)).await.ok();
        }
        Err(OrderError::QuorumUnreachable { got, need })
    }

    /// The answer of every orchestrator that gives one, by index.
    pub async fn ask_each(&self, question: &Question, limit: Duration) -> BTreeMap<u16, Vec<u8>> {
        let mut found = BTreeMap::new();
        let mut answers = self.ask_all(question);
        let deadline = Instant::now() + limit;
        // Who is silent must not keep back what the others said.
        while let Ok(Some(answer)) = timeout_at(deadline, answers.join_next()).await {
            if let Ok((index, Ok(FromOrchestrator::Told(told)))) = answer {
                found.insert(index, told.answer);
            }
        }
        found
    }

    /// Heads of the log that each orchestrator cosigned. The lines are not checked here.
    pub async fn heads(&self) -> BTreeMap<u16, CosignedHeads> {
        let answers = self.ask_each(&Question::Heads, ANSWER_TIMEOUT).await;
        answers
            .into_iter()
            .filter_map(|(index, bytes)| Some((index, CosignedHeads::decoded(&bytes).ok()?)))
            .collect()
    }

    fn ask_all(&self, question: &Question) -> JoinSet<(u16, Result<FromOrchestrator, TransportError>)> {
        let mut answers = JoinSet::new();
        for place in 0..self.peers.len() {
            let (orderer, question) = (self.clone(), ToOrchestrator::Question(question.clone()));
            answers.spawn(async move {
                let index = orderer.peers.get(place).map_or(u16::MAX, |peer| peer.index);
                (index, orderer.ask_once(place, &question, ANSWER_TIMEOUT).await)
            });
        }
        answers
    }

    /// Entries of the log as one orchestrator shows them.
    ///
    /// # Errors
    /// It cannot be reached or refuses.
    pub async fn tail(&self, orchestrator: u16, from: u64, count: u32) -> Result<Entries, OrderError> {
        match self.ask_one(orchestrator, &ToOrchestrator::Tail(Tail { from, count })).await? {
            FromOrchestrator::Entries(entries) => Ok(entries),
            other => Err(unexpected(other)),
        }
    }

    /// One orchestrator's proof that an entry is in the log of the given size.
    ///
    /// # Errors
    /// It cannot be reached or refuses.
    pub async fn prove(&self, orchestrator: u16, index: u64, size: u64) -> Result<Proved, OrderError> {
        match self.ask_one(orchestrator, &ToOrchestrator::Prove(Prove { index, size })).await? {
            FromOrchestrator::Proved(proved) => Ok(proved),
            other => Err(unexpected(other)),
        }
    }

    /// Asks every replica of a service at once, each once. The answers come as they arrive, with the index of the orchestrator; dropping the
    /// set ends the questions. None: what was asked for is not executed there yet.
    pub fn ask_service_each(
        &self,
        ask: &AskService,
        patience: Duration,
    ) -> JoinSet<(u16, Result<Option<ServiceAnswer>, OrderError>)> {
        let question = Arc::new(ToOrchestrator::Service(ask.clone()));
        self.each_replica(question, patience)
    }

    /// Asks every orchestrator which service has a name, as [`Orderer::ask_service_each`] does.
    pub fn service_named_each(
        &self,
        name: &str,
        patience: Duration,
    ) -> JoinSet<(u16, Result<Option<ServiceAnswer>, OrderError>)> {
        let question = Arc::new(ToOrchestrator::ServiceNamed(ServiceNamed { name: name.to_owned() }));
        self.each_replica(question, patience)
    }

    fn each_replica(
        &self,
        question: Arc<ToOrchestrator>,
        patience: Duration,
    ) -> JoinSet<(u16, Result<Option<ServiceAnswer>, OrderError>)> {
        let mut answers = JoinSet::new();
        for place in 0..self.peers.len() {
            let (orderer, question) = (self.clone(), Arc::clone(&question));
            answers.spawn(async move {
                let index = orderer.peers.get(place).map_or(u16::MAX, |peer| peer.index);
                let answer = orderer.ask_once(place, &question, patience).await;
                (index, answer.map_err(not_asked).and_then(of_service))
            });
        }
        answers
    }

    /// Asks the replica of a service that runs beside one orchestrator. None: it is not executed there yet.
    ///
    /// # Errors
    /// It cannot be reached or refuses.
    pub async fn ask_service(
        &self,
        orchestrator: u16,
        ask: &AskService,
        patience: Duration,
    ) -> Result<Option<ServiceAnswer>, OrderError> {
        let question = ToOrchestrator::Service(ask.clone());
        of_service(self.ask_one_for(orchestrator, &question, patience).await?)
    }

    async fn ask_one(&self, index: u16, question: &ToOrchestrator) -> Result<FromOrchestrator, OrderError> {
        self.ask_one_for(index, question, ANSWER_TIMEOUT).await
    }

    async fn ask_one_for(
        &self,
        index: u16,
        question: &ToOrchestrator,
        patience: Duration,
    ) -> Result<FromOrchestrator, OrderError> {
        let place = self.peers.iter().position(|peer| peer.index == index).unwrap_or(usize::MAX);
        self.ask_once(place, question, patience).await.map_err(not_asked)
    }
}

fn not_asked(error: TransportError) -> OrderError {
    OrderError::Refused(Refused { kind: error.kind().to_owned(), detail: error.to_string() })
}

fn of_service(answer: FromOrchestrator) -> Result<Option<ServiceAnswer>, OrderError> {
    match answer {
        FromOrchestrator::Service(answer) => Ok(Some(answer)),
        FromOrchestrator::NotYet(_) => Ok(None),
        other => Err(unexpected(other)),
    }
}

fn unexpected(answer: FromOrchestrator) -> OrderError {
    OrderError::Refused(match answer {
        FromOrchestrator::Refused(refused) => refused,
        _ => Refused { kind: "DecodeError".to_owned(), detail: "an answer of another kind".to_owned() },
    })
}

/// The encoded form of an answer to a [`Question`], as orchestrators give it.
pub fn told<T: borsh::BorshSerialize>(answer: &T) -> Vec<u8> {
    to_bytes(answer)
}
