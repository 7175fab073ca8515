//! The load and misbehaviour service: a guest that works as hard, and breaks rules as it is told.
//!
//! # What it is for
//!
//! Benchmarks and tests need guests whose dirty rate, computation and memory they can set exactly, and guests that do
//! what a machine must survive. Inputs are [`Command`]s; hosts encode them and decode [`Reply`]s with this same crate.
//!
//! # Data flow
//!
//! input -> [`Command::decode`] -> [`Stress::apply`] -> [`Outcome`]: a reply to send, a [`Misbehaviour`] the program
//! commits, or the end of the program. Everything in this crate is a pure function of the inputs so far: two machines
//! fed alike have equal memory, registers and outputs after each input.
//!
//! # Bounded intervals
//!
//! Work calls its `pace` hook about every million elementary steps (a few milliseconds); the guest yields there.
//! A hook that is called is part of the machine's position, so the places are fixed by the command alone.
//!
//! # What it does not promise
//!
//! Commands are not authenticated: every input of a stress VM is `unauthenticated`. A working set that does not fit into
//! the machine is refused; nothing else protects the service from its inputs, since breaking is its purpose.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod command;
mod work;

pub use command::{Command, CommandError, Knock, Misbehaviour, Place, Reply, Work};
pub use work::{Outcome, PACE_UNITS, Stress};

#[cfg(test)]
mod tests;
