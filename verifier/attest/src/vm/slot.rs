//! Slots: the statement of a certified checkpoint, its proposal, the attestations and the certificate.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use borsh::{BorshDeserialize, BorshSerialize};

use crate::certificate::{SIGNATURES_LIMIT, Votes};
use crate::encoding::{Bounded, bounded_list, to_bytes};
use crate::error::VerifyError;
use crate::group::GroupConfig;
use crate::id::{
    CpuDigest, DeviceDigest, Epoch, Generation, GroupId, ImageDigest, InputRoot, OutputRoot, PageRoot,
    PlatformClass, Slot, StatementDigest, VmId,
};
use crate::key::{PublicKey, SecretKey, Signature};
use crate::statement::{Expected, Kind, Statement};

/// Everything that is certified about a slot, in one body: separate quorums for memory and registers would allow
/// mixing those of two slots.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct SlotBody {
    /// Generation whose instance made the slot.
    pub generation: Generation,
    /// Image the VM was started from.
    pub image: ImageDigest,
    /// Version of the machine.
    pub machine_version: u32,
    /// Host features that execution depends on.
    pub platform: PlatformClass,
    /// Root over all memory pages.
    pub page_root: PageRoot,
    /// Number of memory pages.
    pub page_count: u64,
    /// Registers.
    pub cpu: CpuDigest,
    /// Devices.
    pub device: DeviceDigest,
    /// Root over all inputs so far.
    pub input_root: InputRoot,
    /// First input of this transition.
    pub first_input: u64,
    /// First input after this transition.
    pub end_input: u64,
    /// Inputs of this transition whose order is proved.
    pub ordered: u64,
    /// Inputs of this transition that a client signed.
    pub client_signed: u64,
    /// Inputs of this transition that nobody vouches for.
    pub unauthenticated: u64,
    /// Root over the outputs of this transition.
    pub output_root: OutputRoot,
    /// Number of outputs of this transition.
    pub output_count: u64,
    /// Doorbells rung so far.
    pub doorbells: u64,
    /// Statement of the slot before; zero for slot 0.
    pub previous: StatementDigest,
    /// Host that made the slot.
    pub host: PublicKey,
}

/// The statement of one slot of one VM.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct SlotStatement {
    /// Group that certifies it.
    pub group: GroupId,
    /// Epoch of that group.
    pub epoch: Epoch,
    /// The VM.
    pub vm: VmId,
    /// The slot.
    pub slot: Slot,
    /// What is certified.
    pub body: SlotBody,
}

impl Bounded for SlotStatement {
    const LIMIT: usize = 32 + 8 + 32 + 8 + SlotBody::LENGTH;
}

impl SlotBody {
    /// Bytes of an encoding, which has no variable part.
    pub const LENGTH: usize = 8 + 32 + 4 + 32 + 32 + 8 + 32 + 32 + 32 + 5 * 8 + 32 + 8 + 8 + 32 + 32;
}

impl SlotStatement {
    /// The statement under one of the three kinds that share this body.
    pub fn to_statement(&self, kind: Kind) -> Statement {
        Statement {
            kind,
            group: self.group,
            epoch: self.epoch,
            instance: self.vm,
            seq: self.slot.get(),
            body: to_bytes(&self.body),
        }
    }

    /// The bytes signed under `kind`.
    pub fn encode(&self, kind: Kind) -> Vec<u8> {
        self.to_statement(kind).encode()
    }

    /// Reads the statement back from what was signed under any of the three kinds.
    pub fn from_statement(statement: &Statement) -> Result<Self, VerifyError> {
        if ![Kind::SLOT_REPLAYED, Kind::SLOT_SAMPLED, Kind::PROPOSAL].contains(&statement.kind) {
            return Err(VerifyError::WrongDomain { want: Kind::SLOT_REPLAYED, got: statement.kind });
        }
        Ok(Self {
            group: statement.group,
            epoch: statement.epoch,
            vm: statement.instance,
            slot: Slot(statement.seq),
            body: crate::encoding::from_bytes(&statement.body, SlotBody::LENGTH)?,
        })
    }

    /// The slot's name in other statements: the digest under [`Kind::SLOT_REPLAYED`].
    pub fn digest(&self) -> StatementDigest {
        self.to_statement(Kind::SLOT_REPLAYED).digest()
    }

    /// Checks that the statement belongs to this group, epoch and VM.
    pub fn check(&self, expected: &Expected) -> Result<(), VerifyError> {
        expected.check_scope(self.group, self.epoch, self.vm)
    }
}

