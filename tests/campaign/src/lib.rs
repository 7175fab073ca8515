//! Orchestrators, operators, hosts and verifiers in one process, from a seed.
//!
//! ```text
//! seed ─▶ schedule: loss, delay, partitions, crashes, one Byzantine member
//!          │
//!   operators, hosts ── signed commands ──▶ members of the simulated log ──▶ Control::apply on each
//!          ▲                                                                   │ receipts, decisions (a liar lies)
//!          └── Gather: what a quorum says ◀────────────────────────────────────┘
//!                 │ grants ─▶ verifiers vote ─▶ activations
//!                 ▼
//!          invariants after every step; liveness once everything is healed
//! ```
//!
//! Consensus, mempool and exactly-once rule ([`quorate_agreement_simulation`]), control plane ([`quorate_control`]) and the
//! gathering of receipts ([`quorate_ordering::gather`]) are those of production. Hosts and verifiers are reduced to what the
//! log sees of them: who signs what, and once.
//!
//! A seed reproduces a run exactly. [`Plant`] puts one fault into the cluster that is one too many; a campaign that does not
//! find it proves nothing.
//!
//! # Not simulated
//!
//! The path of answers to those who asked: an answer is lost or arrives at once. Epochs. Guests.

#![forbid(unsafe_code)]

mod actors;
mod keys;
mod replica;
mod rng;
mod run;

pub use run::{Report, Scenario, play};

/// A fault that must be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plant {
    /// Members put an operation into the log as often as it is submitted.
    SkippedDedupe,
    /// Those who ask believe the first answer instead of a quorum's.
    WrongQuorum,
    /// Verifiers vote as often as they are asked, and orchestrators' grants are not checked.
    DoubleVote,
}
