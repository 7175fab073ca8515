//! Offline root keys that vouch for the genesis of both groups.

use std::path::{Path, PathBuf};

use quorate_attest::VerifyError;
use quorate_attest::epoch::{GroupChain, LINKS_LIMIT, RootSet};
use quorate_attest::group::GroupConfig;
use quorate_verifier::config::epoch_files::{Signatures, read_roots, read_signatures};
use quorate_verifier::config::group_file;
use serde::{Deserialize, Serialize};

use super::Problem;

/// The `[roots]` table: files as `quorate cluster init` writes them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Roots {
    /// Threshold and keys, which are believed.
    pub file: PathBuf,
    /// Signatures under the genesis of the orchestrators' group.
    pub orchestrators_signatures: PathBuf,
    /// Signatures under the genesis of the verifiers' group.
    pub verifiers_signatures: PathBuf,
}

impl Roots {
    pub(super) fn files(&mut self) -> [&mut PathBuf; 3] {
        [&mut self.file, &mut self.orchestrators_signatures, &mut self.verifiers_signatures]
    }

    /// What is wrong with the signatures under these configurations.
    pub(super) fn check(&self, orchestrators: &GroupConfig, verifiers: &GroupConfig) -> Vec<Problem> {
        let roots = match read_roots(&self.file) {
            Ok(roots) => roots,
            Err(problem) => return vec![Problem::new("roots.file", problem.text)],
        };
        let checks = [
            ("roots.orchestrators_signatures", &self.orchestrators_signatures, orchestrators),
            ("roots.verifiers_signatures", &self.verifiers_signatures, verifiers),
        ];
        let verdicts = checks.into_iter().filter_map(|(key, path, group)| {
            check(&roots, path, group).err().map(|text| Problem::new(key, text))
        });
        verdicts.collect()
    }
}

/// Reads all epochs of a group from a folder: `group-0.toml` with `group-0.signatures` of root keys, `group-1.toml` with
/// `group-1.signatures` of members, and so on. Every signature on the way from the root keys is checked.
pub(super) fn read_chain(folder: &Path, roots: &Path) -> Result<GroupChain, String> {
    let roots = read_roots(roots).map_err(|problem| problem.text)?;
    let (genesis, signatures) = read_epoch(folder, 0)?;
    let refused = |e: VerifyError| format!("{}: {}: {e}", folder.display(), e.kind());
    let mut chain = GroupChain::from_signed(signatures.genesis(genesis), &roots).map_err(refused)?;
    for epoch in 1..=LINKS_LIMIT {
        if !folder.join(format!("group-{epoch}.toml")).exists() {
            break;
        }
        let (config, signatures) = read_epoch(folder, epoch)?;
        let link = signatures.link(chain.current(), config).map_err(|problem| problem.text)?;
        chain.advance(link).map_err(refused)?;
    }
    Ok(chain)
}

fn read_epoch(folder: &Path, epoch: usize) -> Result<(GroupConfig, Signatures), String> {
    let group = group_file::read(&folder.join(format!("group-{epoch}.toml")));
    let signatures = read_signatures(&folder.join(format!("group-{epoch}.signatures")));
    Ok((group.map_err(|problem| problem.text)?, signatures.map_err(|problem| problem.text)?))
}

fn check(roots: &RootSet, path: &Path, group: &GroupConfig) -> Result<(), String> {
    let signatures = read_signatures(path).map_err(|problem| problem.text)?;
    let genesis = signatures.genesis(group.clone());
    genesis.verify(roots).map_err(|e| format!("{}: {}: {e}", path.display(), e.kind()))
}
