//! From bytes to an authentic request, and replies to what is none.

use alloc::vec::Vec;

use quorate_attest::encoding::Bounded;
use quorate_attest::error::VerifyError;
use quorate_attest::id::{Nonce, VmId};
use quorate_attest::key::PublicKey;
use quorate_attest::request::{ABI, Reply, Request, status};

/// The request in `bytes`, if its client signed it for `instance`.
pub(crate) fn authenticate(instance: &VmId, bytes: &[u8]) -> Result<Request, u16> {
    let request = Request::decoded(bytes).map_err(|_| status::MALFORMED)?;
    match request.verify(instance) {
        Ok(()) => Ok(request),
        Err(VerifyError::WrongVm { .. }) => Err(status::NOT_AUTHORIZED),
        Err(VerifyError::Inconsistent { .. }) => Err(status::MALFORMED),
        Err(_) => Err(status::BAD_SIGNATURE),
    }
}

/// A reply that belongs to no client's request.
pub(crate) fn to_nobody(status: u16) -> Reply {
    let nonce = Nonce::from_bytes([0; 16]);
    Reply { abi: ABI, client: PublicKey::NOBODY, sequence: 0, nonce, status, body: Vec::new() }
}

/// The wrapper in a VM's input. Who signed it is not asked here.
pub(crate) fn open(vm: &VmId, input: &[u8]) -> Result<Request, Reply> {
    let wrapper = Request::decoded(input).map_err(|_| to_nobody(status::MALFORMED))?;
    if wrapper.abi != ABI {
        return Err(to_nobody(status::MALFORMED));
    }
    if wrapper.vm != *vm {
        return Err(to_nobody(status::NOT_AUTHORIZED));
    }
    match (wrapper.op, wrapper.epoch) {
        (0, 0) => Ok(wrapper),
        (0, _) => Err(Reply::to(&wrapper, status::WRONG_EPOCH, Vec::new())),
        _ => Err(Reply::to(&wrapper, status::UNKNOWN_KIND, Vec::new())),
    }
}
