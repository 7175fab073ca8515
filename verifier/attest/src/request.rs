//! Client requests: how an input shows who sent it, and the reply that belongs to it.
//!
//! A request is bound to one VM, so that it cannot be fed to another, and carries a sequence number and a nonce, so that
//! the service in the VM can refuse a second delivery. Whether it was delivered before is the service's to know.

use alloc::vec::Vec;

use borsh::{BorshDeserialize, BorshSerialize};

use crate::encoding::{Bounded, bounded_bytes, to_bytes};
use crate::error::{Signer, VerifyError};
use crate::id::{Nonce, VmId};
use crate::key::{PublicKey, SecretKey, Signature};
use crate::vm::{InputPolicy, VmSpec};

/// Version of the request and reply layout.
pub const ABI: u16 = 1;

/// Most bytes of one input or output of a VM.
pub const MESSAGE_LIMIT: usize = 262_144;

/// Most bytes of a request's or reply's body: the rest of a message is fields.
pub const BODY_LIMIT: usize = MESSAGE_LIMIT - 256;

/// First bytes of what a client signs, zero padded.
const DOMAIN: [u8; 16] = *b"quorate-req-v1\0\0";

/// Result codes common to all services.
pub mod status {
    /// Done.
    pub const OK: u16 = 0;
    /// The request does not decode.
    pub const MALFORMED: u16 = 1;
    /// A field is over its limit.
    pub const TOO_LARGE: u16 = 2;
    /// The operation or statement kind is unknown.
    pub const UNKNOWN_KIND: u16 = 3;
    /// A signature does not verify.
    pub const BAD_SIGNATURE: u16 = 4;
    /// The client may not do this.
    pub const NOT_AUTHORIZED: u16 = 5;
    /// The sequence number was used before.
    pub const REPLAYED: u16 = 6;
    /// The request refers to an older state.
    pub const STALE: u16 = 7;
    /// The request contradicts the state.
    pub const CONFLICT: u16 = 8;
    /// There is no such thing.
    pub const NOT_FOUND: u16 = 9;
    /// A budget is exhausted.
    pub const LIMIT: u16 = 10;
    /// The configuration is refused.
    pub const BAD_CONFIG: u16 = 11;
    /// The request names another epoch.
    pub const WRONG_EPOCH: u16 = 12;
    /// There is no answer that enough parties agree on.
    pub const INCONCLUSIVE: u16 = 13;
}

/// How much is known about the origin of an input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, BorshSerialize, BorshDeserialize)]
pub enum InputClass {
    /// Its place is proved by an ordered log. Needs a proof beside the input; [`classify`] never answers this.
    Ordered,
    /// A client that the VM's policy admits signed it for this VM.
    ClientSigned,
    /// Nobody who counts vouches for it but the host.
    Unauthenticated,
}

/// An operation that a client asks of the service in a VM.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Request {
    /// [`ABI`].
    pub abi: u16,
    /// Operation, numbered by the service.
    pub op: u16,
    /// Key of the client.
    pub client: PublicKey,
    /// Rises with each request of the client.
    pub sequence: u64,
    /// Chosen by the client, repeated in the reply.
    pub nonce: Nonce,
    /// Epoch the client assumes; 0 where unused.
    pub epoch: u64,
    /// VM the request is for.
    pub vm: VmId,
    /// Arguments, encoded by the service's rules.
    #[borsh(deserialize_with = "bounded_bytes::<BODY_LIMIT, _>")]
    pub body: Vec<u8>,
    /// Of `client` over the domain and all fields before.
    pub signature: Signature,
}

impl Bounded for Request {
    const LIMIT: usize = MESSAGE_LIMIT;
}

/// The fields of a request that its client chooses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// Operation, numbered by the service.
    pub op: u16,
    /// Rises with each request of the client.
    pub sequence: u64,
    /// Repeated in the reply.
    pub nonce: Nonce,
    /// Epoch the client assumes; 0 where unused.
    pub epoch: u64,
    /// Arguments, encoded by the service's rules.
    pub body: Vec<u8>,
}

impl Request {
    /// Signs `call` for one VM.
    pub fn sign(key: &SecretKey, vm: VmId, call: Call) -> Self {
        let Call { op, sequence, nonce, epoch, body } = call;
        let client = key.public();
        let mut request =
            Self { abi: ABI, op, client, sequence, nonce, epoch, vm, body, signature: Signature::NONE };
        request.signature = key.sign(&request.signed_bytes());
        request
    }

    /// Checks that the request is for `vm` and signed by the client it names.
    pub fn verify(&self, vm: &VmId) -> Result<(), VerifyError> {
        if self.abi != ABI {
            return Err(VerifyError::Inconsistent { reason: "unknown version of the request layout" });
        }
        if self.vm != *vm {
            return Err(VerifyError::WrongVm { want: *vm, got: self.vm });
        }
        self.client
            .verify(&self.signed_bytes(), &self.signature)
            .map_err(|error| VerifyError::signature(Signer::Key(self.client), error))
    }

    fn signed_bytes(&self) -> Vec<u8> {
        let mut bytes = to_bytes(&(DOMAIN, self));
        bytes.truncate(bytes.len() - Signature::LENGTH);
        bytes
    }
}

/// A service's answer to one [`Request`]. Unsigned: what makes it believable is the certificate over the VM's outputs.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Reply {
    /// [`ABI`].
    pub abi: u16,
    /// Client of the request.
    pub client: PublicKey,
    /// Sequence number of the request.
    pub sequence: u64,
    /// Nonce of the request.
    pub nonce: Nonce,
    /// One of [`status`].
    pub status: u16,
    /// Result, encoded by the service's rules.
    #[borsh(deserialize_with = "bounded_bytes::<BODY_LIMIT, _>")]
    pub body: Vec<u8>,
}

impl Bounded for Reply {
    const LIMIT: usize = MESSAGE_LIMIT;
}

impl Reply {
    /// The answer to `request`.
    pub fn to(request: &Request, status: u16, body: Vec<u8>) -> Self {
        Self {
            abi: ABI,
            client: request.client,
            sequence: request.sequence,
            nonce: request.nonce,
            status,
            body,
        }
    }

    /// Whether this answers `request`.
    pub fn answers(&self, request: &Request) -> bool {
        self.client == request.client && self.sequence == request.sequence && self.nonce == request.nonce
    }
}

/// What an input of the VM shows about its origin. Deterministic, so that host and verifiers count alike.
pub fn classify(spec: &VmSpec, input: &[u8]) -> InputClass {
    let admitted = |client: &PublicKey| match &spec.input_policy {
        InputPolicy::SignedBy(key) => client == key,
        InputPolicy::ClientSigned | InputPolicy::Any => true,
    };
    match Request::decoded(input) {
        Ok(request) if admitted(&request.client) && request.verify(&spec.id()).is_ok() => {
            InputClass::ClientSigned
        }
        _ => InputClass::Unauthenticated,
    }
}
