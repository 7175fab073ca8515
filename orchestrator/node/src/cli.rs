//! The command line of an orchestrator.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use quorate_verifier::sign_log::DataDir;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::config::{Config, Loaded, LogFormat, Overrides, Problem};
use crate::node::{Fatal, Node, init};
use crate::{exit, sd_notify};

/// An orchestrator of Quorate: executes the ordered log and signs what became of each operation.
#[derive(Debug, Parser)]
#[command(name = "quorate-orchestrator", version)]
struct Arguments {
    /// Configuration file (TOML).
    #[arg(long, global = true, env = "QUORATE_ORCHESTRATOR_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address to listen on; port 0 takes any.
    #[arg(long, global = true, env = "QUORATE_ORCHESTRATOR_LISTEN", value_name = "ADDRESS")]
    listen: Option<String>,
    /// Address of the HTTP API: loopback, or unix:PATH.
    #[arg(long, global = true, env = "QUORATE_ORCHESTRATOR_API", value_name = "ADDRESS")]
    api: Option<String>,
    /// Directory of log, state and sign-log.
    #[arg(long, global = true, env = "QUORATE_ORCHESTRATOR_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Write log lines as JSON.
    #[arg(long, global = true)]
    json: bool,
    /// Read everything a start would read, print all problems, and end.
    #[arg(long)]
    check_config: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create the sign-log of a new identity. Never replaces one.
    Init,
}

impl Arguments {
    fn overrides(&self) -> Overrides {
        Overrides {
            listen: self.listen.clone(),
            data_dir: self.data_dir.clone(),
            api: self.api.clone(),
            log: self.json.then_some(LogFormat::Json),
        }
    }

    fn load(&self) -> Result<Loaded, Vec<Problem>> {
        let Some(path) = &self.config else {
            return Err(vec![Problem::new("config", "no configuration file: pass --config FILE")]);
        };
        Config::read(path, &self.overrides()).and_then(Config::open)
    }
}

/// Runs the program and answers its exit code.
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors; clap knows the stream and the code of each.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { exit::USAGE } else { exit::OK });
        }
    };
    ExitCode::from(run(&arguments))
}

fn run(arguments: &Arguments) -> u8 {
    let loaded = match arguments.load() {
        Ok(loaded) => loaded,
        Err(problems) => return report(&problems, arguments.check_config),
    };
    if arguments.check_config {
        return check(&loaded);
    }
    match arguments.command {
        Some(Command::Init) => match init(&loaded) {
            Ok(()) => exit::OK,
            Err(error) => complain(error.kind(), &error, error.exit_code()),
        },
        None => serve(loaded),
    }
}

fn report(problems: &[Problem], checking: bool) -> u8 {
    for problem in problems {
        eprintln!("{problem}");
    }
    // A check answers one question only; a start tells a wrong file from an unsafe one.
    let code = problems.iter().map(|problem| problem.exit_code).min();
    if checking { exit::CONFIGURATION } else { code.unwrap_or(exit::CONFIGURATION) }
}

fn check(loaded: &Loaded) -> u8 {
    if let Err(error) = DataDir::check(&loaded.config.data_dir) {
        return complain(error.kind(), &error, exit::CONFIGURATION);
    }
    let (name, group) = (&loaded.config.name, &loaded.orchestrators.name);
    println!("configuration is valid: orchestrator {name} of group {group}");
    exit::OK
}

fn complain(kind: &str, error: &dyn std::fmt::Display, code: u8) -> u8 {
    eprintln!("{kind}: {error}");
    code
}

fn serve(loaded: Loaded) -> u8 {
    start_log(loaded.config.log);
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain("ThreadFailed", &error, exit::CONFIGURATION),
    };
    let code = runtime.block_on(async {
        let node = match Node::start(loaded).await {
            Ok(node) => node,
            Err(error) => return complain(error.kind(), &error, error.exit_code()),
        };
        // Before the line that says the node is ready: whoever reads it may send a signal at once.
        let shutdown = match asked_to_end() {
            Ok(shutdown) => shutdown,
            Err(error) => return complain("SignalHandler", &error, exit::CONFIGURATION),
        };
        if let Err(error) = announce(&node) {
            return complain("SocketError", &error, exit::CONFIGURATION);
        }
        match node.run(shutdown).await {
            Ok(()) => exit::OK,
            Err(Fatal { kind, detail, exit_code }) => {
                tracing::error!(error_kind = kind, "the node ends: {detail}");
                complain(&kind, &detail, exit_code)
            }
        }
    });
    runtime.shutdown_background();
    code
}

/// Prints the one line that says the node is ready, and where; then tells the service manager.
fn announce(node: &Node) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    match node.api() {
        Some(api) => writeln!(out, "listening {} api {api}", node.address())?,
        None => writeln!(out, "listening {}", node.address())?,
    }
    out.flush()?;
    sd_notify::ready()
}

/// Takes over SIGTERM and SIGINT; the future is ready when one of them arrives.
fn asked_to_end() -> std::io::Result<impl Future<Output = ()>> {
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
