//! The gateway's binary.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    quorate_gateway::cli::main(std::env::args_os())
}
