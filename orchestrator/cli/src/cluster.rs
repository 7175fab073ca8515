//! A cluster of real processes on one machine: keys, group, configuration files, start, stop, kill, restart.
//!
//! Everything lies below one folder, so that a run can be looked at afterwards:
//!
//! ```text
//! DIR/cluster.toml            the nodes and where they listen
//! DIR/group.toml              the verifiers
//! DIR/orchestrators.toml      the orchestrators
//! DIR/services.toml           the replicas of services, where there are any
//! DIR/orchestrator-0.toml ..  verifier-0.toml ..  host-a.toml ..  signer-0.toml ..  gateway.toml
//! DIR/keys/       one key a file, readable by the owner only
//! DIR/run/        sockets
//! DIR/data/NODE/  sign-log, journal, images
//! DIR/logs/NODE.log
//! ```
//!
//! Every node must know where the others listen before it starts, so all ports are chosen before anything is: either given, or
//! found by binding port 0 once. When another process takes one in between, new ones are chosen and everything starts again.
//!
//! # Not promised
//!
//! One machine is one point of failure and one owner: such a cluster shows the protocol, it does not add trust.

pub mod command;
mod files;
pub mod log;
mod node;
pub mod supervisor;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate_attest::epoch::GroupChain;
use quorate_attest::key::SecretKey;
use quorate_verifier::key_file::KeyFileError;

pub use files::{Entry, Folder, Index, NodeRole, Place};
use node::Launch;
pub use node::Node;
use quorate_host::client::hosts::HostPeer;
use tokio::task::JoinSet;

/// How often all nodes are configured anew because somebody took one of their ports.
const PORT_ATTEMPTS: usize = 5;
/// Time a node has to end after SIGTERM.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// The programs of a cluster.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `quorate-signer`.
    pub signer: PathBuf,
    /// `quorate-orchestrator`.
    pub orchestrator: PathBuf,
    /// `quorate-verifier`.
    pub verifier: PathBuf,
    /// `quorate-host`.
    pub host: PathBuf,
    /// `quorate-gateway`.
    pub gateway: PathBuf,
    /// `quorate-faulty`, for nodes with a conduct.
    pub faulty: PathBuf,
}

impl Programs {
    /// The programs in one folder.
    pub fn in_folder(folder: &Path) -> Self {
        let program = |name| folder.join(name);
        Self {
            signer: program("quorate-signer"),
            orchestrator: program("quorate-orchestrator"),
            verifier: program("quorate-verifier"),
            host: program("quorate-host"),
            gateway: program("quorate-gateway"),
            faulty: program("quorate-faulty"),
        }
    }

    /// The program of an honest node.
    pub fn of(&self, role: NodeRole) -> &Path {
        match role {
            NodeRole::Signer => &self.signer,
            NodeRole::Orchestrator => &self.orchestrator,
            NodeRole::Verifier => &self.verifier,
            NodeRole::Host => &self.host,
            NodeRole::Gateway => &self.gateway,
        }
    }

    /// The programs beside the running one. Test binaries lie one folder deeper than what they test.
    ///
    /// # Errors
    /// The system does not tell where the running program is.
    pub fn beside_current() -> io::Result<Self> {
        let own = std::env::current_exe()?;
        let folder = own.parent().unwrap_or(Path::new("."));
        let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
        Ok(Self::in_folder(folder))
    }
}

/// What a cluster is to be.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Folder of all files.
    pub folder: PathBuf,
    /// Name of the verifiers' group.
    pub name: String,
    /// Number of orchestrators; fewer than a third of them may be Byzantine.
    pub orchestrators: usize,
    /// Number of verifiers; fewer than a third of them may be Byzantine.
    pub verifiers: usize,
    /// How many of them, the last ones, attest in SAMPLED mode.
    pub sampled: usize,
    /// Names of the hosts.
    pub hosts: Vec<String>,
    /// Names of the ordered services that the cluster has room for: each gets a host for every replica.
    pub services: Vec<String>,
    /// Shortest time between two slots, milliseconds.
    pub slot_interval_ms: u64,
    /// The same on hosts of services, whose answers do not wait for slots.
    pub service_slot_interval_ms: u64,
    /// A migration without progress for this long is given up, milliseconds.
    pub migration_timeout_ms: u64,
    /// Where nodes listen, by name; the others get free ports of this machine.
    pub places: BTreeMap<String, Place>,
    /// Conduct of nodes that do not follow the protocol, by node name.
    pub conducts: BTreeMap<String, String>,
    /// The programs.
    pub programs: Programs,
}

impl Plan {
    /// Four orchestrators, four REPLAYED verifiers and the hosts `host-a` and `host-b`, all honest.
    pub fn new(folder: &Path, programs: Programs) -> Self {
        Self {
            folder: folder.to_owned(),
            name: "demo".into(),
            orchestrators: 4,
            verifiers: 4,
            sampled: 0,
            hosts: vec!["host-a".into(), "host-b".into()],
            services: Vec::new(),
            slot_interval_ms: 20,
            service_slot_interval_ms: 500,
            migration_timeout_ms: 5000,
            places: BTreeMap::new(),
            conducts: BTreeMap::new(),
            programs,
        }
    }

