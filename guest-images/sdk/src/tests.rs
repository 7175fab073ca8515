//! Host tests of the parts that do not need the machine.

extern crate std;

use core::alloc::{GlobalAlloc, Layout};
use std::alloc::System;
use std::boxed::Box;
use std::vec::Vec;

use proptest::prelude::*;

use crate::{Heap, Line, console::prefix, memory};

/// A heap over its own block of the host's memory.
struct Arena {
    heap: Heap,
    block: *mut u8,
    layout: Layout,
}

impl Arena {
    fn new(bytes: usize) -> Self {
        let layout = Layout::from_size_align(bytes, 4096).unwrap();
        // SAFETY: the size is not zero; the block outlives the heap and is freed only with it.
        unsafe {
            let block = System.alloc_zeroed(layout);
            let heap = Heap::new();
            assert!(heap.claim(block, bytes));
            Self { heap, block, layout }
        }
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        // SAFETY: allocated in `new` with the same layout.
        unsafe { System.dealloc(self.block, self.layout) };
    }
}

/// A live allocation whose bytes are all `mark`.
struct Block {
    at: *mut u8,
    layout: Layout,
    mark: u8,
}

impl Block {
    fn allocate(heap: &Heap, layout: Layout, mark: u8) -> Option<Self> {
        // SAFETY: the layout is not empty, and the block is `layout.size()` bytes long.
        unsafe {
            let at = heap.alloc(layout);
            if at.is_null() {
                return None;
            }
            assert_eq!(at as usize % layout.align(), 0);
            memory::fill(at, mark, layout.size());
            Some(Self { at, layout, mark })
        }
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: live, initialised and `layout.size()` bytes long.
        unsafe { core::slice::from_raw_parts(self.at, self.layout.size()) }
    }

    fn check(&self) {
        assert!(self.bytes().iter().all(|byte| *byte == self.mark), "another block overwrote this one");
    }

    fn resize(&mut self, heap: &Heap, size: usize) {
        // SAFETY: live block of this layout; the new size is not zero.
        let moved = unsafe { heap.realloc(self.at, self.layout, size) };
        if moved.is_null() {
            return;
        }
        let kept = self.layout.size().min(size);
        self.at = moved;
        self.layout = Layout::from_size_align(size, self.layout.align()).unwrap();
        assert!(self.bytes()[..kept].iter().all(|byte| *byte == self.mark), "realloc lost bytes");
        // SAFETY: the block is `size` bytes long.
        unsafe { memory::fill(self.at, self.mark, size) };
    }

    fn free(self, heap: &Heap) {
        self.check();
        // SAFETY: live block of this layout.
        unsafe { heap.dealloc(self.at, self.layout) };
    }
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).unwrap()
}

#[derive(Clone, Debug)]
enum Step {
    Allocate { size: usize, align: u32, mark: u8 },
    Resize { which: usize, size: usize },
    Free { which: usize },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let size = || prop_oneof![1usize..64, 1usize..5000, 1usize..200_000];
    let step = prop_oneof![
        3 => (size(), 0u32..8, 1u8..).prop_map(|(size, align, mark)| Step::Allocate { size, align, mark }),
        1 => (any::<usize>(), size()).prop_map(|(which, size)| Step::Resize { which, size }),
        2 => any::<usize>().prop_map(|which| Step::Free { which }),
    ];
    proptest::collection::vec(step, 1..200)
}

