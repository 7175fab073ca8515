//! `quorate vm run`.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::PathBuf;
use std::time::Instant;

use clap::Args;
use quorate_vmm::checkpoint::Checkpoint;
use quorate_vmm::page_tree::PageTree;
use quorate_vmm::snapshot::PageSnapshot;
use quorate_vmm::{Cut, Execution, Image, Measurement};
use serde_json::json;

use super::super::failure::Failure;
use super::super::output::{Output, milliseconds, short};
use super::super::{exit, kvm};
use super::drive::{Drive, End};
use super::inputs;
use super::recording::{Header, Recorded, Writer};
use super::{admit, mebibytes};

/// Boots a guest, feeds it inputs, and measures it at every slot.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate vm run kv                              200 requests of a made-up client
  quorate vm run stress --requests 1000 --slot-inputs 50 --json
  quorate vm run guest.elf --inputs inputs.hex --outputs outputs.hex
  generate-inputs | quorate vm run guest.elf --inputs - --record guest.rec")]
pub struct Arguments {
    /// Name of a built-in image (kv, stress), or an ELF file.
    image: PathBuf,
    /// Memory of the machine in MiB, a multiple of 2.
    #[arg(long, default_value_t = 64, value_name = "MIB")]
    memory: u64,
    /// File of inputs, one a line in hexadecimal digits; `-` reads standard input.
    #[arg(long, value_name = "FILE")]
    inputs: Option<PathBuf>,
    /// Made-up inputs, for a built-in image without --inputs.
    #[arg(long, default_value_t = 200, conflicts_with = "inputs", value_name = "COUNT")]
    requests: u64,
    /// Inputs of one slot.
    #[arg(long, default_value_t = 50, value_name = "COUNT")]
    slot_inputs: u64,
    /// Writes the inputs and digests of every slot, for `quorate vm replay`.
    #[arg(long, value_name = "FILE")]
    record: Option<PathBuf>,
    /// Writes a checkpoint. Several are spread over the run: the first is full, each further one incremental.
    #[arg(long, value_name = "FILE")]
    checkpoint: Vec<PathBuf>,
    /// Writes the outputs of the guest, one a line in hexadecimal digits.
    #[arg(long, value_name = "FILE")]
    outputs: Option<PathBuf>,
}

/// Runs the command.
pub fn run(arguments: &Arguments, output: &Output) -> Result<u8, Failure> {
    let image = admit(&arguments.image)?;
    let memory_bytes = mebibytes(arguments.memory);
    let inputs = inputs_of(arguments, &image, memory_bytes)?;
    kvm::require()?;
    let boot = Instant::now();
    let execution = Execution::genesis(&image, memory_bytes)?;
    let booted = boot.elapsed();
    let pages =
        PageSnapshot::genesis(&image, memory_bytes).map_err(|error| Failure::refused(error.kind(), error))?;
    let total = inputs.len() as u64;
    let drive = Drive::new(execution, inputs, arguments.slot_inputs)?;
    let mut run = Run::new(arguments, drive, pages, total, &image, memory_bytes)?;
    let end = run.drive_on(output)?;
    let code = if let End::Finished(code) = end { Some(code) } else { None };
    let Run { drive, slots, outputs, .. } = run;
    let (ran, measured) = (drive.ran, drive.measured);
    output.line(&format!(
        "{slots} slots, {total} inputs, {outputs} outputs; booted in {}, ran {}, measured {}{}",
        milliseconds(booted.as_nanos() as u64),
        milliseconds(ran.as_nanos() as u64),
        milliseconds(measured.as_nanos() as u64),
        code.map_or_else(String::new, |code| format!("; the guest exited with {code}")),
    ));
    if let Some(record) = &arguments.record {
        output.line(&format!("recorded; next: quorate vm replay {}", record.display()));
    }
    output.object(&json!({
        "result": "ok", "image": image.digest(), "memory_bytes": memory_bytes, "slots": slots, "inputs": total,
        "outputs": outputs, "boot_ms": booted.as_secs_f64() * 1e3, "run_ms": ran.as_secs_f64() * 1e3,
        "measure_ms": measured.as_secs_f64() * 1e3, "exit_code": code, "recording": arguments.record,
        "checkpoints": arguments.checkpoint,
    }));
    Ok(exit::OK)
}

fn inputs_of(arguments: &Arguments, image: &Image, memory_bytes: u64) -> Result<Vec<Vec<u8>>, Failure> {
    if let Some(file) = &arguments.inputs {
        return inputs::read(file);
    }
    inputs::made_up(image, memory_bytes, arguments.requests).ok_or_else(|| {
        let failure = Failure::usage("nobody knows what to feed this image");
        failure.next("give its inputs with --inputs FILE, one a line in hexadecimal digits")
    })
}

