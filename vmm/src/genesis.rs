//! The genesis of a machine, computed without KVM.
//!
//! Slot 0 of a VM is the state before the first instruction: supervisor region, image segments and boot information in
//! memory, [`CpuState::initial`], an untouched doorbell. Anyone who has the image and the memory size computes the same
//! measurement, so trust in a VM grows from its image and from nothing a host says.
//!
//! [`Machine::boot`](crate::machine::Machine::boot) fills its memory with [`write_memory`], which is also all that
//! [`genesis`] uses: the two cannot differ.

use std::collections::BTreeMap;

use quorate_attest::id::PageRoot;
use quorate_guest_abi as abi;

use crate::cpu::CpuState;
use crate::device::DeviceState;
use crate::image::Image;
use crate::machine::layout::{LayoutError, MemoryMap};
use crate::measurement::Measurement;
use crate::page_tree::{PAGE_BYTES, Page, PageTree, hash_page};

/// The state of slot 0.
#[derive(Clone, Debug)]
pub struct Genesis {
    /// Its digests.
    pub measurement: Measurement,
    /// Every page that is not zero.
    pub pages: BTreeMap<u32, Box<Page>>,
    /// The tree over all pages.
    pub tree: PageTree,
    /// The registers.
    pub cpu: CpuState,
    /// The doorbell.
    pub device: DeviceState,
}

/// Computes slot 0 of a VM of this image and memory size.
pub fn genesis(image: &Image, memory_bytes: u64) -> Result<Genesis, LayoutError> {
    let map = MemoryMap::new(&image.extents(), memory_bytes)?;
    let pages = initial_pages(&map, image.contents());
    let mut tree = PageTree::zero((memory_bytes / abi::PAGE_BYTES) as u32);
    let leaves: Vec<_> = pages.iter().map(|(index, page)| (*index, hash_page(page))).collect();
    tree.update(&leaves);
    let (cpu, device) = (CpuState::initial(image.entry()), DeviceState::default());
    let measurement = Measurement {
        position: device.position(),
        page_root: PageRoot::from_bytes(tree.root()),
        page_count: tree.count().into(),
        cpu: cpu.digest(),
        device: device.digest(),
    };
    Ok(Genesis { measurement, pages, tree, cpu, device })
}

/// Hands everything that memory holds before the first instruction to `sink`, as `(address, bytes)`.
pub(crate) fn write_memory<'a>(
    map: &MemoryMap,
    contents: impl IntoIterator<Item = (u64, &'a [u8])>,
    sink: &mut dyn FnMut(u64, &[u8]),
) {
    map.write_supervisor(sink);
    contents.into_iter().for_each(|(address, bytes)| sink(address, bytes));
}

/// The same as pages: those that are not zero.
pub(crate) fn initial_pages<'a>(
    map: &MemoryMap,
    contents: impl IntoIterator<Item = (u64, &'a [u8])>,
) -> BTreeMap<u32, Box<Page>> {
    let mut pages = BTreeMap::<u32, Box<Page>>::new();
    write_memory(map, contents, &mut |mut address, mut bytes| {
        while !bytes.is_empty() {
            let (index, offset) = ((address / abi::PAGE_BYTES) as u32, (address % abi::PAGE_BYTES) as usize);
            let (piece, rest) = bytes.split_at(bytes.len().min(PAGE_BYTES - offset));
            let page = pages.entry(index).or_insert_with(|| Box::new([0; PAGE_BYTES]));
            page[offset..offset + piece.len()].copy_from_slice(piece);
            (address, bytes) = (address + piece.len() as u64, rest);
        }
    });
    pages.retain(|_, page| !crate::page_tree::is_zero(page));
    pages
}

#[cfg(test)]
mod tests;
