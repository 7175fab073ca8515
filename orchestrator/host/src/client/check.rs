//! The rules by which a client believes an answer. Pure.
//!
//! In this order, because a lower generation is refused whatever else it shows:
//!
//! 1. the generation is not below the highest one that was proved (`FencedGeneration`);
//! 2. under the `Certified` policy there is a certificate (`NoActivationCertificate`: nothing proves the generation);
//! 3. the certificate holds for the group and VM the client expects, is of the newest epoch the client knows (`EpochRetired`,
//!    `EpochUnlinked`), and names the answer's generation and slot;
//! 4. the slot is newer than the head the client knew when it made the request (`StaleSlot`);
//! 5. no other certificate for the same slot was seen (`ConflictingCertificates`);
//! 6. the output is a leaf under the certified output root (`ProofInvalid`);
//! 7. the output replies to this request: client, sequence and nonce (`NonceReused`).
//!
//! Only then does the head move forward.
//!
//! An answer is always a new slot, a repeated reply too. So who knows that an epoch has ended believes no answer of it,
//! however many of its members sign: they could continue the VM from its last slot in that epoch on. A client that does
//! not know the newest epoch yet refuses answers until it gets the link.

use std::collections::BTreeMap;
use std::sync::Arc;

use quorate_attest::VerifyError;
use quorate_attest::encoding::{Bounded, DecodeError};
use quorate_attest::epoch::GroupChain;
use quorate_attest::id::{Generation, Slot, VmId};
use quorate_attest::merkle::{ProofError, Sha256Tree, TreeHash, verify_inclusion};
use quorate_attest::request::{Reply, Request};
use quorate_attest::statement::Kind;
use quorate_attest::vm::{
    ActivationCertificate, ConflictingCertificates, OutputPolicy, SlotCertificate, VmSpec,
};

use super::head::Head;
use crate::protocol::Answer;

/// Certificates kept to recognise a second one for the same slot.
const CERTIFICATES_KEPT: usize = 256;

/// Why an answer is not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AnswerRefused {
    /// An instance answered that was superseded.
    #[error("answer of generation {got}; generation {have} has been activated")]
    FencedGeneration {
        /// Highest generation that was proved.
        have: Generation,
        /// Generation of the answer.
        got: Generation,
    },
    /// Nothing proves that the answering instance may act.
    #[error("answer of generation {got} without a certificate")]
    NoActivationCertificate {
        /// Generation of the answer.
        got: Generation,
    },
    /// The certificate is not one of this VM, group and epoch, or has a bad signature.
    #[error(transparent)]
    Certificate(#[from] VerifyError),
    /// The certificate is of another slot or generation than the answer claims.
    #[error("the answer claims slot {slot} of generation {generation}, its certificate is of another")]
    OtherSlot {
        /// Generation claimed.
        generation: Generation,
        /// Slot claimed.
        slot: Slot,
    },
    /// The answer is older than what the client knew when it asked.
    #[error("answer of slot {got}, although slot {have} was known when the request was made")]
    StaleSlot {
        /// Slot known then.
        have: Slot,
        /// Slot of the answer.
        got: Slot,
    },
    /// A quorum signed two statements for one slot: more than f verifiers are Byzantine.
    #[error("two certificates exist for slot {slot}: more than f verifiers are Byzantine")]
    ConflictingCertificates {
        /// The slot.
        slot: Slot,
    },
    /// The output is not among those certified.
    #[error("output {index} of {count}: {error}")]
    Proof {
        /// Place claimed.
        index: u64,
        /// Outputs of the slot.
        count: u64,
        /// What is wrong with the path.
        error: ProofError,
    },
    /// The output is no reply.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The output replies to another request.
    #[error("the output answers another request")]
    OtherRequest,
    /// The head that the answer proves cannot be stored, so it must not be relied on.
    #[error("the newest head cannot be stored: {error}")]
    Storage {
        /// The system's text.
        error: String,
    },
}

impl AnswerRefused {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::FencedGeneration { .. } => "FencedGeneration",
            Self::NoActivationCertificate { .. } => "NoActivationCertificate",
            Self::Certificate(error) => error.kind(),
            Self::OtherSlot { .. } => "WrongSlot",
            Self::StaleSlot { .. } => "StaleSlot",
            Self::ConflictingCertificates { .. } => "ConflictingCertificates",
            Self::Proof { error, .. } => error.kind(),
            Self::Decode(error) => error.kind(),
            Self::OtherRequest => "NonceReused",
            Self::Storage { .. } => "StorageFailed",
        }
    }
}

/// What a client knows about a VM, and the rules it judges answers by.
#[derive(Debug)]
pub struct AnswerCheck {
    group: Arc<GroupChain>,
    vm: VmId,
    certified_only: bool,
    head: Head,
    certificates: BTreeMap<(Generation, Slot), SlotCertificate>,
    conflict: Option<ConflictingCertificates>,
}

impl AnswerCheck {
    /// Knows nothing but what the VM is and which group vouches for it.
    pub fn new(group: Arc<GroupChain>, spec: &VmSpec) -> Self {
        Self {
            group,
            vm: spec.id(),
            certified_only: spec.output_policy == OutputPolicy::Certified,
            head: Head::default(),
            certificates: BTreeMap::new(),
            conflict: None,
        }
    }

