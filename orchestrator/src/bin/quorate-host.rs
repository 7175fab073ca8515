//! `quorate-host`: the host agent's process.

use std::process::ExitCode;
use std::sync::Arc;

use quorate_orchestrator::host::conduct::Honest;

fn main() -> ExitCode {
    quorate_orchestrator::host_main::main(Arc::new(Honest))
}
