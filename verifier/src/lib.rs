//! The verifier node: checks what hosts say about their VMs and signs each slot at most once.
//!
//! A host is trusted with nothing. It proposes slots; a verifier accepts slot k only as the successor of the slot it
//! accepted last, checks it by executing the transition again (REPLAYED) or by looking at pages the host could not
//! foresee (SAMPLED), and signs. A quorum of such signatures is a certificate. Verifiers do not talk to each other and
//! run no consensus: each is a small machine whose only duty is never to contradict itself.
//!
//! # Data flow
//!
//! ```text
//!  host ══ protocol ══▶ node (tokio) ──Input──▶ core (pure) ──Effect──▶ node
//!                         │                                              │ Persist   ▼
//!                         │                                            sign_log: append, fdatasync
//!                         │ Replay / Pull                                │ then Send
//!                         ▼                                              ▼
//!                       vmm: one machine a VM                          attestation leaves
//! ```
//!
//! * [`protocol`]: the messages between hosts and a verifier.
//! * [`core`]: the rules, one state machine a VM, without clock, files or sockets.
//! * [`sign_log`]: what was promised, durable before the promise leaves.
//! * [`node`]: performs the effects; `conduct` is where test nodes differ from honest ones.
//! * [`cli`], [`config`], [`key_file`], [`exit`]: what an operator sees.
//!
//! # Not promised
//!
//! * More than f Byzantine verifiers can certify anything. That is noticed only when both of two conflicting
//!   certificates reach one honest verifier, which then stops with exit code 70.
//! * A SAMPLED attestation says that the chain is unbroken and that some pages were there, not that the execution was right.
//! * Whether an input is true. Inputs that nobody signed are counted as unauthenticated in the certificate.
//! * An identity restored from an old disk is detected when it is shown a signature of its own that it does not know.
#![forbid(unsafe_code)]

pub mod cli;
pub mod config;
pub mod core;
pub mod exit;
pub mod key_file;
pub mod node;
pub mod protocol;
pub mod sign_log;
