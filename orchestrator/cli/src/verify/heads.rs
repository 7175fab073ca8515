//! Heads of logs together: do they lie on one tree?

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use quorate_attest::VerifyError;
use quorate_attest::checkpoint::Checkpoint;
use quorate_attest::id::to_hex;
use quorate_attest::merkle::{Digest, Frontier, Sha256Tree, verify_consistency};
use quorate_attest::note::Note;
use quorate_attest::policy::Policy;
use serde_json::json;

use super::finding::Finding;

/// A head that satisfies the policy.
#[derive(Clone, Debug)]
pub struct Head {
    /// File it is from.
    pub file: PathBuf,
    /// Who cosigned it.
    pub signers: Vec<String>,
    /// Log, size and root.
    pub checkpoint: Checkpoint,
}

impl Head {
    /// The head of a note that the policy accepts.
    pub fn accepted(policy: &Policy, file: &Path, note: &Note) -> Option<Self> {
        let accepted = policy.evaluate(note).ok()?;
        let signers = accepted.witnesses.into_iter().map(|witness| witness.name).collect();
        Some(Self { file: file.to_owned(), signers, checkpoint: accepted.checkpoint })
    }
}

/// A claim that a tree of `old` leaves is the beginning of another.
#[derive(Clone, Debug)]
pub struct Consistency {
    /// File it is from.
    pub file: PathBuf,
    /// Size of the smaller tree.
    pub old: u64,
    /// The larger tree.
    pub new: Checkpoint,
    /// Path of RFC 6962, section 2.1.2.
    pub path: Vec<Digest>,
}

/// Leaf data of one log by index.
pub type Entries = BTreeMap<u64, Vec<u8>>;

/// What a bundle knows about its logs.
#[derive(Debug, Default)]
pub struct Logs {
    /// All heads that are vouched for.
    pub heads: Vec<Head>,
    /// Consistency proofs, unchecked.
    pub proofs: Vec<Consistency>,
    /// Leaves, by the log's origin.
    pub entries: BTreeMap<String, Entries>,
}

impl Logs {
    /// One finding a log: that all its heads lie on one tree, or the first two that do not.
    pub fn check(&self) -> Vec<Finding> {
        let origins: BTreeSet<&str> = self.heads.iter().map(|head| head.checkpoint.origin()).collect();
        origins.into_iter().map(|origin| self.check_log(origin)).collect()
    }

    fn check_log(&self, origin: &str) -> Finding {
        let mut by_size: BTreeMap<u64, &Head> = BTreeMap::new();
        for head in self.heads.iter().filter(|head| head.checkpoint.origin() == origin) {
            let known = *by_size.entry(head.checkpoint.size()).or_insert(head);
            if known.checkpoint.root() != head.checkpoint.root() {
                return conflict(known, head);
            }
        }
        let heads: Vec<&Head> = by_size.into_values().collect();
        let newest = heads.last().map(|head| head.file.clone()).unwrap_or_default();
        let finding = Finding::new(&newest, "log").with(json!({"origin": origin, "heads": heads.len()}));
        match self.links(origin, &heads).and_then(|links| check_links(&heads, &links)) {
            Ok(()) if heads.len() == 1 => finding.holds(format!("all heads of {origin} here are one")),
            Ok(()) => finding.holds(format!("{} heads of {origin} lie on one tree", heads.len())),
            Err((kind, text)) => finding.fails(kind, text),
        }
    }

    /// Pairs (smaller, larger) of sizes of which the first is proved to be the beginning of the second.
    fn links(&self, origin: &str, heads: &[&Head]) -> Result<Vec<(u64, u64)>, (&'static str, String)> {
        let mut links = Vec::new();
        for proof in self.proofs.iter().filter(|proof| proof.new.origin() == origin) {
            let new = &proof.new;
            let Some(old) = heads.iter().find(|head| head.checkpoint.size() == proof.old) else {
                let text = format!(
                    "{} begins at size {}, of which no head is here",
                    proof.file.display(),
                    proof.old
                );
                return Err(("LogChainBroken", text));
            };
            let old = &old.checkpoint;
            verify_consistency::<Sha256Tree>(old.size(), old.root(), new.size(), new.root(), &proof.path)
                .map_err(|error| (error.kind(), format!("{}: {error}", proof.file.display())))?;
            links.push((old.size(), new.size()));
        }
        links.extend(self.links_by_entries(origin, heads)?);
        Ok(links)
    }

