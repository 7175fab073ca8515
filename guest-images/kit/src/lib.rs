//! A kit for ordered services: everything they share, so that a service is its state, its operations and `apply`.
#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

mod service;
mod state;

pub use quorate_attest::request::status;
pub use service::{Call, Service};
pub use state::State;
