//! The guest machine of Quorate: admission of images, the deterministic machine under KVM, recording and replay of
//! executions, the page tree, snapshots and checkpoints.
//!
//! # What it is for
//!
//! A VM is a deterministic state machine: its end state follows from its start state and its inputs. This crate runs
//! such a machine at native speed, measures its state (page root, CPU digest, device digest) at any doorbell, and
//! reaches the same digests again from the same inputs, in another process or on another host of the same platform
//! class. Hosts record with it, verifiers and destinations replay with it.
//!
//! # Data flow
//!
//! ```text
//! ELF ─▶ image ─▶ genesis (no KVM) ─▶ Measurement of slot 0
//!          │
//!          └─▶ machine ──run──▶ Exit          execution: machine + input log
//!                │  ▲                            run / feed / cut      (record)
//!            measure deliver                     replay(inputs, until) (verify)
//!                ▼                                   │
//!        page_tree + cpu + device ─▶ Measurement ─▶ Cut ─▶ a slot's statement
//!
//! a machine that waits ─▶ fork ─query─▶ outputs       asked without being touched
//! pages + leaves from a stranger ─▶ incoming ─▶ Machine      snapshot, checkpoint: pages kept and stored
//! ```
//!
//! # Threads and signals
//!
//! Everything is synchronous. The guest runs on the thread that calls [`Machine::run`]; a machine may move between
//! threads, and a process may have many. While the guest runs, `rdtsc` is disabled on that thread: a signal handler
//! that runs on it must not read the clock. Signals do not disturb an execution. The watchdog uses `SIGRTMAX`.
//!
//! # What it does not promise
//!
//! * Nothing protects a guest from the host it runs on; that host is caught afterwards, by replay.
//! * An execution repeats on the same [platform class](platform) only.
//! * A guest killed by the watchdog, or stopped for what it did, leaves no certified state after its last cut.

pub mod bare;
pub mod checkpoint;
pub mod cpu;
pub mod crash;
pub mod device;
pub mod execution;
pub mod fork;
pub mod genesis;
pub mod image;
pub mod incoming;
pub mod machine;
pub mod measurement;
pub mod memory;
pub mod page_tree;
pub mod platform;
pub mod snapshot;
pub mod state_stream;
#[cfg(test)]
mod tests;
mod watchdog;

pub use crash::{CrashKind, CrashReport};
pub use device::{DeviceState, Pending};
pub use execution::{Cut, Execution, ExecutionError, ReplayError, Stop};
pub use fork::{Budget, Fork, ForkError};
pub use image::Image;
pub use incoming::{IncomingError, IncomingMachine};
pub use machine::{Delivery, Exit, Machine, MachineError};
pub use measurement::{MeasuredPages, Measurement, Position};
