//! The heap: the `talc` allocator over one range of memory, with freed buffers overwritten.

use core::alloc::{GlobalAlloc, Layout};
use core::cell::UnsafeCell;
use core::ptr::null_mut;

use talc::{DefaultBinning, base::Talc, source::Manual};

use crate::memory;

/// A heap over one range of memory, for a program of a single thread.
///
/// Frees return to the heap at once and merge with free neighbours, so memory that was given back can serve a request of
/// any other size. Each freed byte is set to zero first (the allocator then keeps its own links in it): what a client
/// deleted leaves neither the checkpoints nor the page root dependent on how it came to be there.
///
/// Free pieces are kept in lists by size, so what a request costs does not depend on how many buffers are live; only
/// pieces of hundreds of MiB share one list.
pub struct Heap {
    inner: UnsafeCell<Talc<Manual, DefaultBinning>>,
}

// SAFETY: `Heap::new` demands that only one thread ever uses the heap; `Sync` only lets it stand in a static.
unsafe impl Sync for Heap {}

impl Heap {
    /// An empty heap, which refuses every request until [`claim`](Self::claim).
    ///
    /// # Safety
    ///
    /// Only one thread may ever use it, and never from within one of its own calls. A guest has one thread and no
    /// interrupts.
    pub const unsafe fn new() -> Self {
        Self { inner: UnsafeCell::new(Talc::new(Manual)) }
    }

    /// Gives `size` bytes from `start` to the heap; returns whether they suffice for its tables.
    ///
    /// # Safety
    ///
    /// The range must be valid for reads and writes and belong to nobody else for as long as the heap or anything
    /// allocated from it lives.
    pub unsafe fn claim(&self, start: *mut u8, size: usize) -> bool {
        // SAFETY: one thread (contract of `new`), no reference outlives this call; the range is the caller's promise.
        unsafe { (*self.inner.get()).claim(start, size).is_some() }
    }
}

// SAFETY: `Talc` serves disjoint, aligned blocks of the size asked for; `realloc` keeps the common prefix.
unsafe impl GlobalAlloc for Heap {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: one thread (contract of `new`); the size is not zero (contract of `GlobalAlloc`).
        unsafe { (*self.inner.get()).allocate(layout) }.map_or(null_mut(), |block| block.as_ptr())
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller gives up a live block of this layout, so we may write to all of it, then free it.
        unsafe {
            memory::fill(block, 0, layout.size());
            (*self.inner.get()).deallocate(block, layout);
        }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        if new_size <= layout.size() {
            // SAFETY: the caller gives up the bytes behind `new_size`; the block is live and has this layout.
            unsafe {
                memory::fill(block.add(new_size), 0, layout.size() - new_size);
                (*self.inner.get()).shrink(block, layout, new_size);
            }
            return block;
        }
        // SAFETY: the block is live and has this layout, the new size is larger.
        if unsafe { (*self.inner.get()).try_grow_in_place(block, layout, new_size) } {
            return block;
        }
        // SAFETY: `new_size` rounded up to the alignment does not overflow (contract of `GlobalAlloc`); the old block is
        // live and at least `layout.size()` long, the new one is longer, and they are disjoint.
        unsafe {
            let fresh = self.alloc(Layout::from_size_align_unchecked(new_size, layout.align()));
            if !fresh.is_null() {
                memory::copy(fresh, block, layout.size());
                self.dealloc(block, layout);
            }
            fresh
        }
    }
}
