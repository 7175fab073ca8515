//! Everything the parties of Quorate sign, hash, count and exchange: identities, the canonical encoding, statements,
//! quorum rules, certificates, RFC 6962 trees and the C2SP text forms of all of it.
//!
//! # Data flow
//!
//! ```text
//! host                        verifiers                     assembler                   anyone
//! SlotStatement ─▶ Proposal ─▶ Attestation (replayed or ─▶ Tally ─▶ SlotCertificate ─▶ verify(group, expected)
//!                              sampled), one per slot
//! statement log ─▶ Frontier ─▶ checkpoint text ─▶ cosignatures ─▶ signed note + tlog-proof ─▶ Policy::evaluate
//! ```
//!
//! Every type that travels has one encoding and only one ([`encoding`]); every signature covers that encoding together
//! with group, epoch, instance and kind ([`statement`]), and every check compares them with what the caller *expects*.
//!
//! # Provided
//!
//! * Pure functions and values: no clock, no randomness, no files, no sockets, `no_std` with `alloc`.
//! * Strict Ed25519 only ([`key`]): canonical S, R and A, no small-order point; small-order keys do not decode.
//! * Errors with a stable `kind()`, the same text in logs, metrics and JSON.
//!
//! # Not provided
//!
//! * No state: whether a slot is the newest one, whether a verifier has already voted and whether an epoch is retired
//!   is known to the callers only. A certificate that verifies may still be an old one.
//! * No secrecy of what is signed, and no protection of a [`key::SecretKey`] beyond erasing it when it is dropped.
//! * A valid certificate says that a quorum signed it. It is right when at most `f` of the group are Byzantine.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod certificate;
pub mod checkpoint;
pub mod cosignature;
pub mod encoding;
pub mod epoch;
pub mod error;
pub mod group;
pub mod id;
pub mod key;
pub mod merkle;
pub mod note;
pub mod operation;
pub mod policy;
pub mod possession;
pub mod quorum;
pub mod receipt;
pub mod request;
pub mod service;
pub mod state_tree;
pub mod statement;
pub mod tlog_proof;
pub mod vm;

pub use error::VerifyError;
