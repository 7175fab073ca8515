//! Configuration: one TOML file, overridden by the environment, overridden by flags.
//!
//! Reading it collects every problem instead of stopping at the first, because an operator fixes a file once.

mod api_address;
mod roots;
mod services;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate_attest::epoch::GroupChain;
use quorate_attest::group::GroupConfig;
use quorate_attest::key::SecretKey;
use quorate_verifier::config::group_file;
use quorate_verifier::config::node_file::{self, ForeignKey, foreign_keys};
pub use quorate_verifier::config::{LogFormat, Problem};
use serde::{Deserialize, Serialize};

pub use api_address::ApiAddress;
pub use roots::Roots;
use roots::read_chain;
pub use services::{Services, ServicesSection};

/// What flags and the environment may override.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `listen`.
    pub listen: Option<String>,
    /// `data_dir`.
    pub data_dir: Option<PathBuf>,
    /// `api`.
    pub api: Option<String>,
    /// `log`.
    pub log: Option<LogFormat>,
}

/// Where a named node listens.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Address {
    /// Name in the group.
    pub name: String,
    /// UDP address.
    pub address: SocketAddr,
}

/// The file. Paths are relative to the folder the file is in.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of this member in the orchestrators' group.
    pub name: String,
    /// Key that signs receipts, decisions and the engine's votes.
    pub key_file: PathBuf,
    /// Key that signs C2SP cosignatures.
    pub cosigner_key_file: PathBuf,
    /// Key of the connections.
    pub transport_key_file: PathBuf,
    /// Genesis configuration of the orchestrators' group.
    pub orchestrators_file: PathBuf,
    /// Genesis configuration of the verifiers' group.
    pub verifiers_file: PathBuf,
    /// Offline keys that vouch for both genesis configurations. Without them the files are believed as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roots: Option<Roots>,
    /// Folder with all epochs of the orchestrators' group, for a node that joins later than in the genesis. Needs `roots`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub epochs_dir: Option<PathBuf>,
    /// Address to listen on; port 0 takes any.
    pub listen: String,
    /// Directory of the log, the state and the sign-state.
    pub data_dir: PathBuf,
    /// Address of the HTTP API: loopback, or `unix:` and a path. Without one there is no HTTP API.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<String>,
    /// Addresses of the orchestrators, by name; one's own is not needed.
    #[serde(default)]
    pub orchestrators: Vec<Address>,
    /// How long a request waits for its operation to be executed, milliseconds.
    #[serde(default = "default_order_timeout_ms")]
    pub order_timeout_ms: u64,
    /// Most operations that wait here for their execution.
    #[serde(default = "default_waiters_max")]
    pub waiters_max: usize,
    /// Most operations of one author that wait here for their execution.
    #[serde(default = "default_author_waiters_max")]
    pub author_waiters_max: usize,
    /// How long a node that left the group still answers questions, milliseconds.
    #[serde(default = "default_leave_grace_ms")]
    pub leave_grace_ms: u64,
    /// This node's replicas of ordered services. Without it there are none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub services: Option<ServicesSection>,
    /// Form of the log.
    #[serde(default, skip_serializing)]
    pub log: LogFormat,
}

const KEYS: [&str; 18] = [
    "name",
    "key_file",
    "cosigner_key_file",
    "transport_key_file",
    "orchestrators_file",
    "verifiers_file",
    "roots",
    "epochs_dir",
    "listen",
    "data_dir",
    "api",
    "orchestrators",
    "order_timeout_ms",
    "waiters_max",
    "author_waiters_max",
    "leave_grace_ms",
    "services",
    "log",
];

fn default_order_timeout_ms() -> u64 {
    20_000
}

fn default_waiters_max() -> usize {
    16_384
}

fn default_author_waiters_max() -> usize {
    4096
}