/// A slot as its host proposes it. Two different ones for a slot are evidence against the host.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Proposal {
    /// What is proposed.
    pub statement: SlotStatement,
    /// Of `statement.body.host` under [`Kind::PROPOSAL`].
    pub signature: Signature,
}

impl Bounded for Proposal {
    const LIMIT: usize = SlotStatement::LIMIT + 64;
}

impl Proposal {
    /// Signs with the host's key, which must be the one in the body.
    pub fn sign(statement: SlotStatement, host: &SecretKey) -> Self {
        let signature = host.sign(&statement.encode(Kind::PROPOSAL));
        Self { statement, signature }
    }

    /// Checks the signature of the host that the body names. Whether that host may propose is not shown by this.
    pub fn verify(&self) -> Result<(), VerifyError> {
        self.statement.to_statement(Kind::PROPOSAL).verify(&self.statement.body.host, &self.signature)
    }
}

/// How an attestation was obtained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "lowercase"))]
pub enum Mode {
    /// By executing the transition again.
    Replayed,
    /// By checking the chain and challenged pages only.
    Sampled,
}

impl Mode {
    /// The statement kind that binds the mode into the signature.
    pub const fn kind(self) -> Kind {
        match self {
            Self::Replayed => Kind::SLOT_REPLAYED,
            Self::Sampled => Kind::SLOT_SAMPLED,
        }
    }
}

/// One verifier's signature on a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Attestation {
    /// Index in the group.
    pub verifier: u16,
    /// How the verifier knows.
    pub mode: Mode,
    /// Over the statement under the mode's kind.
    pub signature: Signature,
}

impl Bounded for Attestation {
    const LIMIT: usize = 2 + 1 + 64;
}

impl Attestation {
    /// Signs a slot.
    pub fn sign(statement: &SlotStatement, verifier: u16, mode: Mode, key: &SecretKey) -> Self {
        Self { verifier, mode, signature: key.sign(&statement.encode(mode.kind())) }
    }

    /// Checks the signature by the vote key of that member.
    pub fn verify(&self, group: &GroupConfig, statement: &SlotStatement) -> Result<(), VerifyError> {
        let key = group.member(self.verifier)?.vote_key;
        key.verify(&statement.encode(self.mode.kind()), &self.signature)
            .map_err(|error| VerifyError::signature(crate::error::Signer::Verifier(self.verifier), error))
    }
}

/// How many attestations of each mode a certificate has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Verified {
    /// By re-execution.
    pub replayed: u64,
    /// By sampling.
    pub sampled: u64,
}

/// A slot with a quorum of attestations.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct SlotCertificate {
    /// What is certified.
    pub statement: SlotStatement,
    /// Strictly ascending by index.
    #[borsh(deserialize_with = "bounded_list::<SIGNATURES_LIMIT, _, _>")]
    pub attestations: Vec<Attestation>,
}

impl Bounded for SlotCertificate {
    const LIMIT: usize = SlotStatement::LIMIT + 4 + SIGNATURES_LIMIT * Attestation::LIMIT;
}

impl SlotCertificate {
    /// Checks scope, order, **every** signature and the count.
    /// The caller answers for `group` being the configuration of `expected.group` in that epoch.
    ///
    /// `expected.kind` is the weakest mode the caller accepts: with [`Kind::SLOT_SAMPLED`] both modes count, with
    /// [`Kind::SLOT_REPLAYED`] one sampled attestation refuses the certificate.
    pub fn verify(&self, group: &GroupConfig, expected: &Expected) -> Result<Verified, VerifyError> {
        self.statement.check(expected)?;
        if expected.epoch != group.epoch {
            return Err(VerifyError::WrongEpoch { want: expected.epoch, got: group.epoch });
        }
        if expected.kind != Kind::SLOT_REPLAYED && expected.kind != Kind::SLOT_SAMPLED {
            return Err(VerifyError::WrongDomain { want: expected.kind, got: Kind::SLOT_REPLAYED });
        }
        let mut votes = Votes::new(group)?;
        let mut verified = Verified::default();
        let encodings = Encodings::of(&self.statement);
        for attestation in &self.attestations {
            if expected.kind == Kind::SLOT_REPLAYED && attestation.mode == Mode::Sampled {
                return Err(VerifyError::WrongDomain { want: expected.kind, got: Kind::SLOT_SAMPLED });
            }
            let bytes = encodings.under(attestation.mode);
            votes.add_ascending(attestation.verifier, bytes, attestation.signature)?;
            verified.count(attestation.mode);
        }
        votes.check_quorum()?;
        Ok(verified)
    }

    /// Number of attestations of each mode, unchecked.
    pub fn count(&self) -> Verified {
        let mut verified = Verified::default();
        self.attestations.iter().for_each(|attestation| verified.count(attestation.mode));
        verified
    }
}

