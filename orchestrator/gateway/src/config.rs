//! Configuration: one TOML file, overridden by the environment, overridden by flags.
//!
//! Whom the gateway believes comes from the files of a cluster: its folder, or each of them by name. Reading collects every
//! problem instead of stopping at the first, because an operator fixes a file once.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use quorate_attest::encoding::is_name;
use quorate_attest::group::GroupConfig;
use quorate_attest::key::SecretKey;
use quorate_nss_protocol::DEFAULT_SOCKET;
pub use quorate_verifier::config::{LogFormat, Problem};
use quorate_verifier::config::{Roots, group_file, node_file, read_orchestrators};
use quorate_verifier::key_file;
use serde::Deserialize;

/// Files of a cluster's folder.
const ORCHESTRATORS_FILE: &str = "orchestrators.toml";
const REPLICAS_FILE: &str = "services.toml";
const INDEX_FILE: &str = "cluster.toml";
const LINKS: &str = "links";

/// What flags and the environment may override.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `etcd_listen`.
    pub etcd_listen: Option<String>,
    /// `http_listen`.
    pub http_listen: Option<String>,
    /// `log`.
    pub log: Option<LogFormat>,
}

/// Where a named node listens.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Address {
    /// Name in the group.
    pub name: String,
    /// UDP address.
    pub address: SocketAddr,
}

/// The file. Paths are relative to the folder the file is in.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Folder of a cluster, which has all that the entries down to `orchestrators` tell.
    #[serde(default)]
    pub cluster: Option<PathBuf>,
    /// The orchestrators' group.
    #[serde(default)]
    pub orchestrators_file: Option<PathBuf>,
    /// Folder of the links to its later epochs.
    #[serde(default)]
    pub orchestrators_links: Option<PathBuf>,
    /// Offline keys that vouch for the genesis.
    #[serde(default)]
    pub roots: Option<Roots>,
    /// The group of the services' replicas.
    #[serde(default)]
    pub replicas_file: Option<PathBuf>,
    /// Addresses of the orchestrators.
    #[serde(default)]
    pub orchestrators: Vec<Address>,
    /// Key of this client: owner of what is registered through the gateway.
    pub key_file: PathBuf,
    /// Directory of the newest heads and of evidence.
    pub state_dir: PathBuf,
    /// Name of the service registry.
    #[serde(default)]
    pub registry: Option<String>,
    /// Name of the UID registry.
    #[serde(default)]
    pub uid: Option<String>,
    /// Address for etcd's clients; port 0 takes any.
    #[serde(default = "default_etcd_listen")]
    pub etcd_listen: String,
    /// Address for HTTP; port 0 takes any.
    #[serde(default = "default_http_listen")]
    pub http_listen: String,
    /// Socket for the NSS module.
    #[serde(default)]
    pub nss_socket: Option<PathBuf>,
    /// Whether other machines may reach the gateway, which has neither TLS nor passwords of its own.
    #[serde(default)]
    pub allow_remote: bool,
    /// Folder of the proofs of answers. Without it none are kept.
    #[serde(default)]
    pub proofs_dir: Option<PathBuf>,
    /// Most proofs that are kept.
    #[serde(default = "default_proofs_max")]
    pub proofs_max: usize,
    /// Time for a call or a read, milliseconds.
    #[serde(default = "default_timeout_ms")]
    pub timeout_ms: u64,
    /// How old a user may be that the NSS module is told, milliseconds; 0 asks a quorum every time.
    #[serde(default)]
    pub nss_max_age_ms: u64,
    /// Form of the log.
    #[serde(default)]
    pub log: LogFormat,
}

const KEYS: [&str; 18] = [
    "cluster",
    "orchestrators_file",
    "orchestrators_links",
    "roots",
    "replicas_file",
    "orchestrators",
    "key_file",
    "state_dir",
    "registry",
    "uid",
    "etcd_listen",
    "http_listen",
    "nss_socket",
    "allow_remote",
    "proofs_dir",
    "proofs_max",
    "timeout_ms",
    "nss_max_age_ms",
];

fn default_etcd_listen() -> String {
    "127.0.0.1:2379".to_owned()
}

