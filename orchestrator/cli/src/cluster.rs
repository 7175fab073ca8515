//! A cluster of real processes on one machine: keys, group, configuration files, start, stop, kill, restart.
//!
//! Everything lies below one folder, so that a run can be looked at afterwards:
//!
//! ```text
//! DIR/group.toml  verifier-0.toml ..  host-a.toml ..
//! DIR/keys/       one key a file, readable by the owner only
//! DIR/data/NODE/  sign-log, journal, images
//! DIR/logs/NODE.log
//! ```
//!
//! Verifiers start first, on ports that the system chooses. Hosts must know each other's addresses before they start:
//! their ports are found by binding port 0 once, and when another process takes one of them in between, all hosts are
//! configured and started again.
//!
//! # Not promised
//!
//! One machine is one point of failure and one owner: such a cluster shows the protocol, it does not add trust.

mod files;
pub mod log;
mod node;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate_attest::group::GroupConfig;
use quorate_attest::key::SecretKey;
use quorate_verifier::key_file::KeyFileError;

use files::Folder;
use node::Launch;
pub use node::Node;
use quorate_host::client::hosts::HostPeer;

/// How often all hosts are configured anew because somebody took one of their ports.
const PORT_ATTEMPTS: usize = 5;
/// Time a node has to end after SIGTERM.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// The programs of a cluster.
#[derive(Clone, Debug)]
pub struct Programs {
    /// `quorate-verifier`.
    pub verifier: PathBuf,
    /// `quorate-host`.
    pub host: PathBuf,
    /// `quorate-faulty`, for nodes with a conduct.
    pub faulty: PathBuf,
}

