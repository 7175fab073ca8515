//! The command line of a verifier, shared with test nodes that behave otherwise.

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use crate::config::{Config, Loaded, LogFormat, Overrides, Problem};
use crate::node::conduct::Conduct;
use crate::node::{Fatal, Node, check_kvm, init};
use crate::sign_log::DataDir;

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
    let arguments = match Arguments::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            // Help and version are no errors; clap knows the stream and the code of each.
            let _ = error.print();
            return ExitCode::from(if error.use_stderr() { crate::exit::USAGE } else { crate::exit::OK });
        }
    };
    ExitCode::from(run(conduct, &arguments))
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

fn report(problems: &[Problem], checking: bool) -> u8 {
    for problem in problems {
        eprintln!("{problem}");
    }
    // A check answers one question only; a start tells a wrong file from an unsafe one.
    let code = problems.iter().map(|problem| problem.exit_code).min();
    if checking { crate::exit::CONFIGURATION } else { code.unwrap_or(crate::exit::CONFIGURATION) }
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

fn complain(kind: &str, error: &dyn std::fmt::Display, code: u8) -> u8 {
    eprintln!("{kind}: {error}");
    code
}

fn serve<C: Conduct>(conduct: C, loaded: &Loaded) -> u8 {
    start_log(loaded.config.log);
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return complain("ThreadFailed", &error, crate::exit::CONFIGURATION),
    };
    let code = runtime.block_on(async {
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
    });
    // Threads that still replay end with the process.
    runtime.shutdown_background();
    code
}

/// Prints the one line that says the node is ready, and where.
fn announce<C: Conduct>(node: &Node<C>) -> anyhow::Result<()> {
    let address = node.address()?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "listening {address}")?;
    out.flush()?;
    Ok(())
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
