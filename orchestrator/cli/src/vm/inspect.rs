//! `quorate vm inspect`.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use quorate_guest_images::ALL;
use quorate_vmm::checkpoint::Checkpoint;
use serde_json::json;

use super::super::exit;
use super::super::failure::Failure;
use super::super::output::{Output, bytes};
use super::recording::Reader;

/// First bytes of a checkpoint.
const CHECKPOINT_MAGIC: &[u8] = b"QRTCKPT\0";

/// Runs the command.
pub fn run(files: &[PathBuf], output: &Output) -> Result<u8, Failure> {
    let Some((first, following)) = files.split_first() else {
        return Err(Failure::usage("name a file"));
    };
    if is_checkpoint(first)? {
        return checkpoint(first, following, output);
    }
    if let Some(second) = following.first() {
        let text = format!("{} is no checkpoint, so {} cannot follow it", first.display(), second.display());
        return Err(Failure::usage(text));
    }
    recording(first, output)
}

fn is_checkpoint(path: &Path) -> Result<bool, Failure> {
    let file = File::open(path).map_err(|error| Failure::file(path, error))?;
    let mut start = Vec::new();
    file.take(CHECKPOINT_MAGIC.len() as u64)
        .read_to_end(&mut start)
        .map_err(|error| Failure::file(path, error))?;
    Ok(start == CHECKPOINT_MAGIC)
}

fn image_name(digest: &[u8; 32]) -> Option<&'static str> {
    ALL.iter().find(|image| image.digest() == *digest).map(|image| image.name)
}

fn checkpoint(first: &Path, following: &[PathBuf], output: &Output) -> Result<u8, Failure> {
    let checkpoint = Checkpoint::read_chain(first, following)?;
    let measurement = checkpoint.measurement();
    let tree = checkpoint.pages.tree();
    let nonzero = tree.nonzero().count();
    let (here, _) = quorate_vmm::platform::PlatformClass::detect();
    let name = image_name(checkpoint.image.as_bytes());
    let files = following.len() + 1;
    let kind =
        if files == 1 { "full checkpoint".to_owned() } else { format!("chain of {files} checkpoints") };
    let memory = checkpoint.pages.memory_bytes();
    output.line(&format!("{}: {kind}", first.display()));
    output.line(&format!("  image      {} ({})", checkpoint.image, name.unwrap_or("not built in")));
    output.line(&format!(
        "  platform   {}{}",
        checkpoint.platform,
        if here == checkpoint.platform { " (this one)" } else { "" }
    ));
    output.line(&format!("  position   {}", measurement.position));
    output.line(&format!("  memory     {}, {nonzero} of {} pages not zero", bytes(memory), tree.count()));
    output.line(&format!("  page root  {}", measurement.page_root));
    output.line(&format!("  registers  {}", measurement.cpu));
    output.line(&format!("  device     {}", measurement.device));
    output.line(&format!(
        "  input root {} over {} inputs",
        checkpoint.input_root(),
        checkpoint.input_log.size()
    ));
    output.object(&json!({
        "result": "ok", "type": "checkpoint", "files": files, "image": checkpoint.image, "image_name": name,
        "platform": checkpoint.platform, "platform_here": here, "memory_bytes": memory,
        "pages": tree.count(), "nonzero_pages": nonzero, "inputs": measurement.position.inputs,
        "doorbells": measurement.position.doorbells, "page_root": measurement.page_root, "cpu": measurement.cpu,
        "device": measurement.device, "input_root": checkpoint.input_root(),
    }));
    Ok(exit::OK)
}

fn recording(path: &Path, output: &Output) -> Result<u8, Failure> {
    let (header, mut reader) = Reader::open(path)?;
    let mut slots = 0u64;
    let mut last = None;
    while let Some(slot) = reader.slot()? {
        slots += 1;
        last = Some(slot);
    }
    let name = image_name(header.image.as_bytes());
    let (inputs, doorbells) = last.as_ref().map_or((0, 0), |slot| (slot.consumed, slot.doorbells));
    output.line(&format!("{}: recording of {slots} slots", path.display()));
    output.line(&format!("  image      {} ({})", header.image, name.unwrap_or("not built in")));
    output.line(&format!("  platform   {}", header.platform));
    output.line(&format!("  memory     {}", bytes(header.memory_bytes)));
    output.line(&format!("  end        input {inputs}, doorbell {doorbells}"));
    if let Some(last) = &last {
        output.line(&format!("  page root  {}", last.page_root));
    }
    output.object(&json!({
        "result": "ok", "type": "recording", "image": header.image, "image_name": name,
        "platform": header.platform, "memory_bytes": header.memory_bytes, "slots": slots, "inputs": inputs,
        "doorbells": doorbells, "page_root": last.map(|slot| slot.page_root),
    }));
    Ok(exit::OK)
}
