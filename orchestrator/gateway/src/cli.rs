//! The command line of the gateway.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use quorate_verifier::cli::process::{self, asked_to_end, complain, report};
use quorate_verifier::cli::sd_notify;
use quorate_verifier::exit;

use crate::config::{Config, Loaded, LogFormat, Overrides, Problem};
use crate::node::Node;

/// The gateway of Quorate: etcd, HTTP and NSS for programs of this machine, over answers that it verifies.
#[derive(Debug, Parser)]
#[command(name = "quorate-gateway", version)]
struct Arguments {
    /// Configuration file (TOML).
    #[arg(long, global = true, env = "QUORATE_GATEWAY_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address for etcd's clients; port 0 takes any.
    #[arg(long, global = true, env = "QUORATE_GATEWAY_ETCD_LISTEN", value_name = "ADDRESS")]
    etcd_listen: Option<String>,
    /// Address for HTTP; port 0 takes any.
    #[arg(long, global = true, env = "QUORATE_GATEWAY_HTTP_LISTEN", value_name = "ADDRESS")]
    http_listen: Option<String>,
    /// Write log lines as JSON.
    #[arg(long, global = true)]
    json: bool,
    /// Read everything a start would read, print all problems, and end.
    #[arg(long, global = true)]
    check_config: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve until asked to end; the same as no command.
    Run,
}

impl Arguments {
    fn load(&self) -> Result<Loaded, Vec<Problem>> {
        let Some(path) = &self.config else {
            return Err(vec![Problem::new("config", "no configuration file: pass --config FILE")]);
        };
        let overrides = Overrides {
            etcd_listen: self.etcd_listen.clone(),
            http_listen: self.http_listen.clone(),
            log: self.json.then_some(LogFormat::Json),
        };
        Config::read(path, &overrides).and_then(Config::open)
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
        let (group, replicas) = (&loaded.orchestrators.name, &loaded.replicas.name);
        println!("configuration is valid: gateway to group {group}, replicas {replicas}");
        return exit::OK;
    }
    match arguments.command {
        Some(Command::Run) | None => serve(loaded),
    }
}

fn serve(loaded: Loaded) -> u8 {
    process::serve(loaded.config.log, async {
        let node = match Node::start(loaded).await {
            Ok(node) => node,
            Err(error) => return complain(error.kind(), &error, error.exit_code()),
        };
        // Before the line that says the gateway is ready: whoever reads it may send a signal at once.
        let shutdown = match asked_to_end() {
            Ok(shutdown) => shutdown,
            Err(error) => return complain("SignalHandler", &error, exit::CONFIGURATION),
        };
        if let Err(error) = announce(&node) {
            return complain("SocketError", &error, exit::CONFIGURATION);
        }
        match node.run(shutdown).await {
            Ok(()) => exit::OK,
            Err(error) => {
                tracing::error!(error_kind = error.kind(), "the gateway ends: {error}");
                complain(error.kind(), &error, error.exit_code())
            }
        }
    })
}

/// Prints the one line that says the gateway is ready, and where; then tells the service manager.
fn announce(node: &Node) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{node}")?;
    out.flush()?;
    sd_notify::ready()
}
