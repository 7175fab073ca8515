//! The `quorate` command line: one module a command.
//!
//! Every command prints for people, or with `--json` one JSON object a line of which the last is the result. Errors go to
//! standard error, say what to do next, and carry a stable `error_kind`; [`exit`] lists the exit codes.

#![forbid(unsafe_code)]

mod bench;
pub mod benchmarks;
pub mod cluster;
pub mod control_client;
mod demo;
mod exit;
mod failure;
mod group;
mod image;
mod key;
mod kvm;
pub mod load;
mod log;
mod output;
mod records;
mod service;
pub mod verify;
mod vm;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use failure::Failure;
use output::Output;

/// Moves virtual machines between hosts that nobody trusts, and proves that nothing was changed on the way.
#[derive(Debug, Parser)]
#[command(name = "quorate", version, after_help = EXAMPLES, max_term_width = 100)]
struct Arguments {
    /// Print JSON: one object a line, the last one is the result.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

const EXAMPLES: &str = "\
Examples:
  quorate demo                          move a VM under load between two hosts
  quorate demo --attack list            what a Byzantine party can try
  quorate demo --attack rollback        watch one of them being refused
  quorate verify certificates/          check what a demo left, offline
  quorate cluster up                    a cluster of your own; then vm create, vm call, vm migrate
  quorate vm run kv --record kv.rec     run a guest alone and record it
  quorate vm replay kv.rec              reach the same digests again
  quorate image check guest.elf         may this file become a machine?

Exit codes: 0 ok, 1 refused or verification failed, 2 usage, 3 valid but older than demanded, 69 no quorum,
70 safety stop, 74 storage, 75 try again later, 77 not permitted (such as no access to /dev/kvm), 78 configuration.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the whole path once: boot, load, attestation, migration under load, proof that nothing was lost.
    Demo(demo::Arguments),
    /// Checks certificates, proofs and chains as files, offline.
    Verify(verify::Arguments),
    /// Checks all proofs of a folder, and that all heads of one log lie on one tree.
    VerifyBundle(verify::bundle::Arguments),
    /// Checks that two signed statements contradict each other, and names who signed both.
    Evidence(verify::evidence::Arguments),
    /// VMs of a cluster; and runs, saves, inspects and replays a guest on this machine alone.
    Vm(vm::Arguments),
    /// Moves a VM to another host while it runs: `quorate vm migrate`.
    Migrate(vm::managed::Migrate),
    /// Shows and changes the groups of a cluster.
    Group(group::Arguments),
    /// Shows the orchestrators' ordered log, and proves what is in it.
    Log(log::Arguments),
    /// Ordered services of a cluster: replicated state machines in guests.
    Service(service::Arguments),
    /// The UID registry: which user has which UID, proved.
    Uid(service::uid::Arguments),
    /// The service registry: names, values, owners and leases, proved.
    Registry(service::registry::Arguments),
    /// Examines guest images.
    Image(image::Arguments),
    /// Makes and runs clusters of orchestrators, verifiers and hosts.
    Cluster(cluster::command::Arguments),
    /// Makes and shows keys.
    Key(key::Arguments),
    /// Measures what this project costs, each figure against a baseline of the same run.
    Bench(crate::benchmarks::BenchArguments),
}

/// Parses the command line of this process and does what it says.
pub fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().collect();
    let json = arguments.iter().any(|argument| argument == "--json");
    match Arguments::try_parse_from(arguments) {
        Ok(arguments) => run(arguments),
        Err(error) if error.use_stderr() && json => {
            let failure = Failure::usage(error.to_string().trim_end().to_owned());
            ExitCode::from(Output::new(true).failure(&failure))
        }
        Err(error) => {
            // Nobody reads what cannot be printed.
            let _ = error.print();
            ExitCode::from(if error.use_stderr() { exit::USAGE } else { exit::OK })
        }
    }
}

fn run(arguments: Arguments) -> ExitCode {
    let output = Output::new(arguments.json);
    let result = match arguments.command {
        Command::Demo(arguments) => demo::run(&arguments, &output),
        Command::Verify(arguments) => verify::run(&arguments, &output),
        Command::VerifyBundle(arguments) => verify::bundle::run(&arguments, &output),
        Command::Evidence(arguments) => verify::evidence::run(&arguments, &output),
        Command::Vm(arguments) => vm::run(&arguments, &output),
        Command::Migrate(arguments) => vm::managed::run(&vm::managed::Command::Migrate(arguments), &output),
        Command::Group(arguments) => group::run(&arguments, &output),
        Command::Log(arguments) => log::run(&arguments, &output),
        Command::Service(arguments) => service::run(&arguments, &output),
        Command::Uid(arguments) => service::uid::run(&arguments, &output),
        Command::Registry(arguments) => service::registry::run(&arguments, &output),
        Command::Image(arguments) => image::run(&arguments, &output),
        Command::Cluster(arguments) => cluster::command::run(&arguments, &output),
        Command::Key(arguments) => key::run(&arguments, &output),
        Command::Bench(arguments) => bench::run(&arguments, &output),
    };
    ExitCode::from(result.unwrap_or_else(|failure| output.failure(&failure)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn every_command_has_a_description_and_examples() {
        for command in Arguments::command().get_subcommands() {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            assert!(command.get_after_help().is_some(), "{} has no examples", command.get_name());
        }
    }
}
