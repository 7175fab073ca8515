//! `quorate image`: which files may become a machine.

use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use quorate_guest_images::{ALL, GuestImage};
use quorate_vmm::image::{IMAGE_BYTES_MAX, Image, ImageError};
use quorate_vmm::machine::layout::Access;
use serde_json::{Value, json};

use super::exit;
use super::failure::Failure;
use super::output::{Output, Tone, bytes};

/// Examines guest images.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate image list
  quorate image check kv
  quorate image check target/guest.elf --json
  quorate image export stress stress.elf")]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Says whether a file may become a machine: its segments and digest, or the field or instruction that forbids it.
    Check {
        /// An ELF file, or the name of a built-in image.
        file: PathBuf,
    },
    /// Lists the built-in images.
    List,
    /// Writes a built-in image to a file.
    Export {
        /// Name of the image.
        name: String,
        /// File to write.
        file: PathBuf,
    },
}

/// Runs the command.
pub fn run(arguments: &Arguments, output: &Output) -> Result<u8, Failure> {
    match &arguments.command {
        Command::Check { file } => check(file, output),
        Command::List => list(output),
        Command::Export { name, file } => export(name, file, output),
    }
}

/// Reads a built-in image by its name, or a file.
pub fn load(name: &Path) -> Result<Vec<u8>, Failure> {
    if let Some(image) = name.to_str().and_then(GuestImage::by_name)
        && !name.exists()
    {
        return Ok(image.elf.to_vec());
    }
    let size = fs::metadata(name).map_err(|error| unreadable(name, error))?.len();
    if size > IMAGE_BYTES_MAX as u64 {
        return Err(Failure::refused("ImageInvalid", format!("{} has {}", name.display(), bytes(size))));
    }
    fs::read(name).map_err(|error| unreadable(name, error))
}

fn unreadable(name: &Path, error: std::io::Error) -> Failure {
    Failure::file(name, error).next(format!("name an ELF file or one of the built-in images: {}", names()))
}

fn names() -> String {
    ALL.map(|image| image.name).join(", ")
}

fn check(file: &Path, output: &Output) -> Result<u8, Failure> {
    let elf = load(file)?;
    match Image::admit(&elf) {
        Ok(image) => {
            admitted(file, &image, &elf, output);
            Ok(exit::OK)
        }
        Err(error) => Ok(refused(file, &error, output)),
    }
}

fn admitted(file: &Path, image: &Image, elf: &[u8], output: &Output) {
    let rights = |access: Access| match access {
        Access::ReadExecute => "r-x",
        Access::Read => "r--",
        Access::ReadWrite => "rw-",
    };
    let verdict = output.tint(Tone::Good, "admitted");
    output.line(&format!("{}: {verdict}, {}", file.display(), bytes(elf.len() as u64)));
    output.line(&format!("  digest  {}", image.digest()));
    let entry = image.symbol_of(image.entry());
    let entry_name = entry.map_or_else(String::new, |(name, distance)| format!("  ({name}+{distance:#x})"));
    output.line(&format!("  entry   {:#x}{entry_name}", image.entry()));
    let symbols = image.symbols();
    output.line(&format!("  symbols {symbols}"));
    let segments = image.segments();
    let rows: Vec<Vec<String>> = segments
        .iter()
        .map(|segment| {
            let extent = &segment.extent;
            let end = extent.start.saturating_add(extent.bytes);
            vec![
                rights(extent.access).to_owned(),
                format!("{:#x}", extent.start),
                format!("{end:#x}"),
                bytes(extent.bytes),
                bytes(segment.file.len() as u64),
            ]
        })
        .collect();
    output.table(&["rights", "from", "to", "memory", "file"], &rows, &[3, 4]);
    let segments: Vec<Value> = segments
        .iter()
        .map(|segment| {
            json!({
                "rights": rights(segment.extent.access),
                "address": segment.extent.start,
                "memory_bytes": segment.extent.bytes,
                "file_offset": segment.file.start,
                "file_bytes": segment.file.len(),
            })
        })
        .collect();
    output.object(&json!({
        "result": "admitted", "file": file, "digest": image.digest(), "entry": image.entry(),
        "symbols": symbols, "segments": segments,
    }));
}

fn refused(file: &Path, error: &ImageError, output: &Output) -> u8 {
    output.line(&format!("{}: {}", file.display(), output.tint(Tone::Bad, "refused")));
    output.line(&format!("  {error}"));
    let mut report = json!({
        "result": "refused", "file": file, "error_kind": error.kind(), "field": error.field(),
        "error": error.to_string(),
    });
    if let ImageError::Field { offset, value, rule, .. } = error {
        report["offset"] = json!(offset);
        report["value"] = json!(value);
        report["rule"] = json!(rule);
    }
    if let Some(bad) = error.instruction() {
        report["offset"] = json!(bad.offset);
        report["address"] = json!(bad.address);
        report["mnemonic"] = json!(bad.mnemonic);
        report["symbol"] = json!(bad.symbol.as_ref().map(|(name, distance)| format!("{name}+{distance:#x}")));
        report["reason"] = json!(bad.reason.to_string());
        output.line("  what to do: build the guest without it; docs list the allowed instructions");
    }
    output.object(&report);
    exit::REFUSED
}

fn list(output: &Output) -> Result<u8, Failure> {
    let digest = |image: &GuestImage| quorate_attest::id::ImageDigest::from_bytes(image.digest());
    let rows: Vec<Vec<String>> = ALL
        .iter()
        .map(|image| vec![image.name.into(), bytes(image.elf.len() as u64), digest(image).to_string()])
        .collect();
    output.table(&["name", "size", "digest"], &rows, &[1]);
    let images: Vec<Value> = ALL
        .iter()
        .map(|image| json!({"name": image.name, "bytes": image.elf.len(), "digest": digest(image)}))
        .collect();
    output.object(&json!({"result": "ok", "images": images}));
    Ok(exit::OK)
}

fn export(name: &str, file: &Path, output: &Output) -> Result<u8, Failure> {
    let Some(image) = GuestImage::by_name(name) else {
        let failure = Failure::usage(format!("there is no built-in image {name}"));
        return Err(failure.next(format!("the built-in images are {}", names())));
    };
    fs::write(file, image.elf).map_err(|error| Failure::file(file, error))?;
    output.line(&format!("{} in {}", image.name, file.display()));
    output.object(&json!({"result": "ok", "name": image.name, "file": file}));
    Ok(exit::OK)
}
