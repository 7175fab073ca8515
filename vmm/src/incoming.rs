//! The destination's side of a state transfer: memory at its final address, filled page by page by a stranger.
//!
//! A page is copied into guest memory first and hashed there, so nobody can change it between check and use. Only
//! pages with the expected digest count as present; [`IncomingMachine::finish`] gives a machine when all of them do and
//! registers and device have the expected digests as well. Pages that are zero need not be sent.
//!
//! Besides the digests, `finish` checks what no execution can change: tables, stubs, text and constants must be those
//! of the image. A certificate over another image's memory does not turn into a machine of this one.

use quorate_attest::id::PageRoot;
use quorate_guest_abi as abi;

use crate::cpu::{CpuState, CpuStateError};
use crate::device::DeviceState;
use crate::genesis::initial_pages;
use crate::image::Image;
use crate::machine::layout::{Access, LayoutError, MemoryMap};
use crate::machine::{Machine, MachineError};
use crate::measurement::Measurement;
use crate::memory::{GuestMemory, MemoryError};
use crate::page_tree::{Digest, PAGE_BYTES, PageTree, ZERO_LEAF, hash_page};

/// Why a state from outside is refused.
#[derive(Debug, thiserror::Error)]
pub enum IncomingError {
    /// A component is not what was certified.
    #[error("the {component} is not the certified one")]
    RootMismatch {
        /// Which component.
        component: &'static str,
    },
    /// A page does not have the digest of its place.
    #[error("page {index} does not have the certified digest")]
    ChunkHashMismatch {
        /// Which page.
        index: u32,
    },
    /// There is no such page, or it has not 4096 bytes.
    #[error("{bytes} bytes for page {index} of {count}")]
    PageInvalid {
        /// Which page.
        index: u32,
        /// Bytes given.
        bytes: usize,
        /// Pages of the machine.
        count: u32,
    },
    /// Pages have not arrived.
    #[error("{count} pages are missing, the first is {first}")]
    PagesMissing {
        /// How many.
        count: u64,
        /// The lowest of them.
        first: u32,
    },
    /// The number of leaves is not that of the memory.
    #[error("{leaves} leaves for a memory of {pages} pages, certified as {certified}")]
    LeafCount {
        /// Leaves given.
        leaves: usize,
        /// Pages of the memory.
        pages: u64,
        /// Page count of the certificate.
        certified: u64,
    },
    /// The host cannot run it, or the CPU state is no guest's.
    #[error(transparent)]
    Machine(#[from] MachineError),
}

impl IncomingError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::RootMismatch { .. } => "RootMismatch",
            Self::ChunkHashMismatch { .. } => "ChunkHashMismatch",
            Self::PageInvalid { .. } | Self::LeafCount { .. } => "SnapshotInvalid",
            Self::PagesMissing { .. } => "PagesMissing",
            Self::Machine(error) => error.kind(),
        }
    }
}

impl From<MemoryError> for IncomingError {
    fn from(error: MemoryError) -> Self {
        Self::Machine(error.into())
    }
}

impl From<LayoutError> for IncomingError {
    fn from(error: LayoutError) -> Self {
        Self::Machine(error.into())
    }
}

impl From<CpuStateError> for IncomingError {
    fn from(error: CpuStateError) -> Self {
        Self::Machine(error.into())
    }
}

/// A machine whose state is on its way.
#[derive(Debug)]
pub struct IncomingMachine {
    memory: GuestMemory,
    tree: PageTree,
    expected: Measurement,
    /// One bit a page: not there, or not what it must be.
    missing: Vec<u64>,
}

impl IncomingMachine {
    /// Expects the state with these leaf digests, which must fold to the certified page root.
    pub fn new(
        memory_bytes: u64,
        leaves: Vec<Digest>,
        expected: &Measurement,
    ) -> Result<Self, IncomingError> {
        if !abi::is_memory_size(memory_bytes) {
            return Err(LayoutError::MemoryBytes(memory_bytes).into());
        }
        let pages = memory_bytes / abi::PAGE_BYTES;
        if leaves.len() as u64 != pages || expected.page_count != pages {
            let (leaves, certified) = (leaves.len(), expected.page_count);
            return Err(IncomingError::LeafCount { leaves, pages, certified });
        }
        let tree = PageTree::from_leaves(&leaves);
        if PageRoot::from_bytes(tree.root()) != expected.page_root {
            return Err(IncomingError::RootMismatch { component: "memory" });
        }
        let memory = GuestMemory::new(memory_bytes)?;
        let mut missing = vec![0; leaves.len().div_ceil(64)];
        for index in tree.nonzero() {
            missing[index as usize / 64] |= 1 << (index % 64);
        }
        Ok(Self { memory, tree, expected: *expected, missing })
    }

