//! The specification of a VM: everything that decides what it computes and who may run it first.

use alloc::format;
use alloc::string::String;

use borsh::{BorshDeserialize, BorshSerialize};
use sha2::{Digest as _, Sha256};

use crate::encoding::{self, Bounded, is_name, to_bytes};
use crate::error::VerifyError;
use crate::id::{ImageDigest, Nonce, VmId};
use crate::key::PublicKey;

/// First bytes of what a VM's id hashes, zero padded.
const DOMAIN: [u8; 16] = *b"quorate-vm-v1\0\0\0";

/// Machine version that this code knows.
pub const MACHINE_VERSION: u32 = 1;

const MEMORY_STEP: u64 = 2 << 20;
const MEMORY_MIN: u64 = 8 << 20;
const MEMORY_MAX: u64 = 16 << 30;

/// Which inputs a host may feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, BorshSerialize, BorshDeserialize)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum InputPolicy {
    /// Only those a client signed for this VM.
    ClientSigned,
    /// Any; the statement counts those nobody vouches for.
    Any,
    /// Only those that the holder of this key signed for this VM. It may also send the VM back to its newest slot.
    SignedBy(PublicKey),
}

/// When outputs leave the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, BorshSerialize, BorshDeserialize)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(rename_all = "kebab-case"))]
pub enum OutputPolicy {
    /// After the certificate of their slot (output commit).
    Certified,
    /// At once; a migration or crash may take them back.
    Immediate,
}

/// A VM, before it has run. Its digest is the VM's identity, so none of this can change later.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct VmSpec {
    /// Name for people: 1 to 64 of `a-z 0-9 -`.
    #[borsh(deserialize_with = "encoding::name")]
    pub name: String,
    /// SHA-256 of the image.
    pub image: ImageDigest,
    /// Version of the machine the image runs on.
    pub machine_version: u32,
    /// Guest memory: a multiple of 2 MiB from 8 MiB to 16 GiB.
    pub memory_bytes: u64,
    /// Which inputs a host may feed.
    pub input_policy: InputPolicy,
    /// When outputs leave the host.
    pub output_policy: OutputPolicy,
    /// Host of generation 0.
    pub host: PublicKey,
    /// Makes two VMs of one image differ.
    pub nonce: Nonce,
}

impl Bounded for VmSpec {
    const LIMIT: usize = 4 + 64 + 32 + 4 + 8 + (1 + 32) + 1 + 32 + 16;
}

impl VmSpec {
    /// The VM's identity: SHA-256 of the domain and the encoding.
    pub fn id(&self) -> VmId {
        VmId::from_bytes(Sha256::digest(to_bytes(&(DOMAIN, self))).into())
    }

    /// Checks name, machine version and memory size.
    pub fn validate(&self) -> Result<(), VerifyError> {
        let refuse = |reason| Err(VerifyError::BadConfig { reason });
        if !is_name(&self.name, 64) {
            return refuse(format!("VM name {:?} is not 1 to 64 of a-z 0-9 -", self.name));
        }
        if self.machine_version != MACHINE_VERSION {
            return refuse(format!("machine version {} is unknown", self.machine_version));
        }
        check_memory(self.memory_bytes)
    }
}

/// Refuses a memory size that no machine has.
pub(crate) fn check_memory(memory_bytes: u64) -> Result<(), VerifyError> {
    if !(MEMORY_MIN..=MEMORY_MAX).contains(&memory_bytes) || !memory_bytes.is_multiple_of(MEMORY_STEP) {
        return Err(VerifyError::BadConfig {
            reason: format!("{memory_bytes} bytes of memory: need a multiple of 2 MiB from 8 MiB to 16 GiB"),
        });
    }
    Ok(())
}
