//! How everybody else talks to the orchestrators.
//!
//! ```text
//! author ──signed operation──▶ every orchestrator       whichever leads next has it
//!        ◀──Applied────────── each, once it executed it: receipt, outcome, decision, each with its signature
//! gather: a quorum of equal receipts is a certificate; a quorum of signatures on the decision is one that verifiers check
//! ```
//!
//! * [`answers`]: what the answers to questions contain.
//! * [`protocol`]: the messages, bounded before anything is allocated.
//! * [`gather`]: pure; from single answers to what a quorum says.
//! * [`services`]: questions to the replicas of an ordered service, and their answers.
//! * [`orderer`]: asks all orchestrators side by side and again after a loss.
//!
//! # Not promised
//!
//! An answer to a question that is not ordered ([`orderer::Orderer::ask_matching`]) is what `f + 1` orchestrators say: true at some time, not
//! necessarily the newest. Whoever needs the newest orders something.

#![forbid(unsafe_code)]

pub mod answers;
pub mod gather;
pub mod orderer;
pub mod protocol;
pub mod services;
