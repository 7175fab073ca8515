//! The ordered log of an orchestrator group: operations in, the same sequence out at every member.
//!
//! Submitted bytes get an index that is the same everywhere, once each, durable before anybody sees them, and provable to
//! third parties. What they mean is the business of the node, which gives three functions: a cheap check of form, the
//! identifier, and whether an operation ends the epoch.
//!
//! ```text
//! submit ─▶ mempool ═gossip═▶ whoever leads ─▶ block ─▶ votes of a quorum ─▶ archive ─▶ index (one sync) ─▶ subscribe
//!                                                                              └─▶ proof: header, path, certificate
//! ```
//!
//! Order, archive and catching up are commonware's `simplex` and `marshal` (crate `quorate-agreement-engine`); nothing of
//! that shows here. Every message goes over our QUIC transport ([`ConsensusLog::attach`]), one stream a channel, votes first.
//!
//! # Promises
//!
//! * With at most f of n members Byzantine, all members deliver the same entries in the same order.
//! * An entry is delivered only after it is in this node's archive and index. `kill -9` at any time loses none.
//! * An operation has one entry, however often and wherever it was submitted.
//! * An idle log makes one empty block a heartbeat; an operation wakes the leader.
//! * A node that was away, or is empty, fetches what it lacks from the others and checks every certificate.
//!
//! # Not promised
//!
//! * `Ok` of [`OrderedLog::submit`] is no promise of order: the operation is in the memory of this node, which repeats it to all
//!   members until it is ordered, but a crash forgets it. Whoever needs certainty submits to several members, and again,
//!   until it sees the entry. That is safe, because an operation has one entry.
//! * A member whose files were lost may contradict its own votes until it has caught up; it counts among the f.
//! * Progress needs a quorum of `n - (n - 1) / 3` members that reach each other.

#![forbid(unsafe_code)]

mod config;
mod entries;
mod epoch;
mod error;
mod index;
mod links;
mod log;
mod proof;
mod status;
mod writer;

pub use config::{Config, EpochConfig, Operations};
pub use entries::Entries;
pub use error::{LogError, ProofError, SubmitError};
pub use log::{ConsensusLog, Entry, OrderedLog, start};
pub use proof::{OrderProof, verify_order};
pub use quorate_agreement_engine::certificate::CertificateError;
pub use quorate_agreement_engine::limits::{
    BLOCK_BYTES, BLOCK_OPERATIONS, MempoolLimits, OPERATION_LIMIT, Timing,
};
pub use quorate_attest::id::OperationId;
pub use status::Status;

/// The frames between members, for a fuzz target.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub fn fuzz_frames(target: impl quorate_transport::fuzzing::Frames) {
    target.of::<links::Frame>();
}
