//! The client of ordered services.
//!
//! # Data flow
//!
//! ```text
//! call:  Request, signed ─▶ Operation ─▶ all orchestrators ─▶ q receipts: ordered as number k of the service
//!                                          └▶ all replicas ───▶ f + 1 equal receipts for k ─▶ reply ─▶ head ─▶ caller
//! read:  q orchestrators: how much is ordered? ─▶ L
//!        Query, at least L ─▶ replicas ─▶ answer with proof + f + 1 equal receipts for its state ─▶ head ─▶ caller
//! ```
//!
//! Everything believed is in an [`AnswerProof`], which anybody can check again without the network. The newest head is kept on disk
//! ([`Memory`]) and moves only forward, only to what extends it, and only after everything was verified. Two different
//! receipts of one replica for one entry are kept as evidence.
//!
//! # Modules
//!
//! [`find`] turns names into services. [`gather`] (from single receipts to certified ones), [`proof`] and [`memory`] decide and do no network; [`client`] asks.
//!
//! # Not promised
//!
//! * No liveness without `n - f` orchestrators in order and `f + 1` honest replicas of the service that answer.
//! * A [`Freshness::Newest`] read is certified and never older than what this client has seen, but others may have seen more.
#![forbid(unsafe_code)]

pub mod client;
pub mod find;
pub mod gather;
pub mod memory;
pub mod proof;
#[cfg(test)]
mod tests;

pub use client::{Called, Freshness, Page, Read, Service, ServiceError, Settings};
pub use gather::{Contradiction, Dissent, Gather};
pub use memory::{Head, Memory, MemoryError};
pub use proof::{AnswerProof, Claim, ProofFault, Trust};
