//! Configuration: one TOML file, overridden by the environment, overridden by flags.
//!
//! Reading it collects every problem instead of stopping at the first, because an operator fixes a file once.

pub mod chain_files;
pub mod epoch_files;
pub mod group_file;
pub mod hint;
pub mod node_file;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use quorate_attest::epoch::GroupChain;
use quorate_attest::group::{GroupConfig, Member};
use quorate_attest::key::{PublicKey, SecretKey};
use quorate_attest::vm::Mode;
use serde::Deserialize;

use crate::protocol::CHALLENGE_PAGES_MAX;
pub use chain_files::{GroupFiles, Roots};
use node_file::{ForeignKey, foreign_keys};

/// Something wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Key it is about.
    pub key: String,
    /// For people.
    pub text: String,
    /// Exit code of a start that meets it.
    pub exit_code: u8,
}

impl Problem {
    /// A problem that ends a start with the exit code of configurations.
    pub fn new(key: &str, text: impl Into<String>) -> Self {
        Self { key: key.to_owned(), text: text.into(), exit_code: crate::exit::CONFIGURATION }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.key, self.text)
    }
}

/// Form of the log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Mode of attestation, as the file writes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ModeName {
    /// Executes each transition.
    Replayed,
    /// Checks the chain and pages chosen at random.
    Sampled,
}

impl ModeName {
    /// The mode that goes into attestations.
    #[must_use]
    pub fn mode(self) -> Mode {
        match self {
            Self::Replayed => Mode::Replayed,
            Self::Sampled => Mode::Sampled,
        }
    }
}

/// What flags and the environment may override.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `listen`.
    pub listen: Option<String>,
    /// `data_dir`.
    pub data_dir: Option<PathBuf>,
    /// `mode`.
    pub mode: Option<String>,
    /// `log`.
    pub log: Option<LogFormat>,
}

/// The file. Paths are relative to the folder the file is in.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of this member in the group.
    pub name: String,
    /// Key that signs attestations.
    pub key_file: PathBuf,
    /// Key that signs C2SP cosignatures.
    pub cosigner_key_file: PathBuf,
    /// Key of the connections.
    pub transport_key_file: PathBuf,
    /// Address to listen on; port 0 takes any.
    pub listen: String,
    /// Directory of sign-log, images and evidence.
    pub data_dir: PathBuf,
    /// How slots are attested.
    pub mode: ModeName,
    /// The group.
    pub group_file: PathBuf,
    /// Folder of the links to its later epochs.
    #[serde(default)]
    pub group_links: Option<PathBuf>,
    /// The orchestrators' group, whose grants this verifier believes.
    pub orchestrators_file: PathBuf,
    /// Folder of the links to its later epochs.
    #[serde(default)]
    pub orchestrators_links: Option<PathBuf>,
    /// Offline keys that vouch for the genesis of both groups. Without them the files are believed as they are.
    #[serde(default)]
    pub roots: Option<Roots>,
    /// Pages asked for about one slot in SAMPLED mode.
    #[serde(default = "default_sample_pages")]
    pub sample_pages: usize,
    /// Most VMs served.
    #[serde(default = "default_vms_max")]
    pub vms_max: usize,
    /// Largest memory of a VM, bytes.
    #[serde(default = "default_memory_bytes_max")]
    pub memory_bytes_max: u64,
    /// Largest memory of all VMs together in REPLAYED mode, bytes.
    #[serde(default = "default_memory_total_bytes_max")]
    pub memory_total_bytes_max: u64,
    /// Form of the log.
    #[serde(default)]
    pub log: LogFormat,
}

const KEYS: [&str; 17] = [
    "name",
    "key_file",
    "cosigner_key_file",
    "transport_key_file",
    "listen",
    "data_dir",
    "mode",
    "group_file",
    "group_links",
    "orchestrators_file",
    "orchestrators_links",
    "roots",
    "sample_pages",
    "vms_max",
    "memory_bytes_max",
    "memory_total_bytes_max",
    "log",
];

fn default_sample_pages() -> usize {
    16
}

fn default_vms_max() -> usize {
    64
}

fn default_memory_bytes_max() -> u64 {
    16 << 30
}

