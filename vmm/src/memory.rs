//! Guest memory: one private anonymous mapping at guest-physical address zero, read and hashed in place.
//!
//! Nothing writes it but the vCPU, which runs only inside [`Machine::run`](crate::machine::Machine::run), and the VMM
//! through `GuestMemory::write`; both need exclusive access to the machine, so a page seen here cannot change while
//! it is hashed. Untouched memory is never touched: the kernel is asked which pages exist, and the rest are zero.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::LazyLock;

use quorate_guest_abi as abi;
use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use crate::page_tree::{Digest, PAGE_BYTES, Page, hash_page};

/// From this many pages on, hashing uses a second thread; below, starting it costs more than it saves.
const PARALLEL_PAGES: usize = 512;
/// Entries of `/proc/self/pagemap` read at once.
const PAGEMAP_CHUNK: usize = 16 * 1024;
/// Present, or swapped out: either way the page exists.
const PAGEMAP_EXISTS: u64 = 1 << 63 | 1 << 62;

/// Guest memory could not be had or was addressed outside its bounds.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host refused the mapping.
    #[error("the host gives no {bytes} bytes of memory: {source}")]
    Map {
        /// Bytes wanted.
        bytes: u64,
        /// What the system said.
        source: std::io::Error,
    },
    /// A piece of an image or state does not lie inside memory.
    #[error("{bytes} bytes at {address:#x} are not inside guest memory")]
    OutOfBounds {
        /// Guest address.
        address: u64,
        /// Length.
        bytes: usize,
    },
}

impl MemoryError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Map { .. } => "OutOfMemory",
            Self::OutOfBounds { .. } => "SnapshotInvalid",
        }
    }
}

/// Address range that is unmapped when dropped.
#[derive(Debug)]
struct Mapping {
    address: usize,
    bytes: usize,
}

impl Mapping {
    /// Reserves private, zero-filled, overcommitted memory on a 2 MiB boundary. Guest-physical and host-virtual large
    /// pages must coincide, or KVM could not map either with one entry.
    fn reserve(bytes: usize) -> std::io::Result<Self> {
        let align = abi::LARGE_PAGE_BYTES as usize;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a fresh mapping at an address of the kernel's choice affects no memory in use.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), bytes + align, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0)
        };
        if start == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error());
        }
        let whole = Self { address: start as usize, bytes: bytes + align };
        let address = whole.address.next_multiple_of(align);
        let (head, tail) = (address - whole.address, whole.address + align - address);
        drop(Self { address: whole.address, bytes: head });
        drop(Self { address: address + bytes, bytes: tail });
        std::mem::forget(whole);
        Ok(Self { address, bytes })
    }

    /// Large pages for everything but the first 2 MiB, of which a guest touches a few pages only. Advice: a kernel
    /// without large pages may refuse it, and nothing depends on it but speed.
    fn advise(&self) {
        let first = (abi::LARGE_PAGE_BYTES as usize).min(self.bytes);
        let parts = [(0, first, libc::MADV_NOHUGEPAGE), (first, self.bytes - first, libc::MADV_HUGEPAGE)];
        for (offset, bytes, advice) in parts {
            // SAFETY: the range lies inside this mapping, and the advice does not change its contents.
            unsafe { libc::madvise((self.address + offset) as *mut libc::c_void, bytes, advice) };
        }
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        if self.bytes > 0 {
            // SAFETY: the range is a mapping this value owns, and nothing refers to it any more: `GuestMemory` drops
            // its view first and lends pages only while it lives.
            unsafe { libc::munmap(self.address as *mut libc::c_void, self.bytes) };
        }
    }
}

/// The memory of one machine.
#[derive(Debug)]
pub struct GuestMemory {
    // Dropped in this order: the view first, then the mapping it looks at.
    view: GuestMemoryMmap,
    mapping: Mapping,
}

impl GuestMemory {
    /// Reserves `bytes`, a multiple of 2 MiB, of zero-filled memory. Nothing is allocated until it is touched.
    pub fn new(bytes: u64) -> Result<Self, MemoryError> {
        let failed = |source| MemoryError::Map { bytes, source };
        let size = usize::try_from(bytes).map_err(|_| failed(std::io::ErrorKind::OutOfMemory.into()))?;
        let mapping = Mapping::reserve(size).map_err(failed)?;
        mapping.advise();
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: address and size are those of `mapping`, which outlives the region (see the field order).
        let region = unsafe { MmapRegion::build_raw(mapping.address as *mut u8, size, protection, flags) };
        let region = region.map_err(|error| failed(std::io::Error::other(error)))?;
        let region = GuestRegionMmap::new(region, GuestAddress(0))
            .ok_or_else(|| failed(std::io::ErrorKind::InvalidInput.into()))?;
        let view = GuestMemoryMmap::from_regions(vec![region])
            .map_err(|error| failed(std::io::Error::other(error)))?;
        Ok(Self { view, mapping })
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.mapping.bytes as u64
    }

    /// Number of 4 KiB pages.
    pub fn page_count(&self) -> u32 {
        (self.mapping.bytes / PAGE_BYTES) as u32
    }

    /// Where the memory lies in this process, for KVM.
    pub(crate) fn host_address(&self) -> u64 {
        self.mapping.address as u64
    }

    /// Copies bytes into guest memory. The caller marks the pages dirty: KVM does not see this write.
    pub(crate) fn write(&mut self, address: u64, bytes: &[u8]) -> Result<(), MemoryError> {
        self.view
            .write_slice(bytes, GuestAddress(address))
            .map_err(|_| MemoryError::OutOfBounds { address, bytes: bytes.len() })
    }