    /// The tree that the leaves fold to.
    pub(crate) fn tree(&self) -> &PageTree {
        &self.tree
    }

    /// The pages still needed, ascending.
    pub fn wanted(&self) -> impl Iterator<Item = u32> + '_ {
        (0u32..).step_by(64).zip(&self.missing).flat_map(|(base, word)| {
            (0..64).filter(move |bit| word & (1 << bit) != 0).map(move |bit| base + bit)
        })
    }

    /// Copies a page to its final address and hashes it there. A page may be written again, for better or worse.
    pub fn write_page(&mut self, index: u32, bytes: &[u8]) -> Result<(), IncomingError> {
        let count = self.tree.count();
        let leaf = match self.tree.leaf(index) {
            Some(leaf) if bytes.len() == PAGE_BYTES => *leaf,
            _ => return Err(IncomingError::PageInvalid { index, bytes: bytes.len(), count }),
        };
        self.memory.write(u64::from(index) * abi::PAGE_BYTES, bytes)?;
        let (word, bit) = (&mut self.missing[index as usize / 64], 1 << (index % 64));
        if hash_page(self.memory.page(index)) != leaf {
            *word |= bit;
            return Err(IncomingError::ChunkHashMismatch { index });
        }
        *word &= !bit;
        Ok(())
    }

    /// Copies a page to its final address and takes it for what it should be. For benchmarks only: the difference to
    /// [`write_page`](Self::write_page) is what verification costs, and nothing may ever run for others on such pages.
    pub fn write_page_unverified_for_benchmark(
        &mut self,
        index: u32,
        bytes: &[u8],
    ) -> Result<(), IncomingError> {
        if index >= self.tree.count() || bytes.len() != PAGE_BYTES {
            let count = self.tree.count();
            return Err(IncomingError::PageInvalid { index, bytes: bytes.len(), count });
        }
        self.memory.write(u64::from(index) * abi::PAGE_BYTES, bytes)?;
        self.missing[index as usize / 64] &= !(1 << (index % 64));
        Ok(())
    }

    /// Gives the machine, if everything is there and is what was certified.
    pub fn finish(
        self,
        image: &Image,
        cpu: &CpuState,
        device: &DeviceState,
    ) -> Result<Machine, IncomingError> {
        if let Some(first) = self.wanted().next() {
            return Err(IncomingError::PagesMissing { count: self.wanted().count() as u64, first });
        }
        let mismatch = |component| Err(IncomingError::RootMismatch { component });
        if cpu.digest() != self.expected.cpu {
            return mismatch("cpu");
        }
        if device.digest() != self.expected.device || device.position() != self.expected.position {
            return mismatch("device");
        }
        cpu.check()?;
        if !self.has_constants_of(image)? {
            return mismatch("image");
        }
        Ok(Machine::resume(image, self.memory, self.tree, cpu, *device)?)
    }

    /// Whether every page that no guest can write holds what genesis put there.
    fn has_constants_of(&self, image: &Image) -> Result<bool, IncomingError> {
        let map = MemoryMap::new(&image.extents(), self.memory.bytes())?;
        let genesis = initial_pages(&map, image.contents());
        let mut constants = (0..self.tree.count()).filter(|index| !is_writable(&map, *index));
        Ok(constants.all(|index| {
            let want = genesis.get(&index).map_or(ZERO_LEAF, |page| hash_page(page));
            self.tree.leaf(index) == Some(&want)
        }))
    }
}

fn is_writable(map: &MemoryMap, index: u32) -> bool {
    let address = u64::from(index) * abi::PAGE_BYTES;
    let holds = |region: &&crate::machine::layout::Region| region.range.contains(&address);
    map.regions().iter().find(holds).is_some_and(|region| region.access == Access::ReadWrite)
}

#[cfg(test)]
mod tests;