impl Verified {
    /// Attestations of either mode.
    pub const fn total(&self) -> u64 {
        self.replayed + self.sampled
    }

    fn count(&mut self, mode: Mode) {
        match mode {
            Mode::Replayed => self.replayed += 1,
            Mode::Sampled => self.sampled += 1,
        }
    }
}

/// The two byte strings that verifiers sign about one slot.
#[derive(Debug, Clone)]
struct Encodings {
    replayed: Vec<u8>,
    sampled: Vec<u8>,
}

impl Encodings {
    fn of(statement: &SlotStatement) -> Self {
        Self {
            replayed: statement.encode(Kind::SLOT_REPLAYED),
            sampled: statement.encode(Kind::SLOT_SAMPLED),
        }
    }

    fn under(&self, mode: Mode) -> &[u8] {
        match mode {
            Mode::Replayed => &self.replayed,
            Mode::Sampled => &self.sampled,
        }
    }
}

/// Collects attestations of one slot until they are a certificate.
///
/// Each is verified before it is added, and a refused one changes nothing: a Byzantine verifier can neither poison the
/// certificate nor take the place of another. The error names it.
#[derive(Debug, Clone)]
pub struct Tally {
    statement: SlotStatement,
    encodings: Encodings,
    votes: Votes,
    modes: BTreeMap<u16, Mode>,
}

impl Tally {
    /// Starts counting for `statement`, which must belong to the group and its epoch.
    pub fn new(group: &GroupConfig, statement: SlotStatement) -> Result<Self, VerifyError> {
        statement.check(&group.expected(statement.vm, Kind::SLOT_REPLAYED))?;
        let encodings = Encodings::of(&statement);
        Ok(Self { statement, encodings, votes: Votes::new(group)?, modes: BTreeMap::new() })
    }

    /// What is being certified.
    pub fn statement(&self) -> &SlotStatement {
        &self.statement
    }

    /// Verifies and adds one attestation; answers whether a quorum is reached.
    pub fn add(&mut self, attestation: Attestation) -> Result<bool, VerifyError> {
        let Attestation { verifier, mode, signature } = attestation;
        self.votes.add(verifier, self.encodings.under(mode), signature)?;
        self.modes.insert(verifier, mode);
        Ok(self.is_complete())
    }

    /// Adds an attestation that came with its statement. One for another statement of the same slot, from a verifier
    /// already counted, is [`VerifyError::DoubleVote`]: keep both, they are evidence ([`super::DoubleVote`]).
    pub fn add_with_statement(
        &mut self,
        group: &GroupConfig,
        statement: &SlotStatement,
        attestation: Attestation,
    ) -> Result<bool, VerifyError> {
        if *statement == self.statement {
            return self.add(attestation);
        }
        let scope = Expected {
            group: self.statement.group,
            epoch: self.statement.epoch,
            instance: self.statement.vm,
            kind: Kind::SLOT_REPLAYED,
        };
        statement.check(&scope)?;
        attestation.verify(group, statement)?;
        let (verifier, slot) = (attestation.verifier, statement.slot);
        let same_place =
            slot == self.statement.slot && statement.body.generation == self.statement.body.generation;
        if same_place && self.modes.contains_key(&verifier) {
            return Err(VerifyError::DoubleVote { verifier, slot });
        }
        Err(VerifyError::WrongSlot {
            want: self.statement.slot,
            want_digest: self.statement.digest(),
            got: slot,
            got_digest: statement.digest(),
        })
    }

    /// Whether a verifier is counted already.
    pub fn contains(&self, verifier: u16) -> bool {
        self.modes.contains_key(&verifier)
    }

    /// Verifiers counted so far, in order.
    pub fn verifiers(&self) -> impl Iterator<Item = u16> + '_ {
        self.modes.keys().copied()
    }

    /// Votes so far and votes needed.
    pub fn progress(&self) -> (u64, u64) {
        self.votes.progress()
    }

    /// Whether a quorum is reached.
    pub fn is_complete(&self) -> bool {
        let (got, need) = self.votes.progress();
        got >= need
    }

    /// The certificate of all attestations so far; [`VerifyError::QuorumNotReached`] before there are enough.
    pub fn certificate(&self) -> Result<SlotCertificate, VerifyError> {
        self.votes.check_quorum()?;
        let attestations = self
            .votes
            .iter()
            .zip(self.modes.values())
            .map(|((verifier, signature), mode)| Attestation { verifier, mode: *mode, signature })
            .collect();
        Ok(SlotCertificate { statement: self.statement.clone(), attestations })
    }
}
