//! Bounds that every member must share: a block over them is refused by all.

use std::time::Duration;

/// Most bytes of one operation.
pub const OPERATION_LIMIT: usize = 131_072;

/// Most operations in a block.
pub const BLOCK_OPERATIONS: usize = 2048;

/// Most bytes of operations in a block.
pub const BLOCK_BYTES: usize = 1 << 20;

/// Most bytes of one gossiped batch of operations.
pub const GOSSIP_BYTES: usize = OPERATION_LIMIT + 128 * 1024;

/// How long things wait. Every member should have the same, but nothing unsafe happens if not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// A leader that has nothing to order holds its turn so long before it proposes an empty block.
    pub heartbeat: Duration,
    /// How long after a heartbeat a silent leader is given up.
    pub patience: Duration,
    /// Own operations that are still pending are sent to all members again after this.
    pub resend: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat: Duration::from_secs(2),
            patience: Duration::from_millis(500),
            resend: Duration::from_secs(1),
        }
    }
}

impl Timing {
    /// How long members wait for a leader's proposal.
    pub fn leader(&self) -> Duration {
        self.heartbeat + self.patience
    }

    /// How long members wait for a view to get anywhere.
    pub fn certification(&self) -> Duration {
        self.leader() + self.patience
    }

    /// From when on a member that was not heard of is passed over at once when its turn comes.
    pub fn absence(&self) -> Duration {
        self.certification() + 2 * self.patience
    }
}

/// Bounds on what one node keeps in memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MempoolLimits {
    /// Most pending operations of our own submitters, and of each other member.
    pub operations: usize,
    /// Most bytes of them.
    pub bytes: usize,
}

impl Default for MempoolLimits {
    fn default() -> Self {
        Self { operations: 16_384, bytes: 32 << 20 }
    }
}
