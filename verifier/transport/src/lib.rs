//! Authenticated, bounded message streams between the nodes of a cluster, and a bulk stream for memory pages.
//!
//! Everything that crosses the network between hosts, verifiers, orchestrators, operators and clients goes through here.
//! The network may drop, delay, duplicate, inject and flood; a peer may do all of that with a valid key. This crate makes
//! sure that a message comes from the key it says, in this session and no other, and that neither peer nor stranger can
//! take more memory, streams or time than [`Limits`] gives them.
//!
//! # Handshake
//!
//! A node's Ed25519 key is its TLS identity: raw public keys (RFC 7250), TLS 1.3 only, no resumption, no 0-RTT.
//!
//! ```text
//! dialler                                             accepter
//!   │ QUIC Initial ────────────────────────────────▶  │ admission: pending handshakes in total, by address, by subnet
//!   │ ◀─────────────── Retry, above a threshold       │   (stateless; a forged address gets no further)
//!   │ ClientHello ─────────────────────────────────▶  │
//!   │ ◀──────── ServerHello, raw key, signature       │ dialler: the expected key? known, not revoked, not blocked?
//!   │ raw key, signature ──────────────────────────▶  │ accepter: known, not revoked, not blocked?
//!   │                                                 │
//!   │ Hello { versions, role, purpose, nonce } ────▶  │ nonce new? role as in the directory? common version?
//!   │ ◀ Answer { version, versions, role, nonce, sig }│ sig over domain ‖ side ‖ TLS exporter ‖ both keys ‖ Hello ‖ choice
//!   │ Confirm { sig } ─────────────────────────────▶  │ the same transcript, the other side byte
//!   │ ◀──────────────────── more than one stream      │
//! ```
//!
//! The exporter is a value only the two ends of one TLS session can compute, so a hello that was recorded or relayed
//! fails with `SessionBindingMismatch`; both version ranges are under both signatures, so nobody can talk the two
//! down. All of it must be done within [`Limits::handshake`].
//!
//! # Messages
//!
//! [`Connection::open`] and [`Connection::accept`] give an [`Exchange`]: one bidirectional QUIC stream of frames
//!
//! ```text
//! tag u8 │ length u32 little endian │ body: canonical encoding of the message
//! ```
//!
//! [`wire_enum!`] declares the messages of a protocol with a limit each. The limit is checked on the header, before
//! anything is allocated; memory then grows with the bytes that really arrive and counts against the peer's
//! [`Limits::bytes_in_flight`]. From its first byte on a frame has a deadline that follows from [`Limits::min_rate`],
//! sending and receiving. Queues are bounded and drop the newest. A peer that breaks the protocol, or floods, collects
//! points until it is blocked for [`Limits::block_period`].
//!
//! # Not promised
//!
//! * No delivery: a message that was sent may be lost with the connection. Protocols above repeat and deduplicate.
//! * No order between exchanges, only inside one.
//! * No anonymity: keys of dialler and accepter are visible to each other (the accepter's also to anyone who dials it).
//! * No authority: a key's role says which protocol it may speak, not that what it says is true.
//! * Honest peers behind one address share its handshake quota.
#![forbid(unsafe_code)]

mod admission;
pub mod bulk;
mod close;
mod connection;
mod counters;
mod directory;
mod endpoint;
mod error;
mod exchange;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod handshake;
mod hello;
mod identity;
mod limits;
mod peers;
mod tls;
mod wire;

pub use close::CloseReason;
pub use connection::Connection;
pub use counters::{Counters, Labelled, Sample};
pub use directory::{Directory, Members, Role};
pub use endpoint::Endpoint;
pub use error::TransportError;
pub use exchange::{Exchange, FrameReceiver, FrameSender};
pub use limits::{Limits, Versions};
pub use quorate_attest::encoding;
pub use wire::{HEADER, Header, Wire, decode_frame, encode_frame};

#[cfg(test)]
mod tests;
