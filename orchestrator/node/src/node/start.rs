//! The start of a node: files first, then the state, then the sockets, then the log.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::time::Duration;

use quorate_agreement::{Config as LogConfig, ConsensusLog, LogError, OrderedLog};
use quorate_attest::epoch::GroupChain;
use quorate_attest::group::{GroupConfig, Member};
use quorate_control::Which;
use quorate_signer::SignerClient;
use quorate_transport::{Endpoint, Limits, Role, TransportError};
use quorate_verifier::sign_log::{DataDir, SignLogError};
use tokio::sync::mpsc::unbounded_channel;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::directory::StateDirectory;
use super::order_rules::Rules;
use super::waiters::{WaiterLimits, Waiters};
use super::{Node, Shared, compare, epochs, executor, status};
use crate::api::Listener;
use crate::config::{Loaded, Services};
use crate::exit;
use crate::metrics::Metrics;
use crate::replica::{Replica, ReplicaError, Signer};
use crate::services::guest::{FindVm, HostGuests};
use crate::services::store::ServiceStore;
use crate::services::{Parts, ServiceHost};
use crate::sign_state::{Identity, Promises, SignJournal};
use crate::store::{Store, StoreError, View};

/// A peer that was killed closes nothing. Until its connection is found dead nobody dials it again, and when more than f were
/// killed at once, nothing is ordered for so long.
const IDLE: Duration = Duration::from_secs(3);

/// File of the executed log in the data directory.
const STORE_FILE: &str = "executed.redb";
/// Folder of the ordered log in the data directory.
const LOG_FOLDER: &str = "log";
/// File of the services in the data directory.
const SERVICES_FILE: &str = "services.redb";

/// Why a node could not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Data directory or sign-log.
    #[error(transparent)]
    SignLog(#[from] SignLogError),
    /// The executed log.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The state that it leads to.
    #[error(transparent)]
    Replica(#[from] ReplicaError),
    /// The ordered log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The socket.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The socket of the HTTP API.
    #[error("HTTP API on {address}: {source}")]
    Api {
        /// Where.
        address: String,
        /// Why.
        source: std::io::Error,
    },
    /// A thread.
    #[error("no thread: {0}")]
    Thread(#[from] std::io::Error),
    /// The sign-log says that nothing may be signed any more.
    #[error("signing was stopped because of {kind}; an operator has to retire this identity")]
    Stopped {
        /// Why.
        kind: String,
    },
    /// The group has no member of this name.
    #[error("{name} is no member of group {group} in epoch {epoch}")]
    NotMember {
        /// Name of the node.
        name: String,
        /// Name of the group.
        group: String,
        /// The present epoch.
        epoch: u64,
    },
    /// A member cannot be reached.
    #[error("the configuration has no address for member {name}")]
    NoAddress {
        /// Name of the member.
        name: String,
    },
}

impl StartError {
    /// Stable identifier.
    #[must_use]
    pub fn kind(&self) -> &str {
        match self {
            Self::SignLog(error) => error.kind(),
            Self::Store(error) => error.kind(),
            Self::Replica(error) => error.kind(),
            Self::Log(error) => error.kind(),
            Self::Transport(error) => error.kind(),
            Self::Api { .. } => "SocketError",
            Self::Thread(_) => "ThreadFailed",
            Self::Stopped { kind } => kind,
            Self::NotMember { .. } => "SignerNotMember",
            Self::NoAddress { .. } => "BadConfig",
        }
    }

    /// Exit code of the process.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::SignLog(error) => error.exit_code(),
            Self::Stopped { .. } => exit::SAFETY,
            _ => match self.kind() {
                "DataDirLocked" => exit::RETRY,
                "ReplayDivergence" | "ConflictingCertificates" => exit::SAFETY,
                "WalCorrupt" | "StorageSyncFailed" | "StorageFull" => exit::STORAGE,
                _ => exit::CONFIGURATION,
            },
        }
    }
}

/// Creates the data directory and the sign-log of a new identity.
///
/// # Errors
/// `AlreadyInitialised`, storage errors.
pub fn init(loaded: &Loaded) -> Result<(), SignLogError> {
    DataDir::init(&loaded.config.data_dir, &identity(loaded).entry())
}

