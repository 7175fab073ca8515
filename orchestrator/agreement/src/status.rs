//! What a log says about itself.

use quorate_attest::id::Epoch;

/// A log's state at one time. Counters are those of this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// Epoch of the group.
    pub epoch: Epoch,
    /// Blocks in the index, of this epoch.
    pub height: u64,
    /// Newest view that a certificate was seen of.
    pub view: u64,
    /// Entries in the log; the next one gets this index.
    pub entries: u64,
    /// Operations that wait for a block.
    pub pending: usize,
    /// Members connected, without us.
    pub connected: usize,
    /// Members that are blocked for a time.
    pub blocked: usize,
    /// Whether everything that is known to be final is here, and enough members are connected to go on.
    pub synced: bool,
    /// Why the log stopped, if it did.
    pub failed: Option<String>,
    /// Operations dropped because they are in the log or pending already.
    pub duplicates: u64,
    /// Pairs of contradicting votes of one member.
    pub evidence: u64,
    /// Blocks of others that we refused to vote for.
    pub blocks_refused: u64,
    /// Batches of operations that were refused with the member that sent them.
    pub gossip_refused: u64,
    /// Operations dropped because too many of their origin were pending.
    pub mempool_full: u64,
    /// Frames dropped because a queue towards a member was full.
    pub dropped_out: u64,
    /// Frames dropped because a member's share of a queue was full or it was over its rate.
    pub dropped_in: u64,
    /// Times a member was blocked.
    pub blocks_of_peers: u64,
    /// Blocks taken in since the start.
    pub blocks: u64,
    /// Blocks we proposed since the start.
    pub proposed: u64,
}
