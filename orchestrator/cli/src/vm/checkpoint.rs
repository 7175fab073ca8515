//! `quorate vm checkpoint`.

use std::path::PathBuf;

use clap::Args;
use quorate_vmm::checkpoint::Checkpoint;
use serde_json::json;

use super::super::failure::Failure;
use super::super::output::{Output, short};
use super::super::{exit, kvm};
use super::drive::Drive;
use super::{admit, inputs};

/// Continues a guest from a checkpoint and writes the next one.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate vm checkpoint stress base.ckpt --inputs more.hex --out next.ckpt
  quorate vm checkpoint kv base.ckpt next.ckpt --out whole.ckpt --full      joins a chain into one file")]
pub struct Arguments {
    /// Name of a built-in image (kv, stress), or an ELF file: the one the checkpoint was made of.
    image: PathBuf,
    /// A full checkpoint, and the incremental ones that follow it.
    #[arg(required = true, value_name = "CHECKPOINT")]
    chain: Vec<PathBuf>,
    /// Inputs to feed before the next checkpoint, one a line in hexadecimal digits; `-` reads standard input.
    #[arg(long, value_name = "FILE")]
    inputs: Option<PathBuf>,
    /// File to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// Write a full checkpoint instead of the difference to the last one.
    #[arg(long)]
    full: bool,
}

/// Runs the command.
pub fn run(arguments: &Arguments, output: &Output) -> Result<u8, Failure> {
    let image = admit(&arguments.image)?;
    let fed = arguments.inputs.as_deref().map(inputs::read).transpose()?.unwrap_or_default();
    let Some((full, following)) = arguments.chain.split_first() else {
        return Err(Failure::usage("name a full checkpoint"));
    };
    let parent = Checkpoint::read_chain(full, following)?;
    kvm::require()?;
    let count = fed.len();
    let mut drive = Drive::new(parent.restore(&image)?, fed, u64::MAX)?;
    let mut pages = parent.pages.clone();
    // The first measurement of a restored machine counts all its pages as changed, the snapshot has them already.
    let restored = drive.cut()?;
    pages.apply(drive.execution().machine(), &restored.pages.changed);
    let mut measurement = restored.pages.measurement;
    loop {
        let (cut, end) = drive.next_slot()?;
        if let Some(cut) = cut {
            pages.apply(drive.execution().machine(), &cut.pages.changed);
            measurement = cut.pages.measurement;
        }
        if end.is_some() {
            break;
        }
    }
    let next = Checkpoint::take(drive.execution(), &measurement, &pages)?;
    if arguments.full {
        next.write_full(&arguments.out)?;
    } else {
        next.write_incremental(&arguments.out, parent.pages.tree())?;
    }
    let changed = pages.tree().difference(parent.pages.tree()).len();
    output.line(&format!(
        "{}: {count} inputs later at {}, {changed} pages changed, memory {}",
        arguments.out.display(),
        measurement.position,
        short(measurement.page_root),
    ));
    output.object(&json!({
        "result": "ok", "file": arguments.out, "full": arguments.full, "inputs": measurement.position.inputs,
        "doorbells": measurement.position.doorbells, "page_root": measurement.page_root,
        "changed_pages": changed,
    }));
    Ok(exit::OK)
}
