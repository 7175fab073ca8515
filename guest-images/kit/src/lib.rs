//! A kit for ordered services: everything they share, so that a service is its state, its operations and `apply`.
//!
//! # What it is for
//!
//! A service implements [`Service`]; [`Replica`] is the deterministic state machine around it that runs in the guest of
//! every replica, and `guest_main!` makes a guest program of it. `docs/tutorial-service.md` builds one.
//!
//! ```text
//! orchestrator ──wrapped Input──▶ Replica ──▶ Genesis, Apply: envelope ▶ once ▶ Service::apply ▶ one tree update
//!                                    │        Query: proofs from the tree          Import, Export: the tree itself
//!              ◀─wrapped Output──────┘
//! ```
//!
//! # Inputs and outputs
//!
//! VM input 0 is the encoded [`VmSpec`](quorate_attest::vm::VmSpec) and has no output; all that is kept of it is the
//! VM's id. Each later input is a [`Request`](quorate_attest::request::Request) for that VM with an
//! [`Input`](quorate_attest::service::Input) as body, and has one output, a
//! [`Reply`](quorate_attest::request::Reply) with an [`Output`](quorate_attest::service::Output). The signature of this
//! wrapper is not checked here: hosts and verifiers classify inputs by it. [`wire`] makes and reads wrappers.
//!
//! # A request of a client
//!
//! In this order, each step with its own status: it decodes (1); it names this service and carries its client's signature
//! (5, 4); a sequence number at or below the client's last one is not executed again (the kept reply, or 6); its epoch is 0
//! (12); the service executes it. Who it is from is known only behind the second step: before, the reply names
//! [`PublicKey::NOBODY`](quorate_attest::key::PublicKey::NOBODY), so that nobody obtains a certified reply to a request in
//! another's name. An error rolls back what the service did and uses up the sequence number. A reply whose body is longer
//! than [`REPLY_LIMIT`] is the error 10 instead, without effect.
//!
//! # Exactly once
//!
//! The last request of each client is kept in the state, with its reply: at most [`CLIENTS_LIMIT`] clients and a bounded
//! number of bytes. The client whose last executed request lies furthest back is forgotten first. A repeated request
//! changes nothing.
//!
//! # Service time
//!
//! Voters tell the time with [`TICK`](quorate_attest::service::TICK) requests. Service time is the `f + 1`-th largest vote,
//! so one honest voter at least has seen it pass. A vote below the voter's last one is refused (7): neither votes nor time
//! fall. Votes need no place in the table of clients, as a repeated one changes nothing.
//!
//! # Bounds
//!
//! [`Limits::for_machine`] divides the heap between the service's entries, kept replies and the changes of one request, so
//! that no sequence of inputs exhausts it; what is over a budget is the error 10. How requests are divided into inputs
//! never influences a result: if replies fill an output before all requests of an input are executed, the rest is left
//! for the next input.
//!
//! # Equal replicas
//!
//! Replicas that were fed the same entries have the same state root after each. Fed with the same inputs, their guests have
//! the same memory too, but for the topmost pages of the stack: these hold the VM's id and what wrappers left there.
//!
//! # What it does not promise
//!
//! A client that was forgotten, after thousands of others, can be made to repeat an old request of its own. A service must
//! bound what it allocates itself while it executes one request.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod envelope;
#[cfg(feature = "guest")]
pub mod guest;
mod import;
mod limits;
mod query;
mod replica;
mod running;
mod service;
mod session;
mod state;
mod time;
pub mod wire;

pub use limits::{CLIENTS_LIMIT, ENTRIES_LIMIT, Limits, REPLY_LIMIT};
pub use quorate_attest::request::status;
pub use replica::Replica;
pub use service::{Call, Service};
pub use state::State;

#[cfg(test)]
mod tests;