impl Programs {
    /// The programs in one folder.
    pub fn in_folder(folder: &Path) -> Self {
        let program = |name| folder.join(name);
        Self {
            verifier: program("quorate-verifier"),
            host: program("quorate-host"),
            faulty: program("quorate-faulty"),
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
    /// Number of verifiers; fewer than a third of them may be Byzantine.
    pub verifiers: usize,
    /// How many of them, the last ones, attest in SAMPLED mode.
    pub sampled: usize,
    /// Names of the hosts.
    pub hosts: Vec<String>,
    /// Shortest time between two slots, milliseconds.
    pub slot_interval_ms: u64,
    /// A migration without progress for this long is given up, milliseconds.
    pub migration_timeout_ms: u64,
    /// Conduct of nodes that do not follow the protocol, by node name.
    pub conducts: BTreeMap<String, String>,
    /// The programs.
    pub programs: Programs,
}

impl Plan {
    /// Four REPLAYED verifiers and the hosts `host-a` and `host-b`, all honest.
    pub fn new(folder: &Path, programs: Programs) -> Self {
        Self {
            folder: folder.to_owned(),
            verifiers: 4,
            sampled: 0,
            hosts: vec!["host-a".into(), "host-b".into()],
            slot_interval_ms: 20,
            migration_timeout_ms: 5000,
            conducts: BTreeMap::new(),
            programs,
        }
    }

    /// Name of a verifier.
    pub fn verifier_name(index: usize) -> String {
        format!("verifier-{index}")
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
    /// There is no node of that name.
    #[error("there is no node {name}")]
    UnknownNode {
        /// The name.
        name: String,
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
            Self::UnknownNode { .. } => "BadConfig",
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

/// A running cluster. Dropping it kills all its processes.
#[derive(Debug)]
pub struct Cluster {
    plan: Plan,
    folder: Folder,
    nodes: BTreeMap<String, Node>,
}

impl Cluster {
    /// Writes all files and starts all processes.
    ///
    /// # Errors
    /// A program is missing or does not start.
    pub async fn start(plan: Plan) -> Result<Self, ClusterError> {
        let folder = Folder::create(&plan)?;
        let mut cluster = Self { plan, folder, nodes: BTreeMap::new() };
        cluster.start_verifiers().await?;
        cluster.start_hosts().await?;
        Ok(cluster)
    }

    /// The group.
    pub fn group(&self) -> &GroupConfig {
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
        let listed = self.folder.group.hosts.iter();
        listed
            .filter_map(|host| {
                let address = self.nodes.get(&host.name)?.listening().messages;
                Some(HostPeer { name: host.name.clone(), key: host.key, address })
            })
            .collect()
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
        self.plan.conducts.contains_key(name)
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
            Some(conduct) => self.plan.conducts.insert(name.to_owned(), conduct.to_owned()),
            None => self.plan.conducts.remove(name),
        };
        let is_host = self.plan.hosts.iter().any(|host| host == name);
        let launch = if is_host { self.host_launch(name) } else { self.verifier_launch(name) };
        let node = Node::spawn(launch).await?;
        self.nodes.insert(name.to_owned(), node);
        Ok(())
    }

    /// Asks all processes to end, hosts first, and kills those that do not.
    pub async fn stop(&mut self) {
        let hosts = self.plan.hosts.clone();
        let mut order: Vec<_> = self.nodes.iter_mut().collect();
        order.sort_by_key(|(name, _)| !hosts.contains(name));
        for (_, node) in &mut order {
            node.terminate();
        }
        for (_, node) in &mut order {
            node.ended(STOP_GRACE).await;
        }
    }

    async fn start_verifiers(&mut self) -> Result<(), ClusterError> {
        for index in 0..self.plan.verifiers {
            let name = Plan::verifier_name(index);
            let sampled = index + self.plan.sampled >= self.plan.verifiers;
            self.folder.write_verifier(&name, sampled, None)?;
            node::initialise(&self.plan.programs.verifier, &self.folder.config_file(&name), &name).await?;
            let node = Node::spawn(self.verifier_launch(&name)).await?;
            // A restarted verifier must be found where the hosts look for it.
            self.folder.write_verifier(&name, sampled, Some(node.listening().messages))?;
            self.nodes.insert(name, node);
        }
        Ok(())
    }

    async fn start_hosts(&mut self) -> Result<(), ClusterError> {
        let addresses = |nodes: &BTreeMap<String, Node>| -> Vec<_> {
            nodes.iter().map(|(name, node)| (name.clone(), node.listening().messages)).collect()
        };
        let verifiers = addresses(&self.nodes);
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.try_hosts(&verifiers).await {
                Ok(started) => {
                    self.nodes.extend(started);
                    return Ok(());
                }
                Err(ClusterError::NodeFailed { tail, .. })
                    if attempt < PORT_ATTEMPTS && tail.contains("in use") => {}
                Err(error) => return Err(error),
            }
        }
    }

    async fn try_hosts(
        &self,
        verifiers: &[(String, std::net::SocketAddr)],
    ) -> Result<Vec<(String, Node)>, ClusterError> {
        let places =
            files::free_places(self.plan.hosts.len()).map_err(ClusterError::io("find a free port"))?;
        let hosts: Vec<_> = self.plan.hosts.iter().cloned().zip(places).collect();
        for (name, place) in &hosts {
            self.folder.write_host(&self.plan, name, *place, verifiers, &hosts)?;
        }
        let mut started = Vec::new();
        for (name, _) in &hosts {
            started.push((name.clone(), Node::spawn(self.host_launch(name)).await?));
        }
        Ok(started)
    }

    fn verifier_launch(&self, name: &str) -> Launch {
        self.launch(name, "verifier", &self.plan.programs.verifier)
    }

    fn host_launch(&self, name: &str) -> Launch {
        self.launch(name, "host", &self.plan.programs.host)
    }

    fn launch(&self, name: &str, role: &str, honest: &Path) -> Launch {
        let config = self.folder.config_file(name).into_os_string();
        let (program, mut arguments) = match self.plan.conducts.get(name) {
            None => (honest, Vec::new()),
            Some(conduct) => {
                let words = [role, "--conduct", conduct];
                (&*self.plan.programs.faulty, words.iter().map(Into::into).collect())
            }
        };
        arguments.extend(["--config".into(), config]);
        let log = self.folder.log_file(name);
        Launch { name: name.to_owned(), program: program.to_owned(), arguments, log }
    }
}
