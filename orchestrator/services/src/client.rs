//! Asks, gathers, verifies, remembers.

mod ask;
mod call;
mod read;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use quorate_attest::error::VerifyError;
use quorate_attest::id::ServiceId;
use quorate_attest::key::SecretKey;
use quorate_control::Failure;
use quorate_ordering::orderer::{OrderError, Orderer};
use tokio::sync::Mutex;

use crate::memory::{Memory, MemoryError};
use crate::proof::{AnswerProof, ProofFault, Trust};

/// How a client asks.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Time for a call or a read, in which everything is tried again that may be.
    pub limit: Duration,
    /// Time for a replica to have executed what only one orchestrator says is ordered. Then an entry of our own settles it.
    pub doubt: Duration,
    /// Folder of the memory.
    pub memory: PathBuf,
}

impl Settings {
    /// The usual times.
    pub fn new(memory: PathBuf) -> Self {
        Self { limit: Duration::from_secs(10), doubt: Duration::from_millis(250), memory }
    }
}

/// How new what is read must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Freshness {
    /// Everything that anybody was told to be done before the read began.
    Linearizable,
    /// At least this many entries of the service's log.
    AtLeast(u64),
    /// Certified and not older than what this client has seen.
    Newest,
}

/// The result of a call, as `f + 1` replicas have it.
#[derive(Debug, Clone)]
pub struct Called {
    /// Place in the service's log.
    pub number: u64,
    /// One of [`quorate_attest::request::status`].
    pub status: u16,
    /// The result, by the service's rules.
    pub body: Vec<u8>,
    /// What shows it.
    pub proof: Arc<AnswerProof>,
}

/// Something read, proved against a certified state.
#[derive(Debug, Clone)]
pub struct Read<T> {
    /// What was read.
    pub value: T,
    /// Newest entry that the state takes into account.
    pub number: u64,
    /// What shows it.
    pub proof: Arc<AnswerProof>,
}

/// Entries of a range, complete up to the last one listed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    /// Keys and values, ascending.
    pub entries: Vec<(Vec<u8>, Vec<u8>)>,
    /// Whether further ones follow.
    pub more: bool,
}

/// Why there is no answer that can be believed.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// Too few orchestrators or replicas answered alike in time. A call may still take effect.
    #[error("{got} of {need} {parties} answered alike in time{}", .because.as_deref().map(|why| format!(" ({why})")).unwrap_or_default())]
    QuorumUnreachable {
        /// Who.
        parties: &'static str,
        /// Equal answers.
        got: u64,
        /// Needed.
        need: u64,
        /// What one of the others said.
        because: Option<String>,
    },
    /// The orchestrators refused.
    #[error("{0}")]
    Order(OrderError),
    /// The log ordered the call, and its outcome is a refusal.
    #[error("{}", .0.text)]
    Refused(Box<Failure>),
    /// `f + 1` replicas vouch for an answer that does not hold: more than `f` of them lie.
    #[error("certified by f + 1 replicas and wrong: {0}")]
    Proof(#[from] ProofFault),
    /// The memory does not allow it, or cannot be written.
    #[error(transparent)]
    Memory(#[from] MemoryError),
    /// The groups cannot be used.
    #[error(transparent)]
    Group(#[from] VerifyError),
    /// No random bytes, or a body over the limit.
    #[error("{0}")]
    System(String),
}

impl ServiceError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &str {
        match self {
            Self::QuorumUnreachable { .. } => "QuorumUnreachable",
            Self::Order(error) => error.kind(),
            Self::Refused(failure) => failure.kind(),
            Self::Proof(error) => error.kind(),
            Self::Memory(error) => error.kind(),
            Self::Group(error) => error.kind(),
            Self::System(_) => "ResourceExhausted",
        }
    }
}

impl From<OrderError> for ServiceError {
    fn from(error: OrderError) -> Self {
        match error {
            OrderError::QuorumUnreachable { got, need } => {
                Self::QuorumUnreachable { parties: "orchestrators", got, need, because: None }
            }
            other => Self::Order(other),
        }
    }
}

/// One service as one client sees it. Clones share everything.
#[derive(Debug, Clone)]
pub struct Service {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    orderer: Orderer,
    trust: Trust,
    key: SecretKey,
    settings: Settings,
    memory: Mutex<Memory>,
    /// Sequence number of the newest request. Held for the whole of a call: a replica knows one request of a client at a time.
    sequence: Mutex<u64>,
}

impl Service {
    /// A client with `key`, which the orchestrators must know. `trust.orchestrators` is the group that `orderer` asks.
    ///
    /// # Errors
    /// The memory cannot be used, or the groups cannot.
    pub fn new(
        orderer: Orderer,
        trust: Trust,
        key: SecretKey,
        settings: Settings,
    ) -> Result<Self, ServiceError> {
        trust.orchestrators.validate().and(trust.replicas.validate())?;
        let memory = Mutex::new(Memory::open(&settings.memory, trust.service)?);
        let inner = Inner { orderer, trust, key, settings, memory, sequence: Mutex::default() };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The service.
    pub fn id(&self) -> ServiceId {
        self.inner.trust.service
    }

    /// Whom this client believes.
    pub fn trust(&self) -> &Trust {
        &self.inner.trust
    }

    /// Entries of the service's log that this client knows to have been executed.
    pub async fn known(&self) -> u64 {
        self.inner.memory.lock().await.size()
    }
}
