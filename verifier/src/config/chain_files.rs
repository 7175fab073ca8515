//! A group in all its epochs, as a node's configuration names it.
//!
//! ```text
//! group_file = "group.toml"      the configuration that the operator trusts: the genesis, or a later checkpoint
//! group_links = "links"          NAME-epoch-1.link, NAME-epoch-2.link, ...: encoded epoch links, without gaps
//! [roots]                        threshold and keys: then group.signatures, beside group.toml, must hold their signatures
//! ```
//!
//! NAME is the name of the group, so that both groups of a cluster share the folder. A node adopts an epoch by a start with
//! its link.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use quorate_attest::encoding::{Bounded, to_bytes};
use quorate_attest::epoch::{EpochLink, GroupChain, LINKS_LIMIT, RootSet};
use quorate_attest::id::Epoch;
use quorate_attest::key::PublicKey;
use serde::{Deserialize, Serialize};

use super::Problem;
use super::epoch_files::read_signatures;
use super::group_file;

/// Offline keys that vouch for a genesis: the `[roots]` table of a node's configuration.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Roots {
    /// Signatures needed.
    pub threshold: u16,
    /// The keys.
    pub keys: Vec<PublicKey>,
}

/// Where the epochs of a group are. `key` and `links_key` are the names of these entries in the node's configuration.
#[derive(Clone, Copy, Debug)]
pub struct GroupFiles<'a> {
    /// Entry that names `file`.
    pub key: &'static str,
    /// Entry that names `links`.
    pub links_key: &'static str,
    /// The configuration that the chain begins with.
    pub file: &'a Path,
    /// Folder of the links.
    pub links: Option<&'a Path>,
    /// Whose signatures the genesis needs.
    pub roots: Option<&'a Roots>,
}

impl GroupFiles<'_> {
    /// Reads the configuration and follows the links.
    ///
    /// # Errors
    /// One problem that names the entry, the file and what is wrong with it.
    pub fn read(&self) -> Result<GroupChain, Problem> {
        let mut chain = self.begin()?;
        if let Some(folder) = self.links {
            follow(&mut chain, folder).map_err(|text| Problem::new(self.links_key, text))?;
        }
        Ok(chain)
    }

    fn begin(&self) -> Result<GroupChain, Problem> {
        let problem = |text: String| Problem::new(self.key, format!("{}: {text}", self.file.display()));
        let config = group_file::read(self.file).map_err(|found| Problem::new(self.key, found.text))?;
        let Some(Roots { threshold, keys }) = self.roots else {
            return GroupChain::from_checkpoint(config).map_err(|error| problem(error.to_string()));
        };
        let signatures = read_signatures(&self.file.with_extension("signatures"))
            .map_err(|found| Problem::new(self.key, found.text))?;
        let roots = RootSet { threshold: *threshold, keys: keys.clone() };
        GroupChain::from_signed(signatures.genesis(config), &roots)
            .map_err(|error| problem(format!("{}: {error}", error.kind())))
    }
}

/// File of the link that leads a group to `epoch`.
#[must_use]
pub fn link_path(folder: &Path, group: &str, epoch: Epoch) -> PathBuf {
    folder.join(format!("{group}-epoch-{epoch}.link"))
}

/// Writes the links of a chain that are not in the folder yet.
///
/// # Errors
/// The system's.
pub fn write_links(folder: &Path, chain: &GroupChain) -> io::Result<()> {
    for link in chain.links() {
        let path = link_path(folder, &link.config.name, link.config.epoch);
        if !path.exists() {
            crate::sign_log::write_durably(&path, &to_bytes(link))?;
        }
    }
    Ok(())
}

/// Goes as far as there are links.
fn follow(chain: &mut GroupChain, folder: &Path) -> Result<(), String> {
    let found = epochs_in(folder, &chain.name).map_err(|text| format!("{}: {text}", folder.display()))?;
    for epoch in found.into_iter().filter(|epoch| *epoch > chain.genesis().epoch.get()).collect::<Vec<_>>() {
        let path = link_path(folder, &chain.name, Epoch(epoch));
        let problem = |text: String| format!("{}: {text}", path.display());
        let link = read_link(&path).map_err(problem)?;
        if link.config.epoch != Epoch(epoch) {
            return Err(problem(format!("it leads to epoch {}", link.config.epoch)));
        }
        chain.advance(link).map_err(|error| problem(format!("{}: {error}", error.kind())))?;
    }
    Ok(())
}

/// Epochs that the folder has links to, ascending.
fn epochs_in(folder: &Path, group: &str) -> Result<Vec<u64>, String> {
    let prefix = format!("{group}-epoch-");
    let mut epochs = Vec::new();
    for entry in fs::read_dir(folder).map_err(|error| error.to_string())? {
        let name = entry.map_err(|error| error.to_string())?.file_name();
        let name = name.to_string_lossy();
        let number = name.strip_prefix(&prefix).and_then(|rest| rest.strip_suffix(".link"));
        let Some(number) = number else { continue };
        let epoch = number.parse::<u64>().ok().filter(|epoch| epoch.to_string() == number);
        epochs.push(epoch.ok_or_else(|| format!("{name} names no epoch"))?);
        if epochs.len() > LINKS_LIMIT {
            return Err(format!("more than {LINKS_LIMIT} links of {group}"));
        }
    }
    epochs.sort_unstable();
    Ok(epochs)
}

fn read_link(path: &Path) -> Result<EpochLink, String> {
    let length = fs::metadata(path).map_err(|error| error.to_string())?.len();
    if length > EpochLink::LIMIT as u64 {
        return Err(format!("{length} bytes are no link"));
    }
    let bytes = fs::read(path).map_err(|error| error.to_string())?;
    EpochLink::decoded(&bytes).map_err(|error| format!("{}: {error}", error.kind()))
}

#[cfg(test)]
mod tests;
