//! What the machine makes of an admitted guest that breaks every rule it can. Needs /dev/kvm and fails without it.

use std::time::Duration;

use quorate_guest_images::STRESS;
use quorate_stress::{Command, Knock, Misbehaviour, Place, Reply, Work};
use quorate_vmm::{CrashKind, CrashReport, Execution, Image, Stop};

const MEMORY: u64 = 32 << 20;

fn boot() -> Execution {
    let image = Image::admit(STRESS.elf).expect("the stress image is admissible");
    let mut execution = Execution::genesis(&image, MEMORY).expect("this test needs /dev/kvm");
    assert_eq!(run(&mut execution), Stop::Idle);
    execution
}

/// Runs past yields.
fn run(execution: &mut Execution) -> Stop {
    loop {
        match execution.run().unwrap() {
            Stop::Yielded => {}
            stop => return stop,
        }
    }
}

fn ask(execution: &mut Execution, command: Command) -> Stop {
    execution.feed(command.encode()).unwrap();
    run(execution)
}

fn misbehave(misbehaviour: Misbehaviour) -> (Execution, Stop) {
    let mut execution = boot();
    execution.set_watchdog(Some(Duration::from_secs(20))).unwrap();
    let stop = ask(&mut execution, Command::Misbehave(misbehaviour));
    (execution, stop)
}

fn crash(misbehaviour: Misbehaviour) -> Box<CrashReport> {
    match misbehave(misbehaviour) {
        (mut execution, Stop::Crashed(report)) => {
            assert_eq!(execution.cut().unwrap_err().kind(), "GuestTerminal", "a crash is never certified");
            report
        }
        (_, stop) => panic!("{misbehaviour:?} did not crash the guest: {stop:?}"),
    }
}

/// The answer to a misbehaviour that the guest survives.
fn result(misbehaviour: Misbehaviour) -> Option<i64> {
    let (mut execution, stop) = misbehave(misbehaviour);
    assert_eq!(stop, Stop::Idle, "{misbehaviour:?}");
    let outputs = execution.cut().unwrap().outputs;
    match Reply::decode(outputs.last().unwrap()).unwrap() {
        Reply::Result(result) => result,
        other => panic!("{misbehaviour:?}: {other:?}"),
    }
}

fn exception(report: &CrashReport) -> (u8, Option<u64>) {
    match report.kind {
        CrashKind::Exception { vector, error_code } => (vector, error_code),
        ref other => panic!("{other}: {report}"),
    }
}

#[test]
fn every_forbidden_access_is_a_page_fault_at_its_address_in_a_named_function() {
    const PRESENT: u64 = 1;
    const WRITE: u64 = 2;
    const USER: u64 = 4;
    const FETCH: u64 = 16;
    let unmapped = [Place::Null, Place::Guard, Place::BeyondMemory];
    let mut cases = vec![(Misbehaviour::Load(Place::Supervisor), USER | PRESENT)];
    for place in unmapped {
        cases.push((Misbehaviour::Store(place), USER | WRITE));
        cases.push((Misbehaviour::Load(place), USER));
        cases.push((Misbehaviour::Execute(place), USER | FETCH));
    }
    for place in [Place::Supervisor, Place::Code, Place::ReadOnlyData] {
        cases.push((Misbehaviour::Store(place), USER | WRITE | PRESENT));
    }
    for place in [Place::Supervisor, Place::Mailbox, Place::Stack, Place::ReadOnlyData] {
        cases.push((Misbehaviour::Execute(place), USER | FETCH | PRESENT));
    }
    for (misbehaviour, code) in cases {
        let report = crash(misbehaviour);
        assert_eq!(exception(&report), (14, Some(code)), "{misbehaviour:?}: {report}");
        let address = report.cr2.expect("a page fault has an address");
        if matches!(misbehaviour, Misbehaviour::Execute(_)) {
            assert_eq!(address, report.rip, "{misbehaviour:?}: {report}");
        } else {
            assert!(report.symbol.is_some(), "{misbehaviour:?}: {report}");
        }
    }
}

