//! What the programs of verifiers and orchestrators do alike: take arguments, report what is wrong, log, run until a signal.

use std::ffi::OsString;
use std::fmt::Display;
use std::process::ExitCode;

use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, Problem};
use crate::exit;

/// Parses the arguments, runs the program, and answers its exit code.
pub fn main<A: Parser>(arguments: impl IntoIterator<Item = OsString>, run: impl FnOnce(A) -> u8) -> ExitCode {
    let arguments = match A::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors; clap knows the stream and the code of each.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { exit::USAGE } else { exit::OK });
        }
    };
    ExitCode::from(run(arguments))
}

/// Prints what is wrong with a configuration and answers the exit code.
pub fn report(problems: &[Problem], checking: bool) -> u8 {
    for problem in problems {
        eprintln!("{problem}");
    }
    // A check answers one question only; a start tells a wrong file from an unsafe one.
    let code = problems.iter().map(|problem| problem.exit_code).min();
    if checking { exit::CONFIGURATION } else { code.unwrap_or(exit::CONFIGURATION) }
}

/// Prints an error and answers the exit code.
pub fn complain(kind: &str, error: &dyn Display, code: u8) -> u8 {
    eprintln!("{kind}: {error}");
    code
}

/// Starts the log and runs a node to its end, which is an exit code. Threads that it leaves behind end with the process.
pub fn serve(log: LogFormat, node: impl Future<Output = u8>) -> u8 {
    start_log(log);
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain("ThreadFailed", &error, exit::CONFIGURATION),
    };
    let code = runtime.block_on(node);
    runtime.shutdown_background();
    code
}

/// Takes over SIGTERM and SIGINT; the future is ready when one of them arrives.
///
/// # Errors
/// The system refuses a handler.
pub fn asked_to_end() -> std::io::Result<impl Future<Output = ()>> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn start_log(format: LogFormat) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // A second node in one process, as tests have it, keeps the first one's log.
    let _ = match format {
        LogFormat::Text => builder.with_ansi(false).try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
}
