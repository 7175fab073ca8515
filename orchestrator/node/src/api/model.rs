//! What the HTTP API says, as JSON. Numbers of 64 bits are JSON numbers; digests, keys and signatures are lower-case hexadecimal text,
//! encoded structures standard base64.

use base64ct::{Base64, Encoding};
use quorate_attest::group::{GroupConfig, Member};
use quorate_attest::id::to_hex;
use quorate_attest::vm::Action;
use quorate_ordering::protocol::{Applied, Proved, TailEntry};
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApiError {
    /// Stable identifier of the threat model.
    pub error_kind: String,
    /// For people.
    pub message: String,
    /// What to do next.
    pub next: String,
}

/// One VM as the executed log has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Vm {
    /// Identity: digest of the specification.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Digest of its image.
    pub image: String,
    /// Memory, bytes.
    pub memory_bytes: u64,
    /// Key of the host that may run it.
    pub host: String,
    /// Name of that host, if a group lists the key.
    pub host_name: Option<String>,
    /// Generation that may run.
    pub generation: u64,
    /// Newest certified slot that was published.
    pub head_slot: Option<u64>,
    /// Key of its owner.
    pub owner: String,
    /// The migration under way.
    pub migration: Option<String>,
    /// `running` or `moving`.
    pub state: String,
}

/// All VMs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Vms {
    /// Entries of the log executed.
    pub applied: u64,
    /// In ascending order of their ids.
    pub vms: Vec<Vm>,
}

/// One migration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Migration {
    /// Its id: the operation that began it.
    pub id: String,
    /// The VM.
    pub vm: String,
    /// Host that gives the VM up.
    pub source: String,
    /// Host that receives it.
    pub destination: String,
    /// Generation that it is to create.
    pub generation: u64,
    /// How far it has come.
    pub phase: String,
}

/// Migrations under way.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Migrations {
    /// Entries of the log executed.
    pub applied: u64,
    /// In ascending order of their VMs.
    pub migrations: Vec<Migration>,
}

/// An ordered service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Service {
    /// Identity: digest of the specification.
    pub id: String,
    /// Its name.
    pub name: String,
    /// Digest of the image that executes the next entry.
    pub image: String,
    /// Memory of each replica's guest, bytes.
    pub memory_bytes: u64,
    /// Entry of the log that created it.
    pub created: u64,
    /// Numbers given out.
    pub ordered: u64,
    /// Entries executed by this node's replica, if it has one.
    pub executed: Option<u64>,
    /// Index of that replica.
    pub replica: Option<u16>,
    /// Why that replica does not go on, if it does not.
    pub stopped: Option<String>,
}

/// All ordered services.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Services {
    /// Entries of the log executed.
    pub applied: u64,
    /// In ascending order of their ids.
    pub services: Vec<Service>,
}

/// A member of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct GroupMember {
    /// Its name.
    pub name: String,
    /// Signs votes.
    pub vote_key: String,
    /// Signs C2SP cosignatures.
    pub cosigner_key: String,
    /// Authenticates connections.
    pub transport_key: String,
}

/// The newest configuration of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// Its id: the digest of its genesis.
    pub id: String,
    /// Version of its membership.
    pub epoch: u64,
    /// Members.
    pub n: u64,
    /// Most Byzantine members.
    pub f: u64,
    /// Votes that decide.
    pub quorum: u64,
    /// The members, in index order.
    pub members: Vec<GroupMember>,
}

/// Both groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Groups {
    /// Entries of the log executed.
    pub applied: u64,
    /// Who orders.
    pub orchestrators: Group,
    /// Who checks VMs.
    pub verifiers: Group,
}

/// What this orchestrator signed about an executed operation. A quorum of equal receipts is a certificate.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SignedReceipt {
    /// Index of the orchestrator in its group; none if it was no member in that epoch.
    pub orchestrator: Option<u16>,
    /// Place of the entry in the log.
    pub index: u64,
    /// Epoch of the group.
    pub epoch: u64,
    /// The operation.
    pub operation: String,
    /// SHA-256 of the outcome.
    pub result: String,
    /// Root of the log that ends with this entry.
    pub log_root: String,
    /// Root of the state after it.
    pub state_root: String,
    /// Entries of that state.
    pub state_size: u64,
    /// Of the orchestrator's vote key over the receipt's statement.
    pub signature: String,
    /// The outcome, encoded.
    pub outcome: String,
    /// The decision that the operation led to, or lost against.
    pub decision: Option<SignedDecision>,
}

