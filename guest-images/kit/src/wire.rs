//! The other side: what orchestrators and clients put into a replica and read from it.

use alloc::vec::Vec;

use quorate_attest::encoding::{Bounded, to_bytes};
use quorate_attest::id::{Nonce, ServiceId, VmId};
use quorate_attest::key::{PublicKey, SecretKey, Signature};
use quorate_attest::request::{ABI, BODY_LIMIT, Call, Reply, Request, status};
use quorate_attest::service::{BATCH_LIMIT, Input, Ordered, Output, TICK};
use quorate_attest::vm::VmSpec;

/// Bytes of an [`Input::Apply`] beside its requests.
const APPLY_BYTES: usize = 1 + 8 + 4;

/// Bytes of a request in it beside the request's own.
const ORDERED_BYTES: usize = 8 + 4;

/// Most bytes of an encoded request that can be ordered: alone, it fits into one input.
pub const REQUEST_LIMIT: usize = BODY_LIMIT - APPLY_BYTES - ORDERED_BYTES;

/// Why an output is not the answer to an input.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// The output belongs to another input.
    #[error("the output answers another input")]
    OtherInput,
    /// The wrapper was refused before anybody looked inside.
    #[error("the wrapper was refused with status {status}")]
    Refused {
        /// One of [`status`].
        status: u16,
    },
    /// The output is nothing a replica emits.
    #[error("the output does not decode")]
    Undecodable,
}

impl WireError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::OtherInput => "NonceReused",
            Self::Refused { .. } => "RequestRefused",
            Self::Undecodable => "DecodeError",
        }
    }
}

/// Input 0 of the VM of a replica.
pub fn vm_input(spec: &VmSpec) -> Vec<u8> {
    spec.encoded()
}

/// An input in an unsigned wrapper, as a fork takes it.
pub fn wrap(vm: VmId, client: PublicKey, sequence: u64, input: &Input) -> Request {
    let (nonce, body) = (Nonce::from_bytes([0; 16]), input.encoded());
    Request { abi: ABI, op: 0, client, sequence, nonce, epoch: 0, vm, body, signature: Signature::NONE }
}

/// An input in a wrapper that the VM's client signed.
pub fn wrap_signed(client: &SecretKey, vm: VmId, sequence: u64, input: &Input) -> Request {
    let nonce = Nonce::from_bytes([0; 16]);
    Request::sign(client, vm, Call { op: 0, sequence, nonce, epoch: 0, body: input.encoded() })
}

/// What `output` says to the input in `wrapper`.
///
/// # Errors
/// It belongs to another input, or the wrapper was refused.
pub fn unwrap(wrapper: &Request, output: &[u8]) -> Result<Output, WireError> {
    let reply = Reply::decoded(output).map_err(|_| WireError::Undecodable)?;
    if reply.client == PublicKey::NOBODY && reply.status != status::OK {
        return Err(WireError::Refused { status: reply.status });
    }
    if !reply.answers(wrapper) {
        return Err(WireError::OtherInput);
    }
    match reply.status {
        status::OK => Output::decoded(&reply.body).map_err(|_| WireError::Undecodable),
        status => Err(WireError::Refused { status }),
    }
}

/// How many of the first requests one [`Input::Apply`] can hold; 0 only for a first one over [`REQUEST_LIMIT`].
///
/// A replica may execute fewer, when their replies fill its output: the next input begins behind those it answered.
pub fn fitting(requests: &[Ordered]) -> usize {
    let mut used = APPLY_BYTES;
    let fits = |request: &&Ordered| {
        used += ORDERED_BYTES + request.request.len();
        used <= BODY_LIMIT
    };
    requests.iter().take(BATCH_LIMIT).take_while(fits).count()
}

/// A client's request to a service.
pub fn call(
    client: &SecretKey,
    service: ServiceId,
    sequence: u64,
    nonce: Nonce,
    op: u16,
    body: Vec<u8>,
) -> Request {
    Request::sign(client, service.instance(), Call { op, sequence, nonce, epoch: 0, body })
}

/// A vote that service time is `time_ms`, in milliseconds since 1970.
pub fn tick(voter: &SecretKey, service: ServiceId, time_ms: u64) -> Request {
    let nonce = Nonce::from_bytes([0; 16]);
    call(voter, service, time_ms, nonce, TICK, to_bytes(&time_ms))
}
