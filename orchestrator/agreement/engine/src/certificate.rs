//! Finalization certificates, checked apart from the engine.

use bytes::Bytes;
use commonware_codec::{Decode, Encode};
use commonware_consensus::simplex::types::Finalization;
use commonware_cryptography::Verifier as _;
use commonware_cryptography::certificate::Verifier as _;
use commonware_cryptography::sha256::Digest;
use commonware_utils::ordered::Quorum;
use commonware_utils::{Faults, N3f1};

use crate::committee::{Committee, Scheme};

/// Most bytes of a finalization of 64 members.
pub const FINALIZATION_LIMIT: usize = 8 << 10;

/// Why a finalization is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Not the canonical encoding of a finalization by members of this size of group.
    #[error("finalization does not decode")]
    Malformed,
    /// Too few signatures.
    #[error("{got} of {need} votes")]
    Quorum {
        /// Votes needed.
        need: u64,
        /// Votes found.
        got: u64,
    },
    /// A listed signature does not verify.
    #[error("signature of member {member} does not verify")]
    Signature {
        /// Index in the engine's order of members, which is that of their keys.
        member: u32,
    },
}

/// The digest of the header that these bytes finalize in the committee's epoch.
///
/// The quorum is the engine's, `n - (n - 1) / 3`. It is never below ours for the stated f and never above `n - f`.
/// Signatures are checked singly under the rule the engine votes by.
///
/// # Errors
/// See [`CertificateError`].
pub fn finalized(committee: &Committee, bytes: &[u8]) -> Result<[u8; 32], CertificateError> {
    if bytes.len() > FINALIZATION_LIMIT {
        return Err(CertificateError::Malformed);
    }
    let scheme = committee.verifier();
    let config = scheme.certificate_codec_config();
    let finalization = Finalization::<Scheme, Digest>::decode_cfg(Bytes::copy_from_slice(bytes), &config)
        .map_err(|_| CertificateError::Malformed)?;
    if finalization.encode() != bytes || finalization.proposal.round.epoch().get() != 0 {
        return Err(CertificateError::Malformed);
    }
    let certificate = &finalization.certificate;
    let (need, got) = (u64::from(N3f1::quorum(committee.keys().len())), certificate.signers.count() as u64);
    if got < need || certificate.signatures.len() as u64 != got {
        return Err(CertificateError::Quorum { need, got });
    }
    let (namespace, message) = (committee.finalize_namespace(), finalization.proposal.encode());
    for (member, signature) in certificate.signers.iter().zip(&certificate.signatures) {
        let refused = CertificateError::Signature { member: member.get() };
        let key = committee.participants().key(member).ok_or(refused)?;
        let signature = signature.get().ok_or(refused)?;
        if !key.verify(&namespace, &message, signature) {
            return Err(refused);
        }
    }
    finalization.proposal.payload.as_ref().try_into().map_err(|_| CertificateError::Malformed)
}
