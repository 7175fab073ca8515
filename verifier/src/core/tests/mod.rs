//! Named attacks on the rules, against a model of an execution instead of a machine.

mod activation;
mod catching_up;
mod epochs;
pub(crate) mod model;
mod properties;
mod proposals;
mod quorums;
mod recovery;
mod sampling;
