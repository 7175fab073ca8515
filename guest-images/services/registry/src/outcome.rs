//! Results and their bytes.

use alloc::vec::Vec;

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::encoding::{Bounded, bounded_bytes, bounded_list};

use crate::{
    CHANGES_MAX, Event, NAME_BYTES_MAX, OUTCOME_BYTES_MAX, PAGE_ENTRIES_MAX, Record, TXN_OPERATIONS_MAX,
};

/// A name and its record.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Entry {
    /// The name.
    #[borsh(deserialize_with = "bounded_bytes::<NAME_BYTES_MAX, _>")]
    pub name: Vec<u8>,
    /// Its record.
    pub record: Record,
}

/// Part of a listing.
#[derive(Debug, Clone, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Page {
    /// Entries, ascending by name.
    #[borsh(deserialize_with = "bounded_list::<{ PAGE_ENTRIES_MAX as usize }, _, _>")]
    pub entries: Vec<Entry>,
    /// Whether there are more behind the last entry.
    pub more: bool,
}

/// An event with its place.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct NumberedEvent {
    /// Number of the entry that caused it.
    pub number: u64,
    /// Its place among the events of that entry.
    pub sub: u32,
    /// The event.
    pub event: Event,
}

/// What a watcher gets.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Watched {
    /// Events from where it asked, none left out.
    Events {
        /// Ascending by number and place.
        #[borsh(deserialize_with = "bounded_list::<{ PAGE_ENTRIES_MAX as usize }, _, _>")]
        events: Vec<NumberedEvent>,
        /// Whether there are more behind the last one.
        more: bool,
    },
    /// Events from there on are not all kept any more.
    Compacted {
        /// Lowest number from which they are.
        lowest: u64,
    },
}

/// All sizes that a quorum may have: two of them share an honest member, and `f` silent members do not block one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct QuorumRange {
    /// The smallest, which every party derives.
    pub min: u64,
    /// The largest.
    pub max: u64,
}

/// Result of one operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum TxnResult {
    /// Of a put.
    Put {
        /// The record before, if it was asked for and there was one.
        previous: Option<Record>,
    },
    /// Of a deletion.
    Deleted {
        /// How many names were removed.
        deleted: u64,
        /// They, if they were asked for.
        #[borsh(deserialize_with = "bounded_list::<CHANGES_MAX, _, _>")]
        previous: Vec<Entry>,
    },
    /// Of a read.
    Got(Page),
}

/// Result of an operation that succeeded. The tag of the encoding is the operation's number less one.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Outcome {
    /// The name is registered.
    Registered {
        /// Number of the entry, which is what the name was modified by.
        number: u64,
        /// Its version now.
        version: u64,
        /// The record before, if it was asked for and there was one.
        previous: Option<Record>,
    },
    /// The name is no longer registered.
    Deregistered {
        /// Number of the entry.
        number: u64,
        /// The record before, if it was asked for.
        previous: Option<Record>,
    },
    /// No name of the range is registered any more.
    RangeDeregistered {
        /// Number of the entry.
        number: u64,
        /// How many were.
        deleted: u64,
        /// They, if they were asked for.
        #[borsh(deserialize_with = "bounded_list::<CHANGES_MAX, _, _>")]
        previous: Vec<Entry>,
    },
    /// The transaction took place.
    Txn {
        /// Number of the entry.
        number: u64,
        /// Whether the comparisons held.
        succeeded: bool,
        /// Results of the list that was done, in its order.
        #[borsh(deserialize_with = "bounded_list::<TXN_OPERATIONS_MAX, _, _>")]
        results: Vec<TxnResult>,
    },
    /// The lease is granted.
    LeaseGranted {
        /// Number of the entry.
        number: u64,
        /// Its identifier.
        id: u64,
        /// Its time to live.
        ttl_ms: u64,
    },
    /// The lease runs anew.
    LeaseRenewed {
        /// Number of the entry.
        number: u64,
        /// Its time to live.
        ttl_ms: u64,
        /// Service time at which it ends now; 0 if it has not begun to run.
        expires_ms: u64,
    },
    /// The lease has ended.
    LeaseRevoked {
        /// Number of the entry.
        number: u64,
        /// How many names ended with it.
        deleted: u64,
    },
    /// What is registered under the name.
    Found {
        /// Number of the entry.
        number: u64,
        /// The record, if there is one.
        record: Option<Record>,
    },
    /// Names with a prefix.
    Listed {
        /// Number of the entry.
        number: u64,
        /// They, or the first of them.
        page: Page,
    },
    /// The quorum of a group; none if no size would do.
    Derived {
        /// All sizes that would do.
        quorum: Option<QuorumRange>,
    },
    /// Events.
    Watched {
        /// Number of the entry.
        number: u64,
        /// They, or why not.
        watched: Watched,
    },
}

impl Bounded for Outcome {
    const LIMIT: usize = OUTCOME_BYTES_MAX;
}

impl Outcome {
    /// Number of the operation that this is a result of.
    pub fn op(&self) -> u16 {
        use crate::op;
        match self {
            Self::Registered { .. } => op::REGISTER,
            Self::Deregistered { .. } => op::DEREGISTER,
            Self::RangeDeregistered { .. } => op::DEREGISTER_RANGE,
            Self::Txn { .. } => op::TXN,
            Self::LeaseGranted { .. } => op::LEASE_GRANT,
            Self::LeaseRenewed { .. } => op::LEASE_RENEW,
            Self::LeaseRevoked { .. } => op::LEASE_REVOKE,
            Self::Found { .. } => op::LOOKUP,
            Self::Listed { .. } => op::LIST,
            Self::Derived { .. } => op::DERIVE,
            Self::Watched { .. } => op::WATCH,
        }
    }
}
