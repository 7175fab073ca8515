//! Entry of a host's process, shared by the honest and the faulty binary.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;
use quorate_verifier::config::LogFormat;
use tokio::signal::unix::{SignalKind, signal};

use crate::conduct::Conduct;
use crate::config::Config;

/// Runs one VM, records its inputs, and moves it to another host or takes one over.
#[derive(Debug, Parser)]
#[command(
    name = "quorate-host",
    version,
    after_help = "Example:\n  quorate-host --config host-a.toml --check-config"
)]
pub struct Arguments {
    /// The configuration file.
    #[arg(long, env = "QUORATE_HOST_CONFIG")]
    pub config: PathBuf,
    /// Check the configuration and everything it names, print all problems, and end (exit code 0 or 78).
    #[arg(long)]
    pub check_config: bool,
    /// Write log lines as JSON.
    #[arg(long)]
    pub json: bool,
}

/// Parses the command line and runs the host.
pub fn main(conduct: Arc<dyn Conduct>) -> ExitCode {
    run(&Arguments::parse(), conduct)
}

/// Runs the host that the arguments describe.
pub fn run(arguments: &Arguments, conduct: Arc<dyn Conduct>) -> ExitCode {
    let loaded = Config::read(&arguments.config).map_err(|problem| vec![problem]).and_then(Config::load);
    let loaded = match loaded {
        Ok(loaded) => loaded,
        Err(problems) => {
            problems.iter().for_each(|problem| eprintln!("{problem}"));
            return ExitCode::from(quorate_verifier::exit::CONFIGURATION);
        }
    };
    if arguments.check_config {
        println!("{} is fine: host {}", arguments.config.display(), loaded.config.name);
        return ExitCode::SUCCESS;
    }
    let json = arguments.json || loaded.config.log == LogFormat::Json;
    start_log(json);
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("no runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        let ready = |listen, bulk| println!("listening {listen} bulk {bulk}");
        crate::run(loaded, conduct, ready, terminated()).await
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::from(error.exit_code())
        }
    }
}

fn start_log(json: bool) {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "info".into());
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = if json { log.json().try_init() } else { log.with_ansi(false).try_init() };
    if let Err(error) = started {
        eprintln!("no log: {error}");
    }
}

/// Resolves on SIGTERM or SIGINT.
async fn terminated() {
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        }
        // Without signal handlers the system's default action ends the process.
        _ => std::future::pending().await,
    }
}
