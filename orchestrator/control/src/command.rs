//! What an author can ask of the control plane.

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::encoding::{Bounded, bounded_bytes};
use quorate_attest::epoch::EpochLink;
use quorate_attest::id::{Generation, GroupId, ImageDigest, Nonce, OperationId, ServiceId, VmId};
use quorate_attest::key::{PublicKey, SecretKey};
use quorate_attest::operation::{COMMAND_LIMIT, Operation};
use quorate_attest::service::ServiceSpec;
use quorate_attest::vm::{ActivationCertificate, Refusal, Relinquish, SlotCertificate, VmSpec};

/// How much a client may have and ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, BorshSerialize, BorshDeserialize)]
pub struct Quota {
    /// VMs at a time.
    pub vms: u32,
    /// Memory of all of them.
    pub memory_bytes: u64,
    /// Operations in [`QUOTA_WINDOW`](crate::QUOTA_WINDOW) entries of the log.
    pub operations: u32,
}

/// Why a migration may be given up.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum AbortEvidence {
    /// The source has not relinquished: it runs on in its generation.
    NotStopped,
    /// The source has stopped and names itself as successor: it goes on in a new generation.
    Relinquished(Relinquish),
    /// The destination refuses. If it was granted the generation, the source is granted the next one.
    Declined(Refusal),
}

/// One of the two groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, BorshSerialize, BorshDeserialize)]
pub enum Which {
    /// The group that orders.
    Orchestrators,
    /// The group that attests. Its configuration lists the hosts.
    Verifiers,
}

/// The command of an operation.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Command {
    /// Enters a VM into the registry; its author owns it. Operators and clients.
    CreateVm {
        /// Its specification.
        spec: VmSpec,
    },
    /// Removes a VM that nobody is moving. Operators and its owner.
    DeleteVm {
        /// The VM.
        vm: VmId,
    },
    /// Begins a migration. Operators and the owner.
    Begin {
        /// The VM.
        vm: VmId,
        /// Host that shall receive it.
        destination: PublicKey,
        /// [`Vm::next_generation`](crate::Vm::next_generation), as the author knows it.
        generation: Generation,
    },
    /// Grants the generation of a migration to its destination. Operators and the two hosts.
    Handover {
        /// Operation that began the migration.
        migration: OperationId,
        /// The source's word that it has stopped.
        relinquish: Relinquish,
    },
    /// Records that a generation runs. Operators, the host that runs it and the one that ran before.
    Activate {
        /// The verifiers' votes.
        certificate: ActivationCertificate,
    },
    /// Gives a migration up. Operators, the owner and the two hosts.
    Abort {
        /// The VM.
        vm: VmId,
        /// Operation that began the migration.
        migration: OperationId,
        /// Why that is safe.
        evidence: AbortEvidence,
    },
    /// Grants a new generation without the word of the host that ran the VM. Operators.
    Recover {
        /// The VM.
        vm: VmId,
        /// Host that shall go on.
        host: PublicKey,
        /// [`Vm::next_generation`](crate::Vm::next_generation), as the author knows it.
        generation: Generation,
        /// Newest certified slot, from which it goes on.
        slot: SlotCertificate,
    },
    /// Records the newest certified slot. Operators and hosts that run or receive the VM.
    Head {
        /// The certified slot.
        certificate: SlotCertificate,
    },
    /// Admits a client or changes its quota. Operators.
    RegisterClient {
        /// Its key.
        key: PublicKey,
        /// What it may have.
        quota: Quota,
        /// 0 for a new client, then one more each time: an old registration cannot come back.
        revision: u64,
    },
    /// Ends a client's rights, for good. Operators.
    RevokeClient {
        /// Its key.
        key: PublicKey,
    },
    /// Begins the next epoch of a group. Operators and members of either group; the link's signatures decide.
    ChangeGroup {
        /// The group.
        which: Which,
        /// From its current configuration to the next.
        link: EpochLink,
    },
    /// Creates an ordered service: entry 0 of its log. Operators.
    CreateService {
        /// What it is.
        spec: ServiceSpec,
    },
    /// Gives a request the next number of a service's log. Operators, orchestrators and clients.
    CallService {
        /// The service.
        service: ServiceId,
        /// The request, which nobody looks into before the service's guests do.
        #[borsh(deserialize_with = "bounded_bytes::<COMMAND_LIMIT, _>")]
        request: Vec<u8>,
    },
    /// Names the entry of a service's log from which on another image executes it. Operators.
    UpgradeService {
        /// The service.
        service: ServiceId,
        /// The image.
        image: ImageDigest,
        /// The first entry that it executes: one that has no request yet.
        number: u64,
    },
}

impl Bounded for Command {
    const LIMIT: usize = COMMAND_LIMIT;
}

impl Command {
    /// The signed operation that asks for this.
    pub fn to_operation(&self, author: &SecretKey, group: GroupId, nonce: Nonce) -> Operation {
        Operation::new(author, group, nonce, self.encoded())
    }

    /// Name, for logs and metrics.
    pub fn name(&self) -> &'static str {
        match self {
            Self::CreateVm { .. } => "CreateVm",
            Self::DeleteVm { .. } => "DeleteVm",
            Self::Begin { .. } => "Begin",
            Self::Handover { .. } => "Handover",
            Self::Activate { .. } => "Activate",
            Self::Abort { .. } => "Abort",
            Self::Recover { .. } => "Recover",
            Self::Head { .. } => "Head",
            Self::RegisterClient { .. } => "RegisterClient",
            Self::RevokeClient { .. } => "RevokeClient",
            Self::ChangeGroup { .. } => "ChangeGroup",
            Self::CreateService { .. } => "CreateService",
            Self::CallService { .. } => "CallService",
            Self::UpgradeService { .. } => "UpgradeService",
        }
    }

    /// VM it is about, if it is about one.
    pub fn vm(&self) -> Option<VmId> {
        match self {
            Self::CreateVm { spec } => Some(spec.id()),
            Self::DeleteVm { vm } | Self::Begin { vm, .. } | Self::Abort { vm, .. } => Some(*vm),
            Self::Recover { vm, .. } => Some(*vm),
            Self::Handover { relinquish, .. } => Some(relinquish.vm),
            Self::Activate { certificate } => Some(certificate.activation.vm),
            Self::Head { certificate } => Some(certificate.statement.vm),
            Self::RegisterClient { .. } | Self::RevokeClient { .. } | Self::ChangeGroup { .. } => None,
            Self::CreateService { .. } | Self::CallService { .. } | Self::UpgradeService { .. } => None,
        }
    }
}