    /// Goes on from a stored head; one that is not newer changes nothing.
    pub fn resume(&mut self, head: Head) {
        self.head = self.head.max(head);
    }

    /// The newest head proved so far.
    pub fn head(&self) -> Head {
        self.head
    }

    /// Two certificates for one slot, once they were seen.
    pub fn conflict(&self) -> Option<&ConflictingCertificates> {
        self.conflict.as_ref()
    }

    /// Judges an answer to `request`, which was made when `floor` was the newest slot known.
    ///
    /// # Errors
    /// The first rule that the answer breaks; nothing is learnt from it then.
    pub fn check(
        &mut self,
        request: &Request,
        floor: Option<Slot>,
        answer: &Answer,
    ) -> Result<Reply, AnswerRefused> {
        if answer.generation < self.head.generation {
            let (have, got) = (self.head.generation, answer.generation);
            return Err(AnswerRefused::FencedGeneration { have, got });
        }
        let Some(certificate) = &answer.certificate else { return self.check_uncertified(request, answer) };
        self.check_certificate(certificate, answer)?;
        if let Some(have) = floor.filter(|floor| answer.slot <= *floor) {
            return Err(AnswerRefused::StaleSlot { have, got: answer.slot });
        }
        self.check_conflict(certificate)?;
        check_inclusion(certificate, answer)?;
        let reply = check_reply(request, answer)?;
        self.remember(certificate);
        Ok(reply)
    }

    /// Takes note of an activation. Nothing changes when it does not hold.
    ///
    /// # Errors
    /// It is not of this VM and group, has no quorum, or an older generation.
    pub fn activated(&mut self, certificate: &ActivationCertificate) -> Result<(), AnswerRefused> {
        let activation = &certificate.activation;
        // What began in an earlier epoch goes on in this one.
        let members = self.group.past(activation.group, activation.epoch)?;
        certificate.verify(members, &members.expected(self.vm, Kind::ACTIVATE), None)?;
        let got = activation.generation;
        if got < self.head.generation {
            return Err(AnswerRefused::FencedGeneration { have: self.head.generation, got });
        }
        self.head.generation = got;
        Ok(())
    }

    /// Without a certificate nothing proves generation or output; a VM may have chosen that for its outputs.
    fn check_uncertified(&self, request: &Request, answer: &Answer) -> Result<Reply, AnswerRefused> {
        if self.certified_only || answer.generation > self.head.generation {
            return Err(AnswerRefused::NoActivationCertificate { got: answer.generation });
        }
        check_reply(request, answer)
    }

    fn check_certificate(&self, certificate: &SlotCertificate, answer: &Answer) -> Result<(), AnswerRefused> {
        let statement = &certificate.statement;
        let place = (statement.body.generation, statement.slot);
        if place != (answer.generation, answer.slot) {
            let (generation, slot) = (answer.generation, answer.slot);
            return Err(AnswerRefused::OtherSlot { generation, slot });
        }
        // Many outputs come under one certificate: equal bytes need no second verification.
        if self.certificates.get(&place) != Some(certificate) {
            let members = self.group.fresh(statement.group, statement.epoch)?;
            certificate.verify(members, &members.expected(self.vm, Kind::SLOT_SAMPLED))?;
        }
        Ok(())
    }

    fn check_conflict(&mut self, certificate: &SlotCertificate) -> Result<(), AnswerRefused> {
        let (generation, slot) = (certificate.statement.body.generation, certificate.statement.slot);
        let stored = (self.head.generation, self.head.slot) == (generation, Some(slot))
            && self.head.statement != certificate.statement.digest();
        let known = self.certificates.get(&(generation, slot));
        if let Some(known) = known.filter(|known| known.statement != certificate.statement) {
            let (first, second) = (known.clone(), certificate.clone());
            self.conflict.get_or_insert(ConflictingCertificates { first, second });
            return Err(AnswerRefused::ConflictingCertificates { slot });
        }
        if stored { Err(AnswerRefused::ConflictingCertificates { slot }) } else { Ok(()) }
    }

    fn remember(&mut self, certificate: &SlotCertificate) {
        let statement = &certificate.statement;
        let (generation, slot) = (statement.body.generation, statement.slot);
        self.head = self.head.max(Head { generation, slot: Some(slot), statement: statement.digest() });
        self.certificates.entry((generation, slot)).or_insert_with(|| certificate.clone());
        while self.certificates.len() > CERTIFICATES_KEPT {
            self.certificates.pop_first();
        }
    }
}

fn check_inclusion(certificate: &SlotCertificate, answer: &Answer) -> Result<(), AnswerRefused> {
    let body = &certificate.statement.body;
    let (index, count) = (answer.index, body.output_count);
    let leaf = Sha256Tree::leaf(&answer.output);
    verify_inclusion::<Sha256Tree>(&leaf, index, count, &answer.proof, body.output_root.as_bytes())
        .map_err(|error| AnswerRefused::Proof { index, count, error })
}

fn check_reply(request: &Request, answer: &Answer) -> Result<Reply, AnswerRefused> {
    let reply = Reply::decoded(&answer.output)?;
    if reply.answers(request) { Ok(reply) } else { Err(AnswerRefused::OtherRequest) }
}
