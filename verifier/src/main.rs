//! The verifier process. Everything is in the library; see `quorate_verifier`.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use quorate_verifier::cli;
use quorate_verifier::node::conduct::Honest;

fn main() -> ExitCode {
    cli::main(Honest, std::env::args_os())
}
