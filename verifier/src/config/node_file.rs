//! What the configuration files of verifiers and orchestrators have in common: a table of known keys whose values flags may
//! replace, and three key files that must be those of a member of the group.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use quorate_attest::group::Member;
use quorate_attest::key::{PublicKey, SecretKey};
use serde::de::DeserializeOwned;

use super::hint::unknown_keys;
use super::{Problem, group_file};
use crate::key_file;

/// Entries that name the files of a member's vote key, cosigner key and transport key.
const KEY_FILES: [&str; 3] = ["key_file", "cosigner_key_file", "transport_key_file"];

/// The text of a configuration file, and the folder that its paths are relative to.
///
/// # Errors
/// The file cannot be read.
pub fn read(path: &Path) -> Result<(String, PathBuf), Vec<Problem>> {
    let text = group_file::read_text(path)
        .map_err(|e| vec![Problem::new("config", format!("{}: {e}", path.display()))])?;
    Ok((text, path.parent().unwrap_or(Path::new("")).to_owned()))
}

/// Parses a configuration whose keys are `known`; what flags and the environment gave stands instead of the file's values.
///
/// # Errors
/// A problem for each unknown key, or the first malformed value.
pub fn parse<C: DeserializeOwned, const N: usize>(
    text: &str,
    known: &[&str],
    given: [(&str, Option<String>); N],
) -> Result<C, Vec<Problem>> {
    let bad = |e: toml::de::Error| vec![Problem::new("config", e.message().to_owned())];
    let mut table: toml::Table = text.parse().map_err(bad)?;
    let problems = unknown_keys(&table, known);
    if !problems.is_empty() {
        return Err(problems);
    }
    for (key, value) in given {
        if let Some(value) = value {
            table.insert(key.to_owned(), toml::Value::String(value));
        }
    }
    table.try_into().map_err(bad)
}

/// Reads vote key, cosigner key and transport key from these files.
///
/// # Errors
/// A problem for each file.
pub fn read_keys(files: [&Path; 3]) -> Result<[SecretKey; 3], Vec<Problem>> {
    match [0, 1, 2].map(|at| read_key(KEY_FILES[at], files[at])) {
        [Ok(vote), Ok(cosigner), Ok(transport)] => Ok([vote, cosigner, transport]),
        results => Err(results.into_iter().filter_map(Result::err).collect()),
    }
}

fn read_key(entry: &str, path: &Path) -> Result<SecretKey, Problem> {
    key_file::read(path).map_err(|e| Problem {
        key: entry.to_owned(),
        text: e.to_string(),
        exit_code: e.exit_code(),
    })
}

/// The address that the entry `listen` gives.
///
/// # Errors
/// It is no address.
pub fn listen_address(text: &str) -> Result<SocketAddr, Problem> {
    text.parse().map_err(|e| Problem::new("listen", format!("{text:?}: {e}")))
}

/// A key that is not the one its member has in the group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForeignKey {
    /// Entry that names its file.
    pub entry: &'static str,
    /// The key in the file.
    pub held: PublicKey,
    /// The key that the group lists.
    pub listed: PublicKey,
}

/// Which of vote key, cosigner key and transport key are not those that the group lists for `member`.
pub fn foreign_keys(member: &Member, keys: [&SecretKey; 3]) -> impl Iterator<Item = ForeignKey> {
    let listed = [member.vote_key, member.cosigner_key, member.transport_key];
    let pairs = KEY_FILES.into_iter().zip(keys.map(SecretKey::public)).zip(listed);
    pairs
        .map(|((entry, held), listed)| ForeignKey { entry, held, listed })
        .filter(|key| key.held != key.listed)
}
