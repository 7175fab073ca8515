//! Records of the state, their keys in the sorted map and the limits that bound it.

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::encoding::{Bounded, bounded_list};
use quorate_attest::id::{
    ConfigDigest, Epoch, Generation, ImageDigest, OperationId, ServiceId, Slot, StatementDigest, VmId,
};
use quorate_attest::key::PublicKey;
use quorate_attest::service::ServiceSpec;
use quorate_attest::state_tree::VALUE_LIMIT;
use quorate_attest::vm::{Decision, VmSpec};

use crate::command::{Quota, Which};

/// Most VMs at a time.
pub const VMS_LIMIT: usize = 16_384;

/// Most clients with rights at a time.
pub const CLIENTS_LIMIT: usize = 4_096;

/// Deleted VMs, and revoked clients, that are remembered; the oldest is forgotten first.
pub const TOMBSTONES_LIMIT: usize = 4_096;

/// Ended migrations that are remembered; the oldest is forgotten first.
pub const FINISHED_LIMIT: u64 = 1_024;

/// Grants above a VM's generation that are remembered; the lowest generation is forgotten first.
pub const GRANTS_LIMIT: usize = 8;

/// Most services. They are never removed: their logs stay.
pub const SERVICES_LIMIT: usize = 64;

/// Most upgrades of one service.
pub const UPGRADES_LIMIT: usize = 64;

/// Log entries in which a client's operations are counted.
pub const QUOTA_WINDOW: u64 = 1_000;

/// A certified slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Head {
    /// Its number.
    pub slot: Slot,
    /// Digest of its statement.
    pub statement: StatementDigest,
}

/// How a VM came to its generation.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Active {
    /// Digest of the activation that verifiers certified.
    pub activation: StatementDigest,
    /// Grant that it used.
    pub grant: Decision,
}

/// A VM in the registry.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Vm {
    /// Its specification.
    pub spec: VmSpec,
    /// Author of its creation.
    pub owner: PublicKey,
    /// Log index of its creation.
    pub created: u64,
    /// Generation that runs, as far as the log knows.
    pub generation: Generation,
    /// Host that runs it.
    pub host: PublicKey,
    /// Lowest generation that nobody has asked for: the one to name in `Begin` and `Recover`.
    pub next_generation: Generation,
    /// Newest certified slot that the log knows.
    pub head: Option<Head>,
    /// Activation of `generation`; none in generation 0.
    pub active: Option<Active>,
    /// Grants of generations above `generation`, ascending.
    #[borsh(deserialize_with = "bounded_list::<GRANTS_LIMIT, _, _>")]
    pub grants: Vec<Decision>,
    /// Migration under way, by the operation that began it.
    pub migration: Option<(OperationId, Migration)>,
}

impl Vm {
    /// Newest decision about who may run it.
    pub fn newest_grant(&self) -> Option<&Decision> {
        self.grants.last().or(self.active.as_ref().map(|active| &active.grant))
    }

    /// Whether this host runs the VM, receives it or was granted a generation.
    pub fn concerns(&self, host: &PublicKey) -> bool {
        let granted = |decision: &Decision| match &decision.action {
            quorate_attest::vm::Action::Grant { host: granted, .. } => granted == host,
            quorate_attest::vm::Action::Migrate { .. } => false,
        };
        self.host == *host
            || self.grants.iter().any(granted)
            || self.migration.as_ref().is_some_and(|(_, migration)| migration.concerns(host))
    }
}

/// How far a migration is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, BorshSerialize, BorshDeserialize)]
pub enum Phase {
    /// The source runs, or has stopped and the log does not know yet.
    Begun,
    /// The destination is granted the generation.
    Granted,
    /// The destination runs the VM.
    Activated,
    /// Given up by or for the source.
    Aborted,
    /// Given up because the destination refused.
    Declined,
    /// Overtaken by a recovery or by the source's own new generation.
    Superseded,
}

/// A migration.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Migration {
    /// The VM.
    pub vm: VmId,
    /// Generation that the destination is to create.
    pub generation: Generation,
    /// Host that runs the VM.
    pub source: PublicKey,
    /// Host that receives it.
    pub destination: PublicKey,
    /// Who began it.
    pub author: PublicKey,
    /// Log index of the beginning.
    pub begun: u64,
    /// How far it is.
    pub phase: Phase,
    /// Newest decision about it: permission to prepare, then the grant that it led to.
    pub decision: Decision,
    /// Log index of the end.
    pub ended: Option<u64>,
}

impl Migration {
    /// Whether `host` is the source or the destination.
    pub fn concerns(&self, host: &PublicKey) -> bool {
        self.source == *host || self.destination == *host
    }
}

