//! The signer's binary.

#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    quorate_signer::cli::main(std::env::args_os())
}
