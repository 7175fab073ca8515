//! A campaign of a few seeds in every scenario, and planted faults that it must find.

use quorate_campaign::{Plant, Scenario, play};

/// Seeds of each of the eight scenarios: 200 runs.
const SEEDS: u64 = 25;
/// Seeds in which a planted fault must show.
const PLANT_SEEDS: u64 = 30;

#[test]
fn no_seed_breaks_a_rule_and_everything_is_answered_after_healing() {
    let mut totals = [0; 5];
    for scenario in Scenario::ALL {
        for seed in 0..SEEDS {
            let report = play(seed, scenario, None);
            assert!(report.violations.is_empty(), "seed {seed}, {scenario:?}: {:?}", report.violations);
            let seen = report.seen;
            let counts = [seen.answered, seen.conflicts, seen.grants, seen.activations, seen.votes_refused];
            totals.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
        }
    }
    println!("answered, conflicts, grants, activations, votes refused: {totals:?}");
    assert!(totals.iter().all(|total| *total > 0), "a campaign in which something never happens: {totals:?}");
}

#[test]
fn a_seed_reproduces_a_run_exactly() {
    let (first, second) = (play(3, Scenario::TwoFaced, None), play(3, Scenario::TwoFaced, None));
    assert_eq!(
        (first.trace.as_str(), first.entries, first.seen),
        (second.trace.as_str(), second.entries, second.seen)
    );
    assert_ne!(first.trace, play(4, Scenario::TwoFaced, None).trace, "another seed is another run");
}

fn found(scenario: Scenario, plant: Plant) -> Option<u64> {
    (0..PLANT_SEEDS).find(|seed| !play(*seed, scenario, Some(plant)).violations.is_empty())
}

#[test]
fn a_skipped_dedupe_is_found() {
    assert!(found(Scenario::Honest, Plant::SkippedDedupe).is_some());
}

#[test]
fn a_quorum_of_one_is_found() {
    assert!(found(Scenario::Lying, Plant::WrongQuorum).is_some());
}

#[test]
fn verifiers_that_vote_twice_are_found() {
    assert!(found(Scenario::Honest, Plant::DoubleVote).is_some());
}
