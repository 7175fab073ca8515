//! The command line of an orchestrator.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use quorate_verifier::cli::process::{self, asked_to_end, complain, report};
use quorate_verifier::cli::sd_notify;
use quorate_verifier::sign_log::DataDir;

use crate::config::{Config, Loaded, LogFormat, Overrides, Problem};
use crate::exit;
use crate::node::{Fatal, Node, init};

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
    process::main(arguments, |arguments: Arguments| run(&arguments))
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

fn check(loaded: &Loaded) -> u8 {
    if let Err(error) = DataDir::check(&loaded.config.data_dir) {
        return complain(error.kind(), &error, exit::CONFIGURATION);
    }
    let (name, group) = (&loaded.config.name, &loaded.orchestrators.name);
    println!("configuration is valid: orchestrator {name} of group {group}");
    exit::OK
}

fn serve(loaded: Loaded) -> u8 {
    process::serve(loaded.config.log, async {
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
    })
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
