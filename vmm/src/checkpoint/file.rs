//! Files in and out.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quorate_attest::encoding;
use quorate_attest::id::PageRoot;
use quorate_attest::merkle::{Frontier, Sha256Tree};

use super::Checkpoint;
use super::error::{CheckpointError, invalid};
use super::format::{HEADER_BYTES, Header, SEAL_BYTES, Table, decode_table, encode_table};
use crate::cpu::CpuState;
use crate::device::DeviceState;
use crate::page_tree::{PAGE_BYTES, Page, PageTree, ZERO_LEAF};
use crate::snapshot::PageSnapshot;

const BUFFER_BYTES: usize = 1 << 20;

/// Writes a full checkpoint, or the difference to `parent`, so that `path` has either its old or its new contents.
pub(super) fn write(
    path: &Path,
    checkpoint: &Checkpoint,
    parent: Option<&PageTree>,
) -> Result<(), CheckpointError> {
    let partial = partial_path(path)?;
    let written = write_partial(&partial, checkpoint, parent).and_then(|()| {
        std::fs::rename(&partial, path).map_err(failed("rename", &partial))?;
        sync_directory(path)
    });
    if written.is_err() {
        // Best effort: what is left behind has no name anyone reads, and the next write replaces it.
        let _ = std::fs::remove_file(&partial);
    }
    written
}

fn write_partial(
    path: &Path,
    checkpoint: &Checkpoint,
    parent: Option<&PageTree>,
) -> Result<(), CheckpointError> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .map_err(failed("create", path))?;
    let mut writer = BufWriter::with_capacity(BUFFER_BYTES, &file);
    encode(checkpoint, parent, &mut writer).and_then(|()| writer.flush()).map_err(failed("write", path))?;
    drop(writer);
    file.sync_data().map_err(failed("sync", path))
}

/// Writes the bytes of a checkpoint.
pub(super) fn encode(
    checkpoint: &Checkpoint,
    parent: Option<&PageTree>,
    out: &mut impl Write,
) -> io::Result<()> {
    let tree = checkpoint.pages.tree();
    let table: Table = match parent {
        None => tree
            .leaves()
            .copied()
            .zip(0..)
            .filter(|(leaf, _)| *leaf != ZERO_LEAF)
            .map(|(l, i)| (i, l))
            .collect(),
        Some(parent) => {
            let changed = tree.difference(parent).into_iter();
            changed.filter_map(|index| Some((index, *tree.leaf(index)?))).collect()
        }
    };
    let (device, log) = (checkpoint.device.encode(), encoding::to_bytes(&checkpoint.input_log));
    let measurement = checkpoint.measurement();
    let header = Header {
        memory_bytes: checkpoint.pages.memory_bytes(),
        image: checkpoint.image,
        platform: checkpoint.platform,
        page_root: measurement.page_root,
        parent: parent.map(|tree| PageRoot::from_bytes(tree.root())),
        cpu: measurement.cpu,
        device: measurement.device,
        position: measurement.position,
        entries: table.len() as u32,
        device_bytes: device.len(),
        log_bytes: log.len(),
    };
    let mut seal = blake3::Hasher::new();
    for part in [&header.encode()[..], &checkpoint.cpu.encode(), &device, &log, &encode_table(&table)] {
        seal.update(part);
        out.write_all(part)?;
    }
    out.write_all(seal.finalize().as_bytes())?;
    for (index, _) in table.iter().filter(|(_, leaf)| *leaf != ZERO_LEAF) {
        let page = checkpoint.pages.page(*index).ok_or(io::ErrorKind::NotFound)?;
        out.write_all(page)?;
    }
    Ok(())
}

/// Reads a full checkpoint, or one that follows `parent`.
pub(super) fn read(path: &Path, parent: Option<&Checkpoint>) -> Result<Checkpoint, CheckpointError> {
    let file = File::open(path).map_err(failed("open", path))?;
    let metadata = file.metadata().map_err(failed("open", path))?;
    if !metadata.is_file() {
        return Err(invalid("length", "a checkpoint is a regular file"));
    }
    let mut reader = BufReader::with_capacity(BUFFER_BYTES, file);
    decode(&mut reader, metadata.len(), parent).map_err(|error| match error {
        DecodeFailure::Refused(error) => error,
        DecodeFailure::Read(source) if source.kind() == io::ErrorKind::UnexpectedEof => {
            invalid("length", "the file ends before its contents do")
        }
        DecodeFailure::Read(source) => failed("read", path)(source),
    })
}

/// How decoding ended early.
#[derive(Debug)]
pub(super) enum DecodeFailure {
    Refused(CheckpointError),
    Read(io::Error),
}

impl From<CheckpointError> for DecodeFailure {
    fn from(error: CheckpointError) -> Self {
        Self::Refused(error)
    }
}

