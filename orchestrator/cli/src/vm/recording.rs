//! A recording: the inputs of every slot of an execution with the digests they led to.
//!
//! JSON, one object a line: a header, then one line a slot. The first slot is slot 0, the state before the first
//! instruction. A recording proves nothing; whoever replays it sees whether it is right.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::Path;

use quorate_attest::id::{
    CpuDigest, DeviceDigest, ImageDigest, InputRoot, OutputRoot, PageRoot, PlatformClass,
};
use quorate_vmm::{Cut, Position};
use serde::{Deserialize, Serialize};

use super::super::failure::Failure;
use super::inputs::{from_hex, to_line};

/// What the header says it is.
const FORMAT: &str = "quorate-recording";
/// Longest line that is read.
const LINE_BYTES_MAX: u64 = 256 << 20;

/// First line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    format: String,
    version: u32,
    /// Digest of the image.
    pub image: ImageDigest,
    /// Memory of the machine.
    pub memory_bytes: u64,
    /// Class of the machine that recorded it.
    pub platform: PlatformClass,
}

impl Header {
    /// The header of a recording on this machine.
    pub fn new(image: ImageDigest, memory_bytes: u64) -> Self {
        let platform = quorate_vmm::platform::PlatformClass::detect().0;
        Self { format: FORMAT.to_owned(), version: 1, image, memory_bytes, platform }
    }
}

/// One slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Recorded {
    /// Its number.
    pub slot: u64,
    /// Inputs consumed so far.
    pub consumed: u64,
    /// Doorbells rung so far.
    pub doorbells: u64,
    /// Root over all pages.
    pub page_root: PageRoot,
    /// Number of pages.
    pub page_count: u64,
    /// Digest of the registers.
    pub cpu: CpuDigest,
    /// Digest of the device.
    pub device: DeviceDigest,
    /// Root over all inputs.
    pub input_root: InputRoot,
    /// Outputs of this slot.
    pub outputs: u64,
    /// Root over them.
    pub output_root: OutputRoot,
    /// Inputs of this slot, in hexadecimal digits.
    pub inputs: Vec<String>,
}

impl Recorded {
    /// Describes a cut.
    pub fn of(slot: u64, cut: &Cut) -> Self {
        let measured = &cut.pages.measurement;
        Self {
            slot,
            consumed: measured.position.inputs,
            doorbells: measured.position.doorbells,
            page_root: measured.page_root,
            page_count: measured.page_count,
            cpu: measured.cpu,
            device: measured.device,
            input_root: cut.input_root,
            outputs: cut.outputs.len() as u64,
            output_root: cut.output_root,
            inputs: cut.inputs.iter().map(|input| to_line(input)).collect(),
        }
    }

    /// Where the slot ends.
    pub fn position(&self) -> Position {
        Position { inputs: self.consumed, doorbells: self.doorbells }
    }

    /// The inputs as bytes.
    pub fn bytes(&self) -> Result<Vec<Vec<u8>>, String> {
        self.inputs.iter().map(|input| from_hex(input)).collect()
    }

    /// The first thing in which `replayed` differs: its name, what was recorded and what came out.
    pub fn difference(&self, replayed: &Self) -> Option<(&'static str, String, String)> {
        let pairs = [
            ("inputs consumed", self.consumed.to_string(), replayed.consumed.to_string()),
            ("doorbells", self.doorbells.to_string(), replayed.doorbells.to_string()),
            ("input root", self.input_root.to_string(), replayed.input_root.to_string()),
            ("number of pages", self.page_count.to_string(), replayed.page_count.to_string()),
            ("memory", self.page_root.to_string(), replayed.page_root.to_string()),
            ("registers", self.cpu.to_string(), replayed.cpu.to_string()),
            ("device", self.device.to_string(), replayed.device.to_string()),
            ("number of outputs", self.outputs.to_string(), replayed.outputs.to_string()),
            ("outputs", self.output_root.to_string(), replayed.output_root.to_string()),
        ];
        pairs.into_iter().find(|(_, recorded, replayed)| recorded != replayed)
    }
}

/// Writes a recording.
pub struct Writer {
    file: BufWriter<File>,
}

impl Writer {
    /// Creates the file and writes the header.
    pub fn create(path: &Path, header: &Header) -> Result<Self, Failure> {
        let file = File::create(path).map_err(|error| Failure::file(path, error))?;
        let mut writer = Self { file: BufWriter::new(file) };
        writer.line(header).map_err(|error| Failure::file(path, error))?;
        Ok(writer)
    }

    /// Adds one slot.
    pub fn slot(&mut self, recorded: &Recorded) -> std::io::Result<()> {
        self.line(recorded)
    }

    /// Everything is in the file.
    pub fn finish(mut self) -> std::io::Result<()> {
        self.file.flush()
    }

    fn line(&mut self, value: &impl Serialize) -> std::io::Result<()> {
        serde_json::to_writer(&mut self.file, value)?;
        self.file.write_all(b"\n")
    }
}

