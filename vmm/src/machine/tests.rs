//! What the machine makes of guests, well-behaved and not. All of it needs /dev/kvm and fails without it.

use proptest::prelude::*;
use proptest::test_runner::TestRunner;

use super::*;
use crate::tests::fixture::{
    DATA, KVM_NEEDED, MEMORY, ask, command, fill_input, probe, ring_input, work_input, worker,
};

fn crash(machine: &mut Machine, input: &[u8]) -> Box<CrashReport> {
    match ask(machine, input) {
        Exit::Crashed(report) => report,
        other => panic!("{input:?} did not crash the guest: {other:?}"),
    }
}

fn ring(machine: &mut Machine, value: u64, words: [u64; 3]) -> (i64, u64) {
    match ask(machine, &ring_input(value, words)) {
        Exit::Output(output) => result_and_pointer(&output),
        other => panic!("{other:?}"),
    }
}

fn result_and_pointer(output: &[u8]) -> (i64, u64) {
    (
        i64::from_le_bytes(output[..8].try_into().unwrap()),
        u64::from_le_bytes(output[8..16].try_into().unwrap()),
    )
}

#[test]
fn machine_measured_before_its_first_instruction_is_in_the_state_computed_without_kvm() {
    let image = worker();
    let mut machine = Machine::boot(&image, MEMORY).expect(KVM_NEEDED);
    assert_eq!(machine.cpu_state().unwrap(), CpuState::initial(image.entry()));
    let genesis = crate::genesis::genesis(&image, MEMORY).unwrap();
    let measured = machine.measure().unwrap();
    assert_eq!(measured.measurement, genesis.measurement);
    assert_eq!(measured.changed, genesis.pages.keys().copied().collect::<Vec<_>>());
    // Measuring again finds nothing new.
    let again = machine.measure().unwrap();
    assert_eq!((again.measurement, again.changed.len()), (genesis.measurement, 0));
}

#[test]
fn doorbells_are_served_and_counted() {
    let mut machine = probe(MEMORY);
    assert_eq!(machine.run().expect(KVM_NEEDED), Exit::WantsInput { capacity: 4096 });
    assert_eq!(machine.run().unwrap(), Exit::WantsInput { capacity: 4096 });
    assert_eq!(machine.position(), Position { inputs: 0, doorbells: 1 });
    assert_eq!(machine.device_state().pending, Pending::Recv);
    assert_eq!(machine.deliver(&[command::YIELD]).unwrap(), Delivery::Consumed);
    assert_eq!(machine.run().unwrap(), Exit::Yielded);
    assert_eq!(machine.position(), Position { inputs: 1, doorbells: 2 });
    assert!(matches!(machine.deliver(b"x"), Err(MachineError::NotWaiting)));
    let Exit::Output(output) = ask(&mut machine, &work_input(1, 10)) else { panic!("no output") };
    assert_eq!((output.len(), machine.position()), (64, Position { inputs: 2, doorbells: 4 }));
    // An empty input makes the program exit with the result of its receive.
    assert_eq!(ask(&mut machine, b""), Exit::Finished { code: 0 });
    assert_eq!(machine.run().unwrap(), Exit::Finished { code: 0 });
    assert_eq!(machine.device_state().exited, Some(0));
    machine.measure().unwrap();
}

#[test]
fn log_send_and_exit_carry_the_guests_bytes() {
    let mut machine = probe(MEMORY);
    // The receive buffer starts with the ring's own arguments.
    let words = [3, DATA + 8, 8];
    assert_eq!(ask(&mut machine, &ring_input(3, words)), Exit::Log(3u64.to_le_bytes().to_vec()));
    assert!(matches!(machine.run().unwrap(), Exit::Output(output) if output[..8] == [0; 8]));
    assert_eq!(ask(&mut machine, &ring_input(2, [2, DATA + 8, 0])), Exit::Output(vec![]));
    assert!(matches!(machine.run().unwrap(), Exit::Output(_)));
    assert_eq!(ask(&mut machine, &ring_input(5, [5, 77, u64::MAX])), Exit::Finished { code: 77 });
}

