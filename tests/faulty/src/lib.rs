//! Hosts and verifiers that do not follow the protocol: one Byzantine or crashing behaviour each.
//!
//! The nodes are the real ones, linked with another conduct ([`quorate_host::conduct::Conduct`],
//! [`quorate_verifier::node::conduct::Conduct`]): everything that a conduct does not change is what production runs, and
//! nothing of an attack is part of a production binary. A faulty node holds its own keys, as a Byzantine one does, and no
//! others.
//!
//! ```text
//! quorate-faulty host --conduct rollback --config host-a.toml
//! quorate-faulty verifier --conduct silent --config verifier-3.toml
//! quorate-faulty list --json
//! ```
//!
//! * [`catalogue`]: the names, what each does, and what refuses it.
//! * [`host`]: Byzantine sources and destinations.
//! * [`verifier`]: silent and lying verifiers.
//! * [`crash`]: nodes that kill themselves at a step.
//!
//! # Not promised
//!
//! These are attacks somebody thought of. That they are refused shows that the defences exist, not that no other attack
//! does.

#![forbid(unsafe_code)]

pub mod catalogue;
pub mod crash;
pub mod host;
pub mod report;
pub mod verifier;