/// Reads a recording slot by slot.
pub struct Reader<R> {
    lines: R,
    number: u64,
    name: String,
}

impl Reader<BufReader<File>> {
    /// Opens a file and reads its header.
    pub fn open(path: &Path) -> Result<(Header, Self), Failure> {
        let file = File::open(path).map_err(|error| Failure::file(path, error))?;
        Self::new(BufReader::new(file), &path.display().to_string())
    }
}

impl<R: BufRead> Reader<R> {
    fn new(lines: R, name: &str) -> Result<(Header, Self), Failure> {
        let mut reader = Self { lines, number: 0, name: name.to_owned() };
        let header: Option<Header> = reader.next_line()?;
        match header {
            Some(header) if header.format == FORMAT && header.version == 1 => Ok((header, reader)),
            _ => Err(reader.bad("this is no recording of version 1")),
        }
    }

    /// The next slot; none at the end.
    pub fn slot(&mut self) -> Result<Option<Recorded>, Failure> {
        self.next_line()
    }

    fn next_line<T: for<'a> Deserialize<'a>>(&mut self) -> Result<Option<T>, Failure> {
        let mut line = Vec::new();
        let read = (&mut self.lines).take(LINE_BYTES_MAX).read_until(b'\n', &mut line);
        read.map_err(|error| self.bad(error))?;
        if line.is_empty() {
            return Ok(None);
        }
        self.number += 1;
        serde_json::from_slice(&line).map(Some).map_err(|error| self.bad(error))
    }

    fn bad(&self, reason: impl std::fmt::Display) -> Failure {
        Failure::refused("DecodeError", format!("{} line {}: {reason}", self.name, self.number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn recorded(slot: u64) -> Recorded {
        Recorded {
            slot,
            consumed: 1,
            doorbells: 2,
            page_root: PageRoot::ZERO,
            page_count: 4,
            cpu: CpuDigest::ZERO,
            device: DeviceDigest::ZERO,
            input_root: InputRoot::ZERO,
            outputs: 0,
            output_root: OutputRoot::ZERO,
            inputs: vec!["00ff".into()],
        }
    }

    fn open(bytes: &[u8]) -> Result<Vec<Recorded>, Failure> {
        let (_, mut reader) = Reader::new(bytes, "recording")?;
        let mut slots = Vec::new();
        while let Some(slot) = reader.slot()? {
            slots.push(slot);
        }
        Ok(slots)
    }

    fn text() -> String {
        let header = serde_json::to_string(&Header::new(ImageDigest::ZERO, 8 << 20)).unwrap();
        let slot = |number| serde_json::to_string(&recorded(number)).unwrap();
        format!("{header}\n{}\n{}\n", slot(0), slot(1))
    }

    #[test]
    fn recording_survives_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("recording");
        let header = Header::new(ImageDigest::ZERO, 8 << 20);
        let mut writer = Writer::create(&path, &header).unwrap();
        writer.slot(&recorded(0)).unwrap();
        writer.finish().unwrap();
        let (read, mut reader) = Reader::open(&path).unwrap();
        assert_eq!((read, reader.slot().unwrap()), (header, Some(recorded(0))));
        assert_eq!(reader.slot().unwrap(), None);
    }

    #[test]
    fn each_difference_is_named() {
        let base = recorded(0);
        let changed = [
            ("inputs consumed", Recorded { consumed: 9, ..base.clone() }),
            ("doorbells", Recorded { doorbells: 9, ..base.clone() }),
            ("memory", Recorded { page_root: PageRoot::from_bytes([1; 32]), ..base.clone() }),
            ("registers", Recorded { cpu: CpuDigest::from_bytes([1; 32]), ..base.clone() }),
            ("device", Recorded { device: DeviceDigest::from_bytes([1; 32]), ..base.clone() }),
            ("input root", Recorded { input_root: InputRoot::from_bytes([1; 32]), ..base.clone() }),
            ("outputs", Recorded { output_root: OutputRoot::from_bytes([1; 32]), ..base.clone() }),
        ];
        assert_eq!(base.difference(&base), None);
        for (name, other) in changed {
            assert_eq!(base.difference(&other).map(|(name, ..)| name), Some(name));
        }
    }

    #[test]
    fn truncated_or_foreign_recording_is_refused() {
        let text = text();
        assert_eq!(open(text.as_bytes()).unwrap().len(), 2);
        let half = &text.as_bytes()[..text.len() - 20];
        assert_eq!(open(half).unwrap_err().kind, "DecodeError");
        for foreign in ["", "{}", "\n", "{\"format\":\"other\"}"] {
            assert_eq!(open(foreign.as_bytes()).unwrap_err().kind, "DecodeError", "{foreign}");
        }
    }

    proptest! {
        #[test]
        fn damaged_recording_never_panics(at in 0usize..400, byte in any::<u8>()) {
            let mut bytes = text().into_bytes();
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Ok(slots) = open(&bytes) {
                for slot in slots {
                    let _ = slot.bytes();
                }
            }
        }
    }
}
