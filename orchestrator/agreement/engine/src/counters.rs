//! What a validator counted since its start.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! counters {
    ($($(#[$meta:meta])* $name:ident,)*) => {
        /// Shared counters.
        #[derive(Debug, Default)]
        pub struct Counters {
            $(pub(crate) $name: AtomicU64,)*
        }

        /// The counters at one time.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Counts {
            $($(#[$meta])* pub $name: u64,)*
        }

        impl Counters {
            /// The values now.
            pub fn read(&self) -> Counts {
                Counts { $($name: self.$name.load(Ordering::Relaxed),)* }
            }
        }
    };
}

counters! {
    /// Operations dropped because they are in the log or pending already.
    duplicates,
    /// Pairs of contradicting votes of one member.
    evidence,
    /// Operations dropped because the share of their origin was used up.
    mempool_full,
    /// Gossiped batches that were malformed or held an operation that the node's rules refuse.
    gossip_refused,
    /// Proposed blocks that break a rule.
    blocks_refused,
    /// Blocks proposed by us.
    proposed,
    /// Blocks of all members that were finalized and persisted here.
    blocks,
}

impl Counters {
    pub(crate) fn add(counter: &AtomicU64) {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}
