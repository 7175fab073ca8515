//! An operator's side of a whole cluster: orders what happens to VMs, and has the hosts carry it out.
//!
//! ```text
//! order(Command) ── signed ──▶ orchestrators ──▶ outcome, certified; a decision that hosts and verifiers check offline
//! migrate:  Begin ─▶ Migrate decision ─▶ source host ─▶ … the two hosts do the rest, and order Handover and Activate themselves
//! recover:  newest certified slot from the verifiers ─▶ Recover ─▶ Grant decision ─▶ the new host
//! ```

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quorate_attest::encoding::Bounded;
use quorate_attest::epoch::GroupChain;
use quorate_attest::group::GroupConfig;
use quorate_attest::id::{Generation, Nonce, Slot, VmId};
use quorate_attest::key::{PublicKey, SecretKey};
use quorate_attest::vm::DecisionCertificate;
use quorate_attest::vm::VmSpec;
use quorate_control::{Answer, Command, Failure as Refusal, Phase, Vm, Which, decode_outcome};
use quorate_host::client::hosts::{HostError, HostPeer, Operator};
use quorate_host::client::recovery::{LeftBehind, RecoveryError, Verifiers, newest_certified, take_up};
use quorate_host::inquiries::fresh;
use quorate_host::link::VerifierPeer;
use quorate_host::protocol::{Progress, Report};
use quorate_ordering::answers::{ChainAnswer, VmAnswer, VmPage};
use quorate_ordering::gather::Ordered;
use quorate_ordering::orderer::{OrderError, Orderer};
use quorate_ordering::protocol::Question;
use quorate_transport::{Endpoint, Limits, Members, Role, TransportError};
use tokio::time::{Instant, sleep};

use crate::cluster::Folder;

/// Time for an operation to be ordered and executed by a quorum.
const ORDER_LIMIT: Duration = Duration::from_secs(20);
/// Time for a question.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// Time for a host that took a VM over to tell the log.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);
/// Time for a host to take up a VM that was lost.
const TAKE_UP_LIMIT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Why an order was not carried out.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The orchestrators did not answer with one voice.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// They executed the operation, and its outcome is a refusal.
    #[error("{}", .0.text)]
    Refused(Box<Refusal>),
    /// What they said cannot be read by this version.
    #[error("the orchestrators' answer cannot be read: {0}")]
    Unreadable(String),
    /// The verifiers show no slot to go on from.
    #[error(transparent)]
    Recovery(#[from] RecoveryError),
    /// A host did not carry it out.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The registry has no such VM.
    #[error("no VM {vm} is registered")]
    UnknownVm {
        /// The VM.
        vm: VmId,
    },
    /// No socket, no random bytes, or files that do not fit together.
    #[error("{0}")]
    System(String),
}

impl ControlError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &str {
        match self {
            Self::Order(error) => error.kind(),
            Self::Refused(refusal) => refusal.kind(),
            Self::Unreadable(_) => "DecodeError",
            Self::Recovery(error) => error.kind(),
            Self::Host(error) => error.kind(),
            Self::UnknownVm { .. } => "NotFound",
            Self::System(_) => "ResourceExhausted",
        }
    }
}

impl From<TransportError> for ControlError {
    fn from(error: TransportError) -> Self {
        Self::System(error.to_string())
    }
}

/// An operation that was executed as ordered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// What the orchestrators certified.
    pub ordered: Ordered,
    /// What the operation led to.
    pub answer: Answer,
}

impl Done {
    /// Place of the operation in the log.
    pub fn index(&self) -> u64 {
        self.ordered.receipt.receipt.index
    }
}

/// An operator with connections to a cluster's orchestrators and hosts.
#[derive(Debug)]
pub struct ControlClient {
    endpoint: Endpoint,
    orderer: Orderer,
    operator: Operator,
    key: SecretKey,
    verifiers: Arc<GroupConfig>,
    hosts: Vec<HostPeer>,
    verifier_peers: Vec<VerifierPeer>,
}