fn default_http_listen() -> String {
    "127.0.0.1:2389".to_owned()
}

fn default_proofs_max() -> usize {
    1024
}

fn default_timeout_ms() -> u64 {
    10_000
}

/// A configuration with everything it names.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The file's values.
    pub config: Config,
    /// The orchestrators' group in its newest known epoch.
    pub orchestrators: GroupConfig,
    /// The group of the services' replicas.
    pub replicas: GroupConfig,
    /// Addresses of the orchestrators, by name.
    pub addresses: BTreeMap<String, SocketAddr>,
    /// Key of this client.
    pub key: SecretKey,
    /// Where etcd's clients are served.
    pub etcd_listen: SocketAddr,
    /// Where HTTP is served.
    pub http_listen: SocketAddr,
}

impl Config {
    /// Reads the file and applies the overrides.
    ///
    /// # Errors
    /// Every problem found.
    pub fn read(path: &Path, overrides: &Overrides) -> Result<Self, Vec<Problem>> {
        let (text, base) = node_file::read(path)?;
        Self::parse(&text, &base, overrides)
    }

    fn parse(text: &str, base: &Path, overrides: &Overrides) -> Result<Self, Vec<Problem>> {
        let given =
            [("etcd_listen", overrides.etcd_listen.clone()), ("http_listen", overrides.http_listen.clone())];
        let known: Vec<&str> = KEYS.into_iter().chain(["log"]).collect();
        let mut config: Self = node_file::parse(text, &known, given)?;
        config.log = overrides.log.unwrap_or(config.log);
        let relative = [&mut config.key_file, &mut config.state_dir].into_iter();
        let optional = [
            &mut config.cluster,
            &mut config.orchestrators_file,
            &mut config.orchestrators_links,
            &mut config.replicas_file,
            &mut config.nss_socket,
            &mut config.proofs_dir,
        ];
        for path in relative.chain(optional.into_iter().flatten()) {
            *path = base.join(&*path);
        }
        Ok(config)
    }

    /// Opens what a start would open, except for the state directory.
    ///
    /// # Errors
    /// Every problem found.
    pub fn open(mut self) -> Result<Loaded, Vec<Problem>> {
        let mut problems = self.limits();
        problems.extend(self.take_cluster().err());
        let mut take =
            |result: Result<GroupConfig, Problem>| result.map_err(|found| problems.push(found)).ok();
        let orchestrators = take(self.read_orchestrators());
        let replicas = take(self.read_replicas());
        let key = key_file::read(&self.key_file)
            .map_err(|error| {
                let exit_code = error.exit_code();
                problems.push(Problem { exit_code, ..Problem::new("key_file", error.to_string()) });
            })
            .ok();
        let mut listen = |key: &str, text: &str| {
            self.listen_address(key, text).map_err(|problem| problems.push(problem)).ok()
        };
        let etcd_listen = listen("etcd_listen", &self.etcd_listen);
        let http_listen = listen("http_listen", &self.http_listen);
        let addresses: BTreeMap<_, _> =
            self.orchestrators.iter().map(|entry| (entry.name.clone(), entry.address)).collect();
        if let Some(group) = &orchestrators {
            let missing = group.members.iter().filter(|member| !addresses.contains_key(&member.name));
            problems.extend(missing.map(|member| {
                Problem::new(
                    "orchestrators",
                    format!("no address for member {} of {}", member.name, group.name),
                )
            }));
        }
        match (orchestrators, replicas, key, etcd_listen, http_listen) {
            (Some(orchestrators), Some(replicas), Some(key), Some(etcd_listen), Some(http_listen))
                if problems.is_empty() =>
            {
                Ok(Loaded { config: self, orchestrators, replicas, addresses, key, etcd_listen, http_listen })
            }
            _ => Err(problems),
        }
    }

    /// Where the NSS module finds the gateway.
    #[must_use]
    pub fn nss_socket(&self) -> PathBuf {
        self.nss_socket.clone().unwrap_or_else(|| DEFAULT_SOCKET.into())
    }

