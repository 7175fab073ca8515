//! The orchestrator's binary.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    quorate_orchestrator::cli::main(std::env::args_os())
}
