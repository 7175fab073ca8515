//! The service registry: which services there are, where they listen and who may say so.
//!
//! # What it is for
//!
//! A name is owned by the key that registered it first; only that key, or one that the configuration lists as admin, changes
//! or deregisters it. Names end with their lease unless it is renewed. Changes are kept as events, so that a watcher can go
//! on from any number it has seen. The operations are those an etcd v3 gateway needs; the number of the service's log is what
//! etcd calls a revision.
//!
//! # Data flow
//!
//! ```text
//! Request{op, body} ─▶ Operation::decode ─▶ apply: State ─▶ Outcome ─▶ Reply
//! service time      ─▶ tick: leases begin to run, end; their names are deregistered
//! Query on a fork   ─▶ records, events, leases under the keys of StateKey, each proved against the certified state
//! ```
//!
//! Everything is in the state under the keys of [`StateKey`]; a client reads it with proofs and decodes it with [`client`].
//!
//! # Bounds
//!
//! Every list, name and value has a limit below; events have a budget of bytes too, which [`Config`] sets. One operation
//! changes at most [`CHANGES_MAX`] names. An operation that would go over a limit fails as a whole; events make room for
//! newer ones, and watchers learn that they did.
//!
//! # What it does not promise
//!
//! Names and values are visible to every host and reader. A value is not checked to be reachable, nor even to be a list of
//! endpoints. A lease ends no earlier than its time to live after it was granted or renewed, and no later than a bounded
//! number of ticks behind that; without ticks it does not end.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod client;
mod config;
pub mod endpoint;
mod key;
mod operation;
mod outcome;
mod page;
mod record;
mod service;
mod store;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod txn;

pub use config::Config;
pub use key::{
    StateKey, config_key, event_key, expiry_key, lease_key, lease_name_key, lowest_event_key, record_key,
    totals_key,
};
pub use operation::{
    Compare, DeregisterRange, LeaseGrant, List, NameRange, Operation, Register, Relation, Target, Txn, TxnOp,
    Watch, op,
};
pub use outcome::{Entry, NumberedEvent, Outcome, Page, QuorumRange, TxnResult, Watched};
pub use record::{Event, Lease, Record, Totals};
pub use service::Registry;

/// Most bytes of a name: the longest state key that holds one has ten bytes more.
pub const NAME_BYTES_MAX: usize = 4_086;
/// Most bytes of a value.
pub const VALUE_BYTES_MAX: usize = 32_768;
/// Most names registered at a time.
pub const SERVICES_MAX: u64 = 65_536;
/// Most leases at a time.
pub const LEASES_MAX: u64 = 65_536;
/// Most names that one lease may keep.
pub const LEASE_NAMES_MAX: usize = 1_024;
/// Longest time to live of a lease, in milliseconds: what etcd allows.
pub const TTL_MS_MAX: u64 = 9_000_000_000_000;
/// Most operations in each list of a transaction, and most comparisons.
pub const TXN_OPERATIONS_MAX: usize = 128;
/// Most entries or events of one answer.
pub const PAGE_ENTRIES_MAX: u16 = 256;
/// Most names that one operation changes.
pub const CHANGES_MAX: usize = 1_024;
/// Events that are kept.
pub const EVENTS_MAX: u64 = 8_192;
/// Most bytes of an encoded [`Outcome`], as of every reply: it is kept for the client that did not get it. Larger values are read with proofs.
pub const OUTCOME_BYTES_MAX: usize = quorate_kit::REPLY_LIMIT;

#[cfg(test)]
mod tests;
