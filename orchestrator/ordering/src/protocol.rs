//! Messages between an orchestrator and hosts, operators and clients.

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::encoding::Bounded;
use quorate_attest::id::{OperationId, VmId};
use quorate_attest::key::Signature;
use quorate_attest::operation::Operation;
use quorate_attest::receipt::Receipt;
use quorate_attest::vm::Decision;
use quorate_transport::wire_enum;

use crate::services::{
    AskService, SERVICE_ANSWER_BYTES_MAX, SERVICE_QUESTION_BYTES_MAX, ServiceAnswer, ServiceNamed,
};

/// Most bytes of an operation's outcome.
pub const OUTCOME_BYTES_MAX: usize = 16_384;
/// Most bytes of the answer to a question.
pub const ANSWER_BYTES_MAX: usize = 262_144;
/// Most entries in one [`Entries`].
pub const ENTRIES_MAX: usize = 1024;
/// Most bytes of operations in one [`Entries`], above which it ends after the first.
pub const ENTRIES_BYTES_MAX: usize = 1 << 20;

/// Asks that an operation be ordered and executed. The answer comes when it was.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Submit {
    /// An encoded [`Operation`].
    pub operation: Vec<u8>,
}

/// Asks what became of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Find {
    /// The operation.
    pub operation: OperationId,
}

/// Asks for entries of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Tail {
    /// First index wanted.
    pub from: u64,
    /// Most entries wanted; [`ENTRIES_MAX`] at the most are given.
    pub count: u32,
}

/// Asks for a proof that an entry is in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Prove {
    /// Index of the entry.
    pub index: u64,
    /// Size of the log that the proof leads to; 0 for the newest that this orchestrator cosigned.
    pub size: u64,
}

/// A question about the state, answered from what the orchestrator has executed.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Question {
    /// One VM.
    Vm(VmId),
    /// VMs in ascending order of their ids, after the one named.
    Vms(Option<VmId>),
    /// The chain of configurations of the orchestrators' group.
    Orchestrators,
    /// The chain of configurations of the verifiers' group.
    Verifiers,
    /// How the orchestrator is: JSON text, differs from one to the other.
    Status,
    /// Cosigned heads of the log that it remembers.
    Heads,
}

impl Bounded for Question {
    const LIMIT: usize = 64;
}

/// What an orchestrator signs once it has executed an entry.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Applied {
    /// Index of the orchestrator in its group.
    pub orchestrator: u16,
    /// What it says about the entry.
    pub receipt: Receipt,
    /// Its signature over the receipt.
    pub signature: Signature,
    /// The outcome; its SHA-256 is in the receipt.
    pub outcome: Vec<u8>,
    /// The decision that the operation led to, or lost against, with the orchestrator's signature.
    pub decision: Option<(Decision, Signature)>,
}

/// Entries of the log in order.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Entries {
    /// Index of the first.
    pub from: u64,
    /// Encoded operations, each with its signed receipt and outcome.
    pub entries: Vec<TailEntry>,
    /// Entries that the log had.
    pub size: u64,
}

/// One entry of the log as one orchestrator executed it.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct TailEntry {
    /// The encoded operation.
    pub operation: Vec<u8>,
    /// What became of it.
    pub applied: Applied,
}

/// A proof that an entry is in a log whose head the orchestrator cosigned.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Proved {
    /// What the orchestrator says about the entry; its leaf is what is proved.
    pub applied: Applied,
    /// RFC 6962 inclusion path to the root at `size`.
    pub path: Vec<[u8; 32]>,
    /// Size of the log.
    pub size: u64,
    /// Root of the log at that size.
    pub root: [u8; 32],
    /// The consensus' own proof of order: the block and a quorum's finalization.
    pub order: Vec<u8>,
}

/// A head of the log with one orchestrator's C2SP cosignature line.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct CosignedHead {
    /// Entries of the log.
    pub size: u64,
    /// Its root.
    pub root: [u8; 32],
    /// The line.
    pub cosignature: String,
}

/// The answer to [`Question::Heads`], ascending by size.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct CosignedHeads(pub Vec<CosignedHead>);

impl Bounded for CosignedHeads {
    const LIMIT: usize = ANSWER_BYTES_MAX;
}

/// The operation has not been executed here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct NotYet {}

/// Encoded answer to a [`Question`].
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Told {
    /// Entries executed when it was given.
    pub applied: u64,
    /// The answer.
    pub answer: Vec<u8>,
}

/// Why a request was refused.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Refused {
    /// Stable error kind of the threat model.
    pub kind: String,
    /// What was found, for people.
    pub detail: String,
}

wire_enum! {
    /// Everything an orchestrator accepts from hosts, operators and clients.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum ToOrchestrator {
        /// Order and execute this.
        1 => Submit(Submit) <= Operation::LIMIT + 8,
        /// What became of it?
        2 => Find(Find) <= 64,
        /// Entries of the log.
        3 => Tail(Tail) <= 16,
        /// Proof that an entry is in the log.
        4 => Prove(Prove) <= 32,
        /// A question about the state.
        5 => Question(Question) <= 64,
        /// A question to the replica of a service.
        6 => Service(AskService) <= SERVICE_QUESTION_BYTES_MAX,
        /// Which service has this name?
        7 => ServiceNamed(ServiceNamed) <= 128,
    }
}

wire_enum! {
    /// Everything an orchestrator answers.
    #[derive(Clone, Debug, PartialEq, Eq)]
    pub enum FromOrchestrator {
        /// It was executed.
        1 => Applied(Applied) <= OUTCOME_BYTES_MAX + 4096,
        /// It was not executed yet.
        2 => NotYet(NotYet) <= 16,
        /// Entries of the log.
        3 => Entries(Entries) <= ENTRIES_BYTES_MAX + Operation::LIMIT + ENTRIES_MAX * 4096 + OUTCOME_BYTES_MAX,
        /// The proof.
        4 => Proved(Proved) <= 1 << 20,
        /// The answer.
        5 => Told(Told) <= ANSWER_BYTES_MAX + 32,
        /// It is refused.
        6 => Refused(Refused) <= 4096,
        /// What a replica of a service says.
        7 => Service(ServiceAnswer) <= SERVICE_ANSWER_BYTES_MAX,
    }
}
