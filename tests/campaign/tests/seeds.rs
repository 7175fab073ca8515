//! A campaign of a few seeds in every scenario, and planted faults that it must find.

use quorate_agreement_simulation::Behaviour;
use quorate_campaign::{Plant, Scenario, play};

/// Seeds of each of the eight scenarios: 200 runs.
const SEEDS: u64 = 25;
/// Seeds in which a planted fault must show.
const PLANT_SEEDS: u64 = 30;

/// Plays all seeds; what a scenario is about must have happened in some of them, or the campaign shows nothing.
fn no_seed_breaks_a_rule(scenario: Scenario) {
    let mut totals = [0; 5];
    for seed in 0..SEEDS {
        let report = play(seed, scenario, None);
        assert!(report.violations.is_empty(), "seed {seed}, {scenario:?}: {:?}", report.violations);
        let seen = report.seen;
        let counts = [seen.answered, seen.conflicts, seen.grants, seen.activations, seen.votes_refused];
        totals.iter_mut().zip(counts).for_each(|(total, count)| *total += count);
    }
    println!("{scenario:?}: answered, conflicts, grants, activations, votes refused: {totals:?}");
    assert!(totals.iter().all(|total| *total > 0), "something never happened: {totals:?}");
}

#[test]
fn crashes_loss_and_partitions_break_no_rule() {
    no_seed_breaks_a_rule(Scenario::Honest);
}

#[test]
fn a_silent_member_breaks_no_rule() {
    no_seed_breaks_a_rule(Scenario::Consensus(Behaviour::Silent));
}

#[test]
fn an_equivocating_leader_breaks_no_rule() {
    no_seed_breaks_a_rule(Scenario::Consensus(Behaviour::Equivocating));
}

#[test]
fn a_member_that_replays_breaks_no_rule() {
    no_seed_breaks_a_rule(Scenario::Consensus(Behaviour::Replaying));
}

#[test]
fn a_member_that_floods_breaks_no_rule() {
    no_seed_breaks_a_rule(Scenario::Consensus(Behaviour::Flooding));
}

#[test]
fn a_member_that_lies_breaks_no_rule() {
    no_seed_breaks_a_rule(Scenario::Lying);
}

#[test]
fn a_member_with_two_faces_breaks_no_rule() {
    no_seed_breaks_a_rule(Scenario::TwoFaced);
}

#[test]
fn a_member_with_stale_answers_breaks_no_rule() {
    no_seed_breaks_a_rule(Scenario::Stale);
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