fn default_memory_total_bytes_max() -> u64 {
    64 << 30
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
            [("listen", overrides.listen.clone()), ("mode", overrides.mode.clone()), ("data_dir", data_dir)];
        let mut config: Self = node_file::parse(text, &KEYS, given)?;
        config.log = overrides.log.unwrap_or(config.log);
        let relative = [
            &mut config.key_file,
            &mut config.cosigner_key_file,
            &mut config.transport_key_file,
            &mut config.group_file,
            &mut config.orchestrators_file,
        ];
        let links = config.group_links.iter_mut().chain(&mut config.orchestrators_links);
        for path in relative.into_iter().chain(links) {
            *path = base.join(&*path);
        }
        // A directory given on the command line is relative to where the command runs.
        if overrides.data_dir.is_none() {
            config.data_dir = base.join(&config.data_dir);
        }
        Ok(config)
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
        let listen = node_file::listen_address(&self.listen).map_err(|problem| problems.push(problem)).ok();
        let (links, roots) = (self.group_links.as_deref(), self.roots.as_ref());
        let group = read_group(&self.group_file, links, roots).map_err(|problem| problems.push(problem)).ok();
        let links = self.orchestrators_links.as_deref();
        let orchestrators = read_orchestrators(&self.orchestrators_file, links, roots)
            .map_err(|problem| problems.push(problem))
            .ok();
        let (Some(keys), Some(listen), Some(group), Some(orchestrators)) =
            (keys, listen, group, orchestrators)
        else {
            return Err(problems);
        };
        if let Some(shared) = shared_key(&group, &orchestrators) {
            let text = format!("{} is a key of {} and of {}", shared, group.name, orchestrators.name);
            problems.push(Problem::new("orchestrators_file", text));
        }
        let index = match member(&group, &self.name, &keys) {
            Ok(index) => index,
            Err(mut wrong) => {
                problems.append(&mut wrong);
                return Err(problems);
            }
        };
        let [vote_key, cosigner_key, transport_key] = keys;
        if problems.is_empty() {
            Ok(Loaded {
                config: self,
                listen,
                group,
                orchestrators,
                index,
                vote_key,
                cosigner_key,
                transport_key,
            })
        } else {
            Err(problems)
        }
    }

    fn limits(&self) -> Vec<Problem> {
        let mut problems = Vec::new();
        if !(1..=CHALLENGE_PAGES_MAX).contains(&self.sample_pages) {
            problems.push(Problem::new(
                "sample_pages",
                format!("{} is not 1 to {CHALLENGE_PAGES_MAX}", self.sample_pages),
            ));
        }
        if !(1..=4096).contains(&self.vms_max) {
            problems.push(Problem::new("vms_max", format!("{} is not 1 to 4096", self.vms_max)));
        }
        problems
    }
}

/// A configuration with everything it names.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The file's values.
    pub config: Config,
    /// Where to listen.
    pub listen: SocketAddr,
    /// The group in all its epochs.
    pub group: GroupChain,
    /// The orchestrators' group in all its epochs.
    pub orchestrators: GroupChain,
    /// Index of this verifier in the group's current epoch.
    pub index: u16,
    /// Signs attestations.
    pub vote_key: SecretKey,
    /// Signs cosignatures.
    pub cosigner_key: SecretKey,
    /// Key of the connections.
    pub transport_key: SecretKey,
}

/// Reads the verifiers' group; a problem names the configuration key that leads there.
///
/// # Errors
/// As [`GroupFiles::read`].
pub fn read_group(file: &Path, links: Option<&Path>, roots: Option<&Roots>) -> Result<GroupChain, Problem> {
    GroupFiles { key: "group_file", links_key: "group_links", file, links, roots }.read()
}

/// Reads the orchestrators' group; a problem names the configuration key that leads there.
///
/// # Errors
/// As [`GroupFiles::read`].
pub fn read_orchestrators(
    file: &Path,
    links: Option<&Path>,
    roots: Option<&Roots>,
) -> Result<GroupChain, Problem> {
    GroupFiles { key: "orchestrators_file", links_key: "orchestrators_links", file, links, roots }.read()
}

/// A key that members of both groups hold. With the same group in both places verifiers could grant what they vote for.
#[must_use]
pub fn shared_key(group: &GroupConfig, orchestrators: &GroupConfig) -> Option<PublicKey> {
    let keys = |member: &Member| [member.vote_key, member.cosigner_key, member.transport_key];
    let verifiers: Vec<_> = group.members.iter().flat_map(keys).collect();
    orchestrators.members.iter().flat_map(keys).find(|key| verifiers.contains(key))
}

/// The index of the member that has this name; all three keys must be the ones the group lists for it.
fn member(group: &GroupConfig, name: &str, keys: &[SecretKey; 3]) -> Result<u16, Vec<Problem>> {
    let Some(index) = group.members.iter().position(|member| member.name == name) else {
        return Err(vec![Problem::new("name", format!("group {} has no member {name}", group.name))]);
    };
    let problems: Vec<_> = foreign_keys(&group.members[index], keys.each_ref())
        .map(|ForeignKey { entry, held, listed }| {
            Problem::new(entry, format!("public key is {held}, the group lists {listed} for {name}"))
        })
        .collect();
    if problems.is_empty() { Ok(index as u16) } else { Err(problems) }
}
