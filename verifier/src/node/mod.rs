//! The shell around the rules: sockets, threads, files and the clock.
//!
//! ```text
//! connection ─▶ exchange (task) ─▶ router ─▶ queue of the VM ─▶ worker (thread) ─▶ VmCore::step
//!                   ▲                                              │ effects, in order
//!                   └────────── answers ◀──────────────────────────┤
//!                                                writer (thread) ◀─┘ records, one sync for all that wait
//! ```
//!
//! Each VM has one thread, which owns its machine and handles one request at a time; all queues are bounded. A storage
//! error, conflicting certificates or an own vote that the sign-log does not know end the node: [`Node::run`] returns
//! the [`Fatal`] with its exit code, and no signature made after it has left.

pub mod conduct;
mod counters;
mod journal;
mod router;
#[cfg(test)]
mod tests;
mod worker;
mod writer;

use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use quorate_attest::id::VmId;
use quorate_attest::vm::Mode;
use quorate_transport::bulk::Bulk;
use quorate_transport::{Connection, Endpoint, Exchange, Limits, Members, Role, TransportError};
use quorate_vmm::platform::PlatformClass;
use tokio::sync::Semaphore;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, channel, unbounded_channel};
use tokio::task::JoinSet;

pub use counters::{Counters, Timing};
pub use journal::{Change, Identity, Journal};

use crate::config::{Config, Loaded};
use crate::core::{Context, Refusal, Signer};
use crate::protocol::{FromVerifier, ToVerifier};
use crate::sign_log::{DataDir, SignLogError};
use conduct::{Conduct, Step};
use router::Router;
use worker::{CHALLENGE_WAIT, Caller, Job};
use writer::Writer;

/// Folder of the evidence in the data directory.
const EVIDENCE: &str = "evidence";
/// Files of evidence that are kept. The first ones convict; more only fill the disk.
const EVIDENCE_FILES_MAX: usize = 1024;
/// States that are handed out at once: each is a copy of a VM's memory.
const STATES_STREAMED_MAX: usize = 2;
/// How long a node waits for its threads when it is asked to end.
const SHUTDOWN_WAIT: Duration = Duration::from_secs(5);

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
    fn of_storage(error: &SignLogError) -> Self {
        Self { kind: error.kind().to_owned(), detail: error.to_string(), exit_code: error.exit_code() }
    }

    fn of_safety(refusal: &Refusal) -> Self {
        Self { kind: refusal.kind().to_owned(), detail: refusal.to_string(), exit_code: crate::exit::SAFETY }
    }

    fn of_io(action: &'static str, error: std::io::Error) -> Self {
        Self::of_storage(&SignLogError::storage(action, error))
    }

    fn of_randomness(detail: &str) -> Self {
        Self {
            kind: "RandomnessFailed".to_owned(),
            detail: detail.to_owned(),
            exit_code: crate::exit::STORAGE,
        }
    }
}

/// Why a node could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Data directory or sign-log.
    #[error(transparent)]
    SignLog(#[from] SignLogError),
    /// The socket.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// A REPLAYED verifier executes guests.
    #[error("/dev/kvm cannot be used: {0}")]
    Kvm(std::io::Error),
    /// A thread.
    #[error("no thread: {0}")]
    Thread(#[from] std::io::Error),
    /// The sign-log says that nothing may be signed any more.
    #[error("VM {vm}: signing was stopped because of {kind}; an operator has to retire this identity")]
    Stopped {
        /// The VM it was noticed at.
        vm: VmId,
        /// Why.
        kind: String,
    },
}

impl StartError {
    /// Stable identifier.
    #[must_use]
    pub fn kind(&self) -> &str {
        match self {
            Self::SignLog(error) => error.kind(),
            Self::Transport(error) => error.kind(),
            Self::Kvm(_) => "KvmUnavailable",
            Self::Thread(_) => "ThreadFailed",
            Self::Stopped { kind, .. } => kind,
        }
    }

    /// Exit code of the process.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::SignLog(error) => error.exit_code(),
            Self::Transport(_) | Self::Thread(_) => crate::exit::CONFIGURATION,
            Self::Kvm(_) => crate::exit::NOT_PERMITTED,
            Self::Stopped { .. } => crate::exit::SAFETY,
        }
    }
}

/// What all threads of a node share.
struct Shared<C> {
    context: Arc<Context>,
    conduct: Arc<C>,
    counters: Arc<Counters>,
    data: DataDir,
    writer: Writer,
    bulk: Bulk,
    fatal: UnboundedSender<Fatal>,
    limits: VmLimits,
    /// Room for states that are handed out.
    streams: Arc<Semaphore>,
}

