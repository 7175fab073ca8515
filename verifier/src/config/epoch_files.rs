//! Signatures on a group's configurations as files that people carry between machines.
//!
//! ```text
//! roots.toml                 threshold = 2 and keys = ["<64 hexadecimal digits>", ...]; the reader trusts it
//! group.signatures           beside group.toml: lines of root keys for the genesis, of members for a later epoch
//! ```
//!
//! A line is `root KEY SIGNATURE` or `member KEY SIGNATURE` with 64 and 128 hexadecimal digits. Anything else in the file
//! is refused. What is signed is [`genesis_statement`](quorate_attest::epoch::genesis_statement) or
//! [`EpochLink::statement`].

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use quorate_attest::epoch::{EpochLink, EpochLinkTally, RootSet, SignedGenesis};
use quorate_attest::group::GroupConfig;
use quorate_attest::key::{PublicKey, Signature};
use serde::{Deserialize, Serialize};

use super::Problem;
use super::group_file::read_text;
use super::hint::unknown_keys;

/// Most lines of a signature file: 64 root keys, or the members of two epochs.
const LINES_MAX: usize = 128;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct RootsFile {
    threshold: u16,
    keys: Vec<PublicKey>,
}

/// The lines of a signature file, in their order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Signatures {
    /// Of root keys.
    pub roots: Vec<(PublicKey, Signature)>,
    /// Of members, by vote key.
    pub members: Vec<(PublicKey, Signature)>,
}

impl Signatures {
    /// Parses the text of a signature file.
    ///
    /// # Errors
    /// The first line that is none.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let mut parsed = Self::default();
        if text.is_empty() {
            return Ok(parsed);
        }
        let Some(lines) = text.strip_suffix('\n') else { return Err(bad("the last line does not end")) };
        // Not `lines()`, which takes another end of line for the same.
        for (number, line) in lines.split('\n').enumerate() {
            let at = |what: &str| bad(format!("line {}: {what}", number + 1));
            if number >= LINES_MAX {
                return Err(at(&format!("more than {LINES_MAX} lines")));
            }
            let parts: Vec<&str> = line.split(' ').collect();
            let [role, key, signature] = parts[..] else {
                return Err(at("needs a role, a key and a signature"));
            };
            let key: PublicKey = key.parse().map_err(|error| at(&format!("{error}")))?;
            let signature: Signature = signature.parse().map_err(|error| at(&format!("{error}")))?;
            let list = match role {
                "root" => &mut parsed.roots,
                "member" => &mut parsed.members,
                _ => return Err(at("role is neither root nor member")),
            };
            if list.iter().any(|(known, _)| *known == key) {
                return Err(at("key occurs twice"));
            }
            list.push((key, signature));
        }
        Ok(parsed)
    }

    /// The text of a signature file.
    #[must_use]
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let roots = self.roots.iter().map(|line| ("root", line));
        for (role, (key, signature)) in roots.chain(self.members.iter().map(|line| ("member", line))) {
            // Writing into a string does not fail.
            let _ = writeln!(text, "{role} {key} {signature}");
        }
        text
    }

    /// The genesis that these root keys signed. Whether they suffice is shown by verifying it.
    #[must_use]
    pub fn genesis(&self, config: GroupConfig) -> SignedGenesis {
        let mut signatures = self.roots.clone();
        signatures.sort_unstable_by_key(|(key, _)| *key);
        SignedGenesis { config, signatures }
    }

    /// The link from `previous` to `config` that these members signed.
    ///
    /// # Errors
    /// A signature that is wrong or of a stranger, or too few of either epoch.
    pub fn link(&self, previous: &GroupConfig, config: GroupConfig) -> Result<EpochLink, Problem> {
        let mut tally = EpochLinkTally::new(previous, config).map_err(|e| bad(e.to_string()))?;
        for (key, signature) in &self.members {
            tally.add(key, *signature).map_err(|e| bad(e.to_string()))?;
        }
        tally.link().map_err(|e| bad(e.to_string()))
    }
}

/// Reads a signature file.
///
/// # Errors
/// One problem that names the file.
pub fn read_signatures(path: &Path) -> Result<Signatures, Problem> {
    read_text(path)
        .map_err(|e| bad(e.to_string()))
        .and_then(|text| Signatures::parse(&text))
        .map_err(in_file(path))
}

/// Writes a signature file.
///
/// # Errors
/// The system's.
pub fn write_signatures(path: &Path, signatures: &Signatures) -> io::Result<()> {
    crate::sign_log::write_durably(path, signatures.to_text().as_bytes())
}

/// Reads the root keys.
///
/// # Errors
/// One problem that names the file.
pub fn read_roots(path: &Path) -> Result<RootSet, Problem> {
    read_text(path).map_err(|e| bad(e.to_string())).and_then(|text| parse_roots(&text)).map_err(in_file(path))
}

/// Writes the root keys.
///
/// # Errors
/// The system's.
pub fn write_roots(path: &Path, roots: &RootSet) -> io::Result<()> {
    let file = RootsFile { threshold: roots.threshold, keys: roots.keys.clone() };
    // A number and a list of strings: nothing here that TOML cannot express.
    crate::sign_log::write_durably(path, toml::to_string(&file).unwrap_or_default().as_bytes())
}

fn parse_roots(text: &str) -> Result<RootSet, Problem> {
    let refused = |error: toml::de::Error| bad(error.message().to_owned());
    let table: toml::Table = text.parse().map_err(refused)?;
    if let Some(problem) = unknown_keys(&table, &["threshold", "keys"]).into_iter().next() {
        return Err(problem);
    }
    let file: RootsFile = toml::from_str(text).map_err(refused)?;
    let roots = RootSet { threshold: file.threshold, keys: file.keys };
    roots.validate().map_err(|e| bad(e.to_string()))?;
    Ok(roots)
}

fn bad(text: impl Into<String>) -> Problem {
    Problem::new("group", text)
}

fn in_file(path: &Path) -> impl Fn(Problem) -> Problem + '_ {
    move |problem| bad(format!("{}: {}", path.display(), problem.text))
}

#[cfg(test)]
mod tests;