    /// Heads whose leaves are all here are computed again, and so lie on the tree of the largest of them.
    fn links_by_entries(
        &self,
        origin: &str,
        heads: &[&Head],
    ) -> Result<Vec<(u64, u64)>, (&'static str, String)> {
        let Some(entries) = self.entries.get(origin) else { return Ok(Vec::new()) };
        let (mut log, mut sizes) = (Frontier::<Sha256Tree>::new(), Vec::new());
        let mut heads = heads.iter().peekable();
        loop {
            while let Some(head) = heads.next_if(|head| head.checkpoint.size() == log.size()) {
                if log.root() != *head.checkpoint.root() {
                    let text = format!("the entries here have another root than {}", head.file.display());
                    return Err(("RootMismatch", text));
                }
                sizes.push(log.size());
            }
            match entries.get(&log.size()) {
                Some(leaf) => log.push(leaf),
                None => break,
            }
        }
        let largest = sizes.last().copied().unwrap_or_default();
        Ok(sizes.into_iter().map(|size| (size, largest)).collect())
    }
}

/// Two trees that are both the beginning of a third are the beginning of each other, so each pair of neighbours needs one
/// tree above both.
fn check_links(heads: &[&Head], links: &[(u64, u64)]) -> Result<(), (&'static str, String)> {
    let above = |size: u64| {
        let mut reached = BTreeSet::from([size]);
        loop {
            let more: Vec<u64> = links
                .iter()
                .filter(|(old, new)| reached.contains(old) && !reached.contains(new))
                .map(|(_, new)| *new)
                .collect();
            if more.is_empty() {
                return reached;
            }
            reached.extend(more);
        }
    };
    for pair in heads.windows(2) {
        let (first, second) = (pair[0].checkpoint.size(), pair[1].checkpoint.size());
        // The empty tree is the beginning of every tree.
        if first > 0 && above(first).is_disjoint(&above(second)) {
            let text = format!(
                "nothing shows that the log of size {second} continues that of size {first}: neither a consistency \
                 proof nor all entries are here"
            );
            return Err(("LogChainBroken", text));
        }
    }
    Ok(())
}

fn conflict(first: &Head, second: &Head) -> Finding {
    let both: Vec<&String> = first.signers.iter().filter(|name| second.signers.contains(name)).collect();
    let (size, origin) = (first.checkpoint.size(), first.checkpoint.origin());
    let names: Vec<&str> = both.iter().map(|name| name.as_str()).collect();
    let text = format!(
        "two roots for size {size} of {origin}, in {} and {}: {} cosigned both",
        first.file.display(),
        second.file.display(),
        names.join(", "),
    );
    let roots = [first, second].map(|head| to_hex(head.checkpoint.root()));
    let facts = json!({"origin": origin, "tree_size": size, "roots": roots, "signed_both": names});
    Finding::new(&second.file, "conflict").with(facts).fails("ConflictingCertificates", text)
}

/// What two heads prove, who cosigned both, and the first of them. Cosigners count one by one; where both heads have a
/// quorum, so have the two trees.
pub fn equivocation(
    policy: &Policy,
    first: &Note,
    second: &Note,
) -> Result<(&'static str, Vec<String>, Checkpoint), VerifyError> {
    let no = |reason: &'static str| VerifyError::NoConflict { reason };
    let parse = |note: &Note| Checkpoint::parse(note.text()).map_err(|_| no("a note that is no head"));
    let (head, other) = (parse(first)?, parse(second)?);
    if head.origin() != other.origin() {
        return Err(no("heads of two logs"));
    }
    if head.size() != other.size() {
        return Err(no("two sizes: whether one continues the other needs a proof of consistency"));
    }
    if head.root() == other.root() {
        return Err(no("one root"));
    }
    let signers = |note: &Note| -> BTreeSet<usize> {
        // Line by line: a bad line beside a good one accuses nobody and saves nobody.
        let holds = |key: &quorate_attest::note::VerifierKey| {
            note.lines().iter().any(|line| key.owns(line) && key.verify(note.text(), line).is_ok())
        };
        policy.witnesses().iter().enumerate().filter(|(_, key)| holds(key)).map(|(index, _)| index).collect()
    };
    let (one, two) = (signers(first), signers(second));
    let names: Vec<String> = one
        .intersection(&two)
        .filter_map(|index| Some(policy.witnesses().get(*index)?.name().to_owned()))
        .collect();
    if names.is_empty() {
        return Err(no("nobody cosigned both heads"));
    }
    let both = policy.evaluate(first).is_ok() && policy.evaluate(second).is_ok();
    Ok((if both { "ConflictingCertificates" } else { "EquivocationEvidence" }, names, head))
}
