//! Offline root keys that vouch for the genesis of both groups.

use std::path::{Path, PathBuf};

use quorate_attest::epoch::RootSet;
use quorate_attest::group::GroupConfig;
use quorate_verifier::config::epoch_files::{read_roots, read_signatures};
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

fn check(roots: &RootSet, path: &Path, group: &GroupConfig) -> Result<(), String> {
    let signatures = read_signatures(path).map_err(|problem| problem.text)?;
    let genesis = signatures.genesis(group.clone());
    genesis.verify(roots).map_err(|e| format!("{}: {}: {e}", path.display(), e.kind()))
}
