//! Certificates: one statement with the signatures of a quorum.
//!
//! Valid means: every index is a member of that epoch, indices ascend strictly, no two of them stand for one key,
//! **every** signature verifies, there are at least a quorum of them, and group, epoch, instance and kind are what the
//! caller expects. One bad signature among good ones refuses the whole certificate, on every node alike; an assembler
//! therefore verifies each before adding it ([`Votes::add`], [`Tally`]).

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use borsh::{BorshDeserialize, BorshSerialize};

use crate::encoding::{Bounded, bounded_list};
use crate::error::{Signer, VerifyError};
use crate::group::GroupConfig;
use crate::key::{PublicKey, Signature};
use crate::quorum::QuorumRule;
use crate::statement::{Expected, Statement};

/// Most signatures of a certificate.
pub const SIGNATURES_LIMIT: usize = 64;

/// A statement and who signed it.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Certificate {
    /// What is certified.
    pub statement: Statement,
    /// Index in the group and signature over the statement, strictly ascending by index.
    #[borsh(deserialize_with = "bounded_list::<SIGNATURES_LIMIT, _, _>")]
    pub signatures: Vec<(u16, Signature)>,
}

impl Bounded for Certificate {
    const LIMIT: usize = Statement::LIMIT + 4 + SIGNATURES_LIMIT * 66;
}

impl Certificate {
    /// Checks everything named in the module's documentation against the group of the expected epoch.
    /// The caller answers for `group` being the configuration of `expected.group` in that epoch.
    pub fn verify(&self, group: &GroupConfig, expected: &Expected) -> Result<(), VerifyError> {
        expected.check(&self.statement)?;
        if expected.epoch != group.epoch {
            return Err(VerifyError::WrongEpoch { want: expected.epoch, got: group.epoch });
        }
        verify_signatures(group, &self.statement.encode(), &self.signatures)
    }
}

/// Checks a strictly ascending list of signatures over `message` and that it is a quorum.
pub fn verify_signatures(
    group: &GroupConfig,
    message: &[u8],
    signatures: &[(u16, Signature)],
) -> Result<(), VerifyError> {
    verify_at_least(group, group.rule()?.quorum(), message, signatures)
}

/// Checks a strictly ascending list of signatures over `message` and that there are `need` of them.
pub fn verify_at_least(
    group: &GroupConfig,
    need: u64,
    message: &[u8],
    signatures: &[(u16, Signature)],
) -> Result<(), VerifyError> {
    let mut votes = Votes::at_least(group, need)?;
    for (verifier, signature) in signatures {
        votes.add_ascending(*verifier, message, *signature)?;
    }
    votes.check_quorum()
}

/// Verified signatures of distinct members, on the way to a quorum.
#[derive(Debug, Clone)]
pub struct Votes {
    keys: Vec<PublicKey>,
    need: u64,
    signatures: BTreeMap<u16, Signature>,
}

impl Votes {
    /// No votes yet, of a feasible group.
    pub fn new(group: &GroupConfig) -> Result<Self, VerifyError> {
        Self::at_least(group, group.rule()?.quorum())
    }

    /// No votes yet, of which `need` are to be enough: a quorum, or `f + 1` where one honest voice is.
    pub fn at_least(group: &GroupConfig, need: u64) -> Result<Self, VerifyError> {
        group.rule()?;
        Ok(Self { keys: group.vote_keys(), need, signatures: BTreeMap::new() })
    }

    /// Verifies and adds a vote in any order. A refused vote changes nothing.
    pub fn add(&mut self, verifier: u16, message: &[u8], signature: Signature) -> Result<(), VerifyError> {
        let members = self.keys.len();
        let key = *self
            .keys
            .get(usize::from(verifier))
            .ok_or(VerifyError::SignerOutOfRange { verifier, members })?;
        // By key and not only by index: a group that was never validated may list one key twice.
        let counted = |index: &u16| self.keys.get(usize::from(*index)) == Some(&key);
        if self.signatures.keys().any(counted) {
            return Err(VerifyError::DuplicateSigner { verifier });
        }
        if self.signatures.len() >= SIGNATURES_LIMIT {
            let (what, limit) = ("certificate", SIGNATURES_LIMIT);
            return Err(VerifyError::MessageTooLarge { what, limit, got: limit + 1 });
        }
        key.verify(message, &signature)
            .map_err(|error| VerifyError::signature(Signer::Verifier(verifier), error))?;
        self.signatures.insert(verifier, signature);
        Ok(())
    }