    /// Fills in what the folder of a cluster tells.
    fn take_cluster(&mut self) -> Result<(), Problem> {
        let Some(folder) = self.cluster.clone() else { return Ok(()) };
        let named = [
            ("orchestrators_file", self.orchestrators_file.is_some()),
            ("orchestrators_links", self.orchestrators_links.is_some()),
            ("replicas_file", self.replicas_file.is_some()),
            ("orchestrators", !self.orchestrators.is_empty()),
        ];
        if let Some((key, _)) = named.into_iter().find(|(_, there)| *there) {
            return Err(Problem::new(key, "stands beside `cluster`, which tells the same"));
        }
        self.orchestrators_file = Some(folder.join(ORCHESTRATORS_FILE));
        self.replicas_file = Some(folder.join(REPLICAS_FILE));
        self.orchestrators_links = Some(folder.join(LINKS)).filter(|links| links.is_dir());
        self.orchestrators = read_index(&folder.join(INDEX_FILE))?;
        Ok(())
    }

    fn read_orchestrators(&self) -> Result<GroupConfig, Problem> {
        let missing = || Problem::new("orchestrators_file", "give it, or `cluster`");
        let file = self.orchestrators_file.as_ref().ok_or_else(missing)?;
        let chain = read_orchestrators(file, self.orchestrators_links.as_deref(), self.roots.as_ref())?;
        Ok(chain.current().clone())
    }

    fn read_replicas(&self) -> Result<GroupConfig, Problem> {
        let missing = || Problem::new("replicas_file", "give it, or `cluster`");
        let file = self.replicas_file.as_ref().ok_or_else(missing)?;
        group_file::read(file).map_err(|found| Problem { key: "replicas_file".to_owned(), ..found })
    }

    fn listen_address(&self, key: &str, text: &str) -> Result<SocketAddr, Problem> {
        let address: SocketAddr =
            text.parse().map_err(|error| Problem::new(key, format!("{text:?}: {error}")))?;
        // Whoever reaches it may read and write: there is no password behind it.
        if !self.allow_remote && !address.ip().to_canonical().is_loopback() {
            let text =
                format!("{address} is not a loopback address; others reach it only with allow_remote = true");
            return Err(Problem::new(key, text));
        }
        Ok(address)
    }

    fn limits(&self) -> Vec<Problem> {
        let bounds = [
            ("proofs_max", self.proofs_max as u64, 1..=1_048_576),
            ("timeout_ms", self.timeout_ms, 100..=600_000),
            ("nss_max_age_ms", self.nss_max_age_ms, 0..=86_400_000),
        ];
        let wrong = bounds.into_iter().filter(|(_, value, range)| !range.contains(value));
        let mut problems: Vec<Problem> = wrong
            .map(|(key, value, range)| {
                Problem::new(key, format!("{value} is not {} to {}", range.start(), range.end()))
            })
            .collect();
        let services = [("registry", &self.registry), ("uid", &self.uid)];
        for (key, name) in services.iter().filter_map(|(key, name)| Some((*key, name.as_ref()?))) {
            if !is_name(name, 64) {
                problems.push(Problem::new(key, format!("{name:?} is no name of a service")));
            }
        }
        if services.iter().all(|(_, name)| name.is_none()) {
            problems.push(Problem::new(
                "registry",
                "name the service registry, or `uid` the UID registry, or both",
            ));
        }
        problems
    }
}

/// What the gateway needs of a cluster's index.
#[derive(Deserialize)]
struct Index {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
struct Node {
    name: String,
    role: String,
    messages: SocketAddr,
}

fn read_index(path: &Path) -> Result<Vec<Address>, Problem> {
    let bad = |text: String| Problem::new("cluster", format!("{}: {text}", path.display()));
    let text = group_file::read_text(path).map_err(|error| bad(error.to_string()))?;
    let index: Index = toml::from_str(&text).map_err(|error| bad(error.message().to_owned()))?;
    let orchestrators = index.nodes.into_iter().filter(|node| node.role == "orchestrator");
    Ok(orchestrators.map(|node| Address { name: node.name, address: node.messages }).collect())
}

#[cfg(test)]
mod tests;