/// Bounds on what hosts may register.
struct VmLimits {
    vms_max: usize,
    memory_total_bytes_max: u64,
}

impl<C> Shared<C> {
    fn end(&self, fatal: Fatal) {
        // Nobody listens only if the node is ending already.
        let _ = self.fatal.send(fatal);
    }

    fn note_refusal(&self, vm: &VmId, kind: &str, detail: &str) {
        worker::log_refusal(vm, kind, detail, self.counters.refuse(kind));
    }

    fn keep_evidence(&self, name: &str, bytes: &[u8]) -> std::io::Result<()> {
        let kept = std::fs::read_dir(self.data.path().join(EVIDENCE)).map_or(0, Iterator::count);
        if kept >= EVIDENCE_FILES_MAX {
            return Err(std::io::ErrorKind::QuotaExceeded.into());
        }
        self.data.write(EVIDENCE, name, bytes)
    }
}

/// A running verifier.
pub struct Node<C: Conduct> {
    endpoint: Endpoint,
    router: Arc<Router<C>>,
    shared: Arc<Shared<C>>,
    fatal: UnboundedReceiver<Fatal>,
    writing: std::thread::JoinHandle<()>,
}

/// Creates the data directory and the sign-log of a new identity.
///
/// # Errors
/// `AlreadyInitialised`, storage errors.
pub fn init(loaded: &Loaded) -> Result<(), SignLogError> {
    let (group, epoch) = (loaded.group.id(), loaded.group.epoch);
    let identity = Identity::new(group, epoch, loaded.index, loaded.vote_key.public());
    DataDir::init(&loaded.config.data_dir, &identity.entry())
}

impl<C: Conduct> Node<C> {
    /// Reads the sign-state back, starts the threads and binds the socket. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// `DataDirLocked`, `SignStateMissing`, `WalCorrupt`, storage and socket errors; the reason of a safety stop.
    pub fn start(loaded: &Loaded, conduct: C) -> Result<Self, StartError> {
        check_kvm(loaded)?;
        let context = Arc::new(context(loaded));
        let (data, opened) = DataDir::open(&loaded.config.data_dir)?;
        if let Some(bytes) = opened.torn {
            tracing::warn!(error_kind = "WalTornTail", bytes, "the torn tail of the sign-log was cut");
        }
        let journal = Journal::restore(opened, &context)?;
        let states: Vec<_> = journal.states().map(|(vm, state)| (vm, state.clone())).collect();
        if let Some((vm, kind)) = states.iter().find_map(|(vm, state)| Some((*vm, state.stopped.clone()?))) {
            return Err(StartError::Stopped { vm, kind });
        }
        let endpoint = Endpoint::bind(
            loaded.listen,
            &loaded.transport_key,
            Arc::new(directory(loaded)),
            Limits::default(),
        )?;
        let (conduct, counters) = (Arc::new(conduct), Arc::new(Counters::default()));
        let (fatal, ended) = unbounded_channel();
        let (writer, writing) =
            writer::start(journal, Arc::clone(&conduct), Arc::clone(&counters), fatal.clone())?;
        let bulk = endpoint.bulk();
        let Config { vms_max, memory_total_bytes_max, .. } = loaded.config;
        let limits = VmLimits { vms_max, memory_total_bytes_max };
        let streams = Arc::new(Semaphore::new(STATES_STREAMED_MAX));
        let shared =
            Arc::new(Shared { context, conduct, counters, data, writer, bulk, fatal, limits, streams });
        let router = Router::start(Arc::clone(&shared), states)?;
        Ok(Self { endpoint, router, shared, fatal: ended, writing })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// `SocketError` if the system does not tell.
    pub fn address(&self) -> Result<SocketAddr, TransportError> {
        self.endpoint.local_addr()
    }

    /// What happened since the start.
    #[must_use]
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.shared.counters)
    }

    /// Serves until `shutdown` is ready or something ends the node.
    ///
    /// # Errors
    /// Why the node ended by itself.
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<(), Fatal> {
        let mut connections = JoinSet::new();
        tokio::pin!(shutdown);
        let result = loop {
            tokio::select! {
                biased;
                fatal = self.fatal.recv() => break fatal.map_or(Ok(()), Err),
                () = &mut shutdown => break Ok(()),
                connection = self.endpoint.accept() => {
                    let Some(connection) = connection else { break Ok(()) };
                    connections.spawn(serve(Arc::clone(&self.router), Arc::clone(&self.shared), connection));
                }
                Some(_) = connections.join_next() => {}
            }
        };
        connections.shutdown().await;
        self.endpoint.close().await;
        self.shared.counters.log();
        if result.is_ok() {
            self.finish().await;
        }
        result
    }

    /// Lets the threads end what they are doing.
    async fn finish(self) {
        let Self { router, shared, writing, .. } = self;
        router.close();
        drop((router, shared));
        let ended = tokio::task::spawn_blocking(move || writing.join());
        if tokio::time::timeout(SHUTDOWN_WAIT, ended).await.is_err() {
            // Whatever still runs holds a request that was never answered: nothing is lost.
            tracing::warn!("a request was still being handled");
        }
    }
}