fn default_leave_grace_ms() -> u64 {
    30_000
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
        let data_dir = overrides.data_dir.as_ref().map(|path| path.to_string_lossy().into_owned());
        let given =
            [("listen", overrides.listen.clone()), ("api", overrides.api.clone()), ("data_dir", data_dir)];
        let mut config: Self = node_file::parse(text, &KEYS, given)?;
        config.log = overrides.log.unwrap_or(config.log);
        config.resolve(base, overrides);
        Ok(config)
    }

    fn resolve(&mut self, base: &Path, overrides: &Overrides) {
        let relative = [
            &mut self.key_file,
            &mut self.cosigner_key_file,
            &mut self.transport_key_file,
            &mut self.orchestrators_file,
            &mut self.verifiers_file,
        ];
        let roots = self.roots.iter_mut().flat_map(Roots::files);
        let services = self.services.iter_mut().flat_map(ServicesSection::files);
        for path in relative.into_iter().chain(roots).chain(services).chain(&mut self.epochs_dir) {
            *path = base.join(&*path);
        }
        // What is given on the command line is relative to where the command runs.
        if overrides.data_dir.is_none() {
            self.data_dir = base.join(&self.data_dir);
        }
        if overrides.api.is_none()
            && let Some(path) = self.api.as_ref().and_then(|api| api.strip_prefix("unix:"))
        {
            self.api = Some(format!("unix:{}", base.join(path).display()));
        }
    }

    /// Opens what a start would open, except for the data directory.
    ///
    /// # Errors
    /// Every problem found.
    pub fn open(self) -> Result<Loaded, Vec<Problem>> {
        let mut problems = self.limits();
        let keys = node_file::read_keys([&self.key_file, &self.cosigner_key_file, &self.transport_key_file])
            .map_err(|wrong| problems.extend(wrong))
            .ok();
        let mut take = |result: Result<_, Problem>| result.map_err(|problem| problems.push(problem)).ok();
        let orchestrators = take(read_group("orchestrators_file", &self.orchestrators_file));
        let verifiers = take(read_group("verifiers_file", &self.verifiers_file));
        let listen = node_file::listen_address(&self.listen).map_err(|problem| problems.push(problem)).ok();
        let api = self.api.as_ref().map(|text| text.parse::<ApiAddress>()).transpose();
        let api = api.map_err(|text| problems.push(Problem::new("api", text))).ok();
        let (Some(keys), Some(listen), Some(api), Some(orchestrators), Some(verifiers)) =
            (keys, listen, api, orchestrators, verifiers)
        else {
            return Err(problems);
        };
        if let Some(roots) = &self.roots {
            problems.extend(roots.check(&orchestrators, &verifiers));
        }
        let known = self.known(&orchestrators).map_err(|problem| problems.push(problem)).ok();
        if let Some(group) = known.as_ref().map(GroupChain::current) {
            problems.extend(wrong_keys(&self.name, group, &keys));
            problems.extend(self.unreachable(group));
        }
        let services = self.services.as_ref().map(|section| section.open(&self.name, &verifiers)).transpose();
        let services = services.map_err(|wrong| problems.extend(wrong)).ok().flatten();
        let Some(known) = known.filter(|_| problems.is_empty()) else { return Err(problems) };
        let [vote_key, cosigner_key, transport_key] = keys;
        Ok(Loaded {
            config: self,
            listen,
            api,
            orchestrators,
            verifiers,
            known,
            vote_key,
            cosigner_key,
            transport_key,
            services,
        })
    }

    /// The epochs of the orchestrators' group that the files tell.
    fn known(&self, genesis: &GroupConfig) -> Result<GroupChain, Problem> {
        let bad = |text: String| Problem::new("epochs_dir", text);
        let Some(folder) = &self.epochs_dir else {
            return GroupChain::new(genesis.clone())
                .map_err(|e| Problem::new("orchestrators_file", e.to_string()));
        };
        let roots = self.roots.as_ref().ok_or_else(|| bad("needs the root keys: give `roots`".to_owned()))?;
        let chain = read_chain(folder, &roots.file).map_err(bad)?;
        if chain.genesis() != genesis {
            return Err(bad("its epoch 0 is not the configuration in orchestrators_file".to_owned()));
        }
        Ok(chain)
    }

    /// Members that the file gives no address for.
    fn unreachable(&self, group: &GroupConfig) -> Vec<Problem> {
        let others = group.members.iter().filter(|member| member.name != self.name);
        others
            .filter(|member| self.address_of(&member.name).is_none())
            .map(|member| {
                Problem::new(
                    "orchestrators",
                    format!("no address for member {} of {}", member.name, group.name),
                )
            })
            .collect()
    }

    /// Address of an orchestrator, if the file gives one.
    #[must_use]
    pub fn address_of(&self, name: &str) -> Option<SocketAddr> {
        self.orchestrators.iter().find(|entry| entry.name == name).map(|entry| entry.address)
    }

    /// How long a request waits for its operation to be executed.
    #[must_use]
    pub fn order_timeout(&self) -> Duration {
        Duration::from_millis(self.order_timeout_ms)
    }

    fn limits(&self) -> Vec<Problem> {
        let bounds = [
            ("order_timeout_ms", self.order_timeout_ms, 10..=600_000),
            ("waiters_max", self.waiters_max as u64, 1..=1_048_576),
            ("author_waiters_max", self.author_waiters_max as u64, 1..=1_048_576),
            ("leave_grace_ms", self.leave_grace_ms, 0..=3_600_000),
        ];
        let wrong = bounds.into_iter().filter(|(_, value, range)| !range.contains(value));
        wrong
            .map(|(key, value, range)| {
                Problem::new(key, format!("{value} is not {} to {}", range.start(), range.end()))
            })
            .collect()
    }
}

/// A configuration with everything it names.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The file's values.
    pub config: Config,
    /// Where to listen.
    pub listen: SocketAddr,
    /// Where the HTTP API listens.
    pub api: Option<ApiAddress>,
    /// Genesis of the orchestrators' group.
    pub orchestrators: GroupConfig,
    /// Genesis of the verifiers' group.
    pub verifiers: GroupConfig,
    /// The epochs of the orchestrators' group that the files tell, the genesis at least.
    pub known: GroupChain,
    /// Signs receipts, decisions and the engine's votes.
    pub vote_key: SecretKey,
    /// Signs cosignatures.
    pub cosigner_key: SecretKey,
    /// Key of the connections.
    pub transport_key: SecretKey,
    /// What this node's replicas of services need.
    pub services: Option<Services>,
}

fn read_group(key: &str, path: &Path) -> Result<GroupConfig, Problem> {
    group_file::read(path).map_err(|problem| Problem { key: key.to_owned(), ..problem })
}

/// A member must hold the keys that are listed for its name. Others may join by a later epoch.
fn wrong_keys(name: &str, group: &GroupConfig, keys: &[SecretKey; 3]) -> Vec<Problem> {
    let Some(member) = group.members.iter().find(|member| member.name == name) else { return Vec::new() };
    foreign_keys(member, keys.each_ref())
        .map(|ForeignKey { entry, held, listed }| {
            let text = format!("public key is {held}, group {} lists {listed} for {name}", group.name);
            Problem::new(entry, text)
        })
        .collect()
}