proptest! {
    #[test]
    fn live_blocks_never_overlap_and_everything_freed_can_be_used_again(steps in steps()) {
        let arena = Arena::new(4 << 20);
        let largest = layout(4_000_000);
        let mut live: Vec<Block> = Vec::new();
        for step in steps {
            match step {
                Step::Allocate { size, align, mark } => {
                    let layout = Layout::from_size_align(size, 1 << align).unwrap();
                    live.extend(Block::allocate(&arena.heap, layout, mark));
                }
                Step::Resize { which, size } if !live.is_empty() => {
                    let which = which % live.len();
                    live[which].resize(&arena.heap, size);
                }
                Step::Free { which } if !live.is_empty() => {
                    live.swap_remove(which % live.len()).free(&arena.heap);
                }
                Step::Resize { .. } | Step::Free { .. } => {}
            }
            live.iter().for_each(Block::check);
        }
        live.into_iter().for_each(|block| block.free(&arena.heap));
        // Only if all the pieces merged again is there room for nearly the whole arena.
        let block = Block::allocate(&arena.heap, largest, 7);
        prop_assert!(block.is_some(), "memory was lost");
    }

    #[test]
    fn copy_fill_and_compare_agree_with_the_slice_operations(
        length in prop_oneof![0usize..80, 0usize..2000],
        from in 0usize..70, to in 0usize..70, value: u8, seed: u8,
    ) {
        let pattern: Vec<u8> = (0..2200usize).map(|at| (at.wrapping_mul(31) ^ usize::from(seed)) as u8).collect();
        let mut expected = pattern.clone();
        let mut actual = pattern.clone();
        expected.copy_within(from..from + length, to);
        let base = actual.as_mut_ptr();
        // SAFETY: both ranges lie inside the vector.
        unsafe { memory::copy_overlapping(base.add(to), base.add(from), length) };
        prop_assert_eq!(&actual, &expected);

        // SAFETY: two different vectors, ranges inside both.
        unsafe { memory::copy(actual.as_mut_ptr().add(from), pattern.as_ptr().add(to), length) };
        expected[from..from + length].copy_from_slice(&pattern[to..to + length]);
        prop_assert_eq!(&actual, &expected);

        let order = expected[from..from + length].cmp(&pattern[to..to + length]) as i32;
        // SAFETY: ranges inside both vectors.
        let compared = unsafe { memory::compare(actual.as_ptr().add(from), pattern.as_ptr().add(to), length) };
        prop_assert_eq!(compared.signum(), order);

        // SAFETY: the range lies inside the vector.
        unsafe { memory::fill(actual.as_mut_ptr().add(to), value, length) };
        expected[to..to + length].fill(value);
        prop_assert_eq!(&actual, &expected);
    }

    #[test]
    fn console_lines_are_cut_at_a_character_boundary(text in "\\PC{0,700}", room in 0usize..2000) {
        let kept = prefix(&text, room);
        prop_assert!(text.starts_with(kept) && kept.len() <= room);
        let line = Line::of(format_args!("{text}"));
        prop_assert_eq!(line.as_str(), prefix(&text, 1024));
    }
}

#[test]
fn freed_bytes_are_zero_except_for_the_allocators_own_links() {
    let arena = Arena::new(1 << 20);
    let secret = Block::allocate(&arena.heap, layout(8192), 0xa5).unwrap();
    let _neighbour = Block::allocate(&arena.heap, layout(64), 1).unwrap();
    let (at, offset) = (secret.at, secret.at as usize - arena.block as usize);
    secret.free(&arena.heap);
    // SAFETY: the bytes still belong to the arena, which lives on.
    let left = unsafe { core::slice::from_raw_parts(arena.block.add(offset), 8192) };
    assert_eq!(left.as_ptr(), at.cast_const());
    assert!(!left.contains(&0xa5));
    assert!(left.iter().filter(|byte| **byte != 0).count() <= 40);
}

#[test]
fn shrinking_erases_what_is_given_back() {
    let arena = Arena::new(1 << 20);
    let mut block = Block::allocate(&arena.heap, layout(4096), 0xa5).unwrap();
    let at = block.at;
    block.resize(&arena.heap, 100);
    assert_eq!(block.at, at);
    // SAFETY: the bytes still belong to the arena, which lives on.
    assert!(!unsafe { core::slice::from_raw_parts(at.add(100), 3996) }.contains(&0xa5));
}

#[test]
fn a_full_heap_refuses_and_recovers() {
    let arena = Arena::new(1 << 20);
    let mut blocks: Vec<Block> =
        core::iter::from_fn(|| Block::allocate(&arena.heap, layout(1000), 3)).collect();
    assert!(blocks.len() > 950);
    assert!(Block::allocate(&arena.heap, layout(100_000), 4).is_none());
    let half: Vec<Block> = blocks.split_off(blocks.len() / 2);
    half.into_iter().for_each(|block| block.free(&arena.heap));
    let large = Block::allocate(&arena.heap, layout(400_000), 4).expect("freed neighbours merge");
    large.check();
    blocks.iter().for_each(Block::check);
}

#[test]
fn equal_requests_get_equal_addresses_in_two_machines() {
    let run = || {
        let arena = Arena::new(1 << 20);
        let mut live: Vec<Block> = Vec::new();
        let mut addresses = Vec::new();
        for step in 0..2000usize {
            let size = (step * 7919) % 700 + 1;
            let block = Block::allocate(&arena.heap, layout(size), step as u8).unwrap();
            addresses.push(block.at as usize - arena.block as usize);
            live.push(block);
            if step % 3 != 0 {
                let which = (step * 31) % live.len();
                live.swap_remove(which).free(&arena.heap);
            }
        }
        addresses
    };
    assert_eq!(run(), run());
}

#[test]
fn a_claim_too_small_for_the_tables_is_refused() {
    let mut block = Box::new([0u64; 4]);
    // SAFETY: the block outlives the heap; one thread.
    let heap = unsafe { Heap::new() };
    // SAFETY: the range is the box, and nobody else uses it.
    assert!(!unsafe { heap.claim(block.as_mut_ptr().cast(), 32) });
}
