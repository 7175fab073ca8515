//! `quorate-faulty`: a host or verifier with one faulty conduct.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use quorate_faulty::catalogue::{self, Party};

/// Runs a node that does not follow the protocol. For tests and demonstrations only.
#[derive(Debug, Parser)]
#[command(name = "quorate-faulty", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs a host.
    Host(Node),
    /// Runs a verifier.
    Verifier(Node),
    /// Lists the conducts.
    List {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
struct Node {
    /// Name of the conduct, see `quorate-faulty list`.
    #[arg(long)]
    conduct: String,
    /// The configuration file.
    #[arg(long)]
    config: PathBuf,
    /// Write log lines as JSON.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Host(node) => match catalogue::host(&node.conduct) {
            Some(conduct) => {
                let arguments = quorate_host::process::Arguments {
                    config: node.config,
                    check_config: false,
                    json: node.json,
                };
                quorate_host::process::run(&arguments, conduct)
            }
            None => unknown(Party::Host, &node.conduct),
        },
        Command::Verifier(node) => match catalogue::verifier(&node.conduct) {
            Some(conduct) => {
                let mut arguments: Vec<OsString> =
                    vec!["quorate-verifier".into(), "--config".into(), node.config.into()];
                arguments.extend(node.json.then(|| "--json".into()));
                quorate_verifier::cli::main(conduct, arguments)
            }
            None => unknown(Party::Verifier, &node.conduct),
        },
        Command::List { json } => list(json),
    }
}

fn unknown(party: Party, name: &str) -> ExitCode {
    eprintln!("no {} has the conduct {name:?}; `quorate-faulty list` names all", party.name());
    ExitCode::from(2)
}

fn list(json: bool) -> ExitCode {
    if json {
        println!("{}", catalogue::to_json());
        return ExitCode::SUCCESS;
    }
    for entry in catalogue::CONDUCTS {
        println!("{:<9} {:<17} {}", entry.party.name(), entry.name, entry.what);
        if let Some(kind) = entry.error_kind {
            println!("{:<27} refused as {kind}", "");
        }
    }
    for (party, steps) in
        [(Party::Host, catalogue::host_steps()), (Party::Verifier, catalogue::verifier_steps())]
    {
        println!(
            "{:<9} crash-at:STEP[:N]  ends itself at the N-th time one of these is reached:",
            party.name()
        );
        println!("{:<27} {}", "", steps.join(" "));
    }
    ExitCode::SUCCESS
}