fn identity(loaded: &Loaded) -> Identity {
    Identity::new(loaded.orchestrators.id(), loaded.vote_key.public())
}

/// What the files say.
struct Files {
    data: DataDir,
    journal: SignJournal<quorate_verifier::sign_log::FileStorage>,
    store: Store,
    replica: Replica,
}

impl Files {
    fn open(loaded: &Loaded) -> Result<Self, StartError> {
        let (data, opened) = DataDir::open(&loaded.config.data_dir)?;
        if let Some(bytes) = opened.torn {
            tracing::warn!(error_kind = "WalTornTail", bytes, "the torn tail of the sign-log was cut");
        }
        let mut journal = SignJournal::restore(opened, identity(loaded))?;
        if let Some(kind) = journal.stopped() {
            return Err(StartError::Stopped { kind: kind.to_owned() });
        }
        let store = Store::open(&data.path().join(STORE_FILE), loaded.orchestrators.id())?;
        let signer = Signer { vote: loaded.vote_key.clone(), cosigner: loaded.cosigner_key.clone() };
        let view = store.read()?;
        let (orchestrators, verifiers) = (loaded.orchestrators.clone(), loaded.verifiers.clone());
        let replica = Replica::restore(signer, orchestrators, verifiers, &view)?;
        catch_up(&mut journal, &view)?;
        Ok(Self { data, journal, store, replica })
    }
}

/// A sign-log that is behind the executed log was restored from an older copy: it takes over what was certainly signed.
fn catch_up<S: quorate_verifier::sign_log::Storage>(
    journal: &mut SignJournal<S>,
    view: &View,
) -> Result<(), StartError> {
    let (next, size) = (journal.state().next(), view.size()?);
    if next >= size {
        return Ok(());
    }
    tracing::error!(
        error_kind = "SignStateRolledBack",
        disk = next,
        executed = size,
        "the sign-log is older than what it signed; it is brought up to it"
    );
    let mut index = next;
    while index < size {
        let mut promises = Promises { first: index, ..Promises::default() };
        while index < size && promises.digests.len() < 4096 {
            let entry = view.entry(index)?.ok_or_else(|| StoreError::damaged(format!("entry {index}")))?;
            promises.add(&entry.receipt, entry.decision.as_ref().map(|(decision, _)| decision));
            index += 1;
        }
        journal.record(&promises)?;
    }
    Ok(())
}

/// See [`Node::start`].
pub(super) async fn start(loaded: Loaded, services: Option<Parts>) -> Result<Node, StartError> {
    let Files { data, journal, store, replica } = Files::open(&loaded)?;
    let chain = newest(&loaded.known, &replica);
    let directory = Arc::new(StateDirectory::default());
    directory.follow(replica.control(), &chain);
    let endpoint = Endpoint::bind_as(
        loaded.listen,
        &loaded.transport_key,
        Role::Orchestrator,
        Arc::clone(&directory) as Arc<dyn quorate_transport::Directory>,
        Limits { idle: IDLE, ..Limits::default() },
    )?;
    let address = endpoint.local_addr()?;
    let listener = listen(&loaded).await?;
    let addresses = addresses(&loaded, address);
    let rules = Rules::new(chain.clone());
    let log = start_log(&loaded, &chain, &addresses, &rules, data.path(), &endpoint).await?;
    let entries = log.subscribe(replica.applied()).await?;
    let (fatal, ended) = unbounded_channel();
    let (epochs, begun) = unbounded_channel();
    let limits = WaiterLimits { total: loaded.config.waiters_max, author: loaded.config.author_waiters_max };
    let shared = Arc::new(Shared {
        name: loaded.config.name.clone(),
        group: chain.id(),
        order_timeout: loaded.config.order_timeout(),
        store,
        log,
        waiters: Waiters::new(limits),
        metrics: Arc::new(Metrics::new(endpoint.clone())),
        leaving: AtomicBool::new(false),
        applied: watch::Sender::new(replica.applied()),
        services: OnceLock::new(),
        links: compare::Links::default(),
        replica: RwLock::new(replica),
        signed_before: journal.state().next(),
        journal: Mutex::new(journal),
        directory,
        comparison: compare::Comparison::default(),
        rules,
        known: chain,
        addresses,
        vote_key: loaded.vote_key,
        epochs,
        endpoint,
        data,
        fatal,
    });
    let mut tasks = JoinSet::new();
    start_services(&shared, services.or_else(|| parts(&loaded.services, &shared)), &mut tasks)?;
    executor::start(&shared, entries, &mut tasks)?;
    let leave_grace = Duration::from_millis(loaded.config.leave_grace_ms);
    tasks.spawn(epochs::follow(Arc::clone(&shared), begun, leave_grace));
    tasks.spawn(compare::compare_all(Arc::clone(&shared)));
    tasks.spawn(status::watch(Arc::clone(&shared)));
    Ok(Node { shared, address, listener, fatal: ended, tasks })
}

