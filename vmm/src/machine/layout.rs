//! Where everything lies in guest memory, and the bytes of the supervisor region. A pure function of the image's
//! segments and the memory size: anyone can compute the genesis of a machine without KVM.
//!
//! | address | page | contents |
//! | --- | --- | --- |
//! | `0x1000` | 1 | PML4: entry 0 -> PDPT |
//! | `0x2000` | 2 | PDPT: one entry a GiB of memory -> its directory; entry 256 -> doorbell directory |
//! | `0x3000` | 3 | directory of the doorbell: one 2 MiB entry without a memory slot behind it |
//! | `0x4000` | 4 | page table of the first 2 MiB |
//! | `0x6000` | 6 | mailbox (the guest's, with the boot information) |
//! | `0x8000` | 8 | GDT: null, CPL 0 code 0x08, CPL 0 data 0x10, TSS 0x18 (16 bytes), user data 0x28, user code 0x30 |
//! | `0x9000` | 9 | IDT: 256 interrupt gates |
//! | `0xa000` | 10 | TSS: RSP0, no I/O bitmap |
//! | `0xc000` | 12 | CPL 0 stack, grows down from `0xd000`; holds the frame of the one exception a guest can take |
//! | `0xe000` | 14 | 256 stubs of 16 bytes: `hlt; jmp $-1` |
//! | `0x10000` | 16-31 | page directories, one a GiB |
//!
//! Every entry has its accessed and dirty bits set beforehand, so no walk of the processor ever changes a table.

use std::ops::Range;

use quorate_guest_abi as abi;
use quorate_guest_abi::{BootInfo, Span};

/// Physical address of the PML4, the value of CR3.
pub const PML4: u64 = 0x1000;
/// Base of the GDT.
pub const GDT: u64 = 0x8000;
/// Limit of the GDT: seven descriptors.
pub const GDT_LIMIT: u16 = 0x37;
/// Base of the IDT.
pub const IDT: u64 = 0x9000;
/// Limit of the IDT: 256 gates of 16 bytes.
pub const IDT_LIMIT: u16 = 0xfff;
/// Base of the TSS.
pub const TSS: u64 = 0xa000;
/// Limit of the TSS; its I/O bitmap starts behind it, so every port is refused.
pub const TSS_LIMIT: u32 = 0x67;
/// First address behind the CPL 0 stack.
pub const SUPERVISOR_STACK_TOP: u64 = 0xd000;
/// First exception stub; the one of vector `v` lies `16 * v` bytes behind it.
pub const STUBS: u64 = 0xe000;
/// Distance between two stubs.
pub const STUB_BYTES: u64 = 16;
/// Size of a page as it is mapped in the first 2 MiB and measured everywhere.
pub const PAGE_BYTES: u64 = abi::PAGE_BYTES;

const PDPT: u64 = 0x2000;
const DOORBELL_DIRECTORY: u64 = 0x3000;
const LOW_TABLE: u64 = 0x4000;
const DIRECTORIES: u64 = 0x10000;
const GIB: u64 = 1 << 30;
const TABLE_ENTRIES: u64 = 512;

const PRESENT: u64 = 1;
const WRITABLE: u64 = 1 << 1;
const USER: u64 = 1 << 2;
const ACCESSED_DIRTY: u64 = 1 << 5 | 1 << 6;
const LARGE: u64 = 1 << 7;
const NO_EXECUTE: u64 = 1 << 63;
const TABLE: u64 = PRESENT | WRITABLE | USER | ACCESSED_DIRTY;

/// Null, CPL 0 code and data, the TSS (base and limit as above, busy), user data, user code; all marked accessed.
const DESCRIPTORS: [u64; 7] = [
    0,
    0x00af_9b00_0000_ffff,
    0x00cf_9300_0000_ffff,
    TSS_LIMIT as u64 | TSS << 16 | 0x8b << 40,
    0,
    0x00cf_f300_0000_ffff,
    0x00af_fb00_0000_ffff,
];

/// What CPL 3 may do with a region.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Text: read and execute.
    ReadExecute,
    /// Constants: read only.
    Read,
    /// Data, bss, heap, stack and mailbox: read and write, never execute.
    ReadWrite,
}

impl Access {
    fn entry_bits(self) -> u64 {
        match self {
            Self::ReadExecute => 0,
            Self::Read => NO_EXECUTE,
            Self::ReadWrite => WRITABLE | NO_EXECUTE,
        }
    }
}

