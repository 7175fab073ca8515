//! The shell around the replica: sockets, threads, files and the clock.
//!
//! ```text
//! connection ─▶ exchange (task) ─▶ waiters ─▶ OrderedLog ─▶ … ─▶ entries ─▶ executor (thread) ─▶ Replica::step
//!                  ▲                  ▲                                        │ effects, in order
//!                  │                  └───────────── answers ◀─────────────────┤ Record: sign-log, fdatasync
//!                  └─ questions, proofs, HTTP ◀── store, state ◀───────────────┘ Persist: redb
//! ```
//!
//! A storage error, an own signature that would contradict an earlier one, or heads of more than `f` others that contradict the log executed
//! here end the node: [`Node::run`] returns the [`Fatal`] with its exit code, and no signature made after it has left.

mod compare;
mod directory;
mod epochs;
mod executor;
mod order_rules;
mod refusal;
mod serve;
mod start;
mod status;
pub mod waiters;

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::time::Duration;

use quorate_agreement::{ConsensusLog, OrderedLog, SubmitError};
use quorate_attest::epoch::GroupChain;
use quorate_attest::group::GroupConfig;
use quorate_attest::id::GroupId;
use quorate_attest::key::SecretKey;
use quorate_transport::{Endpoint, Role};
use quorate_verifier::sign_log::{DataDir, FileStorage};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::watch;
use tokio::task::JoinSet;

#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub use compare::fuzz_frames;
pub use refusal::Refusal;
pub use start::{StartError, init};
pub use status::NodeStatus;
pub(crate) use status::phase_name;

use crate::api::Listener;
use crate::config::{ApiAddress, Loaded};
use crate::exit;
use crate::metrics::SharedMetrics;
use crate::replica::{Replica, ReplicaError};
use crate::services::{Parts, ServiceHost};
use crate::sign_state::SignJournal;
use crate::store::{Store, StoreError};
use compare::Comparison;
use directory::StateDirectory;
use order_rules::Rules;
use waiters::Waiters;

/// Folder of the evidence in the data directory.
const EVIDENCE: &str = "evidence";

/// Why a node ended by itself.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {detail}")]
pub struct Fatal {
    /// Stable identifier.
    pub kind: String,
    /// For people.
    pub detail: String,
    /// Exit code of the process.
    pub exit_code: u8,
}

impl Fatal {
    fn new(kind: &str, detail: impl ToString, exit_code: u8) -> Self {
        Self { kind: kind.to_owned(), detail: detail.to_string(), exit_code }
    }

    fn of_replica(error: &ReplicaError) -> Self {
        let code = match error {
            ReplicaError::Contradiction(_) | ReplicaError::Diverged { .. } => exit::SAFETY,
            _ => exit::STORAGE,
        };
        Self::new(error.kind(), error, code)
    }
}

impl From<StoreError> for Fatal {
    fn from(error: StoreError) -> Self {
        Self::new(error.kind(), error, exit::STORAGE)
    }
}

/// What all parts of a node share.
pub(crate) struct Shared {
    pub(crate) name: String,
    pub(crate) group: GroupId,
    pub(crate) order_timeout: Duration,
    pub(crate) store: Store,
    pub(crate) log: ConsensusLog,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) metrics: SharedMetrics,
    pub(crate) leaving: AtomicBool,
    /// Entries executed and in the file.
    pub(crate) applied: watch::Sender<u64>,
    services: OnceLock<Arc<ServiceHost>>,
    links: compare::Links,
    replica: RwLock<Replica>,
    /// Lowest index of the log that had never been signed when this process began.
    signed_before: u64,
    journal: Mutex<SignJournal<FileStorage>>,
    directory: Arc<StateDirectory>,
    comparison: Comparison,
    rules: Rules,
    /// Epochs of the orchestrators' group that the configuration tells.
    known: GroupChain,
    /// Where orchestrators listen, by name.
    addresses: BTreeMap<String, SocketAddr>,
    vote_key: SecretKey,
    /// New epochs of the orchestrators' group, on their way to the log.
    epochs: UnboundedSender<GroupConfig>,
    endpoint: Endpoint,
    /// Held as long as anything may be signed.
    data: DataDir,
    fatal: UnboundedSender<Fatal>,
}

impl Shared {
    pub(crate) fn replica(&self) -> RwLockReadGuard<'_, Replica> {
        self.replica.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn journal(&self) -> MutexGuard<'_, SignJournal<FileStorage>> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lowest index of the log that was never signed.
    pub(crate) fn signed(&self) -> u64 {
        self.journal().state().next()
    }

    /// Whether entries are still to be executed again that this node has already signed: it must not say that they do not exist.
    pub(crate) fn is_behind_itself(&self) -> bool {
        self.replica().applied() < self.signed_before
    }

    /// Records a safety stop, so that a restart does not sign either.
    fn never_sign_again(&self, fatal: &Fatal) {
        if fatal.exit_code != exit::SAFETY {
            return;
        }
        if let Err(error) = self.journal().stop(&fatal.kind) {
            tracing::error!(error_kind = error.kind(), %error, "the safety stop is not recorded");
        }
    }

