//! What a Byzantine source can do to a stream of state, and what the receiver says about it.

use proptest::prelude::*;

use super::*;
use crate::execution::Execution;

const MEMORY_BYTES: u64 = 16 << 20;

/// A guest that has run for a while, its image and its state.
fn state() -> (Image, Checkpoint) {
    let image = Image::admit(quorate_guest_images::STRESS.elf).unwrap();
    let mut execution = Execution::genesis(&image, MEMORY_BYTES).unwrap();
    execution.run().unwrap();
    let cut = execution.cut().unwrap();
    let pages = PageSnapshot::of_machine(execution.machine());
    let checkpoint = Checkpoint::take(&mut execution, &cut.pages.measurement, &pages).unwrap();
    (image, checkpoint)
}

fn stream(checkpoint: &Checkpoint, alter: Option<&mut Alter<'_>>) -> Vec<u8> {
    let mut bytes = Vec::new();
    let moved = send(&mut bytes, checkpoint, alter).unwrap();
    assert_eq!(moved.bytes, bytes.len() as u64);
    bytes
}

fn take(image: &Image, checkpoint: &Checkpoint, mut bytes: &[u8]) -> Result<Received, StateStreamError> {
    let expected = Expected {
        image,
        memory_bytes: MEMORY_BYTES,
        measurement: checkpoint.measurement(),
        input_log: checkpoint.input_log.clone(),
        keep_pages: true,
    };
    receive(&mut bytes, &expected, &mut |_, _| {})
}

fn kind(image: &Image, checkpoint: &Checkpoint, bytes: &[u8]) -> &'static str {
    take(image, checkpoint, bytes).map(|_| "accepted").unwrap_or_else(|error| error.kind())
}

#[test]
fn what_arrives_is_what_was_sent() {
    let (image, checkpoint) = state();
    let received = take(&image, &checkpoint, &stream(&checkpoint, None)).unwrap();
    let mut machine = received.machine;
    assert_eq!(machine.measure().unwrap().measurement, checkpoint.measurement());
    let copy = received.checkpoint.unwrap();
    assert_eq!(copy.measurement(), checkpoint.measurement());
    assert_eq!(received.moved.pages, checkpoint.pages.tree().nonzero().count() as u64);
}

#[test]
fn a_flipped_bit_in_any_page_is_named_by_index() {
    let (image, checkpoint) = state();
    for target in checkpoint.pages.tree().nonzero() {
        let mut flip = |index: u32, page: &mut Page| {
            if index == target {
                page[(target as usize * 37) % PAGE_BYTES] ^= 1 << (target % 8);
            }
        };
        let error = take(&image, &checkpoint, &stream(&checkpoint, Some(&mut flip))).unwrap_err();
        assert!(
            matches!(error, StateStreamError::Incoming(IncomingError::ChunkHashMismatch { index }) if index == target),
            "{error}"
        );
    }
}

#[test]
fn two_exchanged_pages_are_refused() {
    let (image, checkpoint) = state();
    let pages: Vec<u32> = checkpoint.pages.tree().nonzero().collect();
    let (first, second) = (pages[0], pages[1]);
    let mut swap = |index: u32, page: &mut Page| {
        let other = if index == first { second } else { first };
        if index == first || index == second {
            *page = *checkpoint.pages.page(other).unwrap();
        }
    };
    assert_eq!(kind(&image, &checkpoint, &stream(&checkpoint, Some(&mut swap))), "ChunkHashMismatch");
}

#[test]
fn registers_or_leaves_of_another_slot_are_refused_by_component() {
    let (image, checkpoint) = state();
    let mut registers = checkpoint.clone();
    registers.cpu = CpuState::initial(image.entry());
    let error = take(&image, &checkpoint, &stream(&registers, None)).unwrap_err();
    assert!(error.to_string().contains("cpu"), "{error}");
    let mut memory = checkpoint.clone();
    memory.pages = PageSnapshot::genesis(&image, MEMORY_BYTES).unwrap();
    let error = take(&image, &checkpoint, &stream(&memory, None)).unwrap_err();
    assert!(error.to_string().contains("memory"), "{error}");
    let mut device = checkpoint.clone();
    device.device = DeviceState::default();
    let error = take(&image, &checkpoint, &stream(&device, None)).unwrap_err();
    assert!(error.to_string().contains("device"), "{error}");
}

#[test]
fn every_header_field_is_checked() {
    let (image, checkpoint) = state();
    let bytes = stream(&checkpoint, None);
    for at in 0..HEADER_BYTES {
        for value in [0, 1, 0xff] {
            let mut altered = bytes.clone();
            if altered[at] != value {
                altered[at] = value;
                assert_ne!(kind(&image, &checkpoint, &altered), "accepted", "byte {at} = {value}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_stream_that_breaks_off_anywhere_gives_no_machine(cut in any::<proptest::sample::Index>()) {
        let (image, checkpoint) = state();
        let bytes = stream(&checkpoint, None);
        let end = cut.index(bytes.len());
        prop_assert_ne!(kind(&image, &checkpoint, &bytes[..end]), "accepted");
    }

    #[test]
    fn any_flipped_bit_anywhere_is_refused(place in any::<proptest::sample::Index>(), bit in 0u8..8) {
        let (image, checkpoint) = state();
        let mut bytes = stream(&checkpoint, None);
        let at = place.index(bytes.len());
        bytes[at] ^= 1 << bit;
        prop_assert_ne!(kind(&image, &checkpoint, &bytes), "accepted", "byte {}", at);
    }
}
