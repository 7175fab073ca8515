//! States from a stranger. All of it needs /dev/kvm and fails without it.

use super::*;
use crate::machine::Exit;
use crate::tests::fixture::{DATA, KVM_NEEDED, MEMORY, ask, fill_input, work_input, worker};

/// A machine with over a thousand non-zero pages, and its state.
fn source() -> (Machine, Measurement, CpuState, DeviceState) {
    let mut machine = Machine::boot(&worker(), MEMORY).expect(KVM_NEEDED);
    ask(&mut machine, &fill_input(1100, 0x80_0000, 0x0123_4567_89ab_cdef, 4096 + 8));
    ask(&mut machine, &work_input(3, 50));
    assert!(matches!(machine.run().unwrap(), Exit::WantsInput { .. }));
    let measurement = machine.measure().unwrap().measurement;
    let (cpu, device) = (machine.cpu_state().unwrap(), machine.device_state());
    (machine, measurement, cpu, device)
}

fn leaves(machine: &Machine) -> Vec<Digest> {
    machine.page_tree().leaves().copied().collect()
}

fn filled(machine: &Machine, measurement: &Measurement) -> IncomingMachine {
    let mut incoming = IncomingMachine::new(MEMORY, leaves(machine), measurement).unwrap();
    for index in machine.page_tree().nonzero() {
        incoming.write_page(index, &machine.read_page(index)[..]).unwrap();
    }
    incoming
}

#[test]
fn one_flipped_bit_in_each_of_a_thousand_pages_is_named_by_index() {
    let (machine, measurement, cpu, device) = source();
    let mut incoming = filled(&machine, &measurement);
    let seed = 0x7a3b_1101u64;
    let pages: Vec<u32> = machine.page_tree().nonzero().collect();
    let mut tampered = 0;
    let mut state = seed;
    for index in pages.iter().copied().chain([0, (MEMORY / 4096) as u32 - 1]) {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let mut page = machine.read_page(index);
        page[(state >> 40) as usize % 4096] ^= 1 << (state >> 60 & 7);
        match incoming.write_page(index, &page[..]) {
            Err(IncomingError::ChunkHashMismatch { index: named }) => {
                assert_eq!(named, index, "seed {seed:#x}")
            }
            other => panic!("page {index} passed: {other:?}, seed {seed:#x}"),
        }
        // A refused page is missing, whatever was there before.
        assert!(incoming.wanted().any(|wanted| wanted == index));
        incoming.write_page(index, &machine.read_page(index)[..]).unwrap();
        tampered += 1;
    }
    assert!(tampered > 1000);
    incoming.finish(&worker(), &cpu, &device).unwrap();
}

#[test]
fn missing_pages_keep_the_machine_from_starting() {
    let (machine, measurement, cpu, device) = source();
    let mut incoming = IncomingMachine::new(MEMORY, leaves(&machine), &measurement).unwrap();
    let wanted: Vec<u32> = incoming.wanted().collect();
    assert_eq!(wanted, machine.page_tree().nonzero().collect::<Vec<_>>());
    for index in &wanted[1..] {
        incoming.write_page(*index, &machine.read_page(*index)[..]).unwrap();
    }
    let error = incoming.finish(&worker(), &cpu, &device).unwrap_err();
    assert!(
        matches!(error, IncomingError::PagesMissing { count: 1, first } if first == wanted[0]),
        "{error}"
    );
}