    /// Name of a verifier.
    pub fn verifier_name(index: usize) -> String {
        format!("verifier-{index}")
    }

    /// Name of the gateway.
    pub const GATEWAY: &str = "gateway";

    /// Name of whoever approves what needs two admins. On servers, a second person's key.
    pub const SECOND_ADMIN: &str = "second-admin";

    /// Name of the signer beside an orchestrator.
    pub fn signer_name(index: usize) -> String {
        format!("signer-{index}")
    }

    /// Name of the host that a replica of a service begins on.
    pub fn service_host_name(service: &str, replica: usize) -> String {
        format!("host-{service}-{replica}")
    }

    /// Names of all hosts: the free ones, then those of the services.
    pub fn all_hosts(&self) -> Vec<String> {
        let of = |service: &String| {
            let service = service.clone();
            (0..self.orchestrators).map(move |replica| Self::service_host_name(&service, replica))
        };
        self.hosts.iter().cloned().chain(self.services.iter().flat_map(of)).collect()
    }

    /// Name of an orchestrator.
    pub fn orchestrator_name(index: usize) -> String {
        format!("orchestrator-{index}")
    }

    /// All nodes with their places, in the order in which they start.
    fn entries(&self) -> io::Result<Vec<Entry>> {
        let orchestrators =
            (0..self.orchestrators).map(Self::orchestrator_name).map(|name| (name, NodeRole::Orchestrator));
        let verifiers = (0..self.verifiers).map(Self::verifier_name).map(|name| (name, NodeRole::Verifier));
        let hosts = self.all_hosts().into_iter().map(|name| (name, NodeRole::Host));
        let nodes = orchestrators.chain(verifiers).chain(hosts);
        let nodes: Vec<_> = match self.services.is_empty() {
            true => nodes.collect(),
            false => {
                let signers =
                    (0..self.orchestrators).map(Self::signer_name).map(|name| (name, NodeRole::Signer));
                signers.chain(nodes).chain([(Self::GATEWAY.to_owned(), NodeRole::Gateway)]).collect()
            }
        };
        let free = files::free_places(nodes.len())?;
        let entry = |((name, role), free): ((String, NodeRole), Place)| {
            let place = self.places.get(&name).copied().unwrap_or(free);
            Entry { name, role, place }
        };
        Ok(nodes.into_iter().zip(free).map(entry).collect())
    }
}

/// Why a cluster is not there.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// A program is missing.
    #[error("{} is not there: build it with `cargo build --release`", path.display())]
    ProgramMissing {
        /// Where it was expected.
        path: PathBuf,
    },
    /// A node ended before it was ready.
    #[error("{name} ended with {status} before it was ready:\n{tail}")]
    NodeFailed {
        /// Name of the node.
        name: String,
        /// How it ended.
        status: std::process::ExitStatus,
        /// The end of its log.
        tail: String,
    },
    /// A node did not say in time where it listens.
    #[error("{name} was not ready within {limit:?}; see {}", log.display())]
    NotReady {
        /// Name of the node.
        name: String,
        /// Time it had.
        limit: Duration,
        /// Its log.
        log: PathBuf,
    },
    /// Another process keeps this cluster running.
    #[error("{} is kept running by another process", folder.display())]
    AlreadySupervised {
        /// The cluster.
        folder: PathBuf,
    },
    /// There is no node of that name.
    #[error("there is no node {name}")]
    UnknownNode {
        /// The name.
        name: String,
    },
    /// A file of the folder is not what it should be.
    #[error("{}: {reason}", path.display())]
    BadFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The folder holds no cluster.
    #[error("{} is no cluster: it has no {}", folder.display(), files::INDEX_FILE)]
    NoCluster {
        /// The folder.
        folder: PathBuf,
    },
    /// The plan makes no group.
    #[error("the plan makes no group: {0}")]
    Group(#[from] quorate_attest::VerifyError),
    /// A key cannot be made or written.
    #[error(transparent)]
    Key(#[from] KeyFileError),
    /// The file system or process table.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl ClusterError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::ProgramMissing { .. } => "ProgramMissing",
            Self::NodeFailed { .. } => "NodeFailed",
            Self::NotReady { .. } => "PeerTimeout",
            Self::AlreadySupervised { .. } => "DataDirLocked",
            Self::UnknownNode { .. } | Self::BadFile { .. } | Self::NoCluster { .. } => "BadConfig",
            Self::Group(error) => error.kind(),
            Self::Key(error) => error.kind(),
            Self::Io { .. } => "StorageFailed",
        }
    }

    fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

/// Creates the sign-logs of the nodes that sign. Done once, when the cluster is made and never when it starts: a sign-log that
/// is missing then was lost, and its node must not begin anew.
///
/// # Errors
/// A program is missing or refuses.
pub async fn initialise(folder: &Folder, programs: &Programs) -> Result<(), ClusterError> {
    let signs = |role| matches!(role, NodeRole::Signer | NodeRole::Orchestrator | NodeRole::Verifier);
    for entry in folder.index.nodes.iter().filter(|entry| signs(entry.role)) {
        node::initialise(programs.of(entry.role), &folder.config_file(&entry.name), &entry.name).await?;
    }
    Ok(())
}

