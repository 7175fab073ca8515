//! `quorate vm`: VMs of a cluster, and single guests on this machine alone, without verifiers.

mod checkpoint;
mod drive;
mod inputs;
mod inspect;
pub mod managed;
mod recording;
mod replay;
mod run;

use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use quorate_vmm::Image;

use super::failure::Failure;
use super::output::Output;

/// VMs of a cluster; and runs, saves, inspects and replays a guest on this machine alone.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate vm create web --image kv --memory 64   in a cluster: see quorate cluster up
  quorate vm call web put greeting hello
  quorate vm migrate web --to host-b
  quorate vm recover web --host host-b           its host is gone
  quorate vm run kv --record kv.rec --checkpoint kv.ckpt
  quorate vm replay kv.rec                       the same digests, in another process
  quorate vm run stress --requests 500 --checkpoint base.ckpt --checkpoint next.ckpt
  quorate vm inspect base.ckpt next.ckpt         a full checkpoint and what changed after it
  quorate vm checkpoint stress base.ckpt next.ckpt --inputs more.hex --out later.ckpt

Files of inputs have one input a line, in hexadecimal digits; empty lines and lines that start with # are skipped.")]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    #[command(flatten)]
    Managed(managed::Command),
    /// Boots a guest, feeds it inputs, and measures it at every slot.
    Run(run::Arguments),
    /// Continues a guest from a checkpoint and writes the next one.
    Checkpoint(checkpoint::Arguments),
    /// Shows what a checkpoint, a chain of them, or a recording contains.
    Inspect {
        /// A recording, or a full checkpoint followed by incremental ones.
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Executes a recording again and names the first difference.
    Replay(replay::Arguments),
}

/// Runs the command.
pub fn run(arguments: &Arguments, output: &Output) -> Result<u8, Failure> {
    match &arguments.command {
        Command::Managed(command) => managed::run(command, output),
        Command::Run(arguments) => run::run(arguments, output),
        Command::Checkpoint(arguments) => checkpoint::run(arguments, output),
        Command::Inspect { files } => inspect::run(files, output),
        Command::Replay(arguments) => replay::run(arguments, output),
    }
}

/// Admits a built-in image or a file.
fn admit(name: &Path) -> Result<Image, Failure> {
    let elf = super::image::load(name)?;
    let advice = format!("quorate image check {}", name.display());
    Image::admit(&elf).map_err(|error| Failure::from(error).next(advice))
}

/// Bytes of so many MiB.
pub(crate) fn mebibytes(count: u64) -> u64 {
    count.saturating_mul(1 << 20)
}