/// Place and rights of one image segment in memory, bss included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First address, on a 2 MiB boundary.
    pub start: u64,
    /// Bytes in memory, at least one.
    pub bytes: u64,
    /// Rights of the segment.
    pub access: Access,
}

/// A maximal range of one access right that the guest can reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Region {
    /// Guest addresses.
    pub range: Range<u64>,
    /// Rights of CPL 3 there.
    pub access: Access,
}

/// Why segments and a memory size make no machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    /// No machine may have this much memory.
    #[error("{0} bytes is not a memory size: a multiple of 2 MiB from 8 MiB to 16 GiB")]
    MemoryBytes(u64),
    /// The image has no segment.
    #[error("the image has no segment")]
    NoSegment,
    /// A segment is empty, off its 2 MiB boundary or below the image base.
    #[error("segment {index} at {start:#x} is empty, below {base:#x} or not on a 2 MiB boundary", base = abi::IMAGE_BASE)]
    SegmentPlace {
        /// Which segment.
        index: usize,
        /// Where it starts.
        start: u64,
    },
    /// A segment starts inside the large pages of the one before it.
    #[error("segment {index} at {start:#x} overlaps the one before it or precedes it")]
    SegmentOrder {
        /// Which segment.
        index: usize,
        /// Where it starts.
        start: u64,
    },
    /// A segment does not end inside memory.
    #[error("segment {index} ends at {end:#x}, behind the {memory_bytes} bytes of memory")]
    SegmentEnd {
        /// Which segment.
        index: usize,
        /// Where it ends.
        end: u64,
        /// Size of memory.
        memory_bytes: u64,
    },
}

impl LayoutError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        "ImageInvalid"
    }
}

/// The layout of one machine: what is mapped where, and what the supervisor region contains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryMap {
    memory_bytes: u64,
    heap_start: u64,
    regions: Vec<Region>,
}

impl MemoryMap {
    /// Lays out a machine of `memory_bytes` around the segments, which must ascend and each start a 2 MiB page.
    pub fn new(segments: &[Extent], memory_bytes: u64) -> Result<Self, LayoutError> {
        if !abi::is_memory_size(memory_bytes) {
            return Err(LayoutError::MemoryBytes(memory_bytes));
        }
        let last = segments.last().ok_or(LayoutError::NoSegment)?;
        let mailbox = abi::MAILBOX..abi::MAILBOX + PAGE_BYTES;
        let mut regions = vec![
            Region { range: mailbox, access: Access::ReadWrite },
            Region { range: abi::STACK_REGION, access: Access::ReadWrite },
        ];
        let mut free = abi::IMAGE_BASE;
        for (index, segment) in segments.iter().enumerate() {
            let range = place(index, segment, free, memory_bytes)?;
            free = range.end;
            push_region(&mut regions, range, segment.access);
        }
        push_region(&mut regions, free..memory_bytes, Access::ReadWrite);
        let heap_start = match last.access {
            Access::ReadWrite => (last.start + last.bytes).next_multiple_of(PAGE_BYTES),
            Access::Read | Access::ReadExecute => free,
        };
        Ok(Self { memory_bytes, heap_start, regions })
    }

    /// Size of memory in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// First address of the heap, which ends with memory.
    pub fn heap_start(&self) -> u64 {
        self.heap_start
    }

    /// What the guest can reach, in address order.
    pub fn regions(&self) -> &[Region] {
        &self.regions
    }

    /// Whether the guest itself could read every byte of the span.
    pub fn may_read(&self, span: Span) -> bool {
        span.is_empty() || self.regions.iter().any(|region| span.is_inside(&region.range))
    }

    /// Whether the guest itself could write every byte of the span. What the VMM writes on a guest's behalf must
    /// pass this, or a guest could rewrite its own text through it.
    pub fn may_write(&self, span: Span) -> bool {
        let writable = |region: &Region| region.access == Access::ReadWrite && span.is_inside(&region.range);
        span.is_empty() || self.regions.iter().any(writable)
    }

