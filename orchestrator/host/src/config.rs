//! Configuration of a host agent: one TOML file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate_attest::epoch::GroupChain;
use quorate_attest::key::SecretKey;
use quorate_ordering::orderer::OrchestratorPeer;
use quorate_verifier::config::{LogFormat, Roots, read_group, read_orchestrators, shared_key};
use quorate_verifier::key_file;
use serde::{Deserialize, Serialize};

use super::link::VerifierPeer;

/// The file. Paths are relative to the folder the file is in.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of this host in the group.
    pub name: String,
    /// Key of this host: signs proposals and authenticates connections.
    pub key_file: PathBuf,
    /// The verifier group with the hosts and operators it knows.
    pub group_file: PathBuf,
    /// Folder of the links to its later epochs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group_links: Option<PathBuf>,
    /// The orchestrators' group, whose decisions this host obeys.
    pub orchestrators_file: PathBuf,
    /// Folder of the links to its later epochs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub orchestrators_links: Option<PathBuf>,
    /// Offline keys that vouch for the genesis of both groups. Without them the files are believed as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub roots: Option<Roots>,
    /// UDP address for messages; port 0 takes any.
    pub listen: SocketAddr,
    /// TCP address from which state is pulled; port 0 takes any.
    pub bulk_listen: SocketAddr,
    /// Directory of the journal, images and checkpoints.
    pub data_dir: PathBuf,
    /// Shortest time between two slots, milliseconds.
    #[serde(default = "default_slot_interval_ms")]
    pub slot_interval_ms: u64,
    /// A migration without progress for this long is given up, milliseconds.
    #[serde(default = "default_migration_timeout_ms")]
    pub migration_timeout_ms: u64,
    /// The newest certified slot is published in the log when it is newer and so much time has passed, milliseconds.
    #[serde(default = "default_head_interval_ms")]
    pub head_interval_ms: u64,
    /// Addresses of the verifiers, by name.
    pub verifiers: Vec<Address>,
    /// Addresses of the orchestrators, by name.
    pub orchestrators: Vec<Address>,
    /// Addresses of other hosts, by name.
    #[serde(default)]
    pub hosts: Vec<Address>,
    /// Form of the log.
    #[serde(default, skip_serializing)]
    pub log: LogFormat,
}

/// Where a named node listens.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Address {
    /// Name in the group.
    pub name: String,
    /// UDP address.
    pub address: SocketAddr,
}

/// Everything the file names, read and checked.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The file's values.
    pub config: Config,
    /// The group in all its epochs.
    pub group: Arc<GroupChain>,
    /// The orchestrators' group in all its epochs.
    pub orchestrators: Arc<GroupChain>,
    /// This host's key.
    pub key: SecretKey,
    /// The verifiers with addresses.
    pub verifiers: Vec<VerifierPeer>,
    /// The orchestrators with addresses.
    pub orchestrator_peers: Vec<OrchestratorPeer>,
}

/// One thing wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {text}")]
pub struct Problem {
    /// The key of the file.
    pub key: &'static str,
    /// What to do about it.
    pub text: String,
}

fn default_slot_interval_ms() -> u64 {
    20
}

fn default_migration_timeout_ms() -> u64 {
    5000
}

fn default_head_interval_ms() -> u64 {
    5000
}

impl Config {
    /// Reads the file.
    ///
    /// # Errors
    /// The file cannot be read, or has unknown or malformed keys.
    pub fn read(path: &Path) -> Result<Self, Problem> {
        let fail = |text: String| Problem { key: "config", text };
        let text = std::fs::read_to_string(path).map_err(|e| fail(format!("{}: {e}", path.display())))?;
        let mut config: Self = toml::from_str(&text).map_err(|e| fail(format!("{}: {e}", path.display())))?;
        let base = path.parent().unwrap_or(Path::new(""));
        let files = [
            &mut config.key_file,
            &mut config.group_file,
            &mut config.orchestrators_file,
            &mut config.data_dir,
        ];
        let links = config.group_links.iter_mut().chain(&mut config.orchestrators_links);
        for file in files.into_iter().chain(links) {
            *file = base.join(&*file);
        }
        Ok(config)
    }

    /// Opens everything a start would open, except for the data directory.
    ///
    /// # Errors
    /// All problems found.
    pub fn load(self) -> Result<Loaded, Vec<Problem>> {
        let mut problems = Vec::new();
        let (links, roots) = (self.group_links.as_deref(), self.roots.as_ref());
        let group = read_group(&self.group_file, links, roots)
            .map_err(|e| problems.push(Problem { key: "group_file", text: e.to_string() }))
            .ok();
        let links = self.orchestrators_links.as_deref();
        let orchestrators = read_orchestrators(&self.orchestrators_file, links, roots)
            .map_err(|e| problems.push(Problem { key: "orchestrators_file", text: e.text }))
            .ok();
        let key = key_file::read(&self.key_file)
            .map_err(|e| problems.push(Problem { key: "key_file", text: e.to_string() }))
            .ok();
        let (Some(group), Some(orchestrators), Some(key)) = (group, orchestrators, key) else {
            return Err(problems);
        };
        if let Some(shared) = shared_key(&group, &orchestrators) {
            let text = format!("{shared} is a key of {} and of {}", group.name, orchestrators.name);
            problems.push(Problem { key: "orchestrators_file", text });
        }
        if !group.hosts.iter().any(|host| host.name == self.name && host.key == key.public()) {
            let text = format!("group {} lists no host {} with key {}", group.name, self.name, key.public());
            problems.push(Problem { key: "name", text });
        }
        let mut verifiers = Vec::new();
        for (index, member) in (0u16..).zip(&group.members) {
            match self.verifiers.iter().find(|address| address.name == member.name) {
                Some(Address { address, .. }) => {
                    verifiers.push(VerifierPeer { index, member: member.clone(), address: *address });
                }
                None => problems.push(Problem {
                    key: "verifiers",
                    text: format!("no address for member {} of group {}", member.name, group.name),
                }),
            }
        }
        let address_of = |name: &str| {
            self.orchestrators.iter().find(|address| address.name == name).map(|address| address.address)
        };
        let orchestrator_peers = OrchestratorPeer::of_group(&orchestrators, address_of);
        if let Err(name) = &orchestrator_peers {
            let text = format!("no address for member {name} of group {}", orchestrators.name);
            problems.push(Problem { key: "orchestrators", text });
        }
        if self.slot_interval_ms == 0 || self.slot_interval_ms > 60_000 {
            problems.push(Problem { key: "slot_interval_ms", text: "must be 1 to 60000".into() });
        }
        match orchestrator_peers {
            Ok(orchestrator_peers) if problems.is_empty() => Ok(Loaded {
                config: self,
                group: Arc::new(group),
                orchestrators: Arc::new(orchestrators),
                key,
                verifiers,
                orchestrator_peers,
            }),
            _ => Err(problems),
        }
    }
}
