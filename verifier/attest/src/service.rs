//! Ordered services: what a service is, what its replicas execute and what they sign about it.
//!
//! ```text
//! client: Request ─▶ ordered log: number ─▶ every replica's guest: Input::Apply ─▶ Output::Applied
//!                                             │ Reply and state after it
//!                                             ▼
//!                     ServiceReceipt, signed by the replica's host signer; f + 1 equal ones are the answer
//! reader: Query ─▶ a fork of one replica: Output::Answer, proofs against a state that receipts certify
//! ```
//!
//! A service has a log of its own: entry 0 is its creation, every further entry one request, and the leaves are those of
//! the orchestrators' log ([`LogLeaf`](crate::receipt::LogLeaf)). Its head is published as a C2SP checkpoint that replicas cosign
//! ([`service_checkpoint`]).
//!
//! Not promised: that a receipt is the newest one; who asks for that needs a fresh word of a quorum about the order.

mod message;
mod receipt;

pub use message::{
    Answer, Applied, BATCH_LIMIT, Executed, Genesis, Input, Ordered, Output, Query, StateEntry, TICK,
    VOTERS_LIMIT,
};
pub use receipt::{ServiceReceipt, ServiceReceiptCertificate, ServiceReceiptTally};

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use borsh::{BorshDeserialize, BorshSerialize};
use sha2::{Digest as _, Sha256};

use crate::checkpoint::Checkpoint;
use crate::encoding::{self, Bounded, bounded_bytes, is_name, to_bytes};
use crate::error::VerifyError;
use crate::id::{GroupId, ImageDigest, Nonce, ServiceId};
use crate::merkle::Digest;
use crate::note::NoteError;
use crate::vm::check_memory;

/// Most bytes of a service's own configuration.
pub const CONFIG_LIMIT: usize = 65_536;

/// First bytes of what names a service, zero padded.
const DOMAIN: [u8; 16] = *b"quorate-svc-v1\0\0";

/// What a service is. Its digest names it, also after its image was upgraded.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ServiceSpec {
    /// Name for people, unique in the cluster: 1 to 64 of `a-z 0-9 -`.
    #[borsh(deserialize_with = "encoding::name")]
    pub name: String,
    /// SHA-256 of the image with which it begins.
    pub image: ImageDigest,
    /// Memory of each replica's guest: as in a VM's specification.
    pub memory_bytes: u64,
    /// Group whose members are its replicas.
    pub replicas: GroupId,
    /// Makes two services of one name differ.
    pub nonce: Nonce,
    /// The service's own configuration, by its rules.
    #[borsh(deserialize_with = "bounded_bytes::<CONFIG_LIMIT, _>")]
    pub config: Vec<u8>,
}

impl Bounded for ServiceSpec {
    const LIMIT: usize = 4 + 64 + 32 + 8 + 32 + 16 + 4 + CONFIG_LIMIT;
}

impl ServiceSpec {
    /// The service's identity: SHA-256 of the domain and the encoding.
    pub fn id(&self) -> ServiceId {
        ServiceId::from_bytes(Sha256::digest(to_bytes(&(DOMAIN, self))).into())
    }

    /// Checks name, memory and configuration size.
    pub fn validate(&self) -> Result<(), VerifyError> {
        let refuse = |reason| Err(VerifyError::BadConfig { reason });
        if !is_name(&self.name, 64) {
            return refuse(format!("service name {:?} is not 1 to 64 of a-z 0-9 -", self.name));
        }
        check_memory(self.memory_bytes)?;
        match self.config.len() {
            got if got > CONFIG_LIMIT => {
                Err(VerifyError::MessageTooLarge { what: "service configuration", limit: CONFIG_LIMIT, got })
            }
            _ => Ok(()),
        }
    }

    /// Name of the VM that a replica of the service runs in, by its index.
    pub fn vm_name(&self, replica: u16) -> String {
        format!("{}-{replica}", self.name)
    }
}

/// C2SP origin of a service's log: `group name/service name`.
pub fn service_origin(replicas: &str, service: &str) -> String {
    format!("{replicas}/{service}")
}

/// C2SP checkpoint of a service's log.
pub fn service_checkpoint(
    replicas: &str,
    service: &str,
    size: u64,
    root: Digest,
) -> Result<Checkpoint, NoteError> {
    Checkpoint::new(&service_origin(replicas, service), size, root)
}