    /// Hands every non-zero piece of the supervisor region and the mailbox to `sink`, as `(address, bytes)`.
    pub fn write_supervisor(&self, sink: &mut dyn FnMut(u64, &[u8])) {
        self.write_tables(sink);
        write_words(sink, GDT, DESCRIPTORS);
        sink(TSS + 4, &SUPERVISOR_STACK_TOP.to_le_bytes());
        sink(TSS + 0x66, &(TSS_LIMIT as u16 + 1).to_le_bytes());
        write_words(sink, IDT, (0..256).flat_map(|vector| [gate(STUBS + vector * STUB_BYTES), 0]));
        write_words(sink, STUBS, (0..256).flat_map(|_| [STUB, 0]));
        sink(
            abi::MAILBOX + abi::mailbox::BOOT_INFO,
            &BootInfo::new(self.memory_bytes, self.heap_start).encode(),
        );
    }

    fn write_tables(&self, sink: &mut dyn FnMut(u64, &[u8])) {
        write_words(sink, PML4, [PDPT | TABLE]);
        let directories = self.memory_bytes.div_ceil(GIB);
        write_words(sink, PDPT, (0..directories).map(|gib| (DIRECTORIES + gib * PAGE_BYTES) | TABLE));
        write_words(sink, PDPT + 8 * (abi::DOORBELL / GIB), [DOORBELL_DIRECTORY | TABLE]);
        write_words(sink, DOORBELL_DIRECTORY, [abi::DOORBELL | TABLE | LARGE | NO_EXECUTE]);
        write_words(sink, LOW_TABLE, (0..TABLE_ENTRIES).map(|page| self.low_entry(page * PAGE_BYTES)));
        let entries = self.memory_bytes / abi::LARGE_PAGE_BYTES;
        write_words(
            sink,
            DIRECTORIES,
            (0..entries).map(|page| self.large_entry(page * abi::LARGE_PAGE_BYTES)),
        );
    }

    fn low_entry(&self, address: u64) -> u64 {
        if let Some(access) = self.access_at(address) {
            return address | PRESENT | USER | ACCESSED_DIRTY | access.entry_bits();
        }
        match address {
            STUBS => address | PRESENT | ACCESSED_DIRTY,
            _ if abi::SUPERVISOR_REGION.contains(&address) => {
                address | PRESENT | WRITABLE | ACCESSED_DIRTY | NO_EXECUTE
            }
            _ => 0,
        }
    }

    fn large_entry(&self, address: u64) -> u64 {
        if address == 0 {
            return LOW_TABLE | TABLE;
        }
        match self.access_at(address) {
            Some(access) => address | PRESENT | USER | ACCESSED_DIRTY | LARGE | access.entry_bits(),
            None => 0,
        }
    }

    fn access_at(&self, address: u64) -> Option<Access> {
        let region = self.regions.iter().find(|region| region.range.contains(&address))?;
        Some(region.access)
    }
}

/// `hlt` (the exit), then `jmp $-1` in case a monitor ever resumes behind it.
const STUB: u64 = 0x00fd_ebf4;

/// An interrupt gate of DPL 0: the guest cannot raise a vector by `int`.
fn gate(stub: u64) -> u64 {
    (stub & 0xffff) | 0x08 << 16 | 0x8e << 40 | (stub >> 16) << 48
}

fn write_words(sink: &mut dyn FnMut(u64, &[u8]), address: u64, words: impl IntoIterator<Item = u64>) {
    let bytes: Vec<u8> = words.into_iter().flat_map(u64::to_le_bytes).collect();
    sink(address, &bytes);
}

/// The large pages of a segment, or why it may not lie there.
fn place(index: usize, segment: &Extent, free: u64, memory_bytes: u64) -> Result<Range<u64>, LayoutError> {
    let start = segment.start;
    let aligned = start.is_multiple_of(abi::LARGE_PAGE_BYTES) && start >= abi::IMAGE_BASE;
    if !aligned || segment.bytes == 0 {
        return Err(LayoutError::SegmentPlace { index, start });
    }
    if start < free {
        return Err(LayoutError::SegmentOrder { index, start });
    }
    let end = start.saturating_add(segment.bytes);
    if end > memory_bytes {
        return Err(LayoutError::SegmentEnd { index, end, memory_bytes });
    }
    Ok(start..end.next_multiple_of(abi::LARGE_PAGE_BYTES))
}

/// Adds a region, merged with the one before it if it continues that one with the same rights.
fn push_region(regions: &mut Vec<Region>, range: Range<u64>, access: Access) {
    if range.is_empty() {
        return;
    }
    match regions.last_mut() {
        Some(last)
            if last.access == access && last.range.end == range.start && range.start > abi::IMAGE_BASE =>
        {
            last.range.end = range.end;
        }
        _ => regions.push(Region { range, access }),
    }
}

#[cfg(test)]
mod tests;
