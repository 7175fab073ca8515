//! What the cross-process tests share: a cluster of real processes with one VM, its clients, and the questions that the
//! tests ask about it afterwards.
//!
//! ```text
//! Setup ──▶ World::start ──▶ quorate-orchestrator × 4, quorate-verifier × 4, quorate-host × 2 (or quorate-faulty),
//!                              a registered kv VM on host-a
//!                              │
//!             load, migrate, kill, restart: the test
//!                              │
//!          status, heads, certificates, sign-logs ──▶ what must hold
//! ```
//!
//! Every test has the machine to itself: worlds of one process take turns. Folder, keys and logs of a failed test are
//! kept and named. Nothing here sleeps for a fixed time; [`until`] polls to a deadline.
//!
//! # Not promised
//!
//! The processes are those of the target folder of the running test, built before the first test starts.

#![forbid(unsafe_code)]
// A test that cannot go on ends.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod operated;
pub mod programs;
pub mod serving;
pub mod sign_logs;
mod until;
mod world;

pub use operated::{Operated, last_line};
pub use until::until;
pub use world::{A, B, Setup, World};
