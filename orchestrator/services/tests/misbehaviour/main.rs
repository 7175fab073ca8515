//! The client of ordered services against orchestrators and replicas that misbehave in every way of the threat model.
//!
//! Each variant is tried twice: with `f` nodes of its kind everything succeeds, with right and proved answers; with `f + 1` of them
//! something breaks or stalls. Where proofs protect even then, that is shown, and the next weaker thing breaks. Every scenario is one
//! text for the service registry and the UID registry, for `n = 4` and `n = 7`: the last part of a test's name says which.
//!
//! The nodes are real endpoints that speak the orchestrators' protocol, with real guests behind them; only agreement on the order is a
//! list that they share, because it is not what is attacked here.

mod conduct;
mod framing;
mod garbage;
mod guest;
mod keys;
mod library;
mod lies;
mod log;
mod node;
mod omission;
mod scenario;
mod silence;
mod staleness;
mod world;
