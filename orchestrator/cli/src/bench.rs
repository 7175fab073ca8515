//! `quorate bench`: prints what [`crate::benchmarks`] measures.

use std::io::{Write, stderr};

use super::failure::Failure;
use super::output::Output;
use super::{exit, kvm};
use crate::benchmarks::{BenchArguments, BenchError};

/// Runs the command.
pub fn run(arguments: &BenchArguments, output: &Output) -> Result<u8, Failure> {
    kvm::require()?;
    let mut progress = |what: &str| {
        if output.draws_progress() {
            // Nobody waits for what cannot be printed.
            let _ = write!(stderr(), "\r\x1b[Kmeasuring: {what}");
        }
    };
    let measured = crate::benchmarks::run(arguments, &mut progress);
    if output.draws_progress() {
        let _ = write!(stderr(), "\r\x1b[K");
    }
    let report = measured?;
    output.line(&report.table());
    output.object(&report.json());
    Ok(exit::OK)
}

impl From<BenchError> for Failure {
    fn from(error: BenchError) -> Self {
        match error {
            BenchError::Machine(error) => error.into(),
            BenchError::Execution(error) => error.into(),
            BenchError::Replay(error) => error.into(),
            BenchError::Image(error) => error.into(),
            BenchError::Checkpoint(error) => error.into(),
            BenchError::Transport(error) => error.into(),
            BenchError::Cluster(error) => error.into(),
            BenchError::Host(error) => error.into(),
            BenchError::Service(error) => error.into(),
            other => Self::refused(other.kind(), &other),
        }
    }
}