#[test]
fn every_exception_ends_the_guest_with_its_vector_and_address() {
    let page_fault = |code, address| (14, Some(code), Some(address));
    let cases = [
        (command::UD2, (6, None, None)),
        (command::DIVIDE, (0, None, None)),
        (command::WRITE_TEXT, page_fault(7, 0x20_0000)),
        (command::WRITE_NULL, page_fault(6, 0x10)),
        (command::RUN_DATA, page_fault(0x15, DATA)),
        (command::OVERFLOW, page_fault(6, 0xf_fff8)),
        (command::READ_TABLES, page_fault(5, 0x1000)),
        (command::WRITE_GUARD, page_fault(6, 0xf_f000)),
        (command::RUN_DOORBELL, page_fault(0x15, quorate_guest_abi::DOORBELL)),
        (command::NONCANONICAL, (13, Some(0), None)),
        (command::SIMD, (19, None, None)),
        (command::RDTSC, (13, Some(0), None)),
        (command::RDTSCP, (13, Some(0), None)),
        (command::CPUID, (13, Some(0), None)),
        (command::RDPMC, (13, Some(0), None)),
        (command::HLT, (13, Some(0), None)),
        (command::CLI, (13, Some(0), None)),
        (command::SGDT, (13, Some(0), None)),
        (command::PORT_IN, (13, Some(0), None)),
        (command::RDMSR, (13, Some(0), None)),
        (command::MOV_CR, (13, Some(0), None)),
    ];
    for (number, (vector, error_code, cr2)) in cases {
        let mut machine = probe(MEMORY);
        let report = crash(&mut machine, &[number]);
        assert_eq!(report.kind, CrashKind::Exception { vector, error_code }, "command {number}: {report}");
        assert_eq!(report.cr2, cr2, "command {number}: {report}");
        if number == command::OVERFLOW {
            assert_eq!(report.registers.general[crate::cpu::RSP], 0x10_0000);
        }
        assert_eq!(machine.run().unwrap(), Exit::Crashed(report), "a crash is final");
        assert!(matches!(machine.measure(), Err(MachineError::Terminal("Exception"))));
        assert!(matches!(machine.cpu_state(), Err(MachineError::Terminal(_))));
    }
}

#[test]
fn instructions_that_platforms_fault_on_differently_crash_everywhere() {
    for number in [command::INT3, command::INT80, command::SYSCALL, command::UNALIGNED_CHECK] {
        let report = crash(&mut probe(MEMORY), &[number]);
        assert_eq!(report.kind(), "Exception", "command {number}: {report}");
    }
}

#[test]
fn every_access_to_the_doorbell_but_one_store_is_a_crash() {
    let misuse = |offset, bytes, write| CrashKind::DoorbellMisuse {
        address: quorate_guest_abi::DOORBELL + offset,
        bytes,
        write,
    };
    let cases = [
        (command::STORE4, misuse(0, 4, true)),
        (command::LOAD8, misuse(0, 8, false)),
        (command::STORE_BESIDE, misuse(8, 8, true)),
        (command::STORE16, misuse(8, 8, true)),
        (command::STORE32, CrashKind::Emulation),
        (command::X87_STORE, CrashKind::Emulation),
        (command::XADD, misuse(0, 8, false)),
    ];
    for (number, kind) in cases {
        assert_eq!(crash(&mut probe(MEMORY), &[number]).kind, kind, "command {number}");
    }
    // The first store of a string instruction rings; the second one is beside the doorbell.
    let mut machine = probe(MEMORY);
    assert_eq!(ask(&mut machine, &[command::REP_STORE]), Exit::Yielded);
    assert!(matches!(machine.run().unwrap(), Exit::Crashed(report) if report.kind == misuse(8, 8, true)));
}

