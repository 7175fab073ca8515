//! What the fuzz targets do with their bytes.
//!
//! # What it is for
//!
//! One client must not be able to stop all replicas at once, so nothing that decodes or applies what others send may panic,
//! and nothing arbitrary may count as proved. Each target in `targets/` takes bytes from libFuzzer, which keeps those that
//! reach code nobody reached before; `scripts/fuzz` builds and runs them on the stable compiler.
//!
//! # Data flow
//!
//! ```text
//! bytes ─▶ Cut ─▶ replica: inputs of a guest, one after the other ─▶ World::feed: invariants after each
//!      ─▶ kv, stress: inputs of guests without a replica ─▶ a model says what each output must be
//!      ─▶ control: entries of the log ─▶ two replicas agree, a snapshot is read again as the same state
//!      ─▶ messages, wire, nss, attest: decoders ─▶ what decodes is encoded again and compared
//!      ─▶ hello: frames, and what one end is told ─▶ only what the other end signed makes a session
//!      ─▶ image: files ─▶ what is admitted has no forbidden bytes in its text, and begins with its own
//!      ─▶ machine: registers, doorbells, streams of state ─▶ only the certified stream becomes a machine
//!      ─▶ gateway: requests of etcd's clients ─▶ what is answered agrees with the registry's state
//!      ─▶ proofs: decode, verify ─▶ what holds must be what was signed, or true of the tree
//!      ─▶ ordered_log, members (feature `orchestrator`): what orchestrators send each other ─▶ the same of both
//! ```
//!
//! A broken invariant is a panic: libFuzzer keeps the bytes that led to it.
//!
//! # What it does not promise
//!
//! A target that ran for a while without a finding shows only that: nothing is proved. State that `f + 1` replicas would have
//! to certify wrongly is not fed.
#![forbid(unsafe_code)]

pub mod attest;
pub mod control;
pub mod cut;
pub mod gateway;
pub mod hello;
pub mod image;
pub mod kv;
pub mod machine;
#[cfg(feature = "orchestrator")]
pub mod members;
pub mod messages;
pub mod nss;
#[cfg(feature = "orchestrator")]
pub mod ordered_log;
pub mod proofs;
pub mod replica;
pub mod seeds;
pub mod stress;
pub mod subject;
pub mod wire;
pub mod world;

mod codec;

/// The value, of something that cannot fail: where it does, that is the finding.
#[track_caller]
pub fn must<T, E: std::fmt::Debug>(result: Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => panic!("{error:?}"),
    }
}
