//! What a replica is told and asks for.

use std::sync::Arc;

use quorate_attest::group::GroupConfig;
use quorate_attest::id::{OperationId, ServiceId};
use quorate_attest::key::Signature;
use quorate_attest::merkle::Digest;
use quorate_attest::service::{Input, Output, ServiceReceipt};
use quorate_ordering::services::{ExecutedEntry, SignedReceipt, StopEvidence};

use crate::log_tree::{NodePlace, Peaks};

/// Whose replica this is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The group of the service's replicas.
    pub group: Arc<GroupConfig>,
    /// This replica in it.
    pub replica: u16,
    /// The service.
    pub service: ServiceId,
}

/// An entry of the service's log, with what is known about it here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its number.
    pub number: u64,
    /// Entry of the orchestrators' log that ordered it.
    pub log_index: u64,
    /// The operation that ordered it.
    pub operation: OperationId,
    /// The request; nothing for entry 0.
    pub request: Vec<u8>,
    /// What came of it, if it was executed here before.
    pub known: Option<ServiceReceipt>,
    /// Image that executes it: how many preceded that.
    pub version: usize,
    /// First entry that this image executes.
    pub began: u64,
}

/// An executed entry on its way to the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// What came of it.
    pub receipt: ServiceReceipt,
    /// This replica's signature; none if the signer has signed something else about this number.
    pub signature: Option<Signature>,
    /// The encoded reply; empty if it is not known any more.
    pub reply: Vec<u8>,
}

/// What one transaction makes durable: consecutive entries and the nodes of the tree that they complete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// The entries.
    pub entries: Vec<Done>,
    /// The nodes.
    pub nodes: Vec<(NodePlace, Digest)>,
}

/// What has happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// There may be something to do.
    Wake,
    /// Consecutive entries of one image, from the number that was asked for on; none if there is none yet.
    Fetched(Vec<Entry>),
    /// The guest's answer.
    Output(Output),
    /// The guest does not answer, is not taken back, or its state could not be brought to the next image.
    Gone,
    /// A question found the guest before entries that are executed.
    GuestBehind,
    /// The guest is back at a slot that its host journalled.
    Rewound,
    /// The state of the former image is in the guest.
    Imported,
    /// The guest of the former image has still to execute entries from this number on.
    FormerBehind {
        /// What it wants next.
        next: u64,
    },
    /// One for each receipt, in their order.
    Signed(Vec<Option<Signature>>),
    /// The batch is in the file.
    Persisted,
    /// What others tell about entries that were asked for.
    Peers(Vec<ExecutedEntry>),
    /// What others say about one entry that was executed here.
    Compared {
        /// What this replica says.
        ours: Box<SignedReceipt>,
        /// What they say.
        theirs: Vec<SignedReceipt>,
    },
    /// The file ends before the entry that was wrong.
    Truncated(Peaks),
}

/// What the shell has to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Read entries, as many as one input may hold.
    Fetch {
        /// Number of the first.
        first: u64,
    },
    /// Give the guest of this image an input.
    Feed {
        /// Image: how many preceded it.
        version: usize,
        /// The input.
        input: Box<Input>,
    },
    /// Bring the state of the image before to the guest of this one.
    Upgrade {
        /// Image: how many preceded it.
        version: usize,
        /// First entry that it executes.
        number: u64,
    },
    /// Have these signed.
    Sign(Vec<ServiceReceipt>),
    /// Write this, then answer those who wait.
    Persist(Box<Batch>),
    /// Ask the other replicas about entries.
    AskPeers {
        /// Number of the first.
        first: u64,
    },
    /// Serve no more, keep the evidence, and forget what was executed from this number on.
    Stop {
        /// First entry that is wrong.
        number: u64,
        /// Why.
        evidence: Box<StopEvidence>,
    },
    /// Have the guest's VM taken back, and what it executed since its newest slot forgotten.
    Rewind {
        /// First entry that is not believed.
        number: u64,
        /// How often that was tried since this replica served last.
        attempt: u32,
    },
    /// Forget what was executed from this number on, which others do not confirm.
    Forget {
        /// First entry that is forgotten.
        number: u64,
    },
    /// `f + 1` others have the same log up to here.
    Agreed {
        /// Entries of it.
        size: u64,
    },
    /// Serve again.
    Resume,
}
