//! `Register`: which VMs a verifier takes on.

use quorate_attest::VerifyError;
use quorate_attest::id::VmId;
use quorate_attest::vm::VmSpec;
use quorate_vmm::{Image, genesis};

use super::{Context, Measurement, Refusal};
use crate::protocol::Register;

/// A VM that may be served: its image is admitted and its genesis known.
#[derive(Clone, Debug)]
pub struct Registration {
    /// The VM.
    pub vm: VmId,
    /// What it is.
    pub spec: VmSpec,
    /// Its image.
    pub image: Image,
    /// What it measures before it runs.
    pub genesis: Measurement,
}

/// Checks a registration. The image is admitted here, whoever else has admitted it.
///
/// # Errors
/// `BadConfig`, `KeyRoleMismatch`, `MessageTooLarge`, `ImageInvalid`, `PlatformMismatch`.
pub fn register(context: &Context, register: &Register) -> Result<Registration, Refusal> {
    let spec = &register.spec;
    spec.validate()?;
    if !context.group.is_host(&spec.host) {
        return Err(VerifyError::KeyRoleMismatch { role: "host", got: spec.host }.into());
    }
    let (limit, got) = (context.memory_bytes_max, spec.memory_bytes);
    if got > limit {
        return Err(Refusal::TooLarge { what: "memory of the VM", limit, got });
    }
    let image = Image::admit(&register.image)
        .map_err(|error| Refusal::Image { kind: error.kind(), detail: error.to_string() })?;
    if image.digest() != spec.image {
        return Err(Refusal::PlatformMismatch { field: "image" });
    }
    let genesis = genesis::genesis(&image, spec.memory_bytes)
        .map_err(|error| Refusal::Image { kind: error.kind(), detail: error.to_string() })?;
    Ok(Registration { vm: spec.id(), spec: spec.clone(), image, genesis: genesis.measurement })
}