/// What was decided about a VM, signed by this orchestrator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SignedDecision {
    /// The VM.
    pub vm: String,
    /// Generation it is about.
    pub generation: u64,
    /// `migrate` or `grant`.
    pub action: String,
    /// Place of the deciding operation in the log.
    pub index: u64,
    /// Of the orchestrator's vote key over the decision's statement.
    pub signature: String,
}

/// One entry of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct LogEntry {
    /// Who asked for it; none if the operation does not decode.
    pub author: Option<String>,
    /// Name of the command; none if it does not decode.
    pub command: Option<String>,
    /// The operation, encoded.
    pub operation: String,
    /// What became of it.
    pub receipt: SignedReceipt,
}

/// Entries of the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Log {
    /// Entries executed here.
    pub size: u64,
    /// Index of the first one shown.
    pub from: u64,
    /// The entries.
    pub entries: Vec<LogEntry>,
}

/// Which entries are wanted.
#[derive(Clone, Copy, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct LogQuery {
    /// First index.
    #[serde(default)]
    pub from: u64,
    /// Most entries; at most 1024 are given.
    #[serde(default = "default_count")]
    pub count: u32,
}

fn default_count() -> u32 {
    64
}

/// Size of the log that a proof leads to.
#[derive(Clone, Copy, Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct ProofQuery {
    /// Entries of the log; the newest size that was cosigned if it is not given.
    #[serde(default)]
    pub size: u64,
}

/// That an entry is in the log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Proof {
    /// The entry; its leaf is made of operation, result, state root and state size.
    pub receipt: SignedReceipt,
    /// RFC 6962 inclusion path, the leaf's sibling first.
    pub path: Vec<String>,
    /// Entries of the log.
    pub size: u64,
    /// Its root.
    pub root: String,
    /// The consensus' own proof of order, encoded.
    pub order: String,
}

/// An operation to be ordered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct SubmitOperation {
    /// The encoded, signed operation in base64.
    pub operation: String,
}

impl From<&Applied> for SignedReceipt {
    fn from(applied: &Applied) -> Self {
        let receipt = &applied.receipt;
        let decision = applied.decision.as_ref().map(|(decision, signature)| SignedDecision {
            vm: decision.vm.to_string(),
            generation: decision.generation.get(),
            action: match decision.action {
                Action::Migrate { .. } => "migrate".to_owned(),
                Action::Grant { .. } => "grant".to_owned(),
            },
            index: decision.index,
            signature: signature.to_string(),
        });
        Self {
            orchestrator: Some(applied.orchestrator).filter(|index| *index != u16::MAX),
            index: receipt.index,
            epoch: receipt.epoch.get(),
            operation: receipt.operation.to_string(),
            result: to_hex(&receipt.result),
            log_root: to_hex(&receipt.log_root),
            state_root: to_hex(&receipt.state_root),
            state_size: receipt.state_size,
            signature: applied.signature.to_string(),
            outcome: Base64::encode_string(&applied.outcome),
            decision,
        }
    }
}

impl LogEntry {
    /// An entry with what its operation says.
    #[must_use]
    pub fn new(entry: &TailEntry, author: Option<String>, command: Option<String>) -> Self {
        Self {
            author,
            command,
            operation: Base64::encode_string(&entry.operation),
            receipt: SignedReceipt::from(&entry.applied),
        }
    }
}

impl From<&Proved> for Proof {
    fn from(proved: &Proved) -> Self {
        Self {
            receipt: SignedReceipt::from(&proved.applied),
            path: proved.path.iter().map(|digest| to_hex(digest)).collect(),
            size: proved.size,
            root: to_hex(&proved.root),
            order: Base64::encode_string(&proved.order),
        }
    }
}

impl From<&Member> for GroupMember {
    fn from(member: &Member) -> Self {
        Self {
            name: member.name.clone(),
            vote_key: member.vote_key.to_string(),
            cosigner_key: member.cosigner_key.to_string(),
            transport_key: member.transport_key.to_string(),
        }
    }
}

impl From<&GroupConfig> for Group {
    fn from(group: &GroupConfig) -> Self {
        Self {
            name: group.name.clone(),
            id: group.id().to_string(),
            epoch: group.epoch.get(),
            n: group.members.len() as u64,
            f: group.f,
            quorum: group.rule().map_or(0, |rule| rule.quorum()),
            members: group.members.iter().map(GroupMember::from).collect(),
        }
    }
}