impl ControlClient {
    /// Acts as the operator of the cluster whose files are in `folder`.
    ///
    /// # Errors
    /// The system has no socket to give.
    pub fn of_folder(folder: &Folder) -> Result<Self, ControlError> {
        let orchestrators =
            folder.orchestrators.members.iter().map(|member| (member.transport_key, Role::Orchestrator));
        let verifiers = folder.group.members.iter().map(|member| (member.transport_key, Role::Verifier));
        let members = orchestrators
            .chain(verifiers)
            .fold(Members::new(), |members, (key, role)| members.with(key, role));
        let any = SocketAddr::from(([0, 0, 0, 0], 0));
        let endpoint =
            Endpoint::bind_as(any, &folder.operator, Role::Operator, Arc::new(members), Limits::default())?;
        let peers = folder.orchestrator_peers();
        let orderer = Orderer::new(endpoint.clone(), Arc::new(folder.orchestrators.current().clone()), peers);
        let operator = Operator::new(&folder.operator, folder.hosts())?;
        let (key, verifiers) = (folder.operator.clone(), Arc::new(folder.group.current().clone()));
        let (hosts, verifier_peers) = (folder.hosts(), folder.verifier_peers());
        Ok(Self { endpoint, orderer, operator, key, verifiers, hosts, verifier_peers })
    }

    /// The socket that orchestrators and verifiers are reached from.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The orchestrators.
    pub fn orderer(&self) -> &Orderer {
        &self.orderer
    }

    /// The hosts.
    pub fn operator(&self) -> &Operator {
        &self.operator
    }

    /// The verifiers' group.
    pub fn verifiers(&self) -> &Arc<GroupConfig> {
        &self.verifiers
    }

    /// Has a command ordered and executed.
    ///
    /// # Errors
    /// No quorum answers, or the outcome is a refusal.
    pub async fn order(&self, command: &Command) -> Result<Done, ControlError> {
        let nonce = fresh().map_err(|error| ControlError::System(error.to_string()))?;
        let operation = command.to_operation(&self.key, self.orderer.group().id(), Nonce::from_bytes(nonce));
        let ordered = self.orderer.order(&operation, ORDER_LIMIT).await?;
        let outcome =
            decode_outcome(&ordered.outcome).map_err(|error| ControlError::Unreadable(error.to_string()))?;
        match outcome {
            Ok(answer) => Ok(Done { ordered, answer }),
            Err(refusal) => Err(ControlError::Refused(Box::new(refusal))),
        }
    }

    /// An outcome in a few words.
    pub fn outcome_words(&self, outcome: &[u8]) -> String {
        match decode_outcome(outcome) {
            Ok(Ok(_)) => "ok".to_owned(),
            Ok(Err(refusal)) => refusal.kind().to_owned(),
            Err(_) => "?".to_owned(),
        }
    }

    /// All VMs, ascending by id, as `f + 1` orchestrators tell.
    ///
    /// # Errors
    /// Too few agree.
    pub async fn vms(&self) -> Result<Vec<(VmId, Vm)>, ControlError> {
        let mut all: Vec<(VmId, Vm)> = Vec::new();
        loop {
            let after = all.last().map(|(vm, _)| *vm);
            let page: VmPage = self.ask(&Question::Vms(after)).await?;
            if page.0.is_empty() {
                return Ok(all);
            }
            all.extend(page.0);
        }
    }

    /// One VM.
    ///
    /// # Errors
    /// Too few agree.
    pub async fn vm(&self, vm: VmId) -> Result<Option<Vm>, ControlError> {
        let found: VmAnswer = self.ask(&Question::Vm(vm)).await?;
        Ok(found.0)
    }

    /// The chain of configurations of a group.
    ///
    /// # Errors
    /// Too few agree, or the chain does not hold.
    pub async fn chain(&self, which: Which) -> Result<GroupChain, ControlError> {
        let question = match which {
            Which::Orchestrators => Question::Orchestrators,
            Which::Verifiers => Question::Verifiers,
        };
        let told: ChainAnswer = self.ask(&question).await?;
        told.into_chain().map_err(|error| ControlError::Unreadable(error.to_string()))
    }

    async fn ask<T: Bounded>(&self, question: &Question) -> Result<T, ControlError> {
        let bytes = self.orderer.ask_matching(question, ANSWER_LIMIT).await?;
        T::decoded(&bytes).map_err(|error| ControlError::Unreadable(error.to_string()))
    }

