//! Everything around a VM that is not the machine and not its verifiers: the migration state machines, the host agent that
//! performs their effects, the client library, and the `quorate` command line.
//!
//! ```text
//! migration/   pure: source and destination of a live migration, freshness of heads
//! certify      pure: votes to certificates, certificates to released outputs
//! host/        the host agent around them: VM thread, journal, links to verifiers, exchanges
//! client       calls a VM and believes only certified answers
//! cluster      starts a cluster of real processes on one machine
//! cli/         the commands
//! ```
//!
//! Not provided yet: an ordered log. Until it exists a quorum of verifiers raises generations by its votes.

#![forbid(unsafe_code)]

pub mod bench;
pub mod certify;
pub mod cli;
pub mod client;
pub mod cluster;
pub mod host;
pub mod host_main;
pub mod migration;
pub mod protocol;

#[cfg(test)]
mod testing;
