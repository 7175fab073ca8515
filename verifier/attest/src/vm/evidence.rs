//! Evidence: pairs of signed statements that an honest party never signs both of.
//!
//! Each pair convinces anyone who has the group configuration; nothing else is needed. It names the culprit.

use alloc::vec::Vec;

use borsh::{BorshDeserialize, BorshSerialize};

use super::slot::{Attestation, Mode, Proposal, SlotCertificate, SlotStatement};
use crate::encoding::Bounded;
use crate::error::VerifyError;
use crate::group::GroupConfig;
use crate::key::{PublicKey, Signature};
use crate::statement::{Expected, Kind};

/// Two slots that one host proposed for one place: a fork.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Equivocation {
    /// One proposal.
    pub first: Proposal,
    /// The other.
    pub second: Proposal,
}

impl Bounded for Equivocation {
    const LIMIT: usize = 2 * Proposal::LIMIT;
}

impl Equivocation {
    /// Checks both signatures and the conflict; answers the host that signed both.
    pub fn verify(&self, expected: &Expected) -> Result<PublicKey, VerifyError> {
        let (first, second) = (&self.first.statement, &self.second.statement);
        first.check(expected)?;
        second.check(expected)?;
        check_conflict(first, second)?;
        if first.body.host != second.body.host {
            return Err(VerifyError::NoConflict { reason: "two hosts" });
        }
        self.first.verify()?;
        self.second.verify()?;
        Ok(first.body.host)
    }
}

/// Two statements that one verifier attested for one place.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct DoubleVote {
    /// Index of the verifier.
    pub verifier: u16,
    /// One statement.
    pub first: SlotStatement,
    /// How it was attested.
    pub first_mode: Mode,
    /// Signature of the attestation.
    pub first_signature: Signature,
    /// The other statement.
    pub second: SlotStatement,
    /// How it was attested.
    pub second_mode: Mode,
    /// Signature of the attestation.
    pub second_signature: Signature,
}

impl Bounded for DoubleVote {
    const LIMIT: usize = 2 + 2 * (SlotStatement::LIMIT + 1 + 64);
}

impl DoubleVote {
    /// Checks both signatures and the conflict; answers the vote key of the verifier.
    pub fn verify(&self, group: &GroupConfig, expected: &Expected) -> Result<PublicKey, VerifyError> {
        self.first.check(expected)?;
        self.second.check(expected)?;
        check_conflict(&self.first, &self.second)?;
        let votes = [
            (&self.first, self.first_mode, self.first_signature),
            (&self.second, self.second_mode, self.second_signature),
        ];
        for (statement, mode, signature) in votes {
            Attestation { verifier: self.verifier, mode, signature }.verify(group, statement)?;
        }
        Ok(group.member(self.verifier)?.vote_key)
    }
}

/// Two certificates for one place. Proves that more than `f` members are Byzantine: the fault model has been left.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ConflictingCertificates {
    /// One certificate.
    pub first: SlotCertificate,
    /// The other.
    pub second: SlotCertificate,
}

impl Bounded for ConflictingCertificates {
    const LIMIT: usize = 2 * SlotCertificate::LIMIT;
}

impl ConflictingCertificates {
    /// Checks both certificates and the conflict; answers the indices that signed both.
    pub fn verify(&self, group: &GroupConfig, expected: &Expected) -> Result<Vec<u16>, VerifyError> {
        let any_mode = Expected { kind: Kind::SLOT_SAMPLED, ..*expected };
        self.first.verify(group, &any_mode)?;
        self.second.verify(group, &any_mode)?;
        check_conflict(&self.first.statement, &self.second.statement)?;
        let second: Vec<u16> = self.second.attestations.iter().map(|vote| vote.verifier).collect();
        let first = self.first.attestations.iter().map(|vote| vote.verifier);
        Ok(first.filter(|verifier| second.contains(verifier)).collect())
    }
}

/// Different statements for one slot in one generation. A slot of a later generation may differ: it starts where the
/// generation before was certified last.
fn check_conflict(first: &SlotStatement, second: &SlotStatement) -> Result<(), VerifyError> {
    let reason = match () {
        _ if first.slot != second.slot => "two slots",
        _ if first.body.generation != second.body.generation => "two generations",
        _ if first == second => "one statement",
        _ => return Ok(()),
    };
    Err(VerifyError::NoConflict { reason })
}