#[test]
fn crash_report_names_the_function_of_an_admitted_image() {
    // The worker has no symbols, so the report has none; with symbols it is the image that finds them.
    let mut machine = Machine::boot(&worker(), MEMORY).expect(KVM_NEEDED);
    let report = crash(&mut machine, &[command::UD2]);
    assert_eq!((report.symbol.clone(), report.registers.general[1]), (None, 0x6000), "{report}");
}

#[test]
fn refused_operations_are_results_and_the_guest_continues() {
    const FAULT: i64 = -1;
    const TOO_LARGE: i64 = -2;
    const UNKNOWN: i64 = -3;
    let end = MEMORY;
    let cases: [(u64, [u64; 3], i64); 24] = [
        (9, [9, 0, 0], UNKNOWN),
        (0, [0, 0, 0], UNKNOWN),
        (4, [2, 0, 0], UNKNOWN),
        (u64::MAX, [u64::MAX, 0, 0], UNKNOWN),
        (2, [2, DATA, 262_145], TOO_LARGE),
        (2, [2, u64::MAX, u64::MAX], TOO_LARGE),
        (3, [3, DATA, 1025], TOO_LARGE),
        (1, [1, DATA, 262_145], TOO_LARGE),
        (2, [2, u64::MAX, 1], FAULT),
        (2, [2, u64::MAX - 3, 8], FAULT),
        (2, [2, end - 4, 8], FAULT),
        (2, [2, end, 1], FAULT),
        (2, [2, 0, 1], FAULT),
        (2, [2, 0x1000, 8], FAULT),
        (2, [2, 0x5fff, 2], FAULT),
        (2, [2, 0x6fff, 2], FAULT),
        (2, [2, 0x2_0000, 8], FAULT),
        (2, [2, 0xf_ffff, 2], FAULT),
        (2, [2, quorate_guest_abi::DOORBELL, 8], FAULT),
        // Text may be sent but not received into.
        (1, [1, 0x20_0000, 8], FAULT),
        (1, [1, 0x3f_fffc, 8], FAULT),
        (1, [1, 0x1f_fffc, 8], FAULT),
        (1, [1, 0x1000, 8], FAULT),
        (2, [2, 0x1f_fffc, 8], FAULT),
    ];
    let mut machine = probe(MEMORY);
    for (value, words, want) in cases {
        let (result, pointer) = ring(&mut machine, value, words);
        assert_eq!((result, pointer), (want, words[1]), "{value} {words:x?}");
    }
    assert!(
        matches!(ask(&mut machine, &ring_input(2, [2, 0x20_0000, 8])), Exit::Output(bytes) if bytes.len() == 8)
    );
    assert_eq!(machine.page_tree().count(), 4096);
}

#[test]
fn hypercall_edge_values_in_every_argument_never_hurt_the_vmm() {
    let edges = [
        0,
        1,
        7,
        8,
        0xfff,
        0x1000,
        0x6000,
        0x1f_ffff,
        0x20_0000,
        DATA,
        MEMORY - 1,
        MEMORY,
        262_144,
        u32::MAX.into(),
        quorate_guest_abi::DOORBELL,
        i64::MAX as u64,
        1 << 63,
        u64::MAX - 1,
        u64::MAX,
    ];
    let mut machine = probe(MEMORY);
    let mut served = 0;
    for value in [1, 2, 3] {
        for pointer in edges {
            for length in edges {
                match ask(&mut machine, &ring_input(value, [value, pointer, length])) {
                    // The ring itself failed, and what we see is the report of its result.
                    Exit::Output(output) if output.len() == 16 && output[7] == 0xff => {}
                    Exit::WantsInput { .. } => {
                        assert_eq!(machine.deliver(b"").unwrap(), Delivery::Consumed);
                        served += 1;
                        assert!(matches!(machine.run().unwrap(), Exit::Output(_)));
                    }
                    Exit::Output(bytes) | Exit::Log(bytes) => {
                        assert_eq!(bytes.len() as u64, length);
                        served += 1;
                        assert!(matches!(machine.run().unwrap(), Exit::Output(_)));
                    }
                    other => panic!("{value} {pointer:#x} {length:#x}: {other:?}"),
                }
            }
        }
    }
    assert!(served > edges.len(), "{served} combinations were acceptable");
}

