//! Configuration: one TOML file, overridden by the environment, overridden by flags.
//!
//! Reading it collects every problem instead of stopping at the first, because an operator fixes a file once.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use quorate_attest::encoding::is_name;
use quorate_attest::group::{GroupConfig, Member};
use quorate_attest::id::{Epoch, GroupId, ServiceId};
use quorate_attest::key::SecretKey;
pub use quorate_verifier::config::{LogFormat, Problem};
use quorate_verifier::config::{group_file, node_file};
use quorate_verifier::key_file;
use serde::Deserialize;

use crate::rules::{Allowed, Rules};
use crate::signer::Keys;
use crate::state::INSTANCES_MAX;

/// What flags and the environment may override.
#[derive(Clone, Debug, Default)]
pub struct Overrides {
    /// `data_dir`.
    pub data_dir: Option<PathBuf>,
    /// `socket`.
    pub socket: Option<PathBuf>,
    /// `log`.
    pub log: Option<LogFormat>,
}

/// A group that is named instead of read from its file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NamedGroup {
    /// Its identity.
    pub id: GroupId,
    /// Its name.
    pub name: String,
    /// Its epoch.
    pub epoch: Epoch,
}

/// Kinds of statements that can be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KindName {
    /// Receipts of services.
    ServiceReceipt,
}

/// `"any"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Any {
    /// All there are.
    Any,
}

/// `"any"`, or a list.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged, expecting = "expected \"any\" or a list")]
pub enum AnyOr<T> {
    /// All there are.
    Any(Any),
    /// These.
    Only(Vec<T>),
}

impl<T: Ord + Clone> AnyOr<T> {
    fn allowed(&self) -> Allowed<T> {
        match self {
            Self::Any(Any::Any) => Allowed::Any,
            Self::Only(listed) => Allowed::Only(listed.iter().cloned().collect()),
        }
    }

    fn listed(&self) -> &[T] {
        match self {
            Self::Any(Any::Any) => &[],
            Self::Only(listed) => listed,
        }
    }
}

/// Statements that are signed.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Allow {
    /// Their kind.
    pub kind: KindName,
    /// Services they are about.
    pub services: AnyOr<ServiceId>,
}

/// The file. Paths are relative to the folder the file is in.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Name of this member in the group.
    pub name: String,
    /// Key that signs receipts.
    pub key_file: PathBuf,
    /// Key that signs C2SP cosignatures.
    pub cosigner_key_file: PathBuf,
    /// Configuration of the group in its epoch. Either this or `group`.
    #[serde(default)]
    pub group_file: Option<PathBuf>,
    /// The group without its configuration: then nothing checks that the keys are the member's.
    #[serde(default)]
    pub group: Option<NamedGroup>,
    /// Directory of the sign-log.
    pub data_dir: PathBuf,
    /// Unix socket, in a folder of mode 0700.
    pub socket: PathBuf,
    /// Statements that are signed.
    #[serde(default = "all_receipts")]
    pub allow: Vec<Allow>,
    /// Names of the services whose logs are cosigned.
    #[serde(default = "any")]
    pub cosign: AnyOr<String>,
    /// Form of the log.
    #[serde(default)]
    pub log: LogFormat,
}

const KEYS: [&str; 10] = [
    "name",
    "key_file",
    "cosigner_key_file",
    "group_file",
    "group",
    "data_dir",
    "socket",
    "allow",
    "cosign",
    "log",
];

fn all_receipts() -> Vec<Allow> {
    vec![Allow { kind: KindName::ServiceReceipt, services: any() }]
}

fn any<T>() -> AnyOr<T> {
    AnyOr::Any(Any::Any)
}

