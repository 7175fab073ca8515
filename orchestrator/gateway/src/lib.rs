//! The gateway: runs on a client's side, is trusted by its users, and trusts no replica.
//!
//! ```text
//! etcdctl ──gRPC──▶ etcd ─┐
//! Prometheus, DNS ▶ http ─┼▶ registry, users ─▶ Backend ─▶ Recorded ─▶ quorate_services::Service ─▶ orchestrators, replicas
//! getent ──socket─▶ nss ──┘   (several proven      │          └▶ folder of proofs
//!                              reads as one)       the seam for tests
//! ```
//!
//! Every answer rests on a certificate of `f + 1` replicas and a proof against the state in it, checked by [`quorate_services`]. What
//! cannot be proved is an error: `Unavailable` in gRPC, 503 in HTTP, `unavailable` for the NSS module. None of them is ever
//! turned into "there is none".
//!
//! # Modules
//!
//! * [`backend`]: what the protocols ask of a service; [`late`] is a service that may not exist yet, [`proofs`] keeps what shows answers.
//! * [`registry`], [`users`]: several proven reads, put together so that they hold at one number.
//! * [`etcd`], [`http`], [`nss`]: the protocols. [`listen`] bounds what peers may do.
//! * [`config`], [`cli`], [`node`]: the process.
//!
//! # Not promised
//!
//! Whoever can connect to the gateway can do what its key may: it has no users, passwords or TLS of its own, and so listens on
//! loopback unless told otherwise. Everything registered through it belongs to its key.
#![forbid(unsafe_code)]

pub mod backend;
pub mod cli;
pub mod config;
pub mod etcd;
pub mod http;
pub mod late;
pub mod listen;
pub mod node;
pub mod nss;
pub mod proofs;
pub mod registry;
pub mod users;