    /// Registers a VM and has its first host boot it. Returns the place of its creation in the log.
    ///
    /// # Errors
    /// The registry refuses it, no quorum answers, or the host does not start it.
    pub async fn create(&self, spec: VmSpec, image: Vec<u8>) -> Result<u64, ControlError> {
        let host = self.place_of(&spec.host)?;
        let done = self.order(&Command::CreateVm { spec: spec.clone() }).await?;
        self.operator.start(host, spec, image).await?;
        Ok(done.index())
    }

    /// Orders that a VM moves, and has the host that runs it do it.
    ///
    /// # Errors
    /// Somebody else moves it already, no quorum answers, or the source does not carry it out.
    pub async fn migrate(
        &self,
        vm: VmId,
        destination: PublicKey,
        timeout_ms: u32,
        progress: impl FnMut(Progress),
    ) -> Result<Report, ControlError> {
        let record = self.settled(vm).await?;
        let source = self.place_of(&record.host)?;
        let order = self.begin(vm, record.next_generation, destination).await?;
        Ok(self.operator.migrate(source, order, timeout_ms, progress).await?)
    }

    /// The record of a VM. A host that has just taken it over tells the log so a moment later: that moment is waited for.
    ///
    /// # Errors
    /// Too few orchestrators agree, or there is no such VM.
    pub async fn settled(&self, vm: VmId) -> Result<Vm, ControlError> {
        let deadline = Instant::now() + SETTLE_LIMIT;
        loop {
            let record = self.vm(vm).await?.ok_or(ControlError::UnknownVm { vm })?;
            let arriving =
                record.migration.as_ref().is_some_and(|(_, migration)| migration.phase == Phase::Granted);
            if !arriving || Instant::now() > deadline {
                return Ok(record);
            }
            sleep(LOOK_EVERY).await;
        }
    }

    /// Place of a host in the group's list.
    fn place_of(&self, host: &PublicKey) -> Result<usize, ControlError> {
        let place = self.hosts.iter().position(|peer| peer.key == *host);
        place.ok_or_else(|| ControlError::System(format!("the cluster's files list no host with key {host}")))
    }

    /// Orders that a VM moves as `generation`; what comes back is what its host must be shown.
    ///
    /// # Errors
    /// Somebody else moves it already, or no quorum answers.
    pub async fn begin(
        &self,
        vm: VmId,
        generation: Generation,
        destination: PublicKey,
    ) -> Result<DecisionCertificate, ControlError> {
        let done = self.order(&Command::Begin { vm, destination, generation }).await?;
        done.ordered.decision.ok_or_else(|| ControlError::Unreadable("no decision".to_owned()))
    }

    /// Tells everybody that nothing more will come.
    pub async fn close(&self) {
        self.operator.close().await;
        self.endpoint.close().await;
    }

    /// Has another host go on with a VM whose own is gone, from the newest slot that a quorum of verifiers signed.
    ///
    /// # Errors
    /// Too few verifiers or orchestrators answer, the registry knows a newer slot, or the new host cannot take the VM up.
    pub async fn recover(&self, vm: VmId, host: PublicKey) -> Result<Recovered, ControlError> {
        let record = self.vm(vm).await?.ok_or(ControlError::UnknownVm { vm })?;
        let place = self.place_of(&host)?;
        let verifiers = Verifiers::new(&self.key, self.verifier_peers.clone())?;
        let newest = newest_certified(&verifiers.askers(), &self.verifiers, vm).await;
        verifiers.close().await;
        let newest = newest?;
        let (generation, slot) = (record.next_generation, newest.certificate.clone());
        let done = self.order(&Command::Recover { vm, host, generation, slot }).await?;
        let grant =
            done.ordered.decision.ok_or_else(|| ControlError::Unreadable("no decision".to_owned()))?;
        let slot = newest.certificate.statement.slot;
        take_up(&self.operator, place, grant, newest.certificate, TAKE_UP_LIMIT).await?;
        Ok(Recovered { generation, slot, completed: newest.completed, left: newest.left })
    }
}

/// A VM that runs again.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// Its generation.
    pub generation: Generation,
    /// Slot from which it goes on.
    pub slot: Slot,
    /// Attestations that this slot got only now.
    pub completed: u32,
    /// Newer slots that some verifier signed and nobody could certify.
    pub left: Vec<LeftBehind>,
}
