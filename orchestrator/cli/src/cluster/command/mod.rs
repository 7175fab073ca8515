//! `quorate cluster`: writes, starts, shows and stops a cluster.

mod init;
mod status;
mod systemd;
mod up;

use std::path::PathBuf;

use clap::{Args, Subcommand};

use crate::failure::Failure;
use crate::output::Output;

/// Folder that is used when none is named.
pub const DEFAULT_FOLDER: &str = "quorate-cluster";

/// Makes and runs clusters of orchestrators, verifiers and hosts.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate cluster up                                 4 orchestrators, 4 verifiers, 2 hosts on this machine
  quorate cluster status --wait
  quorate vm create web --image kv                   then: vm list, vm call, vm migrate
  quorate cluster down
  quorate cluster init prod --address host-a=192.0.2.7:7400 --systemd

DIR is quorate-cluster unless named, or what QUORATE_CLUSTER says.")]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Writes keys, groups and configurations of all nodes.
    Init(init::Arguments),
    /// Starts all nodes under one supervisor, which starts again what ends. Makes the folder first if there is none.
    Up(up::Arguments),
    /// Shows every node: process, place, and what it says of itself.
    Status(status::Arguments),
    /// Stops all nodes and their supervisor.
    Down {
        /// Folder of the cluster.
        #[arg(env = "QUORATE_CLUSTER", default_value = DEFAULT_FOLDER)]
        folder: PathBuf,
    },
}

/// Runs the command.
pub fn run(arguments: &Arguments, output: &Output) -> Result<u8, Failure> {
    match &arguments.command {
        Command::Init(arguments) => init::run(arguments, output),
        Command::Up(arguments) => up::run(arguments, output),
        Command::Status(arguments) => status::run(arguments, output),
        Command::Down { folder } => up::down(folder, output),
    }
}
