//! Header, table and lengths, as pure functions on bytes.

use quorate_attest::id::{CpuDigest, DeviceDigest, ImageDigest, PageRoot, PlatformClass};
use quorate_attest::vm::MACHINE_VERSION;
use quorate_guest_abi as abi;

use super::error::{CheckpointError, invalid};
use crate::cpu::CpuState;
use crate::device::{DeviceState, Position};
use crate::page_tree::{Digest, PAGE_BYTES, ZERO_LEAF};

pub(super) const HEADER_BYTES: usize = 256;
pub(super) const ENTRY_BYTES: usize = 36;
pub(super) const SEAL_BYTES: usize = 32;

const MAGIC: &[u8; 8] = b"QRTCKPT\0";
const VERSION: u32 = 1;
const FULL: u32 = 1;
const INCREMENTAL: u32 = 2;
const NO_PARENT: [u8; 32] = [0; 32];
/// Size and list length of an input log's frontier; then 32 bytes a subtree.
const LOG_FIXED_BYTES: usize = 12;
const LOG_SUBTREES_MAX: usize = 64;

/// The fixed part of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) memory_bytes: u64,
    pub(super) image: ImageDigest,
    pub(super) platform: PlatformClass,
    pub(super) page_root: PageRoot,
    /// Page root of the predecessor of an incremental checkpoint.
    pub(super) parent: Option<PageRoot>,
    pub(super) cpu: CpuDigest,
    pub(super) device: DeviceDigest,
    pub(super) position: Position,
    pub(super) entries: u32,
    pub(super) device_bytes: usize,
    pub(super) log_bytes: usize,
}

/// Takes fields off the front of a header.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        let (front, rest) = self.0.split_at(N);
        bytes.copy_from_slice(front);
        self.0 = rest;
        bytes
    }

    fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.take())
    }

    fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.take())
    }
}

fn ensure(holds: bool, field: &'static str, rule: &'static str) -> Result<(), CheckpointError> {
    if holds { Ok(()) } else { Err(invalid(field, rule)) }
}

impl Header {
    pub(super) fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = Vec::with_capacity(HEADER_BYTES);
        out.extend_from_slice(MAGIC);
        let kind = if self.parent.is_some() { INCREMENTAL } else { FULL };
        for word in [VERSION, kind, MACHINE_VERSION, 0] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        out.extend_from_slice(&self.memory_bytes.to_le_bytes());
        let parent = self.parent.as_ref().map_or(&NO_PARENT, PageRoot::as_bytes);
        let digests = [self.image.as_bytes(), self.platform.as_bytes(), self.page_root.as_bytes(), parent];
        digests.iter().for_each(|digest| out.extend_from_slice(*digest));
        out.extend_from_slice(self.cpu.as_bytes());
        out.extend_from_slice(self.device.as_bytes());
        out.extend_from_slice(&self.position.inputs.to_le_bytes());
        out.extend_from_slice(&self.position.doorbells.to_le_bytes());
        for word in [self.entries, CpuState::BYTES as u32, self.device_bytes as u32, self.log_bytes as u32] {
            out.extend_from_slice(&word.to_le_bytes());
        }
        let mut header = [0; HEADER_BYTES];
        header.copy_from_slice(&out);
        header
    }

    pub(super) fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, CheckpointError> {
        let mut fields = Fields(bytes);
        ensure(&fields.take::<8>() == MAGIC, "magic", "must be QRTCKPT and a zero byte")?;
        ensure(fields.u32() == VERSION, "version", "must be 1")?;
        let kind = fields.u32();
        ensure(kind == FULL || kind == INCREMENTAL, "kind", "must be 1 or 2")?;
        ensure(fields.u32() == MACHINE_VERSION, "machine_version", "must be 1")?;
        ensure(fields.u32() == 0, "reserved", "must be zero")?;
        let memory_bytes = fields.u64();
        ensure(abi::is_memory_size(memory_bytes), "memory_bytes", "must be whole 2 MiB, 8 MiB to 16 GiB")?;
        let image = ImageDigest::from_bytes(fields.take());
        let platform = PlatformClass::from_bytes(fields.take());
        let page_root = PageRoot::from_bytes(fields.take());
        let parent: [u8; 32] = fields.take();
        ensure(
            (parent == NO_PARENT) == (kind == FULL),
            "parent",
            "must be zero exactly in a full checkpoint",
        )?;
        let header = Self {
            memory_bytes,
            image,
            platform,
            page_root,
            parent: (kind == INCREMENTAL).then(|| PageRoot::from_bytes(parent)),
            cpu: CpuDigest::from_bytes(fields.take()),
            device: DeviceDigest::from_bytes(fields.take()),
            position: Position { inputs: fields.u64(), doorbells: fields.u64() },
            entries: fields.u32(),
            device_bytes: {
                ensure(fields.u32() as usize == CpuState::BYTES, "cpu_bytes", "must be 3115")?;
                fields.u32() as usize
            },
            log_bytes: fields.u32() as usize,
        };
        header.check_lengths()?;
        Ok(header)
    }

    fn check_lengths(&self) -> Result<(), CheckpointError> {
        ensure(
            u64::from(self.entries) <= self.page_count(),
            "entries",
            "must not exceed the pages of memory",
        )?;
        ensure(self.device_bytes <= DeviceState::BYTES_MAX, "device_bytes", "must be at most 26")?;
        let subtrees = self.log_bytes.checked_sub(LOG_FIXED_BYTES);
        let exact = subtrees.is_some_and(|bytes| bytes.is_multiple_of(32) && bytes / 32 <= LOG_SUBTREES_MAX);
        ensure(exact, "log_bytes", "must be 12 and 32 for each of at most 64 subtrees")
    }

    pub(super) fn page_count(&self) -> u64 {
        self.memory_bytes / abi::PAGE_BYTES
    }

    /// Bytes between header and seal.
    pub(super) fn body_bytes(&self) -> usize {
        CpuState::BYTES + self.device_bytes + self.log_bytes + self.entries as usize * ENTRY_BYTES
    }

    /// Bytes of the whole file, of which `pages` pages.
    pub(super) fn file_bytes(&self, pages: usize) -> u64 {
        (HEADER_BYTES + self.body_bytes() + SEAL_BYTES) as u64 + pages as u64 * PAGE_BYTES as u64
    }
}

/// Pages and their leaf digests, ascending.
pub(super) type Table = Vec<(u32, Digest)>;

pub(super) fn encode_table(table: &Table) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(table.len() * ENTRY_BYTES);
    for (index, leaf) in table {
        bytes.extend_from_slice(&index.to_le_bytes());
        bytes.extend_from_slice(leaf);
    }
    bytes
}

/// Decodes a table of the checkpoint with this header.
pub(super) fn decode_table(bytes: &[u8], header: &Header) -> Result<Table, CheckpointError> {
    let (entries, rest) = bytes.as_chunks::<ENTRY_BYTES>();
    ensure(rest.is_empty() && entries.len() == header.entries as usize, "table", "must be whole entries")?;
    let mut table = Table::with_capacity(entries.len());
    for entry in entries {
        let mut fields = Fields(entry);
        let (index, leaf) = (fields.u32(), fields.take());
        let ascends = table.last().is_none_or(|(last, _)| *last < index);
        ensure(
            ascends && u64::from(index) < header.page_count(),
            "table",
            "pages must ascend inside memory",
        )?;
        ensure(
            header.parent.is_some() || leaf != ZERO_LEAF,
            "table",
            "a full checkpoint leaves out zero pages",
        )?;
        table.push((index, leaf));
    }
    Ok(table)
}