    /// Like [`Self::add`], and refuses an index below one already counted, as a certificate's list must ascend.
    pub fn add_ascending(
        &mut self,
        verifier: u16,
        message: &[u8],
        signature: Signature,
    ) -> Result<(), VerifyError> {
        match self.signatures.last_key_value() {
            Some((last, _)) if verifier < *last => Err(VerifyError::SignerOutOfOrder { verifier }),
            _ => self.add(verifier, message, signature),
        }
    }

    /// Votes so far and votes needed.
    pub fn progress(&self) -> (u64, u64) {
        (self.signatures.len() as u64, self.need)
    }

    /// Fails with both numbers while there are fewer than a quorum.
    pub fn check_quorum(&self) -> Result<(), VerifyError> {
        let (got, need) = self.progress();
        if got < need { Err(VerifyError::QuorumNotReached { need, got }) } else { Ok(()) }
    }

    /// Whether this index is counted already.
    pub fn contains(&self, verifier: u16) -> bool {
        self.signatures.contains_key(&verifier)
    }

    /// Index and signature, ascending.
    pub fn iter(&self) -> impl Iterator<Item = (u16, Signature)> + '_ {
        self.signatures.iter().map(|(verifier, signature)| (*verifier, *signature))
    }
}

/// Collects signatures on one statement until they are a certificate.
#[derive(Debug, Clone)]
pub struct Tally {
    statement: Statement,
    message: Vec<u8>,
    votes: Votes,
}

impl Tally {
    /// Starts counting for `statement`, which must be what is expected of the group.
    pub fn new(group: &GroupConfig, expected: &Expected, statement: Statement) -> Result<Self, VerifyError> {
        expected.check(&statement)?;
        let message = statement.encode();
        Ok(Self { statement, message, votes: Votes::new(group)? })
    }

    /// Verifies and adds one signature; answers whether a quorum is reached. A refused one changes nothing.
    pub fn add(&mut self, verifier: u16, signature: Signature) -> Result<bool, VerifyError> {
        self.votes.add(verifier, &self.message, signature)?;
        Ok(self.votes.check_quorum().is_ok())
    }

    /// Votes so far and votes needed.
    pub fn progress(&self) -> (u64, u64) {
        self.votes.progress()
    }

    /// The certificate; [`VerifyError::QuorumNotReached`] before there are enough signatures.
    pub fn certificate(&self) -> Result<Certificate, VerifyError> {
        self.votes.check_quorum()?;
        Ok(Certificate { statement: self.statement.clone(), signatures: self.votes.iter().collect() })
    }
}

/// A value of its own type that members of a group sign.
pub trait Certifiable: Clone {
    /// The value with enough signatures.
    type Certificate;

    /// What is signed.
    fn to_statement(&self) -> Statement;

    /// Refuses a value that is not of this group in its epoch, or that contradicts itself.
    fn check_scope(&self, group: &GroupConfig) -> Result<(), VerifyError>;

    /// How many signatures are enough: a quorum, unless the type needs one honest voice only.
    fn need(rule: &QuorumRule) -> u64 {
        rule.quorum()
    }

    /// Puts value and signatures together.
    fn certified(self, signatures: Vec<(u16, Signature)>) -> Self::Certificate;
}

/// Collects signatures on one value until they are its certificate.
#[derive(Debug, Clone)]
pub struct TallyOf<T> {
    subject: T,
    message: Vec<u8>,
    votes: Votes,
}

impl<T: Certifiable> TallyOf<T> {
    /// Starts counting for a value of this group in its epoch.
    pub fn new(group: &GroupConfig, subject: T) -> Result<Self, VerifyError> {
        subject.check_scope(group)?;
        let votes = Votes::at_least(group, T::need(&group.rule()?))?;
        Ok(Self { message: subject.to_statement().encode(), subject, votes })
    }

    /// What is being certified.
    pub fn subject(&self) -> &T {
        &self.subject
    }

    /// Verifies and adds one signature; answers whether there are enough. A refused one changes nothing.
    pub fn add(&mut self, member: u16, signature: Signature) -> Result<bool, VerifyError> {
        self.votes.add(member, &self.message, signature)?;
        Ok(self.votes.check_quorum().is_ok())
    }

    /// Signatures so far and signatures needed.
    pub fn progress(&self) -> (u64, u64) {
        self.votes.progress()
    }

    /// The certificate; [`VerifyError::QuorumNotReached`] before there are enough signatures.
    pub fn certificate(&self) -> Result<T::Certificate, VerifyError> {
        self.votes.check_quorum()?;
        Ok(self.subject.clone().certified(self.votes.iter().collect()))
    }
}
