//! The host signer: a process that holds a replica's keys, apart from the guests that run services and from the engine that agrees on their order.
//!
//! A guest is restored, migrated and executed again; whatever it remembers goes back with it. So what a replica has signed is kept here,
//! outside everything that is ever rolled back, and nothing is signed that contradicts it.
//!
//! # Data flow
//!
//! ```text
//! guest ─ state after an operation ─▶ service host ══ unix socket, same user ══▶ server ─▶ worker, one thread
//!                                                                                  │ batch of all connections
//!                          Rules: kind, group, epoch, service, the receipt itself ◀┤
//!                          SignState: one digest for each (service, kind, number) ◀┤
//!                                                  Record ─▶ sign-log, one fdatasync
//!                                                  Release ─▶ vote key, cosigner key
//! service host ◀══════════════════════════════ signatures, cosignature lines ══════╛
//! ```
//!
//! * [`rules`], [`state`]: what may be signed. Pure.
//! * [`journal`], [`signer`]: the sign-log and the keys.
//! * [`protocol`], [`server`], [`worker`]: the socket and the thread behind it; [`client`]: the other end.
//! * [`config`], [`cli`]: what an operator sees.
//!
//! # Promised
//!
//! * Two different statements of one (service, kind, number) are never both signed, whatever is asked, in whatever order, over all kills and
//!   restarts. Nor are two heads of one log of which neither continues the other.
//! * A signature leaves only after the record of it is durable. The first storage error ends the process.
//!
//! # Not promised
//!
//! * That a receipt is true: the signer does not execute. A service host that lies gets one lie for each place signed.
//! * That a place is signed at all: who asks for a number far ahead makes all numbers below it refused.
//! * A data directory that was restored from an old copy is not noticed here. Only others know what was signed since; [`protocol::Public`] tells
//!   what this signer remembers, to compare with that.
//! * Protection from processes of the same user: they can read the key files.

#![forbid(unsafe_code)]

pub mod cli;
pub mod client;
pub mod config;
pub mod journal;
pub mod protocol;
pub mod rules;
pub mod server;
pub mod signer;
pub mod state;
pub mod worker;

#[cfg(test)]
mod tests;

pub use client::{ClientError, SignerClient};
