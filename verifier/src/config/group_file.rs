//! The group configuration as a TOML file that people can read and compare.
//!
//! ```toml
//! name = "demo"
//! epoch = 0
//! genesis = "..."       # the group's id; from epoch 1 on
//! f = 1
//! quorum = 3            # optional; refused when it is not the derived one
//! operators = ["<64 hexadecimal digits>"]
//!
//! [[members]]
//! name = "verifier-0"
//! vote_key = "..."
//! cosigner_key = "..."
//! transport_key = "..."
//!
//! [[hosts]]
//! name = "host-a"
//! key = "..."
//! ```

use std::fs;
use std::io;
use std::path::Path;

use quorate_attest::group::{GroupConfig, HASH_SHA256, Host, Member};
use quorate_attest::id::{Epoch, GroupId};
use quorate_attest::key::PublicKey;
use serde::{Deserialize, Serialize};

use super::Problem;
use super::hint::unknown_keys;

/// Largest group file that is read.
const FILE_BYTES_MAX: u64 = 1 << 20;
const KEYS: [&str; 8] = ["name", "epoch", "genesis", "f", "quorum", "operators", "members", "hosts"];

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct GroupFile {
    name: String,
    epoch: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    genesis: Option<GroupId>,
    f: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    quorum: Option<u64>,
    #[serde(default)]
    operators: Vec<PublicKey>,
    members: Vec<MemberEntry>,
    #[serde(default)]
    hosts: Vec<HostEntry>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct MemberEntry {
    name: String,
    vote_key: PublicKey,
    cosigner_key: PublicKey,
    transport_key: PublicKey,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HostEntry {
    name: String,
    key: PublicKey,
}

/// Reads and validates a group file.
///
/// # Errors
/// One problem that names the file and what is wrong in it.
pub fn read(path: &Path) -> Result<GroupConfig, Problem> {
    let text = read_text(path).map_err(|e| Problem::new("group_file", format!("{}: {e}", path.display())))?;
    parse(&text)
        .map_err(|problem| Problem::new("group_file", format!("{}: {}", path.display(), problem.text)))
}

/// Writes a group file.
///
/// # Errors
/// The system's.
pub fn write(path: &Path, group: &GroupConfig) -> io::Result<()> {
    crate::sign_log::write_durably(path, to_text(group).as_bytes())
}

/// Reads a configuration file of at most a mebibyte.
///
/// # Errors
/// The system's; `FileTooLarge`.
pub fn read_text(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > FILE_BYTES_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    fs::read_to_string(path)
}

/// The text of a group file.
#[must_use]
pub fn to_text(group: &GroupConfig) -> String {
    let file = GroupFile {
        name: group.name.clone(),
        epoch: group.epoch.get(),
        genesis: group.genesis,
        f: group.f,
        quorum: group.rule().ok().map(|rule| rule.quorum()),
        operators: group.operators.clone(),
        members: group.members.iter().map(MemberEntry::from).collect(),
        hosts: group.hosts.iter().map(|host| HostEntry { name: host.name.clone(), key: host.key }).collect(),
    };
    // Strings, numbers and lists of them: nothing here that TOML cannot express.
    toml::to_string(&file).unwrap_or_default()
}

/// Parses and validates the text of a group file.
///
/// # Errors
/// The first problem found.
pub fn parse(text: &str) -> Result<GroupConfig, Problem> {
    let bad = |text: String| Problem::new("group", text);
    let table: toml::Table = text.parse().map_err(|e: toml::de::Error| bad(e.message().to_owned()))?;
    if let Some(problem) = unknown_keys(&table, &KEYS).into_iter().next() {
        return Err(problem);
    }
    let file: GroupFile = toml::from_str(text).map_err(|e| bad(e.message().to_owned()))?;
    let group = GroupConfig {
        name: file.name,
        hash_algorithm: HASH_SHA256,
        epoch: Epoch(file.epoch),
        genesis: file.genesis,
        f: file.f,
        members: file.members.into_iter().map(Member::from).collect(),
        operators: file.operators,
        hosts: file.hosts.into_iter().map(|host| Host { name: host.name, key: host.key }).collect(),
    };
    group.validate().map_err(|e| bad(e.to_string()))?;
    if let Some(stated) = file.quorum {
        group.check_stated_quorum(stated).map_err(|e| bad(e.to_string()))?;
    }
    Ok(group)
}

impl From<&Member> for MemberEntry {
    fn from(member: &Member) -> Self {
        Self {
            name: member.name.clone(),
            vote_key: member.vote_key,
            cosigner_key: member.cosigner_key,
            transport_key: member.transport_key,
        }
    }
}

impl From<MemberEntry> for Member {
    fn from(entry: MemberEntry) -> Self {
        Self {
            name: entry.name,
            vote_key: entry.vote_key,
            cosigner_key: entry.cosigner_key,
            transport_key: entry.transport_key,
        }
    }
}
