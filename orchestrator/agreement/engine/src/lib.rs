//! The consensus engine of the ordered log: what is the same in production and in simulation.
//!
//! A part of `quorate-agreement` and of nothing else. The engine is commonware's `simplex` with its `marshal`, generic over
//! runtime and network; every instantiation costs minutes of compiling, so there is one, in [`node`], in a crate that rarely
//! changes. Simulations instantiate [`validator`] a second time, in the engine's deterministic runtime.
//!
//! ```text
//! submit ─▶ mempool ─gossip─▶ mempools of all members
//!              │ propose: holds the turn until something is pending, or the heartbeat
//!              ▼
//!            block ─▶ verify: continues its parent, operations valid, none in the log or in an ancestor
//!              │ votes ─▶ certificate
//!              ▼
//!            archive (durable) ─▶ Sink: ledger (durable) ─▶ acknowledged
//! ```
//!
//! # Not promised
//!
//! * A validator whose files were lost may vote again where it voted before; it counts among the `f` until it has caught up.
//! * Delivery is at least once here; the sink makes it exactly once.

#![forbid(unsafe_code)]

pub mod application;
pub mod block;
pub mod certificate;
pub mod committee;
pub mod counters;
pub mod gossip;
pub mod limits;
pub mod mempool;
pub mod network;
pub mod node;
pub mod validator;

pub use commonware_cryptography::Digested;
pub use commonware_utils::acknowledgement::{Acknowledgement, Exact};
