//! `quorate vm replay`.

use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use quorate_guest_images::ALL;
use quorate_vmm::{Execution, Image};
use serde_json::json;

use super::super::failure::Failure;
use super::super::output::{Output, Tone, milliseconds};
use super::super::{exit, kvm};
use super::admit;
use super::recording::{Header, Reader, Recorded};

/// Executes a recording again and names the first difference.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate vm replay kv.rec
  quorate vm replay guest.rec --image guest.elf --json")]
pub struct Arguments {
    /// The recording.
    file: PathBuf,
    /// The ELF file, for an image that is not built in.
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
}

/// Runs the command.
pub fn run(arguments: &Arguments, output: &Output) -> Result<u8, Failure> {
    let (header, mut reader) = Reader::open(&arguments.file)?;
    let image = image_of(arguments, &header)?;
    kvm::require()?;
    let (here, description) = quorate_vmm::platform::PlatformClass::detect();
    if here != header.platform {
        let text = format!("recorded on platform class {}, this machine is {here}", header.platform);
        let advice =
            format!("replay it on a machine of the same class; this one is {}", description.trim_end());
        return Err(Failure::refused("PlatformMismatch", text).next(advice));
    }
    let mut execution = Execution::genesis(&image, header.memory_bytes)?;
    let start = Instant::now();
    let (mut slots, mut inputs) = (0u64, 0u64);
    while let Some(recorded) = reader.slot()? {
        let replayed = step(&mut execution, &recorded)?;
        if let Some((what, want, got)) = recorded.difference(&replayed) {
            return Ok(differs(arguments, &recorded, what, &want, &got, output));
        }
        slots += 1;
        inputs = recorded.consumed;
    }
    let took = start.elapsed();
    output.line(&format!(
        "{}: {slots} slots with {inputs} inputs led to the same digests ({})",
        output.tint(Tone::Good, "identical"),
        milliseconds(took.as_nanos() as u64),
    ));
    output.object(&json!({
        "result": "identical", "slots": slots, "inputs": inputs, "replay_ms": took.as_secs_f64() * 1e3,
    }));
    Ok(exit::OK)
}

fn image_of(arguments: &Arguments, header: &Header) -> Result<Image, Failure> {
    let image = match &arguments.image {
        Some(file) => admit(file)?,
        None => match ALL.iter().find(|image| image.digest() == *header.image.as_bytes()) {
            Some(image) => Image::admit(image.elf)?,
            None => {
                let text = format!("image {} is not built in", header.image);
                return Err(Failure::usage(text).next("name its ELF file with --image FILE"));
            }
        },
    };
    if image.digest() != header.image {
        let text = format!("the recording is of image {}, the file is {}", header.image, image.digest());
        return Err(Failure::refused("RootMismatch", text));
    }
    Ok(image)
}

fn step(execution: &mut Execution, recorded: &Recorded) -> Result<Recorded, Failure> {
    let bad = |error| Failure::refused("DecodeError", format!("slot {}: {error}", recorded.slot));
    let inputs = recorded.bytes().map_err(bad)?;
    execution.replay(&inputs, recorded.position()).map_err(|error| {
        let failure = Failure::from(error);
        Failure { text: format!("slot {}: {}", recorded.slot, failure.text), ..failure }
    })?;
    Ok(Recorded::of(recorded.slot, &execution.cut()?))
}

fn differs(
    arguments: &Arguments,
    recorded: &Recorded,
    what: &str,
    want: &str,
    got: &str,
    output: &Output,
) -> u8 {
    let slot = recorded.slot;
    output.line(&format!("{}: slot {slot}, {what}", output.tint(Tone::Bad, "differs")));
    output.line(&format!("  recorded {want}"));
    output.line(&format!("  replayed {got}"));
    output.object(&json!({
        "result": "differs", "error_kind": "RootMismatch", "slot": slot, "component": what, "recorded": want,
        "replayed": got, "file": arguments.file,
    }));
    exit::REFUSED
}
