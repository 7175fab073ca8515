//! The stress guest: equal work everywhere, and every misbehaviour ends as its machine promises.

use quorate_guest_abi::{DOORBELL, LOG_BYTES_MAX, OUTPUT_BYTES_MAX, exit_code};
use quorate_guest_images::STRESS;
use quorate_stress::{Command, Knock, Misbehaviour, Place, Reply, Stress, Work};
use quorate_vmm::CrashKind;

use super::guest::{End, Guest};

const MEMORY: u64 = 32 << 20;

fn work() -> Work {
    Work {
        working_set_bytes: 16 << 20,
        pages_per_step: 50,
        integer_rounds: 1000,
        float_rounds: 100,
        chase_steps: 1000,
    }
}

fn reply(guest: &mut Guest, command: &Command) -> Reply {
    let reaction = guest.feed(&command.encode());
    let [output] = &reaction.outputs[..] else { panic!("{command:?}: {reaction:?}") };
    Reply::decode(output).expect("a reply")
}

/// How a fresh guest ends that misbehaves like this.
fn end_of(misbehaviour: Misbehaviour) -> (End, Vec<String>) {
    let reaction = Guest::boot(STRESS, MEMORY).feed(&Command::Misbehave(misbehaviour).encode());
    assert!(reaction.outputs.is_empty(), "{misbehaviour:?} had no effect: {reaction:?}");
    (reaction.end, reaction.console)
}

fn crash_of(misbehaviour: Misbehaviour) -> CrashKind {
    match end_of(misbehaviour).0 {
        End::Crashed(report) => report.kind,
        other => panic!("{misbehaviour:?} ended in {other:?}"),
    }
}

fn vector_of(misbehaviour: Misbehaviour) -> u8 {
    match crash_of(misbehaviour) {
        CrashKind::Exception { vector, .. } => vector,
        other => panic!("{misbehaviour:?} ended in {other:?}"),
    }
}

#[test]
fn the_guest_computes_what_the_library_computes_and_two_guests_end_in_equal_states() {
    let commands = [
        Command::Configure(work()),
        Command::Fill { bytes: 16 << 20, seed: 5 },
        Command::Step { count: 20 },
        Command::Step { count: 1 },
    ];
    let mut library = Stress::new(MEMORY);
    let (mut first, mut second) = (Guest::boot(STRESS, MEMORY), Guest::boot(STRESS, MEMORY));
    for command in commands {
        let outcome = library.apply(&command.encode(), &mut || {});
        assert_eq!(outcome, quorate_stress::Outcome::Reply(reply(&mut first, &command)), "{command:?}");
        reply(&mut second, &command);
        assert_eq!(first.measure(), second.measure());
    }
}

#[test]
fn outputs_and_exit_codes_are_as_commanded() {
    let mut guest = Guest::boot(STRESS, MEMORY);
    let reaction = guest.feed(&Command::Emit { count: 3, bytes: OUTPUT_BYTES_MAX as u32 }.encode());
    assert_eq!(reaction.outputs.iter().map(Vec::len).collect::<Vec<_>>(), [262_144; 3]);
    assert_eq!(reaction.outputs[2][..4], [2, 0, 0, 0]);
    assert_eq!(guest.feed(&Command::Emit { count: 2, bytes: 0 }.encode()).outputs, [[], []]);
    let end = guest.feed(&Command::Exit { code: 42 }.encode()).end;
    assert!(matches!(end, End::Finished(42)), "{end:?}");
}

#[test]
fn stores_loads_and_jumps_to_forbidden_places_crash_the_guest() {
    const GENERAL_PROTECTION: u8 = 13;
    const PAGE_FAULT: u8 = 14;
    let fault = |place| if place == Place::NonCanonical { GENERAL_PROTECTION } else { PAGE_FAULT };
    for place in Place::ALL {
        if !matches!(place, Place::Mailbox | Place::Stack) {
            assert_eq!(vector_of(Misbehaviour::Store(place)), fault(place), "store to {place:?}");
        }
        if !matches!(place, Place::Mailbox | Place::Stack | Place::Code | Place::ReadOnlyData) {
            assert_eq!(vector_of(Misbehaviour::Load(place)), fault(place), "load from {place:?}");
        }
        if place != Place::Code {
            assert_eq!(vector_of(Misbehaviour::Execute(place)), fault(place), "jump to {place:?}");
        }
    }
}