/// What the configuration says about services, if it does.
fn parts(services: &Option<Services>, shared: &Arc<Shared>) -> Option<Parts> {
    let Services { group, replica, signer, key, hosts, timed } = services.as_ref()?;
    let shared = Arc::downgrade(shared);
    let find: FindVm = Arc::new(move |name| shared.upgrade()?.replica().control().vm_named(name));
    Some(Parts {
        group: Arc::clone(group),
        replica: *replica,
        guests: Arc::new(HostGuests::new(key.clone(), hosts.clone(), find)),
        signer: Arc::new(SignerClient::new(signer)),
        timed: timed.clone(),
    })
}

fn start_services(
    shared: &Arc<Shared>,
    parts: Option<Parts>,
    tasks: &mut JoinSet<()>,
) -> Result<(), StartError> {
    let Some(parts) = parts else { return Ok(()) };
    let store = ServiceStore::open(&shared.data.path().join(SERVICES_FILE))?;
    let host = Arc::new(ServiceHost::new(parts, store)?);
    host.start(shared, tasks);
    // Nobody else sets it.
    let _ = shared.services.set(host);
    Ok(())
}

/// What the files tell of the group, or what the executed log tells if that is newer.
fn newest(known: &GroupChain, replica: &Replica) -> GroupChain {
    let executed = replica.control().groups(Which::Orchestrators);
    if executed.current().epoch > known.current().epoch { executed.clone() } else { known.clone() }
}

async fn listen(loaded: &Loaded) -> Result<Option<Listener>, StartError> {
    let Some(at) = &loaded.api else { return Ok(None) };
    let failed = |source| StartError::Api { address: at.to_string(), source };
    Listener::bind(at).await.map(Some).map_err(failed)
}

/// Where orchestrators listen, by name.
fn addresses(loaded: &Loaded, own: SocketAddr) -> BTreeMap<String, SocketAddr> {
    let listed = loaded.config.orchestrators.iter().map(|entry| (entry.name.clone(), entry.address));
    listed.chain([(loaded.config.name.clone(), own)]).collect()
}

async fn start_log(
    loaded: &Loaded,
    chain: &GroupChain,
    addresses: &BTreeMap<String, SocketAddr>,
    rules: &Rules,
    data_dir: &Path,
    endpoint: &Endpoint,
) -> Result<ConsensusLog, StartError> {
    let group = chain.current();
    let me = group.index_of(&loaded.vote_key.public()).map_err(|_| StartError::NotMember {
        name: loaded.config.name.clone(),
        group: group.name.clone(),
        epoch: group.epoch.get(),
    })?;
    let address = |member: &Member| {
        let missing = || StartError::NoAddress { name: member.name.clone() };
        addresses.get(&member.name).copied().ok_or_else(missing)
    };
    let config = LogConfig {
        history: history(chain),
        ..LogConfig::new(
            Arc::new(group.clone()),
            me,
            loaded.vote_key.clone(),
            data_dir.join(LOG_FOLDER),
            group.members.iter().map(address).collect::<Result<_, _>>()?,
            rules.operations(),
        )
    };
    Ok(quorate_agreement::start(config, Arc::new(endpoint.clone())).await?)
}

/// Configurations of the epochs before the newest, from the genesis on.
fn history(chain: &GroupChain) -> Vec<Arc<GroupConfig>> {
    let all = std::iter::once(chain.genesis()).chain(chain.links().iter().map(|link| &link.config));
    all.take(chain.links().len()).map(|config| Arc::new(config.clone())).collect()
}