#[test]
fn random_rings_never_hurt_the_vmm() {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) };
    let near = prop_oneof![0..0x20_0000u64, DATA - 9..DATA + 9, MEMORY - 0x1000..MEMORY + 9, any::<u64>()];
    let rings = (0..7u64, 0..7u64, near, prop_oneof![0..32u64, 262_130..262_150u64, any::<u64>()]);
    let machine = std::cell::RefCell::new(probe(MEMORY));
    machine.borrow_mut().measure().unwrap();
    TestRunner::new(config)
        .run(&rings, |(value, named, pointer, length)| {
            let mut machine = machine.borrow_mut();
            if value == 5 && named == 5 {
                return Ok(());
            }
            let before = machine.page_tree().clone();
            let exit = ask(&mut machine, &ring_input(value, [named, pointer, length]));
            // A receive may overwrite whatever the program keeps, so it gets nothing.
            if matches!(exit, Exit::WantsInput { .. }) {
                prop_assert_eq!(machine.deliver(b"").unwrap(), Delivery::Consumed);
            }
            while !matches!(machine.run().unwrap(), Exit::WantsInput { .. }) {}
            let changed = machine.measure().unwrap().changed;
            prop_assert_eq!(&changed, &machine.page_tree().difference(&before));
            prop_assert!(changed.iter().all(|page| [6, 1024, 1025].contains(page)), "{:?}", changed);
            Ok(())
        })
        .unwrap();
}

#[test]
fn input_longer_than_the_buffer_is_refused_and_stays_first_in_line() {
    let mut machine = probe(MEMORY);
    assert_eq!(ask(&mut machine, &[command::SMALL_RECV]), Exit::WantsInput { capacity: 4 });
    let before = machine.position();
    assert_eq!(machine.deliver(b"12345").unwrap(), Delivery::Refused);
    assert_eq!(machine.position(), before);
    let Exit::Output(output) = machine.run().unwrap() else { panic!("no output") };
    assert_eq!(result_and_pointer(&output), (-4, 5));
    assert!(matches!(machine.run().unwrap(), Exit::WantsInput { capacity: 4096 }));
    let oversize = vec![0; 262_145];
    assert!(matches!(machine.deliver(&oversize), Err(MachineError::InputOversize { bytes: 262_145 })));
    assert_eq!(machine.deliver(&[command::YIELD]).unwrap(), Delivery::Consumed);
}

#[test]
fn every_single_bit_of_state_that_differs_is_seen_by_a_digest() {
    let mut machine = probe(MEMORY);
    ask(&mut machine, &work_input(77, 1000));
    let state = machine.cpu_state().unwrap();
    let initial = CpuState::initial(state.rip);
    assert_ne!(state.extended, initial.extended, "the worker leaves vector and x87 state behind");
    let before = machine.measure().unwrap();
    for page in [6, 512, 1024, 1026, 4095] {
        let address = u64::from(page) * 4096 + 1000;
        let mut byte = [0];
        machine.memory.read(address, &mut byte).unwrap();
        machine.memory.write(address, &[byte[0] ^ 0x10]).unwrap();
        machine.dirty.touch(address, 1);
        let after = machine.measure().unwrap();
        assert_eq!(after.changed, [page]);
        assert_ne!(after.measurement.page_root, before.measurement.page_root);
        machine.memory.write(address, &byte).unwrap();
        machine.dirty.touch(address, 1);
        assert_eq!(machine.measure().unwrap().measurement, before.measurement);
    }
}

