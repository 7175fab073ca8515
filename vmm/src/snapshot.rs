//! Copies of a machine's pages at one slot.
//!
//! A [`PageSnapshot`] follows a machine: after each measurement it takes over the pages that changed. A clone of it is
//! a consistent copy of that slot, which serves pages and proofs while the VM runs on and the original follows it.
//! Pages, blocks of 128 pages and blocks of the page tree are shared between clones and copied when they change, so a
//! clone of 16 GiB is 65,536 reference counts; what a slot keeps alive is the pages that changed after it.
//!
//! A snapshot holds every non-zero page in ordinary memory: a VM with one costs twice its touched memory.

use std::sync::Arc;

use crate::genesis::genesis;
use crate::image::Image;
use crate::machine::Machine;
use crate::machine::layout::LayoutError;
use crate::page_tree::{Digest, PAGE_BYTES, Page, PageTree, ZERO_LEAF, hash_page};

/// Pages that clones share as one.
const BLOCK_PAGES: usize = 128;

static ZERO_PAGE: Page = [0; PAGE_BYTES];

/// All pages of a machine at one slot, and the tree over them.
#[derive(Clone)]
pub struct PageSnapshot {
    tree: PageTree,
    /// `None` is a zero page.
    blocks: Vec<Arc<[Option<Arc<Page>>]>>,
}

/// A page that does not have the digest of its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WrongPage;

impl PageSnapshot {
    /// The pages of slot 0.
    pub fn genesis(image: &Image, memory_bytes: u64) -> Result<Self, LayoutError> {
        let genesis = genesis(image, memory_bytes)?;
        let mut snapshot = Self::expecting(genesis.tree);
        for (index, page) in genesis.pages {
            snapshot.place(index, Some(Arc::from(page)));
        }
        Ok(snapshot)
    }

    /// The pages of a machine as of its last measurement, or at its start; it must not have run since.
    pub fn of_machine(machine: &Machine) -> Self {
        let mut snapshot = Self::expecting(machine.page_tree().clone());
        for index in machine.page_tree().nonzero() {
            snapshot.place(index, Some(Arc::from(machine.read_page(index))));
        }
        snapshot
    }

    /// Follows the machine to its last measurement, which found `changed`. It must not have run since.
    ///
    /// # Panics
    /// If another page differs as well: then a measurement was left out.
    pub fn apply(&mut self, machine: &Machine, changed: &[u32]) {
        let tree = machine.page_tree();
        let differing = tree.difference(&self.tree);
        let missed = differing.iter().find(|index| changed.binary_search(index).is_err());
        assert!(missed.is_none(), "page {missed:?} differs, but is not among the changed pages");
        self.tree = tree.clone();
        for index in differing {
            let zero = self.tree.leaf(index) == Some(&ZERO_LEAF);
            self.place(index, (!zero).then(|| Arc::from(machine.read_page(index))));
        }
    }

    /// A snapshot of pages still to come, which [`receive`](Self::receive) checks against this tree.
    pub(crate) fn expecting(tree: PageTree) -> Self {
        let count = tree.count() as usize;
        let block: Arc<[Option<Arc<Page>>]> = vec![None; BLOCK_PAGES].into();
        let mut blocks = vec![block; count / BLOCK_PAGES];
        if !count.is_multiple_of(BLOCK_PAGES) {
            blocks.push(vec![None; count % BLOCK_PAGES].into());
        }
        Self { tree, blocks }
    }

    /// The same pages with another tree; pages that differ are zero until they are received.
    pub(crate) fn advanced_to(&self, tree: PageTree) -> Self {
        let differing = tree.difference(&self.tree);
        let mut snapshot = Self { tree, blocks: self.blocks.clone() };
        for index in differing {
            snapshot.place(index, None);
        }
        snapshot
    }

    /// Takes a page that came from outside, if it has the digest of its place.
    pub(crate) fn receive(&mut self, index: u32, page: Arc<Page>) -> Result<(), WrongPage> {
        if self.tree.leaf(index) != Some(&hash_page(&page)) {
            return Err(WrongPage);
        }
        self.place(index, Some(page));
        Ok(())
    }

    pub(crate) fn place(&mut self, index: u32, page: Option<Arc<Page>>) {
        let block = &mut self.blocks[index as usize / BLOCK_PAGES];
        Arc::make_mut(block)[index as usize % BLOCK_PAGES] = page;
    }

    /// The contents of a page, `None` if there is no such page.
    pub fn page(&self, index: u32) -> Option<&Page> {
        let page = self.blocks.get(index as usize / BLOCK_PAGES)?.get(index as usize % BLOCK_PAGES)?;
        Some(page.as_deref().unwrap_or(&ZERO_PAGE))
    }

    /// The inclusion proof of a page, see [`PageTree::proof`].
    pub fn proof(&self, index: u32) -> Option<Vec<Digest>> {
        self.tree.proof(index)
    }

    /// The tree over the pages: root, leaves, page count, non-zero pages.
    pub fn tree(&self) -> &PageTree {
        &self.tree
    }

    /// Size of the machine's memory.
    pub fn memory_bytes(&self) -> u64 {
        u64::from(self.tree.count()) * PAGE_BYTES as u64
    }
}

impl std::fmt::Debug for PageSnapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PageSnapshot").field("tree", &self.tree).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
