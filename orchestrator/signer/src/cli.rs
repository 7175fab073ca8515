//! The command line of a signer.

use std::ffi::OsString;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use quorate_verifier::cli::process::{self, asked_to_end, complain, report};
use quorate_verifier::cli::sd_notify;
use quorate_verifier::exit;
use quorate_verifier::sign_log::{DataDir, Storage};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};

use crate::config::{Config, Loaded, LogFormat, Overrides, Problem};
use crate::server::Listener;
use crate::signer::Signer;
use crate::worker::Worker;

/// The host signer of Quorate: holds a replica's keys and never signs two things in one place.
#[derive(Debug, Parser)]
#[command(name = "quorate-signer", version)]
struct Arguments {
    /// Configuration file (TOML).
    #[arg(long, global = true, env = "QUORATE_SIGNER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    /// Directory of the sign-log.
    #[arg(long, global = true, env = "QUORATE_SIGNER_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Unix socket to listen on.
    #[arg(long, global = true, env = "QUORATE_SIGNER_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
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
    /// Sign until asked to end. The default.
    Run,
}

impl Arguments {
    fn load(&self) -> Result<Loaded, Vec<Problem>> {
        let Some(path) = &self.config else {
            return Err(vec![Problem::new("config", "no configuration file: pass --config FILE")]);
        };
        let overrides = Overrides {
            data_dir: self.data_dir.clone(),
            socket: self.socket.clone(),
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
    // Before the keys are read: no core file and no debugger of the same user shall see them.
    if let Err(error) = set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        return complain("SystemRefused", &error, exit::NOT_PERMITTED);
    }
    let loaded = match arguments.load() {
        Ok(loaded) => loaded,
        Err(problems) => return report(&problems, arguments.check_config),
    };
    if arguments.check_config {
        return check(&loaded);
    }
    match arguments.command {
        Some(Command::Init) => {
            let identity = loaded.keys.identity(&loaded.rules);
            match DataDir::init(&loaded.config.data_dir, &identity.entry()) {
                Ok(()) => exit::OK,
                Err(error) => complain(error.kind(), &error, error.exit_code()),
            }
        }
        None | Some(Command::Run) => serve(loaded),
    }
}

fn check(loaded: &Loaded) -> u8 {
    if let Err(error) = DataDir::check(&loaded.config.data_dir) {
        return complain(error.kind(), &error, exit::CONFIGURATION);
    }
    println!("configuration is valid: signer {} in epoch {}", loaded.keys.cosigner_name, loaded.rules.epoch);
    exit::OK
}

fn serve(loaded: Loaded) -> u8 {
    process::serve(loaded.config.log, async {
        let (directory, opened) = match DataDir::open(&loaded.config.data_dir) {
            Ok(opened) => opened,
            Err(error) => return complain(error.kind(), &error, error.exit_code()),
        };
        if let Some(bytes) = opened.torn {
            tracing::warn!(error_kind = "WalTornTail", bytes, "the last record was cut by a crash");
        }
        match Signer::new(opened, loaded.rules, loaded.keys) {
            Ok(signer) => answer(signer, directory, &loaded.config.socket).await,
            Err(error) => complain(error.kind(), &error, error.exit_code()),
        }
    })
}

async fn answer<S: Storage + 'static>(signer: Signer<S>, directory: DataDir, socket: &Path) -> u8 {
    let listener = match Listener::bind(socket).await {
        Ok(listener) => listener,
        Err(error) => return complain(error.kind(), &error, error.exit_code()),
    };
    let Worker { jobs, failed } = match Worker::start(signer, directory) {
        Ok(worker) => worker,
        Err(error) => return complain("ThreadFailed", &error, exit::CONFIGURATION),
    };
    // Before the line that says the signer is ready: whoever reads it may send a signal at once.
    let shutdown = match asked_to_end() {
        Ok(shutdown) => shutdown,
        Err(error) => return complain("SignalHandler", &error, exit::CONFIGURATION),
    };
    if let Err(error) = announce(&listener) {
        return complain("SocketError", &error, exit::CONFIGURATION);
    }
    tokio::select! {
        never = listener.serve(jobs) => match never {},
        () = shutdown => exit::OK,
        failed = failed => match failed {
            Ok(error) => complain(error.kind(), &error, error.exit_code()),
            Err(_) => complain("ThreadFailed", &"the signing thread ended", exit::STORAGE),
        },
    }
}

/// Prints the one line that says the signer is ready, and where; then tells the service manager.
fn announce(listener: &Listener) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "listening {}", listener.path().display())?;
    out.flush()?;
    sd_notify::ready()
}
