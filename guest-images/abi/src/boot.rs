//! What the VMM tells a guest about its machine before the first instruction.

use crate::{ABI_VERSION, IMAGE_BASE, PAGE_BYTES, is_memory_size};

/// Boot information at [`mailbox::BOOT_INFO`](crate::mailbox::BOOT_INFO), part of the genesis memory and so certified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootInfo {
    /// [`ABI_VERSION`] of the machine.
    pub abi_version: u32,
    /// Size of memory in bytes.
    pub memory_bytes: u64,
    /// First address of the heap: the end of bss, rounded up to a page.
    pub heap_start: u64,
    /// First address behind the heap; equals `memory_bytes`.
    pub heap_end: u64,
}

/// Why boot information is unusable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BootInfoError {
    /// The machine speaks another version of the ABI.
    AbiVersion(u32),
    /// The reserved bytes are not zero.
    Reserved(u32),
    /// No machine may have this much memory.
    MemoryBytes(u64),
    /// The heap is not a page-aligned range between the image and the end of memory.
    Heap {
        /// Stated first address.
        start: u64,
        /// Stated first address behind it.
        end: u64,
    },
}

impl core::fmt::Display for BootInfoError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::AbiVersion(version) => write!(f, "ABI version {version}, expected {ABI_VERSION}"),
            Self::Reserved(value) => write!(f, "reserved bytes are {value:#x}, expected zero"),
            Self::MemoryBytes(bytes) => write!(f, "{bytes} is not a memory size"),
            Self::Heap { start, end } => write!(f, "{start:#x}..{end:#x} is not a heap"),
        }
    }
}

impl core::error::Error for BootInfoError {}

impl BootInfo {
    /// Size of the encoding.
    pub const BYTES: usize = 32;

    /// Boot information of this ABI version for a machine whose heap begins at `heap_start`.
    pub const fn new(memory_bytes: u64, heap_start: u64) -> Self {
        Self { abi_version: ABI_VERSION, memory_bytes, heap_start, heap_end: memory_bytes }
    }

    /// The bytes the VMM writes into the mailbox page.
    pub fn encode(&self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[0..4].copy_from_slice(&self.abi_version.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.memory_bytes.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.heap_start.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.heap_end.to_le_bytes());
        bytes
    }

    /// Decodes and checks every field.
    pub fn decode(bytes: &[u8; Self::BYTES]) -> Result<Self, BootInfoError> {
        let [v0, v1, v2, v3, r0, r1, r2, r3, rest @ ..] = *bytes;
        let word = |index: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&rest[index * 8..][..8]);
            u64::from_le_bytes(word)
        };
        let info = Self {
            abi_version: u32::from_le_bytes([v0, v1, v2, v3]),
            memory_bytes: word(0),
            heap_start: word(1),
            heap_end: word(2),
        };
        match u32::from_le_bytes([r0, r1, r2, r3]) {
            0 => info.check(),
            reserved => Err(BootInfoError::Reserved(reserved)),
        }
    }

    fn check(self) -> Result<Self, BootInfoError> {
        if self.abi_version != ABI_VERSION {
            return Err(BootInfoError::AbiVersion(self.abi_version));
        }
        if !is_memory_size(self.memory_bytes) {
            return Err(BootInfoError::MemoryBytes(self.memory_bytes));
        }
        let aligned = self.heap_start.is_multiple_of(PAGE_BYTES);
        let inside = self.heap_start > IMAGE_BASE && self.heap_start <= self.heap_end;
        if !aligned || !inside || self.heap_end != self.memory_bytes {
            return Err(BootInfoError::Heap { start: self.heap_start, end: self.heap_end });
        }
        Ok(self)
    }
}
