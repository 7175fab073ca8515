//! `quorate-host`: the host agent's process.

use std::process::ExitCode;
use std::sync::Arc;

use quorate_host::conduct::Honest;

fn main() -> ExitCode {
    quorate_host::process::main(Arc::new(Honest))
}
