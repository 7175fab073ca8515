//! `quorate`: the operator's command line.

use std::process::ExitCode;

fn main() -> ExitCode {
    quorate_cli::main()
}
