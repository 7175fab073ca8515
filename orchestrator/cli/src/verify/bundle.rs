//! `quorate verify-bundle`: a folder of proofs, heads and certificates, each alone and all together.

use std::path::{Path, PathBuf};

use clap::Args;
use quorate_attest::checkpoint::Checkpoint;
use quorate_attest::merkle::Digest;
use quorate_attest::note::{Note, NoteError};
use quorate_attest::tlog_proof::TlogProof;
use quorate_attest::vm::{log_origin, statement_leaf};

use super::super::failure::Failure;
use super::super::output::Output;
use super::finding::Finding;
use super::freshness::Age;
use super::heads::{Consistency, Head, Logs};
use super::material::{self, Item, Material};
use super::trust::Trust;
use super::{chain, conclude, log_proof};

/// Most hashes of a consistency proof, as for a C2SP witness.
const PATH_MAX: usize = 63;

/// Checks all proofs of a folder, and that all heads of one log lie on one tree.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate verify-bundle certificates/                        what a demo leaves
  quorate verify-bundle proofs/ --policy group.policy        proofs that somebody sent, against your own policy

Exit codes: 0 valid, 1 invalid (the first rule that failed is named), 2 usage or unreadable file,
3 valid but older than demanded.")]
pub struct Arguments {
    /// The folder.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// The group that is expected (TOML). Default: group.toml in the folder.
    #[arg(long, value_name = "FILE")]
    group: Option<PathBuf>,
    /// The orchestrators, for entries of the ordered log (TOML). Default: orchestrators.toml in the folder.
    #[arg(long, value_name = "FILE")]
    orchestrators: Option<PathBuf>,
    /// The C2SP policy. Default: group.policy or policy.txt in the folder, or the group's own.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Demand cosignatures not older than this: 90s, 10m, 2h, 7d, or @SECONDS of POSIX time.
    #[arg(long, value_name = "AGE")]
    not_older_than: Option<Age>,
}

/// Runs the command.
pub fn run(arguments: &Arguments, output: &Output) -> Result<u8, Failure> {
    let (trust, findings) = examine(arguments)?;
    trust.describe(output);
    for finding in &findings {
        finding.print(output);
    }
    Ok(conclude(&findings, output))
}

/// What is expected, and what was found.
pub(super) fn examine(arguments: &Arguments) -> Result<(Trust, Vec<Finding>), Failure> {
    let Arguments { folder, group, orchestrators, policy, not_older_than } = arguments;
    let mut expectations = super::Arguments::beside(
        vec![folder.clone()],
        group.clone(),
        orchestrators.clone(),
        None,
        policy.clone(),
    );
    expectations.not_older_than = *not_older_than;
    let trust = Trust::gather(&expectations)?;
    let items = material::read_folder(folder)?;
    let (proofs, mut findings) = consistency_proofs(&trust, folder)?;
    if items.is_empty() && proofs.is_empty() && findings.is_empty() {
        let failure = Failure::usage(format!("{} contains nothing that can be verified", folder.display()));
        return Err(failure.next("docs/formats.md says what a bundle is"));
    }
    findings.extend(chain::check(&trust, &items)?);
    findings.extend(logs(&trust, &items, proofs)?.check());
    let certificates: Vec<_> = items.into_iter().filter_map(Item::certificate).collect();
    findings.extend(chain::conflicts(&trust, &certificates));
    Ok((trust, findings))
}

/// Heads and entries of the files that hold; the others have failed already.
fn logs(trust: &Trust, items: &[Item], proofs: Vec<(Consistency, Note)>) -> Result<Logs, Failure> {
    let mut logs = Logs::default();
    let Some(policy) = &trust.policy else { return Ok(logs) };
    for item in items {
        match &item.material {
            Material::Head(note) => logs.heads.extend(Head::accepted(policy, &item.path, note)),
            Material::Proof(proof) => {
                logs.heads.extend(Head::accepted(policy, &item.path, &proof.checkpoint));
                add_entry(trust, &mut logs, &item.path, proof)?;
            }
            Material::Slot(certificate) => {
                let statement = &certificate.statement;
                let entries = logs.entries.entry(log_origin(&statement.vm)).or_default();
                entries.entry(statement.slot.get()).or_insert_with(|| statement_leaf(statement));
            }
            _ => {}
        }
    }
    for (proof, note) in proofs {
        if let Some(head) = Head::accepted(policy, &proof.file, &note) {
            logs.heads.push(head);
            logs.proofs.push(proof);
        }
    }
    Ok(logs)
}

/// A proof that does not hold shows no entry.
fn add_entry(trust: &Trust, logs: &mut Logs, path: &Path, proof: &TlogProof) -> Result<(), Failure> {
    let checked = log_proof::proof(trust, Finding::new(path, "tlog-proof"), proof, None)?;
    if checked.failed.is_none()
        && let Ok(head) = Checkpoint::parse(proof.checkpoint.text())
        && let Some(leaf) = log_proof::leaf_data(trust, path)?
    {
        logs.entries.entry(head.origin().to_owned()).or_default().entry(proof.index).or_insert(leaf);
    }
    Ok(())
}

/// Consistency proofs with the heads they lead to, and findings about the files that are none.
type Proofs = (Vec<(Consistency, Note)>, Vec<Finding>);

/// The files `*.consistency`: those that parse, and findings about those that do not or whose head nobody vouches for.
fn consistency_proofs(trust: &Trust, folder: &Path) -> Result<Proofs, Failure> {
    let (mut proofs, mut findings) = (Vec::new(), Vec::new());
    for path in material::files_ending_in(folder, "consistency")? {
        let bytes = material::read_bytes(&path)?;
        let finding = Finding::new(&path, "consistency");
        match str::from_utf8(&bytes).ok().map(|text| parse(&path, text)) {
            Some(Ok((proof, note))) => {
                findings.push(log_proof::head(trust, finding, &note)?);
                proofs.push((proof, note));
            }
            Some(Err(error)) => findings.push(finding.fails(error.kind(), error)),
            None => findings.push(finding.fails("DecodeError", "it is not UTF-8")),
        }
    }
    Ok((proofs, findings))
}

/// Reads what a log sends to a C2SP witness (tlog-witness, add-checkpoint): `old N`, the hashes, an empty line, the new
/// head.
fn parse(file: &Path, text: &str) -> Result<(Consistency, Note), NoteError> {
    let malformed = |reason| NoteError::Malformed { what: "consistency proof", reason };
    let (head, note) = text.split_once("\n\n").ok_or(malformed("has no empty line before the head"))?;
    let mut lines = head.split('\n');
    let old =
        lines.next().and_then(|line| line.strip_prefix("old ")).ok_or(malformed("has no line `old N`"))?;
    let number: u64 = old.parse().map_err(|_| malformed("old size is no number"))?;
    if number.to_string() != old {
        return Err(malformed("old size is not a canonical decimal"));
    }
    let mut path: Vec<Digest> = Vec::new();
    for line in lines {
        if path.len() == PATH_MAX {
            return Err(malformed("has more than 63 hashes"));
        }
        path.push(material::hash(line).ok_or(malformed("hash is not base64 of 32 bytes"))?);
    }
    let note = Note::parse(note)?;
    let new = Checkpoint::parse(note.text())?;
    Ok((Consistency { file: file.to_owned(), old: number, new, path }, note))
}