/// A client of the control plane.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Client {
    /// What it may have.
    pub quota: Quota,
    /// How often that was set after the first time.
    pub revision: u64,
    /// Log index at which its rights ended.
    pub revoked: Option<u64>,
    /// Window of its newest operation: log index / [`QUOTA_WINDOW`].
    pub window: u64,
    /// Its operations in that window.
    pub used: u32,
}

/// The image that executes a service's entries from a number on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Upgrade {
    /// First entry that it executes.
    pub number: u64,
    /// The image.
    pub image: ImageDigest,
}

/// What a service is: fixed at its creation.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ServiceRecord {
    /// Its specification.
    pub spec: ServiceSpec,
    /// Log index of its creation.
    pub created: u64,
    /// Operation that created it.
    pub operation: OperationId,
}

/// How far a service is: apart from what it is, because every request changes it.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ServiceProgress {
    /// Numbers given out, that of the creation included: the next request gets this one.
    pub ordered: u64,
    /// Images that followed the first, ascending by number.
    #[borsh(deserialize_with = "bounded_list::<UPGRADES_LIMIT, _, _>")]
    pub upgrades: Vec<Upgrade>,
}

/// A service in the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// What it is.
    pub record: ServiceRecord,
    /// How far it is.
    pub progress: ServiceProgress,
}

impl Service {
    /// The image that executes an entry, and how many preceded it.
    pub fn image_at(&self, number: u64) -> (ImageDigest, usize) {
        let began = self.progress.upgrades.iter().take_while(|upgrade| upgrade.number <= number);
        match began.enumerate().last() {
            Some((before, upgrade)) => (upgrade.image, before + 1),
            None => (self.record.spec.image, 0),
        }
    }
}

/// Name of the VM in which a replica of a service executes with an image that `before` others preceded.
pub fn service_vm_name(spec: &ServiceSpec, replica: u16, before: usize) -> String {
    match before {
        0 => spec.vm_name(replica),
        _ => format!("{}-v{before}", spec.vm_name(replica)),
    }
}

impl Bounded for ServiceRecord {
    const LIMIT: usize = VALUE_LIMIT;
}

impl Bounded for ServiceProgress {
    const LIMIT: usize = 8 + 4 + UPGRADES_LIMIT * 40;
}

/// Value under a VM's key.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
#[expect(clippy::large_enum_variant, reason = "nearly all entries are of the large kind")]
pub(crate) enum VmEntry {
    Live(Vm),
    /// With the log index.
    Deleted(u64),
}

impl Bounded for VmEntry {
    const LIMIT: usize = VALUE_LIMIT;
}

impl Bounded for Client {
    const LIMIT: usize = 4 + 8 + 4 + 8 + 1 + 8 + 8 + 4;
}

/// Value under the key of an ended migration.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Finished {
    pub id: OperationId,
    pub migration: Migration,
}

impl Bounded for Finished {
    const LIMIT: usize = VALUE_LIMIT;
}

/// Value under a group's key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct GroupEntry {
    pub epoch: Epoch,
    pub config: ConfigDigest,
}

impl Bounded for GroupEntry {
    const LIMIT: usize = 8 + 32;
}

pub(crate) const CLIENT_PREFIX: &[u8] = b"client/";
pub(crate) const FINISHED_COUNT_KEY: &[u8] = b"finished";
pub(crate) const FINISHED_PREFIX: &[u8] = b"finished/";
pub(crate) const ORCHESTRATORS_KEY: &[u8] = b"group/orchestrators";
pub(crate) const SERVICE_PREFIX: &[u8] = b"service/";
pub(crate) const SERVICE_PROGRESS_PREFIX: &[u8] = b"service-progress/";
pub(crate) const VERIFIERS_KEY: &[u8] = b"group/verifiers";
pub(crate) const VM_PREFIX: &[u8] = b"vm/";

/// Key of a VM in the state.
pub fn vm_key(vm: &VmId) -> Vec<u8> {
    [VM_PREFIX, vm.as_bytes()].concat()
}

/// Key of a client in the state.
pub fn client_key(key: &PublicKey) -> Vec<u8> {
    [CLIENT_PREFIX, key.as_bytes()].concat()
}

/// Key of what a service is.
pub fn service_key(service: &ServiceId) -> Vec<u8> {
    [SERVICE_PREFIX, service.as_bytes()].concat()
}

/// Key of how far a service is.
pub fn service_progress_key(service: &ServiceId) -> Vec<u8> {
    [SERVICE_PROGRESS_PREFIX, service.as_bytes()].concat()
}

/// Key of the `count`-th ended migration: places are used again in turn.
pub(crate) fn finished_key(count: u64) -> Vec<u8> {
    [FINISHED_PREFIX, &(count % FINISHED_LIMIT).to_be_bytes()].concat()
}

pub(crate) fn group_key(which: Which) -> &'static [u8] {
    match which {
        Which::Orchestrators => ORCHESTRATORS_KEY,
        Which::Verifiers => VERIFIERS_KEY,
    }
}
