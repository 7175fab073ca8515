//! Guests for this crate's own tests: two programs in assembly, and an ELF around the one that is admitted.
//!
//! * [`WORKER`] passes admission: it answers inputs with floating-point, AVX and memory work, and rings arbitrary
//!   operations on demand.
//! * [`PROBE`] is the worker and, behind further commands, everything admission refuses or a program cannot express
//!   by accident; it is started without admission to show what the machine itself makes of it.

#![cfg(test)]

pub(crate) mod process;
mod program;

use quorate_guest_abi as abi;

use crate::image::Image;
use crate::machine::layout::{Access, Extent};
use crate::machine::{Exit, Machine, Program};

pub(crate) use program::command;

/// Memory of test machines, unless a test needs more.
pub(crate) const MEMORY: u64 = 16 << 20;
/// Where test programs keep their data.
pub(crate) const DATA: u64 = 0x40_0000;
/// Bytes of data a test program declares.
pub(crate) const DATA_BYTES: u64 = 0x3000;

/// Text of the program, without what admission refuses.
pub(crate) fn worker_text() -> &'static [u8] {
    program::worker_text()
}

/// The worker as an admitted image.
pub(crate) fn worker() -> Image {
    Image::admit(&elf(worker_text())).expect("the worker is admissible")
}

/// A machine that runs the probe.
pub(crate) fn probe(memory_bytes: u64) -> Machine {
    let text = program::probe_text();
    let program = Program {
        entry: abi::IMAGE_BASE,
        extents: vec![
            Extent { start: abi::IMAGE_BASE, bytes: text.len() as u64, access: Access::ReadExecute },
            Extent { start: DATA, bytes: DATA_BYTES, access: Access::ReadWrite },
        ],
        contents: vec![(abi::IMAGE_BASE, text)],
        image: None,
    };
    Machine::boot_program(program, memory_bytes).expect(KVM_NEEDED)
}

/// Tests of the machine need the real thing and fail without it.
pub(crate) const KVM_NEEDED: &str = "this test needs /dev/kvm";

/// Delivers one input and runs to the next stop.
pub(crate) fn ask(machine: &mut Machine, input: &[u8]) -> Exit {
    assert!(matches!(machine.run().expect(KVM_NEEDED), Exit::WantsInput { .. }));
    assert_eq!(machine.deliver(input).unwrap(), crate::machine::Delivery::Consumed);
    machine.run().unwrap()
}

/// An input that makes the program ring: value stored, word 0, word 1, word 2.
pub(crate) fn ring_input(value: u64, words: [u64; 3]) -> Vec<u8> {
    let mut input = vec![command::RING];
    input.resize(8, 0);
    for word in [value].into_iter().chain(words) {
        input.extend_from_slice(&word.to_le_bytes());
    }
    input
}

/// An input that makes the program compute for `rounds` and answer.
pub(crate) fn work_input(seed: u64, rounds: u64) -> Vec<u8> {
    let mut input = vec![command::WORK];
    input.resize(8, 0);
    for word in [seed, rounds] {
        input.extend_from_slice(&word.to_le_bytes());
    }
    input
}

/// An input that makes the program store `value` `count` times from `address` on, `stride` bytes apart.
pub(crate) fn fill_input(count: u64, address: u64, value: u64, stride: u64) -> Vec<u8> {
    let mut input = vec![command::FILL];
    input.resize(8, 0);
    for word in [count, address, value, stride] {
        input.extend_from_slice(&word.to_le_bytes());
    }
    input
}

/// A static ELF of one text segment and one data segment without file contents.
fn elf(text: &[u8]) -> Vec<u8> {
    const HEADERS: u64 = 64 + 2 * 56;
    let mut file = b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0".to_vec();
    let mut put = |bytes: &[u8]| file.extend_from_slice(bytes);
    put(&2u16.to_le_bytes());
    put(&62u16.to_le_bytes());
    put(&1u32.to_le_bytes());
    [abi::IMAGE_BASE, 64, 0].iter().for_each(|word| put(&word.to_le_bytes()));
    put(&0u32.to_le_bytes());
    [64u16, 56, 2, 0, 0, 0].iter().for_each(|half| put(&half.to_le_bytes()));
    let mut segment = |flags: u32, offset: u64, address: u64, file_bytes: u64, memory_bytes: u64| {
        put(&1u32.to_le_bytes());
        put(&flags.to_le_bytes());
        let align = abi::PAGE_BYTES;
        [offset, address, address, file_bytes, memory_bytes, align]
            .iter()
            .for_each(|word| put(&word.to_le_bytes()));
    };
    let text_offset = HEADERS.next_multiple_of(abi::PAGE_BYTES);
    segment(5, text_offset, abi::IMAGE_BASE, text.len() as u64, text.len() as u64);
    segment(6, 0, DATA, 0, DATA_BYTES);
    file.resize(text_offset as usize, 0);
    file.extend_from_slice(text);
    file
}