#[test]
fn avx_512_state_is_part_of_the_digest_wherever_a_guest_can_reach_it() {
    let mut machine = probe(MEMORY);
    let before = machine.cpu_state().unwrap().extended;
    match ask(&mut machine, &[command::AVX512]) {
        Exit::Yielded => {}
        // XCR0 keeps it out of reach, or the processor has none.
        Exit::Crashed(report) => {
            assert!(matches!(report.kind, CrashKind::Exception { vector: 6, .. }), "{report}");
            return;
        }
        other => panic!("{other:?}"),
    }
    let state = machine.cpu_state().unwrap();
    let (bytes, before) = (state.extended.as_bytes(), before.as_bytes());
    for component in [1088..1152, 1152..1664, 1664..2688] {
        assert_ne!(bytes[component.clone()], before[component]);
    }
    // It survives a transfer as well.
    let map = machine.memory.page_count();
    assert_eq!(CpuState::decode(&state.encode()).unwrap(), state);
    let mut other = probe(u64::from(map) * 4096);
    other.vcpu.load(&state).unwrap();
    assert_eq!(other.cpu_state().unwrap().digest(), state.digest());
}

#[test]
fn way_of_finding_dirty_pages_follows_what_the_last_interval_cost() {
    let mut machine = probe(MEMORY);
    let mut interval = |pages| {
        ask(&mut machine, &fill_input(pages, 0x60_0000, pages, 4096));
        let changed = machine.measure().unwrap().changed.len() as u64;
        assert!(changed >= pages, "{changed} of {pages}");
        machine.dirty.is_logged()
    };
    assert_eq!(
        [2000, 2001, 3, 4, 5, 2002, 2003, 6].map(&mut interval),
        [false, false, true, true, true, false, false, true]
    );
}

#[test]
fn incremental_measurement_equals_a_full_rehash() {
    let mut runner =
        TestRunner::new(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(6) });
    // Enough changing sizes that the machine switches between the log and rehashing, in both directions.
    let fills = proptest::collection::vec((1u64..3000, any::<u64>(), 1u64..64), 6..12);
    runner
        .run(&fills, |fills| {
            let mut machine = probe(MEMORY);
            let mut previous = machine.page_tree().clone();
            for (pages, value, stride) in fills {
                let pages = pages.min((9 << 20) / (stride * 512));
                ask(&mut machine, &fill_input(pages, 0x60_0000, value, stride * 512));
                let measured = machine.measure().unwrap();
                let full: Vec<_> = (0..machine.memory.page_count())
                    .map(|index| crate::page_tree::hash_page(&machine.read_page(index)))
                    .collect();
                let full = PageTree::from_leaves(&full);
                prop_assert_eq!(measured.measurement.page_root.to_bytes(), full.root());
                prop_assert_eq!(measured.changed, full.difference(&previous));
                previous = full;
            }
            Ok(())
        })
        .unwrap();
}

#[test]
fn machines_move_between_threads_and_run_side_by_side() {
    let mut machines: Vec<_> = (0..4).map(|_| probe(MEMORY)).collect();
    for _ in 0..3 {
        machines = std::thread::scope(|scope| {
            let running: Vec<_> = machines
                .into_iter()
                .map(|mut machine| {
                    scope.spawn(move || {
                        ask(&mut machine, &work_input(9, 5000));
                        machine
                    })
                })
                .collect();
            running.into_iter().map(|thread| thread.join().unwrap()).collect()
        });
    }
    let measured: Vec<_> = machines.iter_mut().map(|machine| machine.measure().unwrap()).collect();
    assert!(measured.iter().all(|other| *other == measured[0]));
}

#[test]
fn memory_sizes_up_to_the_largest_boot_without_touching_memory() {
    for memory_bytes in [8 << 20, 1 << 30, 3 << 30, 16 << 30] {
        let mut machine = probe(memory_bytes);
        assert!(matches!(ask(&mut machine, &work_input(1, 1)), Exit::Output(_)));
        assert_eq!(machine.measure().unwrap().measurement.page_count, memory_bytes / 4096);
        // The last word of memory belongs to the heap and can be written.
        ask(&mut machine, &fill_input(1, memory_bytes - 8, 5, 8));
        assert_eq!(machine.read_page((memory_bytes / 4096) as u32 - 1)[4088], 5);
    }
}