/// A configuration with everything it names.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The file's values.
    pub config: Config,
    /// What may be signed.
    pub rules: Rules,
    /// What signs.
    pub keys: Keys,
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
        let mut config: Self = node_file::parse(text, &KEYS, [])?;
        config.log = overrides.log.unwrap_or(config.log);
        let files = [&mut config.key_file, &mut config.cosigner_key_file];
        for path in files.into_iter().chain(&mut config.group_file) {
            *path = base.join(&*path);
        }
        // What is given on the command line is relative to where the command runs.
        config.data_dir = overrides.data_dir.clone().unwrap_or_else(|| base.join(&config.data_dir));
        config.socket = overrides.socket.clone().unwrap_or_else(|| base.join(&config.socket));
        Ok(config)
    }

    /// Opens what a start would open, except for the data directory and the socket.
    ///
    /// # Errors
    /// Every problem found.
    pub fn open(self) -> Result<Loaded, Vec<Problem>> {
        let mut problems = self.shape();
        let mut take = |result: Result<_, Problem>| result.map_err(|problem| problems.push(problem)).ok();
        let vote = take(read_key("key_file", &self.key_file));
        let cosigner = take(read_key("cosigner_key_file", &self.cosigner_key_file));
        let group = self.group().map_err(|problem| problems.push(problem)).ok();
        let (Some(vote), Some(cosigner), Some((group, member))) = (vote, cosigner, group) else {
            return Err(problems);
        };
        if vote.public() == cosigner.public() {
            problems.push(Problem::new(
                "cosigner_key_file",
                "is the key of key_file; each signs what the other must not",
            ));
        }
        if let Some(member) = member {
            problems.extend(foreign_keys(&member, &vote, &cosigner));
        }
        if !problems.is_empty() {
            return Err(problems);
        }
        let rules = Rules {
            group: group.id,
            group_name: group.name.clone(),
            epoch: group.epoch,
            receipts: self.receipts(),
            logs: self.cosign.allowed(),
        };
        let cosigner_name = format!("{}/{}", group.name, self.name);
        Ok(Loaded { config: self, rules, keys: Keys { vote, cosigner, cosigner_name } })
    }

    /// Names and lists.
    fn shape(&self) -> Vec<Problem> {
        let names = [("name", &self.name)].into_iter();
        let names = names.chain(self.cosign.listed().iter().map(|name| ("cosign", name)));
        let bad = names.filter(|(_, name)| !is_name(name, 64));
        let mut problems: Vec<_> = bad
            .map(|(key, name)| Problem::new(key, format!("{name:?} is not 1 to 64 of a-z 0-9 -")))
            .collect();
        let listed = self.allow.iter().map(|allow| allow.services.listed().len()).sum::<usize>();
        if listed > INSTANCES_MAX {
            problems.push(Problem::new(
                "allow",
                format!("{listed} services, at most {INSTANCES_MAX} can be served"),
            ));
        }
        problems
    }

    fn receipts(&self) -> Allowed<ServiceId> {
        let mut listed = BTreeSet::new();
        for allow in &self.allow {
            match allow.services.allowed() {
                Allowed::Any => return Allowed::Any,
                Allowed::Only(some) => listed.extend(some),
            }
        }
        Allowed::Only(listed)
    }

    /// The group, and this member of it when its configuration is known.
    fn group(&self) -> Result<(NamedGroup, Option<Member>), Problem> {
        match (&self.group_file, &self.group) {
            (Some(path), None) => {
                let group = group_file::read(path)?;
                let member = group.members.iter().find(|member| member.name == self.name).cloned();
                let unknown =
                    || Problem::new("name", format!("group {} has no member {:?}", group.name, self.name));
                let member = member.ok_or_else(unknown)?;
                let GroupConfig { epoch, .. } = group;
                Ok((NamedGroup { id: group.id(), name: group.name, epoch }, Some(member)))
            }
            (None, Some(group)) if !is_name(&group.name, 64) => {
                Err(Problem::new("group", format!("name {:?} is not 1 to 64 of a-z 0-9 -", group.name)))
            }
            (None, Some(group)) => Ok((group.clone(), None)),
            (Some(_), Some(_)) => Err(Problem::new("group", "give either group_file or group, not both")),
            (None, None) => {
                Err(Problem::new("group_file", "give group_file, or group = { id, name, epoch }"))
            }
        }
    }
}

fn read_key(key: &str, path: &Path) -> Result<SecretKey, Problem> {
    key_file::read(path).map_err(|e| Problem {
        key: key.to_owned(),
        text: e.to_string(),
        exit_code: e.exit_code(),
    })
}

/// The keys must be those that are listed for the member.
fn foreign_keys(member: &Member, vote: &SecretKey, cosigner: &SecretKey) -> Vec<Problem> {
    let pairs = [
        ("key_file", member.vote_key, vote.public()),
        ("cosigner_key_file", member.cosigner_key, cosigner.public()),
    ];
    let wrong = pairs.into_iter().filter(|(_, want, have)| want != have);
    wrong
        .map(|(key, want, have)| {
            Problem::new(key, format!("public key is {have}, the group lists {want} for {}", member.name))
        })
        .collect()
}

#[cfg(test)]
mod tests;