#[test]
fn every_other_fault_names_its_vector() {
    let cases = [
        (Misbehaviour::Load(Place::NonCanonical), 13),
        (Misbehaviour::Store(Place::NonCanonical), 13),
        (Misbehaviour::DivideByZero, 0),
        (Misbehaviour::InvalidOpcode, 6),
        (Misbehaviour::StackOverflow, 14),
    ];
    for (misbehaviour, vector) in cases {
        let report = crash(misbehaviour);
        assert_eq!(exception(&report).0, vector, "{misbehaviour:?}: {report}");
    }
    for misbehaviour in [Misbehaviour::MisalignedVector, Misbehaviour::Execute(Place::NonCanonical)] {
        exception(&crash(misbehaviour));
    }
}

#[test]
fn every_knock_that_is_no_ring_is_a_crash() {
    for knock in Knock::ALL {
        let report = crash(Misbehaviour::Knock(knock));
        let kinds = ["DoorbellMisuse", "Emulation"];
        assert!(kinds.contains(&report.kind()), "{knock:?}: {report}");
        assert!(report.symbol.is_some(), "{knock:?}: {report}");
    }
}

#[test]
fn spinning_guest_is_stopped_by_the_watchdog() {
    let mut execution = boot();
    execution.set_watchdog(Some(Duration::from_millis(500))).unwrap();
    match ask(&mut execution, Command::Misbehave(Misbehaviour::Spin)) {
        Stop::Crashed(report) => assert_eq!(report.kind(), "Watchdog", "{report}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn calls_with_edge_values_are_answered_and_hurt_nobody() {
    let edges = [0, 1, 0x5fff, 0x6000, 0x1f_ffff, 0x20_0000, MEMORY - 1, MEMORY, 1 << 38, 1 << 63, u64::MAX];
    let mut execution = boot();
    for operation in [1, 2, 3, 6, u64::MAX] {
        for pointer in edges {
            for length in edges {
                let call = Misbehaviour::Call { operation, pointer, length };
                assert_eq!(ask(&mut execution, Command::Misbehave(call)), Stop::Idle, "{call:?}");
            }
        }
    }
    let outputs = execution.cut().unwrap().outputs;
    assert!(outputs.len() >= 5 * edges.len() * edges.len());
    assert_eq!(result(Misbehaviour::Mismatch { stored: 2, operation: 3 }), Some(-3));
    assert_eq!(result(Misbehaviour::Call { operation: 1, pointer: 0x20_0000, length: 8 }), Some(-1));
}

#[test]
fn floods_are_bounded_and_panics_end_the_program() {
    assert_eq!(result(Misbehaviour::FloodYields { count: 5000 }), Some(0));
    let (mut execution, stop) = misbehave(Misbehaviour::FloodLogs { count: 5000 });
    assert_eq!(stop, Stop::Idle);
    let console = execution.take_console();
    assert!(console.dropped_bytes > 0 && console.lines.len() < 5000);
    assert_eq!(misbehave(Misbehaviour::Panic).1, Stop::Finished { code: 101 });
    // Whether the allocator or the panic handler ends the program is the guest runtime's affair.
    assert!(matches!(misbehave(Misbehaviour::HeapOverflow).1, Stop::Finished { code: 101 | 102 }));
}

#[test]
fn heavy_work_replays_to_the_same_digests_from_any_cut() {
    let work = Work {
        working_set_bytes: 8 << 20,
        pages_per_step: 300,
        integer_rounds: 2000,
        float_rounds: 2000,
        chase_steps: 2000,
    };
    let mut recorder = boot();
    assert_eq!(ask(&mut recorder, Command::Configure(work)), Stop::Idle);
    let mut cuts = vec![recorder.cut().unwrap()];
    for count in 1..12 {
        assert_eq!(ask(&mut recorder, Command::Step { count }), Stop::Idle);
        cuts.push(recorder.cut().unwrap());
    }
    let mut replayer = boot();
    for cut in &cuts {
        replayer.replay(&cut.inputs, cut.pages.measurement.position).unwrap();
        let again = replayer.cut().unwrap();
        assert_eq!(again.pages, cut.pages);
        assert_eq!((again.input_root, again.output_root), (cut.input_root, cut.output_root));
    }
    let end = cuts[cuts.len() - 1].pages.measurement;
    let inputs: Vec<_> = cuts.iter().flat_map(|cut| cut.inputs.clone()).collect();
    let mut at_once = boot();
    at_once.replay(&inputs, end.position).unwrap();
    assert_eq!(at_once.cut().unwrap().pages.measurement, end);
}