    /// Copies bytes out of guest memory.
    pub(crate) fn read(&self, address: u64, bytes: &mut [u8]) -> Result<(), MemoryError> {
        let length = bytes.len();
        self.view
            .read_slice(bytes, GuestAddress(address))
            .map_err(|_| MemoryError::OutOfBounds { address, bytes: length })
    }

    /// One little-endian word.
    pub(crate) fn read_word(&self, address: u64) -> Result<u64, MemoryError> {
        let mut word = [0; 8];
        self.read(address, &mut word)?;
        Ok(u64::from_le_bytes(word))
    }

    /// The contents of one page, in place.
    ///
    /// # Panics
    /// If there is no such page.
    pub fn page(&self, index: u32) -> &Page {
        assert!(index < self.page_count(), "page {index} of {}", self.page_count());
        let address = self.mapping.address + index as usize * PAGE_BYTES;
        // Nothing writes it during the borrow: `write` needs `&mut self`, and the vCPU runs only in methods that hold the machine,
        // and with it this value, exclusively.
        // SAFETY: inside the mapping, which is readable, zero-filled and lives as long as `self`; nobody writes it meanwhile.
        unsafe { &*(address as *const Page) }
    }

    /// The leaf digests of the given pages.
    pub fn hash_pages(&self, pages: &[u32]) -> Vec<(u32, Digest)> {
        let hash = |pages: &[u32]| -> Vec<(u32, Digest)> {
            pages.iter().map(|&index| (index, hash_page(self.page(index)))).collect()
        };
        if pages.len() < PARALLEL_PAGES || !has_second_core() {
            return hash(pages);
        }
        let (ours, theirs) = pages.split_at(pages.len() / 2);
        std::thread::scope(|scope| {
            let helper = std::thread::Builder::new().spawn_scoped(scope, || hash(theirs));
            let mut leaves = hash(ours);
            match helper.map(|helper| helper.join()) {
                Ok(Ok(rest)) => leaves.extend(rest),
                // No thread to be had: slower, not wrong.
                Ok(Err(_)) | Err(_) => leaves.extend(hash(theirs)),
            }
            leaves
        })
    }

    /// The pages that exist, ascending; all others are untouched and so zero. Falls back to all pages if the kernel
    /// does not tell.
    pub fn existing_pages(&self) -> Vec<u32> {
        self.read_pagemap().unwrap_or_else(|_| (0..self.page_count()).collect())
    }

    fn read_pagemap(&self) -> std::io::Result<Vec<u32>> {
        let pagemap = File::open("/proc/self/pagemap")?;
        let first = (self.mapping.address / PAGE_BYTES) as u64;
        let mut existing = Vec::new();
        let mut entries = vec![0u8; PAGEMAP_CHUNK * 8];
        let count = self.page_count();
        for start in (0..count).step_by(PAGEMAP_CHUNK) {
            let length = (count - start).min(PAGEMAP_CHUNK as u32);
            let bytes = &mut entries[..length as usize * 8];
            pagemap.read_exact_at(bytes, (first + u64::from(start)) * 8)?;
            let (words, _) = bytes.as_chunks::<8>();
            let flags = words.iter().map(|word| u64::from_le_bytes(*word));
            existing.extend((start..).zip(flags).filter(|(_, f)| f & PAGEMAP_EXISTS != 0).map(|(i, _)| i));
        }
        Ok(existing)
    }
}

/// Whether a second thread can run beside ours. Asked once: the answer costs a read of the control group's files.
fn has_second_core() -> bool {
    static ANSWER: LazyLock<bool> =
        LazyLock::new(|| std::thread::available_parallelism().is_ok_and(|count| count.get() > 1));
    *ANSWER
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::page_tree::ZERO_LEAF;

    #[test]
    fn untouched_memory_is_not_touched_by_looking_for_it() {
        let mut memory = GuestMemory::new(64 << 20).unwrap();
        assert!(memory.existing_pages().is_empty());
        memory.write(5 * 4096 + 4090, &[1; 12]).unwrap();
        assert_eq!(memory.existing_pages(), vec![5u32, 6]);
    }

    #[test]
    fn accesses_outside_memory_are_refused_without_effect() {
        let mut memory = GuestMemory::new(8 << 20).unwrap();
        let end = memory.bytes();
        for address in [end - 3, end, u64::MAX, u64::MAX - 3, 1 << 63] {
            assert!(memory.write(address, &[1; 4]).is_err(), "{address:#x}");
            assert!(memory.read(address, &mut [0; 4]).is_err(), "{address:#x}");
        }
        assert!(memory.write(end - 4, &[1; 4]).is_ok());
    }

    #[test]
    fn pages_hash_alike_on_one_and_two_threads() {
        let mut memory = GuestMemory::new(8 << 20).unwrap();
        for index in 0..memory.page_count() {
            memory.write(u64::from(index) * 4096 + 7, &index.to_le_bytes()).unwrap();
        }
        let all: Vec<u32> = (0..memory.page_count()).collect();
        let together = memory.hash_pages(&all);
        assert!(all.len() >= PARALLEL_PAGES);
        assert!(all.iter().zip(&together).all(|(index, pair)| memory.hash_pages(&[*index]) == [*pair]));
        assert_eq!(together[0].1, ZERO_LEAF);
    }
}