#[test]
fn exceptions_crash_the_guest_with_their_vector() {
    assert_eq!(vector_of(Misbehaviour::DivideByZero), 0);
    assert_eq!(vector_of(Misbehaviour::InvalidOpcode), 6);
    assert_eq!(vector_of(Misbehaviour::MisalignedVector), 13);
    assert_eq!(vector_of(Misbehaviour::StackOverflow), 14);
}

#[test]
fn touching_the_doorbell_otherwise_crashes_the_guest() {
    for knock in Knock::ALL {
        match crash_of(Misbehaviour::Knock(knock)) {
            CrashKind::DoorbellMisuse { address, .. } => {
                assert!((DOORBELL..DOORBELL + 4096).contains(&address))
            }
            // A vector access there cannot be emulated everywhere.
            other => {
                assert!(matches!(knock, Knock::Store16 | Knock::Store32), "{knock:?} ended in {other:?}")
            }
        }
    }
}

#[test]
fn a_guest_that_never_rings_is_killed() {
    assert!(matches!(end_of(Misbehaviour::Spin).0, End::Crashed(report) if report.kind() == "Watchdog"));
}

#[test]
fn a_panic_and_a_full_heap_log_where_and_exit_with_the_fixed_code() {
    for (misbehaviour, text) in
        [(Misbehaviour::Panic, "told to panic"), (Misbehaviour::HeapOverflow, "memory allocation of")]
    {
        let (end, console) = end_of(misbehaviour);
        assert!(matches!(end, End::Finished(exit_code::PANIC)), "{end:?}");
        let line = console.last().expect("a line");
        assert!(line.contains(text) && line.contains(".rs:"), "{line}");
    }
}

#[test]
fn calls_with_every_edge_value_are_refused_and_the_guest_serves_on() {
    let mut guest = Guest::boot(STRESS, MEMORY);
    let call =
        |operation, pointer, length| Command::Misbehave(Misbehaviour::Call { operation, pointer, length });
    let edges = [
        0,
        1,
        8,
        0x1000,
        0x5fff,
        0x6fff,
        0x2_0000,
        0x20_0000,
        MEMORY - 1,
        MEMORY,
        DOORBELL,
        1 << 63,
        u64::MAX,
    ];
    for pointer in edges {
        for length in [1, 2, LOG_BYTES_MAX, LOG_BYTES_MAX + 1, 262_144, 262_145, 1 << 32, 1 << 63, u64::MAX] {
            for (operation, limit) in [(1, 262_144), (2, 262_144), (3, LOG_BYTES_MAX)] {
                let reaction = guest.feed(&call(operation, pointer, length).encode());
                assert!(
                    matches!(reaction.end, End::Waiting),
                    "{operation} {pointer:#x} {length:#x}: {reaction:?}"
                );
                let result = Reply::decode(reaction.outputs.last().expect("an answer")).expect("a reply");
                let Reply::Result(result) = result else { panic!("{result:?}") };
                if length > limit {
                    assert_eq!(result, Some(-2), "{operation} {pointer:#x} {length:#x}");
                } else {
                    let readable = [0x6fff, 0x20_0000, MEMORY - 1].contains(&pointer) && operation != 1;
                    assert!(
                        readable || matches!(result, Some(-1) | None),
                        "{operation} {pointer:#x} {length:#x}: {result:?}"
                    );
                }
            }
        }
    }
    for (stored, operation) in [(0, 0), (6, 6), (u64::MAX, u64::MAX), (1, 2), (4, 5), (5, 4), (2, 0)] {
        let mismatch = Command::Misbehave(Misbehaviour::Mismatch { stored, operation });
        assert_eq!(reply(&mut guest, &mismatch), Reply::Result(Some(-3)), "{stored} {operation}");
    }
    assert!(matches!(reply(&mut guest, &Command::Step { count: 1 }), Reply::Done { steps: 1, .. }));
}

#[test]
fn floods_of_lines_and_yields_reach_the_host_in_full() {
    let mut guest = Guest::boot(STRESS, MEMORY);
    let lines = guest.feed(&Command::Misbehave(Misbehaviour::FloodLogs { count: 500 }).encode());
    assert_eq!((lines.console.len(), lines.console[499].as_str()), (500, "line 499 of a flood"));
    let yields = guest.feed(&Command::Misbehave(Misbehaviour::FloodYields { count: 500 }).encode());
    assert_eq!(yields.yields, 500);
}
