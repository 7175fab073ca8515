//! The orchestrator node: a replica of the ordered log with the control plane on top.
//!
//! It orders operations together with the other members of its group, executes them, signs what became of each, and answers those who ask.
//! Nobody has to believe a single orchestrator: a receipt or decision counts with the signatures of a quorum, an answer about the state
//! when `f + 1` give it.
//!
//! # Data flow
//!
//! ```text
//! author ── Submit ──▶ node ──▶ OrderedLog (quorate-agreement) ══ other orchestrators
//!                                   │ entries, durable, in one order everywhere
//!                                   ▼
//!                      Replica (pure): Control::apply (quorate-control) ─▶ leaf ─▶ root ─▶ receipt, decision
//!                                   │ Record ─▶ sign-log, one fdatasync a batch
//!                                   │ Persist ─▶ executed log (redb): entries, tree, heads, snapshots
//!                                   ▼
//! author ◀── Applied ── waiters            heads, C2SP-cosigned ──▶ other orchestrators compare ──▶ safety stop
//! ```
//!
//! * [`replica`]: execution and what is signed, without clock, files or sockets.
//! * [`sign_state`]: what was signed, durable before a signature leaves.
//! * [`store`], [`log_tree`]: the executed log and its RFC 6962 tree.
//! * [`services`]: this node's replicas of ordered services, fed from the executed log.
//! * [`node`]: sockets, threads and the order of effects.
//! * [`api`], [`metrics`]: HTTP for this machine: JSON, OpenAPI, health, Prometheus.
//! * [`config`], [`cli`], [`exit`]: what an operator sees.
//!
//! # Not promised
//!
//! * More than `f` Byzantine orchestrators can certify anything. That is noticed only when heads of honest ones differ; then they stop.
//! * An answer of one orchestrator to a question is its own. Who needs the newest state orders something, or asks a quorum.
//! * The HTTP API has no authentication. It listens on loopback or a unix socket only; who can reach it may read everything, and
//!   submit what somebody signed.

#![forbid(unsafe_code)]

pub mod api;
pub mod cli;
pub mod config;
pub mod exit;
pub mod log_tree;
pub mod metrics;
pub mod node;
pub mod replica;
pub mod services;
pub mod sign_state;
pub mod store;
