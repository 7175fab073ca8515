//! The command line of a verifier, shared with test nodes that behave otherwise.

pub mod process;
pub mod sd_notify;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use crate::config::{Config, Loaded, LogFormat, Overrides, Problem};
use crate::node::conduct::Conduct;
use crate::node::{Fatal, Node, check_kvm, init};
use crate::sign_log::DataDir;
use process::{asked_to_end, complain, report};

/// A verifier of Quorate: checks slots of VMs and signs each at most once.
#[derive(Debug, Parser)]
#[command(name = "quorate-verifier", version)]
struct Arguments {
    /// Configuration file (TOML).
    #[arg(long, global = true, env = "QUORATE_VERIFIER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Address to listen on; port 0 takes any.
    #[arg(long, global = true, env = "QUORATE_VERIFIER_LISTEN", value_name = "ADDRESS")]
    listen: Option<String>,
    /// Directory of sign-log, images and evidence.
    #[arg(long, global = true, env = "QUORATE_VERIFIER_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// How slots are attested.
    #[arg(long, global = true, env = "QUORATE_VERIFIER_MODE", value_name = "MODE")]
    mode: Option<ModeArgument>,
    /// Write log lines as JSON.
    #[arg(long, global = true)]
    json: bool,
    /// Read everything a start would read, print all problems, and end.
    #[arg(long)]
    check_config: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum ModeArgument {
    Replayed,
    Sampled,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Create the sign-log of a new identity. Never replaces one.
    Init,
}

impl Arguments {
    fn overrides(&self) -> Overrides {
        let mode = self.mode.map(|mode| match mode {
            ModeArgument::Replayed => "replayed".to_owned(),
            ModeArgument::Sampled => "sampled".to_owned(),
        });
        Overrides {
            listen: self.listen.clone(),
            data_dir: self.data_dir.clone(),
            mode,
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

/// Runs the program with a conduct and answers its exit code.
pub fn main<C: Conduct>(conduct: C, arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    process::main(arguments, |arguments: Arguments| run(conduct, &arguments))
}

fn run<C: Conduct>(conduct: C, arguments: &Arguments) -> u8 {
    let loaded = match arguments.load() {
        Ok(loaded) => loaded,
        Err(problems) => return report(&problems, arguments.check_config),
    };
    if arguments.check_config {
        return check(&loaded);
    }
    match arguments.command {
        Some(Command::Init) => match init(&loaded) {
            Ok(()) => crate::exit::OK,
            Err(error) => complain(error.kind(), &error, error.exit_code()),
        },
        None => serve(conduct, &loaded),
    }
}

fn check(loaded: &Loaded) -> u8 {
    if let Err(error) = DataDir::check(&loaded.config.data_dir) {
        return complain(error.kind(), &error, crate::exit::CONFIGURATION);
    }
    if let Err(error) = check_kvm(loaded) {
        return complain(error.kind(), &error, crate::exit::CONFIGURATION);
    }
    println!("configuration is valid: verifier {} of group {}", loaded.index, loaded.group.name);
    crate::exit::OK
}

fn serve<C: Conduct>(conduct: C, loaded: &Loaded) -> u8 {
    process::serve(loaded.config.log, async {
        let node = match Node::start(loaded, conduct) {
            Ok(node) => node,
            Err(error) => return complain(error.kind(), &error, error.exit_code()),
        };
        // Before the line that says the node is ready: whoever reads it may send a signal at once.
        let shutdown = match asked_to_end() {
            Ok(shutdown) => shutdown,
            Err(error) => return complain("SignalHandler", &error, crate::exit::CONFIGURATION),
        };
        if let Err(error) = announce(&node) {
            return complain("SocketError", &error, crate::exit::CONFIGURATION);
        }
        match node.run(shutdown).await {
            Ok(()) => crate::exit::OK,
            Err(Fatal { kind, detail, exit_code }) => {
                tracing::error!(error_kind = kind, "the node ends: {detail}");
                complain(&kind, &detail, exit_code)
            }
        }
    })
}

/// Prints the one line that says the node is ready, and where.
fn announce<C: Conduct>(node: &Node<C>) -> anyhow::Result<()> {
    let address = node.address()?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "listening {address}")?;
    out.flush()?;
    Ok(sd_notify::ready()?)
}