struct Run<'a> {
    arguments: &'a Arguments,
    drive: Drive,
    pages: PageSnapshot,
    total: u64,
    slots: u64,
    outputs: u64,
    recording: Option<Writer>,
    output_file: Option<BufWriter<File>>,
    written: usize,
    parent: Option<PageTree>,
    measurement: Option<Measurement>,
}

impl<'a> Run<'a> {
    fn new(
        arguments: &'a Arguments,
        drive: Drive,
        pages: PageSnapshot,
        total: u64,
        image: &Image,
        memory_bytes: u64,
    ) -> Result<Self, Failure> {
        let header = Header::new(image.digest(), memory_bytes);
        let recording = arguments.record.as_ref().map(|path| Writer::create(path, &header)).transpose()?;
        let create = |path: &PathBuf| File::create(path).map_err(|error| Failure::file(path, error));
        let output_file = arguments.outputs.as_ref().map(create).transpose()?.map(BufWriter::new);
        Ok(Self {
            arguments,
            drive,
            pages,
            total,
            slots: 0,
            outputs: 0,
            recording,
            output_file,
            written: 0,
            parent: None,
            measurement: None,
        })
    }

    fn drive_on(&mut self, output: &Output) -> Result<End, Failure> {
        let genesis = self.drive.cut()?;
        self.slot(&genesis, output)?;
        loop {
            let (cut, end) = self.drive.next_slot()?;
            if let Some(cut) = cut {
                self.slot(&cut, output)?;
            }
            if let Some(end) = end {
                // Checkpoints that were due behind the last slot are written there.
                self.checkpoints(u64::MAX)?;
                if let Some(recording) = self.recording.take() {
                    recording.finish().map_err(|error| self.storage(error))?;
                }
                if let Some(mut file) = self.output_file.take() {
                    file.flush().map_err(|error| self.storage(error))?;
                }
                return Ok(end);
            }
        }
    }

    fn slot(&mut self, cut: &Cut, output: &Output) -> Result<(), Failure> {
        let recorded = Recorded::of(self.slots, cut);
        self.measurement = Some(cut.pages.measurement);
        self.pages.apply(self.drive.execution().machine(), &cut.pages.changed);
        for line in self.drive.execution().take_console().lines {
            eprintln!("guest: {}", String::from_utf8_lossy(&line).escape_debug());
        }
        if let Some(recording) = &mut self.recording {
            recording.slot(&recorded).map_err(|error| Failure::new(exit::STORAGE, "StorageFailed", error))?;
        }
        if let Some(file) = &mut self.output_file {
            for bytes in &cut.outputs {
                writeln!(file, "{}", inputs::to_line(bytes))
                    .map_err(|error| Failure::new(exit::STORAGE, "StorageFailed", error))?;
            }
        }
        output.line(&format!(
            "slot {:>4}  inputs {:>6}  doorbells {:>7}  changed pages {:>6}  memory {}  registers {}",
            recorded.slot,
            recorded.consumed,
            recorded.doorbells,
            cut.pages.changed.len(),
            short(recorded.page_root),
            short(recorded.cpu),
        ));
        let mut line = serde_json::to_value(&recorded).unwrap_or_default();
        line["inputs"] = json!(recorded.inputs.len());
        line["changed_pages"] = json!(cut.pages.changed.len());
        output.object(&line);
        self.slots += 1;
        self.outputs += cut.outputs.len() as u64;
        self.checkpoints(recorded.consumed)
    }

    /// Writes the checkpoints that are due when `consumed` inputs were consumed.
    fn checkpoints(&mut self, consumed: u64) -> Result<(), Failure> {
        let count = self.arguments.checkpoint.len() as u64;
        while let Some(path) = self.arguments.checkpoint.get(self.written) {
            let due = self.total * (self.written as u64 + 1) / count.max(1);
            let last = self.written + 1 == self.arguments.checkpoint.len();
            if consumed < due || (last && consumed != u64::MAX) {
                break;
            }
            let Some(measurement) = self.measurement else { break };
            let checkpoint = Checkpoint::take(self.drive.execution(), &measurement, &self.pages)?;
            match &self.parent {
                None => checkpoint.write_full(path)?,
                Some(parent) => checkpoint.write_incremental(path, parent)?,
            }
            self.parent = Some(self.pages.tree().clone());
            self.written += 1;
        }
        Ok(())
    }

    fn storage(&self, error: std::io::Error) -> Failure {
        Failure::new(exit::STORAGE, "StorageFailed", error)
    }
}