/// A running cluster. Dropping it kills all its processes.
#[derive(Debug)]
pub struct Cluster {
    programs: Programs,
    conducts: BTreeMap<String, String>,
    folder: Folder,
    nodes: BTreeMap<String, Node>,
}

impl Cluster {
    /// Writes all files and starts all processes.
    ///
    /// # Errors
    /// A program is missing or does not start.
    pub async fn start(plan: Plan) -> Result<Self, ClusterError> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let folder = Folder::create(&plan)?;
            if attempt == 1 {
                initialise(&folder, &plan.programs).await?;
            }
            match Self::start_folder(folder, plan.programs.clone(), plan.conducts.clone()).await {
                Err(ClusterError::NodeFailed { tail, .. })
                    if attempt < PORT_ATTEMPTS && tail.contains("in use") => {}
                result => return result,
            }
        }
    }

    /// Starts all processes of a folder.
    ///
    /// # Errors
    /// A program is missing or does not start.
    pub async fn start_folder(
        folder: Folder,
        programs: Programs,
        conducts: BTreeMap<String, String>,
    ) -> Result<Self, ClusterError> {
        let mut cluster = Self { programs, conducts, folder, nodes: BTreeMap::new() };
        let mut starting = JoinSet::new();
        for entry in &cluster.folder.index.nodes {
            starting.spawn(Node::spawn(cluster.launch(entry)));
        }
        while let Some(started) = starting.join_next().await {
            let node =
                started.map_err(|error| ClusterError::io("start a node")(io::Error::other(error)))??;
            cluster.nodes.insert(node.name().to_owned(), node);
        }
        Ok(cluster)
    }

    /// The files.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// The group.
    pub fn group(&self) -> &GroupChain {
        &self.folder.group
    }

    /// File of the group.
    pub fn group_file(&self) -> PathBuf {
        self.folder.group_file()
    }

    /// Key of the operator.
    pub fn operator(&self) -> &SecretKey {
        &self.folder.operator
    }

    /// The hosts with their addresses, in the order of the plan.
    pub fn hosts(&self) -> Vec<HostPeer> {
        self.folder.hosts()
    }

    /// A node's process.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn node(&mut self, name: &str) -> Result<&mut Node, ClusterError> {
        self.nodes.get_mut(name).ok_or_else(|| ClusterError::UnknownNode { name: name.to_owned() })
    }

    /// Names of all nodes.
    pub fn node_names(&self) -> Vec<String> {
        self.nodes.keys().cloned().collect()
    }

    /// Nodes that ended without being asked to, with how they ended. Empty after [`Self::stop`] of a sound cluster.
    pub fn ended_early(&self) -> Vec<String> {
        self.nodes.values().filter_map(Node::ended_early).collect()
    }

    /// Whether a node has a conduct of its own.
    pub fn is_faulty(&self, name: &str) -> bool {
        self.conducts.contains_key(name)
    }

    /// A node's log file.
    pub fn log_file(&self, name: &str) -> PathBuf {
        self.folder.log_file(name)
    }

    /// A node's data directory.
    pub fn data_dir(&self, name: &str) -> PathBuf {
        self.folder.data_dir(name)
    }

    /// Starts a node again that has ended, on the same address and data. Without `conduct` it is honest now.
    ///
    /// # Errors
    /// It does not start.
    pub async fn restart(&mut self, name: &str, conduct: Option<&str>) -> Result<(), ClusterError> {
        self.node(name)?.kill().await;
        match conduct {
            Some(conduct) => self.conducts.insert(name.to_owned(), conduct.to_owned()),
            None => self.conducts.remove(name),
        };
        let entry =
            self.folder.entry(name).ok_or_else(|| ClusterError::UnknownNode { name: name.to_owned() })?;
        let node = Node::spawn(self.launch(entry)).await?;
        self.nodes.insert(name.to_owned(), node);
        Ok(())
    }

    /// Asks all processes to end, hosts first, and kills those that do not.
    pub async fn stop(&mut self) {
        let is_host = |name: &str| self.folder.entry(name).is_some_and(|entry| entry.role == NodeRole::Host);
        let mut order: Vec<_> = self.nodes.iter_mut().collect();
        order.sort_by_key(|(name, _)| !is_host(name));
        for (_, node) in &mut order {
            node.terminate();
        }
        for (_, node) in &mut order {
            node.ended(STOP_GRACE).await;
        }
    }

    fn launch(&self, entry: &Entry) -> Launch {
        let config = self.folder.config_file(&entry.name).into_os_string();
        let (program, mut arguments) = match self.conducts.get(&entry.name) {
            None => (self.programs.of(entry.role), Vec::new()),
            Some(conduct) => {
                let words = [entry.role.name(), "--conduct", conduct];
                (&*self.programs.faulty, words.iter().map(Into::into).collect())
            }
        };
        arguments.extend(["--config".into(), config]);
        let log = self.folder.log_file(&entry.name);
        Launch { name: entry.name.clone(), program: program.to_owned(), arguments, log }
    }
}
