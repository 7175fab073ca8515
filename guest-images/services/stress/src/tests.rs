extern crate std;

use std::vec::Vec;

use proptest::prelude::*;

use crate::{Command, Knock, Misbehaviour, Outcome, PACE_UNITS, Place, Reply, Stress, Work};

const BUDGET: u64 = 1 << 20;

fn apply(stress: &mut Stress, command: &Command) -> (Outcome, u64) {
    let mut paces = 0;
    let outcome = stress.apply(&command.encode(), &mut || paces += 1);
    (outcome, paces)
}

fn reply(stress: &mut Stress, command: &Command) -> Reply {
    match apply(stress, command).0 {
        Outcome::Reply(reply) => reply,
        other => panic!("expected a reply, got {other:?}"),
    }
}

fn work() -> Work {
    Work {
        working_set_bytes: BUDGET,
        pages_per_step: 20,
        integer_rounds: 100,
        float_rounds: 10,
        chase_steps: 50,
    }
}

fn command() -> impl Strategy<Value = Command> {
    let amount = || 0u32..100;
    let work = (0..=2 * BUDGET, amount(), amount(), amount(), amount()).prop_map(
        |(set, pages, ints, floats, chase)| Work {
            working_set_bytes: set,
            pages_per_step: pages,
            integer_rounds: ints,
            float_rounds: floats,
            chase_steps: chase,
        },
    );
    prop_oneof![
        work.prop_map(Command::Configure),
        (0..=2 * BUDGET, any::<u64>()).prop_map(|(bytes, seed)| Command::Fill { bytes, seed }),
        (0u32..20).prop_map(|count| Command::Step { count }),
        (any::<u32>(), any::<u32>()).prop_map(|(count, bytes)| Command::Emit { count, bytes }),
        any::<u64>().prop_map(|code| Command::Exit { code }),
    ]
}

proptest! {
    #[test]
    fn equal_inputs_give_equal_outcomes_and_equal_paces(commands in proptest::collection::vec(command(), 0..12)) {
        let run = || {
            let mut stress = Stress::new(BUDGET);
            commands.iter().map(|command| apply(&mut stress, command)).collect::<Vec<_>>()
        };
        prop_assert_eq!(run(), run());
    }

    #[test]
    fn no_input_panics(input in proptest::collection::vec(any::<u8>(), 0..80)) {
        // Only a small number of steps, which random bytes may name, is worth the time.
        prop_assume!(input.first() != Some(&2));
        Stress::new(BUDGET).apply(&input, &mut || {});
    }

    #[test]
    fn truncated_and_extended_commands_are_malformed(command in command(), cut in 1usize..40, extra: u8) {
        let bytes = command.encode();
        prop_assert_eq!(Command::decode(&bytes), Ok(command));
        let mut longer = bytes.clone();
        longer.push(extra);
        prop_assert!(Command::decode(&longer).is_err());
        prop_assert!(Command::decode(&bytes[..bytes.len().saturating_sub(cut)]).is_err());
    }
}

#[test]
fn golden_outcome_of_one_step() {
    // A failure here means that recorded executions of stress guests no longer replay.
    let mut stress = Stress::new(BUDGET);
    reply(&mut stress, &Command::Configure(work()));
    reply(&mut stress, &Command::Fill { bytes: BUDGET, seed: 7 });
    let done = reply(&mut stress, &Command::Step { count: 3 });
    let Reply::Done { steps, integer, float, working_set_bytes } = done else { panic!("{done:?}") };
    assert_eq!((steps, working_set_bytes), (3, BUDGET));
    assert_eq!((integer, float), GOLDEN, "got ({integer:#x}, {float:#x})");
}

/// Integer state and float sum after three steps.
const GOLDEN: (u64, u64) = (0x2d70_8d07_4fd4_1b5d, 0x4050_0001_e9e5_54c2);

#[test]
fn every_misbehaviour_survives_its_encoding() {
    let mut all: Vec<Misbehaviour> = Vec::new();
    all.extend(Place::ALL.map(Misbehaviour::Store));
    all.extend(Place::ALL.map(Misbehaviour::Load));
    all.extend(Place::ALL.map(Misbehaviour::Execute));
    all.extend(Knock::ALL.map(Misbehaviour::Knock));
    all.extend([
        Misbehaviour::DivideByZero,
        Misbehaviour::InvalidOpcode,
        Misbehaviour::MisalignedVector,
        Misbehaviour::Spin,
        Misbehaviour::StackOverflow,
        Misbehaviour::Panic,
        Misbehaviour::HeapOverflow,
        Misbehaviour::Call { operation: 1, pointer: u64::MAX, length: 2 },
        Misbehaviour::Mismatch { stored: 1, operation: 2 },
        Misbehaviour::FloodLogs { count: 9 },
        Misbehaviour::FloodYields { count: 9 },
    ]);
    for misbehaviour in all {
        let (outcome, _) = apply(&mut Stress::new(0), &Command::Misbehave(misbehaviour));
        assert_eq!(outcome, Outcome::Misbehave(misbehaviour));
    }
}

#[test]
fn a_working_set_beyond_the_budget_changes_nothing() {
    let mut stress = Stress::new(BUDGET);
    reply(&mut stress, &Command::Configure(work()));
    let before = reply(&mut stress, &Command::Step { count: 0 });
    for bytes in [BUDGET + 4096, u64::MAX] {
        let large = Command::Configure(Work { working_set_bytes: bytes, ..work() });
        assert_eq!(reply(&mut stress, &large), Reply::TooLarge);
        assert_eq!(reply(&mut stress, &Command::Fill { bytes, seed: 1 }), Reply::TooLarge);
    }
    assert_eq!(reply(&mut stress, &Command::Step { count: 0 }), before);
}

#[test]
fn long_work_yields_at_bounded_intervals() {
    let mut stress = Stress::new(BUDGET);
    let rounds = 10 * PACE_UNITS as u32;
    reply(&mut stress, &Command::Configure(Work { integer_rounds: rounds, ..Work::default() }));
    let (_, paces) = apply(&mut stress, &Command::Step { count: 2 });
    assert_eq!(paces, 20, "two steps of ten intervals each");
}

#[test]
fn an_output_over_the_limit_is_refused_before_it_is_sent() {
    let mut stress = Stress::new(0);
    assert_eq!(reply(&mut stress, &Command::Emit { count: 1, bytes: 262_145 }), Reply::TooLarge);
    let (outcome, _) = apply(&mut stress, &Command::Emit { count: 3, bytes: 262_144 });
    assert_eq!(outcome, Outcome::Emit { count: 3, bytes: 262_144 });
}
