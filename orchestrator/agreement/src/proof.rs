//! Proof that an operation has an index: its block's header, its path in the block, and a quorum's certificate of the block
//! or of a block after it, with the headers between.

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_agreement_engine::block::{Block, Header};
use quorate_agreement_engine::certificate::{FINALIZATION_LIMIT, finalized};
use quorate_attest::encoding::Bounded;
use quorate_attest::group::GroupConfig;
use quorate_attest::merkle::{Sha256Tree, TreeHash, inclusion_proof, verify_inclusion};

use crate::config::committee;
use crate::error::ProofError;

/// Most headers between a block and the certificate of one after it.
pub(crate) const CHAIN: usize = 256;
/// Path in a block of at most 2048 operations.
const PATH: usize = 11;

/// The parts of a proof. Its encoding is what travels.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct OrderProof {
    /// Header of the block with the operation.
    pub(crate) header: Header,
    /// RFC 6962 path of the operation in the block, its sibling first.
    pub(crate) path: Vec<[u8; 32]>,
    /// Headers after the block, up to the one that the certificate names.
    pub(crate) chain: Vec<Header>,
    /// The certificate.
    pub(crate) finalization: Vec<u8>,
}

impl Bounded for OrderProof {
    const LIMIT: usize = Header::LENGTH + 4 + PATH * 32 + 4 + CHAIN * Header::LENGTH + 4 + FINALIZATION_LIMIT;
}

impl OrderProof {
    /// The proof of the operation at `index` of a block; `None` if the block does not hold it.
    pub(crate) fn new(block: &Block, index: u64, chain: Vec<Header>, finalization: Vec<u8>) -> Option<Self> {
        let offset = index.checked_sub(block.header().first_index)?;
        let leaves: Vec<_> = block.operations().iter().map(|operation| Sha256Tree::leaf(operation)).collect();
        let path = inclusion_proof::<Sha256Tree>(&leaves, offset)?;
        Some(Self { header: *block.header(), path, chain, finalization })
    }

    /// Epoch whose members signed.
    pub fn epoch(&self) -> u64 {
        self.header.epoch
    }
}

/// Checks that the group ordered `operation` at `index`, in the epoch of the given configuration. Offline and pure.
///
/// # Errors
/// See [`ProofError`]; any changed byte of proof or operation leads to one.
pub fn verify_order(
    proof: &[u8],
    group: &GroupConfig,
    index: u64,
    operation: &[u8],
) -> Result<(), ProofError> {
    let proof =
        OrderProof::decoded(proof).map_err(|error| ProofError::Decode { reason: error.to_string() })?;
    let OrderProof { header, path, chain, finalization } = &proof;
    let committee = committee(group)?;
    if header.epoch != committee.epoch {
        return Err(ProofError::WrongEpoch { want: committee.epoch, got: header.epoch });
    }
    let (first, end) = (header.first_index, header.next_index());
    if index < first || index >= end {
        return Err(ProofError::WrongIndex { index, first, end });
    }
    let (leaf, size) = (Sha256Tree::leaf(operation), u64::from(header.count));
    verify_inclusion::<Sha256Tree>(&leaf, index - first, size, path, &header.root)
        .map_err(ProofError::Inclusion)?;
    let mut digest = header.digest();
    for next in chain {
        if next.parent != digest {
            return Err(ProofError::BrokenChain);
        }
        digest = next.digest();
    }
    if finalized(&committee, finalization)? != digest {
        return Err(ProofError::BrokenChain);
    }
    Ok(())
}
