//! The client's half: requests, results, questions about the state and what proven entries mean.
//!
//! Reading a range or watching is a question about the state ([`Query`]) whose answer comes with a proof. What a proof shows
//! to be an entry of the registry's state, [`entry`] decodes; that the proof holds is checked before, by
//! [`Answer::verify`](quorate_attest::service::Answer::verify).
//!
//! To watch from a number, ask for [`events_query`] from it, then for [`lowest_query`] at the same state or a later one, and
//! give both to [`check_window`]: the window only moves up, so events that are complete at the later state were complete at
//! the earlier one.

use alloc::vec::Vec;

use quorate_attest::encoding::{Bounded, DecodeError, from_bytes};
use quorate_attest::id::Nonce;
use quorate_attest::request::{Call, Reply, status};
use quorate_attest::service::Query;

use crate::{
    Config, Entry, Event, Lease, NameRange, NumberedEvent, Operation, Outcome, Record, StateKey, Totals,
    event_key, expiry_key, lease_key, lease_name_key, lowest_event_key, record_key,
};

/// Why a reply or an entry does not say what was asked for.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// The operation failed and changed nothing.
    #[error("the registry refused the operation with status {status}")]
    Failed {
        /// One of [`status`].
        status: u16,
    },
    /// Not what a registry writes.
    #[error(transparent)]
    Undecodable(#[from] DecodeError),
    /// The result of another operation.
    #[error("result of operation {got} instead of {want}")]
    OtherOperation {
        /// What was asked for.
        want: u16,
        /// What was answered.
        got: u16,
    },
    /// A key that is none of the registry's, or a value where none belongs.
    #[error("an entry of the state is none of a registry's")]
    OtherEntry,
    /// Events from there on are not all kept any more.
    #[error("events before number {lowest} are no longer kept")]
    Compacted {
        /// Lowest number from which they are.
        lowest: u64,
    },
}

impl AnswerError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Failed { .. } => "OperationFailed",
            Self::Undecodable(error) => error.kind(),
            Self::OtherOperation { .. } | Self::OtherEntry => "DecodeError",
            Self::Compacted { .. } => "Compacted",
        }
    }
}

/// What a client signs to ask for an operation.
pub fn call(sequence: u64, nonce: Nonce, operation: &Operation) -> Call {
    Call { op: operation.op(), sequence, nonce, epoch: 0, body: operation.body() }
}

/// The result in a reply to operation number `op`.
///
/// # Errors
/// The operation failed, or the body is not its result.
pub fn outcome(op: u16, reply: &Reply) -> Result<Outcome, AnswerError> {
    if reply.status != status::OK {
        return Err(AnswerError::Failed { status: reply.status });
    }
    let outcome = Outcome::decoded(&reply.body)?;
    match outcome.op() {
        got if got == op => Ok(outcome),
        got => Err(AnswerError::OtherOperation { want: op, got }),
    }
}

/// Asks for the record of a name.
pub fn record_query(name: &[u8]) -> Query {
    Query::Get { key: record_key(name) }
}

/// Asks for the first records of a range; none if the range is empty, whatever is registered.
pub fn records_query(range: &NameRange, limit: u16) -> Option<Query> {
    range.keys().map(|(low, high)| Query::Range { low, high, limit })
}

/// Asks for a lease.
pub fn lease_query(id: u64) -> Query {
    Query::Get { key: lease_key(id) }
}

/// Asks for the first leases from `from` on.
pub fn leases_query(from: u64, limit: u16) -> Query {
    Query::Range { low: lease_key(from), high: lease_key(u64::MAX), limit }
}

/// Asks for the first names that a lease keeps, from `from` on.
pub fn lease_names_query(id: u64, from: &[u8], limit: u16) -> Query {
    let high = lease_name_key(id.saturating_add(1), &[]);
    Query::Range { low: lease_name_key(id, from), high, limit }
}

/// Asks whether any lease exists: only then does the registry depend on time.
pub fn needs_time_query() -> Query {
    Query::Range { low: expiry_key(0, 0), high: expiry_key(u64::MAX, u64::MAX), limit: 1 }
}

/// Asks for the first events from a place on.
pub fn events_query(number: u64, sub: u32, limit: u16) -> Query {
    Query::Range { low: event_key(number, sub), high: event_key(u64::MAX, u32::MAX), limit }
}

/// Asks for the lowest number from which all events are kept.
pub fn lowest_query() -> Query {
    Query::Get { key: lowest_event_key() }
}

/// Checks that all events from `number` on were kept, given the lowest such number at the same state or a later one.
///
/// # Errors
/// `Compacted`.
pub fn check_window(number: u64, lowest: u64) -> Result<(), AnswerError> {
    if number < lowest { Err(AnswerError::Compacted { lowest }) } else { Ok(()) }
}

/// An entry of the registry's state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateEntry {
    /// A name with its record.
    Record(Entry),
    /// A lease.
    Lease {
        /// Its identifier.
        id: u64,
        /// The lease.
        lease: Lease,
    },
    /// A name that a lease keeps.
    LeaseName {
        /// The lease.
        id: u64,
        /// The name.
        name: Vec<u8>,
    },
    /// When a lease ends.
    Expiry {
        /// Service time in milliseconds; 0 until it begins to run.
        expires_ms: u64,
        /// The lease.
        id: u64,
    },
    /// An event.
    Event(NumberedEvent),
    /// Lowest number from which all events are kept.
    LowestEvent(u64),
    /// The configuration.
    Config(Config),
    /// The totals.
    Totals(Totals),
}

/// What an entry of the state means, which a proof has shown to be there.
///
/// # Errors
/// It is no entry of a registry.
pub fn entry(key: &[u8], value: &[u8]) -> Result<StateEntry, AnswerError> {
    let parsed = StateKey::parse(key).ok_or(AnswerError::OtherEntry)?;
    if matches!(parsed, StateKey::LeaseName { .. } | StateKey::Expiry { .. }) && !value.is_empty() {
        return Err(AnswerError::OtherEntry);
    }
    Ok(match parsed {
        StateKey::Record { name } => StateEntry::Record(Entry { name, record: Record::decoded(value)? }),
        StateKey::Lease { id } => StateEntry::Lease { id, lease: Lease::decoded(value)? },
        StateKey::LeaseName { id, name } => StateEntry::LeaseName { id, name },
        StateKey::Expiry { expires_ms, id } => StateEntry::Expiry { expires_ms, id },
        StateKey::Event { number, sub } => {
            StateEntry::Event(NumberedEvent { number, sub, event: Event::decoded(value)? })
        }
        StateKey::LowestEvent => StateEntry::LowestEvent(from_bytes(value, 8)?),
        StateKey::Config => StateEntry::Config(Config::decoded(value)?),
        StateKey::Totals => StateEntry::Totals(Totals::decoded(value)?),
    })
}
