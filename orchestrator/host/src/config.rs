//! Configuration of a host agent: one TOML file.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate_attest::group::GroupConfig;
use quorate_attest::key::SecretKey;
use quorate_verifier::config::{LogFormat, group_file};
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
    /// Addresses of the verifiers, by name.
    pub verifiers: Vec<Address>,
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
    /// The group.
    pub group: Arc<GroupConfig>,
    /// This host's key.
    pub key: SecretKey,
    /// The verifiers with addresses.
    pub verifiers: Vec<VerifierPeer>,
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
        for file in [&mut config.key_file, &mut config.group_file, &mut config.data_dir] {
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
        let group = group_file::read(&self.group_file)
            .map_err(|e| problems.push(Problem { key: "group_file", text: e.to_string() }))
            .ok();
        let key = key_file::read(&self.key_file)
            .map_err(|e| problems.push(Problem { key: "key_file", text: e.to_string() }))
            .ok();
        let (Some(group), Some(key)) = (group, key) else { return Err(problems) };
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
        if self.slot_interval_ms == 0 || self.slot_interval_ms > 60_000 {
            problems.push(Problem { key: "slot_interval_ms", text: "must be 1 to 60000".into() });
        }
        if problems.is_empty() {
            Ok(Loaded { config: self, group: Arc::new(group), key, verifiers })
        } else {
            Err(problems)
        }
    }
}