/// Looks whether guests can be executed, if they have to be.
///
/// # Errors
/// `KvmUnavailable`.
pub fn check_kvm(loaded: &Loaded) -> Result<(), StartError> {
    if loaded.config.mode.mode() == Mode::Sampled {
        return Ok(());
    }
    let opened = std::fs::OpenOptions::new().read(true).write(true).open("/dev/kvm");
    opened.map(drop).map_err(StartError::Kvm)
}

fn context(loaded: &Loaded) -> Context {
    let Loaded { config, group, orchestrators, index, vote_key, cosigner_key, .. } = loaded;
    // The group was validated and has this member; without a name cosignatures would merely be left out.
    let name = group.cosigner(*index).map(|key| key.name().to_owned()).unwrap_or_default();
    Context {
        group: group.clone(),
        group_id: group.id(),
        orchestrators: orchestrators.clone(),
        signer: Signer::new(*index, name, vote_key.clone(), cosigner_key.clone()),
        mode: config.mode.mode(),
        sample_pages: config.sample_pages,
        platform: PlatformClass::detect().0,
        memory_bytes_max: config.memory_bytes_max,
    }
}

fn directory(loaded: &Loaded) -> Members {
    let Loaded { group, orchestrators, .. } = loaded;
    let hosts = group.hosts.iter().map(|host| (host.key, Role::Host));
    let members = group.members.iter().map(|member| (member.transport_key, Role::Verifier));
    let operators = group.operators.iter().map(|key| (*key, Role::Operator));
    let orchestrators = orchestrators.members.iter().map(|member| (member.transport_key, Role::Orchestrator));
    hosts
        .chain(members)
        .chain(operators)
        .chain(orchestrators)
        .fold(Members::new(), |directory, (key, role)| directory.with(key, role))
}

async fn serve<C: Conduct>(router: Arc<Router<C>>, shared: Arc<Shared<C>>, connection: Connection) {
    let mut exchanges = JoinSet::new();
    loop {
        tokio::select! {
            exchange = connection.accept() => match exchange {
                Ok(exchange) => {
                    exchanges.spawn(handle(Arc::clone(&router), Arc::clone(&shared), exchange));
                }
                Err(error) => {
                    tracing::debug!(peer = %connection.peer(), error_kind = error.kind(), "connection ended");
                    return;
                }
            },
            Some(_) = exchanges.join_next() => {}
        }
    }
}

async fn handle<C: Conduct>(router: Arc<Router<C>>, shared: Arc<Shared<C>>, mut exchange: Exchange) {
    if let Err(error) = converse(&router, &shared, &mut exchange).await {
        let count = shared.counters.refuse(error.kind());
        if counters::is_logged(count) {
            tracing::warn!(peer = %exchange.peer(), error_kind = error.kind(), count, "exchange failed: {error}");
        }
    }
}

/// One question and its answers. Only a challenge is answered by the other side.
async fn converse<C: Conduct>(
    router: &Router<C>,
    shared: &Shared<C>,
    exchange: &mut Exchange,
) -> Result<(), TransportError> {
    let Some(request) = exchange.recv::<ToVerifier>().await? else { return Ok(()) };
    let (answers, mut answered) = channel(4);
    let (pages, pages_of_host) = sync_channel(1);
    let (peer, role) = (*exchange.peer(), exchange.role());
    router
        .dispatch(Job { request, role, caller: Caller { peer, answers, pages: pages_of_host, room: None } })
        .await;
    let mut pages = Some(pages);
    while let Some(answer) = answered.recv().await {
        if matches!(answer, FromVerifier::State(_)) {
            // Attestations on the same connection go before the pages of a state.
            exchange.set_priority(-1);
        }
        exchange.send(&answer).await?;
        shared.conduct.step(Step::AfterSend);
        if !matches!(answer, FromVerifier::Challenge(_)) {
            continue;
        }
        exchange.set_patience(CHALLENGE_WAIT);
        // Dropping the sender tells the VM's thread that no pages will come.
        let sender = pages.take();
        if let (Some(ToVerifier::Pages(proven)), Some(sender)) = (exchange.recv().await?, sender) {
            let _ = sender.try_send(proven);
        }
    }
    exchange.finish()
}