    /// The replicas of services on this node.
    pub(crate) fn services(&self) -> Result<&Arc<ServiceHost>, Refusal> {
        self.services.get().ok_or(Refusal::NoServices)
    }

    /// Signs what this orchestrator itself has ordered.
    pub(crate) fn vote_key(&self) -> &SecretKey {
        &self.vote_key
    }

    /// Has an operation of this node ordered, without waiting for it.
    pub(crate) async fn submit_own(&self, operation: Vec<u8>) -> Result<(), Refusal> {
        self.rules.is_signed(&operation);
        self.submit(operation).await
    }

    /// Ends the node: a file cannot be read or written.
    pub(crate) fn storage_failed(&self, error: StoreError) {
        self.end(error.into());
    }

    fn end(&self, fatal: Fatal) {
        // Nobody listens only if the node is ending already.
        let _ = self.fatal.send(fatal);
    }

    /// Ends the node because its log has stopped for this reason.
    fn log_stopped(&self, reason: &str) {
        // The log says why in words only; two quorums that contradict each other are more than a broken disk.
        let fatal = match reason.contains("conflicting certificates") {
            true => Fatal::new("ConflictingCertificates", reason, exit::SAFETY),
            false => Fatal::new("StorageSyncFailed", reason, exit::STORAGE),
        };
        self.never_sign_again(&fatal);
        self.end(fatal);
    }

    /// Offers an operation that was checked to the log.
    pub(crate) async fn submit(&self, operation: Vec<u8>) -> Result<(), Refusal> {
        match self.log.submit(operation).await {
            Ok(_) => Ok(()),
            Err(SubmitError::QueueFull { .. }) => Err(waiters::QueueFull { queue: "mempool" }.into()),
            Err(error) => Err(Refusal::Log(error.to_string())),
        }
    }

    /// The consensus' proof of an entry's place; empty while its certificate is not here.
    pub(crate) async fn proof_of_order(&self, index: u64) -> Result<Vec<u8>, Refusal> {
        match self.log.proof(index).await {
            Ok(proof) => Ok(proof),
            Err(error) if error.kind() == "QuorumNotReached" => Ok(Vec::new()),
            Err(error) => Err(Refusal::Log(error.to_string())),
        }
    }

    /// Lets those connect whom the state knows, and closes connections of those whom it does not know any more.
    fn update_roles(&self) {
        let lost = self.directory.follow(self.replica().control(), &self.known);
        for key in lost {
            self.endpoint.disconnect(&key);
        }
    }
}

/// A running orchestrator.
pub struct Node {
    shared: Arc<Shared>,
    address: SocketAddr,
    listener: Option<Listener>,
    fatal: UnboundedReceiver<Fatal>,
    tasks: JoinSet<()>,
}

impl Node {
    /// Reads the files back, binds the sockets and starts the log. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// `DataDirLocked`, `SignStateMissing`, `WalCorrupt`, storage and socket errors; the reason of a safety stop.
    pub async fn start(loaded: Loaded) -> Result<Self, StartError> {
        start::start(loaded, None).await
    }

    /// As [`Node::start`], with other guests and another signer than those that the configuration names.
    ///
    /// # Errors
    /// As [`Node::start`].
    pub async fn start_with(loaded: Loaded, services: Parts) -> Result<Self, StartError> {
        start::start(loaded, Some(services)).await
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where its HTTP API listens.
    #[must_use]
    pub fn api(&self) -> Option<&ApiAddress> {
        self.listener.as_ref().map(Listener::address)
    }

    /// Serves until `shutdown` is ready or something ends the node.
    ///
    /// # Errors
    /// Why the node ended by itself.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<(), Fatal> {
        if let Some(listener) = self.listener.take() {
            let router = crate::api::router(Arc::clone(&self.shared));
            self.tasks.spawn(async move { match listener.serve(router).await {} });
        }
        let mut connections = JoinSet::new();
        tokio::pin!(shutdown);
        let result = loop {
            tokio::select! {
                biased;
                fatal = self.fatal.recv() => break fatal.map_or(Ok(()), Err),
                () = &mut shutdown => break Ok(()),
                connection = self.shared.endpoint.accept() => {
                    let Some(connection) = connection else { break Ok(()) };
                    let shared = Arc::clone(&self.shared);
                    match connection.role() {
                        Role::Orchestrator => shared.take_member(connection, &mut connections),
                        _ => drop(connections.spawn(serve::serve(shared, connection))),
                    }
                }
                Some(_) = connections.join_next() => {}
            }
        };
        connections.shutdown().await;
        self.tasks.shutdown().await;
        self.shared.log.shutdown().await;
        self.shared.endpoint.close().await;
        match result {
            Ok(()) => self.shared.store.sync().map_err(Fatal::from),
            // One that left its group ends in order.
            Err(fatal) if fatal.exit_code == exit::OK => Ok(()),
            Err(fatal) => Err(fatal),
        }
    }
}

impl Shared {
    /// Whether this node has been voted out and only answers a while longer.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire)
    }
}
