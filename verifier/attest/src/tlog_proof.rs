//! C2SP tlog-proofs ([c2sp.org/tlog-proof]): one file that shows, offline, that an entry is in a log whose head a quorum
//! has cosigned.
//!
//! [c2sp.org/tlog-proof]: https://c2sp.org/tlog-proof

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use base64ct::{Base64, Encoding};

use crate::checkpoint::{parse_decimal, parse_digest};
use crate::merkle::{Digest, ProofError, Sha256Tree, TreeHash, verify_inclusion};
use crate::note::{NOTE_LIMIT, Note, NoteError, malformed};
use crate::policy::{Accepted, Policy, PolicyError};

/// First line of a proof.
pub const HEADER: &str = "c2sp.org/tlog-proof@v1";

/// Most bytes of the extra data.
pub const EXTRA_LIMIT: usize = 256 * 1024;

/// Most hashes of a path: one a level.
pub const PATH_LIMIT: usize = 64;

/// Most bytes of a proof file.
pub const PROOF_FILE_LIMIT: usize = NOTE_LIMIT + EXTRA_LIMIT * 4 / 3 + PATH_LIMIT * 45 + 128;

/// A proof that does not hold under a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlogProofError {
    /// The file is malformed.
    #[error(transparent)]
    Note(#[from] NoteError),
    /// The head is not vouched for.
    #[error(transparent)]
    Policy(#[from] PolicyError),
    /// The entry is not at that index under that head.
    #[error(transparent)]
    Inclusion(#[from] ProofError),
    /// The head belongs to another log than expected.
    #[error("head is of {got}, expected {want}")]
    WrongOrigin {
        /// Origin expected.
        want: String,
        /// Origin found.
        got: String,
    },
}

impl TlogProofError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Note(error) => error.kind(),
            Self::Policy(error) => error.kind(),
            Self::Inclusion(error) => error.kind(),
            Self::WrongOrigin { .. } => "WrongVm",
        }
    }
}

/// An entry's place in a log and the log's cosigned head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlogProof {
    /// Data beside the proof, authenticated by nothing.
    pub extra: Option<Vec<u8>>,
    /// Place of the entry.
    pub index: u64,
    /// Inclusion path, the leaf's sibling first.
    pub path: Vec<Digest>,
    /// The head.
    pub checkpoint: Note,
}

impl TlogProof {
    /// Reads a proof file.
    pub fn parse(text: &str) -> Result<Self, NoteError> {
        const WHAT: &str = "tlog-proof";
        if text.len() > PROOF_FILE_LIMIT {
            return Err(NoteError::TooLarge { what: WHAT, limit: PROOF_FILE_LIMIT, got: text.len() });
        }
        let (head, checkpoint) =
            text.split_once("\n\n").ok_or(malformed(WHAT, "has no empty line before the checkpoint"))?;
        let mut lines = head.split('\n').peekable();
        if lines.next() != Some(HEADER) {
            return Err(malformed(WHAT, "is not of version 1"));
        }
        let extra = match lines.peek().and_then(|line| line.strip_prefix("extra ")) {
            Some(extra) => {
                lines.next();
                Some(parse_extra(extra)?)
            }
            None => None,
        };
        let index = lines
            .next()
            .and_then(|line| line.strip_prefix("index "))
            .and_then(parse_decimal)
            .ok_or(malformed(WHAT, "has no canonical index line"))?;
        let mut path = Vec::new();
        for line in lines {
            if path.len() >= PATH_LIMIT {
                return Err(NoteError::TooLarge { what: WHAT, limit: PATH_LIMIT, got: path.len() + 1 });
            }
            path.push(parse_digest(line).ok_or(malformed(WHAT, "path line is not base64 of 32 bytes"))?);
        }
        Ok(Self { extra, index, path, checkpoint: Note::parse(checkpoint)? })
    }

    /// Checks, offline, that `leaf` (its data, not its digest) is at [`Self::index`] of the log `origin` under a head
    /// that satisfies the policy. [`Self::extra`] is not looked at.
    pub fn verify(&self, origin: &str, leaf: &[u8], policy: &Policy) -> Result<Accepted, TlogProofError> {
        let accepted = policy.evaluate(&self.checkpoint)?;
        let head = &accepted.checkpoint;
        if head.origin() != origin {
            return Err(TlogProofError::WrongOrigin { want: origin.into(), got: head.origin().into() });
        }
        let leaf = Sha256Tree::leaf(leaf);
        verify_inclusion::<Sha256Tree>(&leaf, self.index, head.size(), &self.path, head.root())?;
        Ok(accepted)
    }
}

fn parse_extra(text: &str) -> Result<Vec<u8>, NoteError> {
    let extra = Base64::decode_vec(text).map_err(|_| malformed("tlog-proof", "extra data is not base64"))?;
    if extra.len() > EXTRA_LIMIT {
        return Err(NoteError::TooLarge { what: "extra data", limit: EXTRA_LIMIT, got: extra.len() });
    }
    Ok(extra)
}

impl fmt::Display for TlogProof {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{HEADER}")?;
        if let Some(extra) = &self.extra {
            writeln!(out, "extra {}", Base64::encode_string(extra))?;
        }
        writeln!(out, "index {}", self.index)?;
        for hash in &self.path {
            writeln!(out, "{}", Base64::encode_string(hash))?;
        }
        write!(out, "\n{}", self.checkpoint)
    }
}

impl FromStr for TlogProof {
    type Err = NoteError;
    fn from_str(text: &str) -> Result<Self, NoteError> {
        Self::parse(text)
    }
}

#[cfg(test)]
mod tests;