#[test]
fn splice_of_any_component_is_refused_by_name() {
    let (mut machine, measurement, cpu, device) = source();
    ask(&mut machine, &work_input(4, 50));
    assert!(matches!(machine.run().unwrap(), Exit::WantsInput { .. }));
    let other_leaves = leaves(&machine);
    let next = machine.measure().unwrap().measurement;
    let (next_cpu, next_device) = (machine.cpu_state().unwrap(), machine.device_state());
    // Memory of the next slot under the root of this one, and the reverse.
    let error = IncomingMachine::new(MEMORY, leaves(&machine), &measurement).unwrap_err();
    assert!(matches!(error, IncomingError::RootMismatch { component: "memory" }));
    let error = IncomingMachine::new(MEMORY, other_leaves, &next).unwrap_err();
    assert!(matches!(error, IncomingError::RootMismatch { component: "memory" }));
    let refused =
        |expected: &Measurement, cpu: &CpuState, device: &DeviceState| match filled(&machine, expected)
            .finish(&worker(), cpu, device)
        {
            Err(IncomingError::RootMismatch { component }) => component,
            other => panic!("{other:?}"),
        };
    assert_eq!(refused(&next, &cpu, &next_device), "cpu");
    assert_eq!(refused(&next, &next_cpu, &device), "device");
    assert_eq!(refused(&next, &cpu, &device), "cpu");
    let moved = Measurement { position: measurement.position, ..next };
    assert_eq!(refused(&moved, &next_cpu, &next_device), "device");
    filled(&machine, &next).finish(&worker(), &next_cpu, &next_device).unwrap();
}

#[test]
fn memory_whose_tables_or_text_are_not_the_images_is_refused_even_if_certified() {
    let (machine, measurement, cpu, device) = source();
    for index in [1u32, 4, 8, 14, 16, 512, 700] {
        let mut leaves = leaves(&machine);
        let mut page = machine.read_page(index);
        page[123] ^= 0x40;
        leaves[index as usize] = hash_page(&page);
        let page_root = PageRoot::from_bytes(PageTree::from_leaves(&leaves).root());
        let certified = Measurement { page_root, ..measurement };
        let mut incoming = IncomingMachine::new(MEMORY, leaves, &certified).unwrap();
        let wanted: Vec<u32> = incoming.wanted().collect();
        for wanted in wanted {
            let original = machine.read_page(wanted);
            incoming.write_page(wanted, if wanted == index { &page[..] } else { &original[..] }).unwrap();
        }
        let error = incoming.finish(&worker(), &cpu, &device).unwrap_err();
        assert!(matches!(error, IncomingError::RootMismatch { component: "image" }), "page {index}: {error}");
    }
}

#[test]
fn pages_and_leaves_of_wrong_number_or_size_are_refused() {
    let (machine, measurement, ..) = source();
    let count = (MEMORY / 4096) as u32;
    let mut incoming = IncomingMachine::new(MEMORY, leaves(&machine), &measurement).unwrap();
    for (index, bytes) in [(count, 4096), (u32::MAX, 4096), (0, 4095), (0, 4097), (1, 0)] {
        let error = incoming.write_page(index, &vec![0; bytes]).unwrap_err();
        assert!(matches!(error, IncomingError::PageInvalid { .. }), "{index} {bytes}");
    }
    let short = leaves(&machine)[1..].to_vec();
    assert!(matches!(
        IncomingMachine::new(MEMORY, short, &measurement),
        Err(IncomingError::LeafCount { .. })
    ));
    let lied = Measurement { page_count: 1, ..measurement };
    assert!(matches!(
        IncomingMachine::new(MEMORY, leaves(&machine), &lied),
        Err(IncomingError::LeafCount { .. })
    ));
    for bytes in [0, 4096, MEMORY + 4096, u64::MAX] {
        assert!(IncomingMachine::new(bytes, vec![], &measurement).is_err(), "{bytes}");
    }
}

#[test]
fn state_that_waits_for_an_input_without_a_valid_mailbox_is_refused() {
    // Genesis never rang, so a device that claims to wait contradicts its mailbox.
    let image = worker();
    let mut machine = Machine::boot(&image, MEMORY).expect(KVM_NEEDED);
    let mut measurement = machine.measure().unwrap().measurement;
    let device = DeviceState { pending: crate::device::Pending::Recv, ..DeviceState::default() };
    measurement.device = device.digest();
    let error = filled(&machine, &measurement).finish(&image, &CpuState::initial(image.entry()), &device);
    assert!(error.is_err());
    assert_eq!(machine.read_page((DATA / 4096) as u32)[0], 0);
}