impl From<io::Error> for DecodeFailure {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

/// Reads the bytes of a checkpoint from a source of `total` bytes.
pub(super) fn decode(
    reader: &mut impl Read,
    total: u64,
    parent: Option<&Checkpoint>,
) -> Result<Checkpoint, DecodeFailure> {
    let mut fixed = [0; HEADER_BYTES];
    reader.read_exact(&mut fixed)?;
    let header = Header::decode(&fixed)?;
    check_parent(&header, parent)?;
    if header.file_bytes(0) > total {
        return Err(invalid("length", "the file ends before its contents do").into());
    }
    let mut body = vec![0; header.body_bytes() + SEAL_BYTES];
    reader.read_exact(&mut body)?;
    let (body, seal) = body.split_at(header.body_bytes());
    if blake3::Hasher::new().update(&fixed).update(body).finalize() != *seal {
        return Err(invalid("seal", "must be the BLAKE3 of everything before it").into());
    }
    let (mut checkpoint, table) = decode_body(&header, body, parent)?;
    let stored: Vec<u32> =
        table.iter().filter(|(_, leaf)| *leaf != ZERO_LEAF).map(|(index, _)| *index).collect();
    if header.file_bytes(stored.len()) != total {
        return Err(invalid("length", "the file must hold exactly the pages of its table").into());
    }
    for index in stored {
        let mut page: Page = [0; PAGE_BYTES];
        reader.read_exact(&mut page)?;
        checkpoint
            .pages
            .receive(index, Arc::new(page))
            .map_err(|_| CheckpointError::ChunkHashMismatch { index })?;
    }
    Ok(checkpoint)
}

/// Whether the file is of the expected kind and continues `parent`.
fn check_parent(header: &Header, parent: Option<&Checkpoint>) -> Result<(), CheckpointError> {
    let (root, parent) = match (header.parent, parent) {
        (None, None) => return Ok(()),
        (Some(root), Some(parent)) => (root, parent),
        (None, Some(_)) => return Err(invalid("kind", "must be incremental to follow another checkpoint")),
        (Some(_), None) => return Err(invalid("kind", "must be full to be read alone")),
    };
    if root != PageRoot::from_bytes(parent.pages.tree().root()) {
        return Err(CheckpointError::RootMismatch { component: "parent" });
    }
    let before = parent.device.position();
    let rules = [
        ("memory_bytes", header.memory_bytes == parent.pages.memory_bytes()),
        ("image", header.image == parent.image),
        ("platform", header.platform == parent.platform),
        ("inputs", header.position.inputs >= before.inputs),
        ("doorbells", header.position.doorbells >= before.doorbells),
    ];
    match rules.iter().find(|(_, holds)| !holds) {
        Some((field, _)) => Err(invalid(field, "must continue the predecessor's")),
        None => Ok(()),
    }
}

/// Decodes everything between header and seal. Pages that are to follow are zero in the result.
fn decode_body(
    header: &Header,
    body: &[u8],
    parent: Option<&Checkpoint>,
) -> Result<(Checkpoint, Table), CheckpointError> {
    let (cpu, rest) = body.split_at(CpuState::BYTES);
    let (device, rest) = rest.split_at(header.device_bytes);
    let (log, table) = rest.split_at(header.log_bytes);

    let cpu = CpuState::decode(cpu)?;
    if cpu.digest() != header.cpu {
        return Err(CheckpointError::RootMismatch { component: "cpu" });
    }
    let device = DeviceState::decode(device).map_err(|_| invalid("device", "must be one device-v1 state"))?;
    if device.digest() != header.device {
        return Err(CheckpointError::RootMismatch { component: "device" });
    }
    if device.position() != header.position {
        return Err(invalid("inputs", "inputs and doorbells must be those of the device state"));
    }
    let input_log: Frontier<Sha256Tree> = encoding::from_bytes(log, header.log_bytes)
        .map_err(|_| invalid("input_log", "must be one frontier of the input log"))?;
    if input_log.size() != device.inputs {
        return Err(invalid("input_log", "must have as many inputs as were consumed"));
    }

    let table = decode_table(table, header)?;
    let mut tree = match parent {
        Some(parent) => parent.pages.tree().clone(),
        None => PageTree::zero(header.page_count() as u32),
    };
    let changed = tree.update(&table);
    if changed.len() != table.len() {
        return Err(invalid("table", "every entry must change its page"));
    }
    if PageRoot::from_bytes(tree.root()) != header.page_root {
        return Err(CheckpointError::RootMismatch { component: "memory" });
    }
    let pages = match parent {
        Some(parent) => parent.pages.advanced_to(tree),
        None => PageSnapshot::expecting(tree),
    };
    Ok((Checkpoint { image: header.image, platform: header.platform, cpu, device, input_log, pages }, table))
}

fn partial_path(path: &Path) -> Result<PathBuf, CheckpointError> {
    let no_name = || failed("create", path)(io::ErrorKind::InvalidInput.into());
    let mut name: OsString = path.file_name().ok_or_else(no_name)?.to_owned();
    name.push(".partial");
    Ok(path.with_file_name(name))
}

/// Makes a rename durable.
fn sync_directory(path: &Path) -> Result<(), CheckpointError> {
    let directory = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(directory).and_then(|opened| opened.sync_all()).map_err(failed("sync", directory))
}

fn failed<'a>(operation: &'static str, path: &'a Path) -> impl Fn(io::Error) -> CheckpointError + 'a {
    move |source| CheckpointError::Storage { operation, path: path.to_owned(), source }
}
