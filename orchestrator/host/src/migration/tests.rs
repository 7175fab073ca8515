//! The two state machines against each other: every order of loss, refusal and time-out leaves at most one side able to
//! run, and an honest run ends with exactly the destination running.

use std::collections::VecDeque;

use proptest::prelude::*;
use quorate_attest::id::{Generation, Slot};

use super::destination::{self, Destination};
use super::source::{self, Outcome, Source};

const TIMEOUT_MS: u64 = 1000;

/// Verifiers that vote once for the next generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Vote {
    Source,
    Destination,
}

/// Both machines, the messages between them, and a group that votes at most once.
#[derive(Debug)]
struct World {
    now_ms: u64,
    source: Source,
    destination: Destination,
    to_source: VecDeque<source::Input>,
    to_destination: VecDeque<destination::Input>,
    /// Whether the exchange between the hosts still works.
    connected: bool,
    vote: Option<Vote>,
    newest: Slot,
    source_runs: bool,
    source_relinquished: bool,
    destination_runs: bool,
    outcome: Option<Outcome>,
    declined: Option<&'static str>,
}

impl World {
    fn new(newest: u64) -> Self {
        let newest = Slot(newest);
        let (source, offer) = Source::begin(0, TIMEOUT_MS, newest, newest, Some(newest));
        assert_eq!(offer, [source::Effect::Offer]);
        let (destination, pull) = Destination::begin(0, TIMEOUT_MS, newest);
        assert_eq!(pull, [destination::Effect::Pull]);
        Self {
            now_ms: 0,
            source,
            destination,
            to_source: VecDeque::from([source::Input::Accepted]),
            to_destination: VecDeque::from([destination::Input::Loaded]),
            connected: true,
            vote: None,
            newest,
            source_runs: true,
            source_relinquished: false,
            destination_runs: false,
            outcome: None,
            declined: None,
        }
    }

    fn tell_source(&mut self, input: source::Input) {
        if self.connected {
            self.to_source.push_back(input);
        }
    }

    fn tell_destination(&mut self, input: destination::Input) {
        if self.connected {
            self.to_destination.push_back(input);
        }
    }

    fn step_source(&mut self, input: source::Input) {
        for effect in self.source.step(self.now_ms, input) {
            match effect {
                source::Effect::Offer => {}
                source::Effect::Forward(slot) => self.tell_destination(destination::Input::Slot(slot)),
                source::Effect::Freeze => {
                    self.newest = Slot(self.newest.0 + 1);
                    self.to_source.push_back(source::Input::Frozen(self.newest));
                }
                source::Effect::PersistRelinquish(_) => {
                    self.source_runs = false;
                    self.source_relinquished = true;
                    self.to_source.push_back(source::Input::RelinquishDurable);
                }
                source::Effect::Handover(slot) => {
                    self.tell_destination(destination::Input::Slot(slot));
                    self.tell_destination(destination::Input::Handover(slot));
                }
                source::Effect::RunOn => self.source_runs = true,
                source::Effect::Reclaim => {
                    let vote = *self.vote.get_or_insert(Vote::Source);
                    self.to_source.push_back(match vote {
                        Vote::Source => source::Input::Reclaimed(Generation(1)),
                        Vote::Destination => source::Input::Superseded(Generation(1)),
                    });
                }
                source::Effect::Retire => self.source_runs = false,
                source::Effect::Finish(outcome) => self.outcome = Some(outcome),
            }
        }
        self.check();
    }

    fn step_destination(&mut self, input: destination::Input) {
        for effect in self.destination.step(self.now_ms, input) {
            match effect {
                destination::Effect::Pull => {}
                destination::Effect::ReportLoaded => self.tell_source(source::Input::Loaded(self.newest)),
                destination::Effect::Replay(slot) => {
                    self.to_destination.push_back(destination::Input::Replayed(slot));
                }
                destination::Effect::ReportReplayed(slot) => self.tell_source(source::Input::Replayed(slot)),
                destination::Effect::PersistHandover => {
                    self.to_destination.push_back(destination::Input::HandoverDurable);
                }
                destination::Effect::CollectCertificate(slot) => {
                    self.to_destination.push_back(destination::Input::Certified(slot));
                }
                destination::Effect::AskHeads(_) => {
                    self.to_destination.push_back(destination::Input::HeadsAgree)
                }
                destination::Effect::RequestVotes(_) => {
                    assert!(self.source_relinquished, "votes without Relinquish");
                    match *self.vote.get_or_insert(Vote::Destination) {
                        Vote::Destination => {
                            self.to_destination.push_back(destination::Input::Elected(Generation(1)));
                        }
                        Vote::Source => self.to_destination.push_back(destination::Input::VotesRefused),
                    }
                }
                destination::Effect::PersistGeneration(_) => {
                    self.to_destination.push_back(destination::Input::GenerationDurable);
                }
                destination::Effect::Run(generation) => {
                    self.destination_runs = true;
                    self.tell_source(source::Input::Activated(generation));
                }
                destination::Effect::Decline(kind) => {
                    self.declined = Some(kind);
                    self.tell_source(source::Input::Declined);
                }
            }
        }
        self.check();
    }

    fn check(&self) {
        assert!(!(self.source_runs && self.destination_runs), "two active instances: {self:?}");
    }

    fn run_until_quiet(&mut self) {
        loop {
            match (self.to_source.pop_front(), self.to_destination.pop_front()) {
                (None, None) => return,
                (source, destination) => {
                    source.into_iter().for_each(|input| self.step_source(input));
                    destination.into_iter().for_each(|input| self.step_destination(input));
                }
            }
        }
    }

    fn pass_time(&mut self) {
        self.now_ms += TIMEOUT_MS;
        self.step_source(source::Input::Tick);
        self.step_destination(destination::Input::Tick);
    }

    fn disconnect(&mut self) {
        self.connected = false;
        self.to_source.push_back(source::Input::Lost);
        self.to_destination.push_back(destination::Input::Lost);
    }
}

#[test]
fn honest_migration_ends_with_the_destination_running() {
    let mut world = World::new(7);
    world.run_until_quiet();
    assert_eq!(world.outcome, Some(Outcome::Moved(Generation(1))));
    assert!(world.destination_runs && !world.source_runs);
    assert_eq!(world.newest, Slot(8), "one slot is cut for the handover");
}

#[test]
fn slots_cut_while_the_base_moves_are_forwarded_in_order() {
    let (mut source, _) = Source::begin(0, TIMEOUT_MS, Slot(3), Slot(3), Some(Slot(3)));
    assert!(source.step(0, source::Input::Cut(Slot(4))).is_empty());
    assert_eq!(source.step(0, source::Input::Accepted), [source::Effect::Forward(Slot(4))]);
    assert!(source.step(0, source::Input::Certified(Slot(4))).is_empty());
    assert!(source.may_cut(), "the VM runs on while its base moves");
    assert_eq!(source.step(0, source::Input::Cut(Slot(5))), [source::Effect::Forward(Slot(5))]);
    assert!(source.step(0, source::Input::Loaded(Slot(3))).is_empty());
    assert!(!source.may_cut(), "the next slot waits until this one is certified and replayed");
    assert!(source.step(0, source::Input::Replayed(Slot(5))).is_empty());
    assert_eq!(source.step(0, source::Input::Certified(Slot(5))), [source::Effect::Freeze]);
}

#[test]
fn nothing_is_given_away_before_the_slot_before_the_last_is_certified() {
    let (mut source, _) = Source::begin(0, TIMEOUT_MS, Slot(1), Slot(1), Some(Slot(1)));
    source.step(0, source::Input::Accepted);
    assert_eq!(source.step(0, source::Input::Loaded(Slot(1))), [source::Effect::Freeze]);
    // A cut that was under way when the guest was stopped: slot 2 exists, slot 3 is the last.
    source.step(0, source::Input::Cut(Slot(2)));
    assert!(source.step(0, source::Input::Frozen(Slot(3))).is_empty());
    let effects = source.step(0, source::Input::Certified(Slot(2)));
    assert_eq!(effects, [source::Effect::PersistRelinquish(Slot(3))]);
}

#[test]
fn a_handover_of_an_older_slot_is_declined_as_stale() {
    let (mut destination, _) = Destination::begin(0, TIMEOUT_MS, Slot(5));
    destination.step(0, destination::Input::Loaded);
    destination.step(0, destination::Input::Slot(Slot(6)));
    destination.step(0, destination::Input::Replayed(Slot(6)));
    assert_eq!(
        destination.step(0, destination::Input::Handover(Slot(5))),
        [destination::Effect::Decline("StaleSlot")]
    );
}

#[test]
fn a_gap_in_the_slots_is_declined() {
    let (mut destination, _) = Destination::begin(0, TIMEOUT_MS, Slot(5));
    destination.step(0, destination::Input::Loaded);
    assert_eq!(
        destination.step(0, destination::Input::Slot(Slot(7))),
        [destination::Effect::Decline("LogChainBroken")]
    );
}

#[test]
fn votes_wait_for_each_of_the_four_proofs() {
    use destination::Input::{Certified, HandoverDurable, HeadsAgree, Replayed};
    let proofs = [Certified(Slot(6)), HandoverDurable, HeadsAgree, Replayed(Slot(6))];
    for missing in 0..proofs.len() {
        let (mut destination, _) = Destination::begin(0, TIMEOUT_MS, Slot(5));
        destination.step(0, destination::Input::Loaded);
        destination.step(0, destination::Input::Slot(Slot(6)));
        destination.step(0, destination::Input::Handover(Slot(6)));
        let mut asked = Vec::new();
        for (index, proof) in proofs.iter().enumerate() {
            if index != missing {
                asked.extend(destination.step(0, proof.clone()));
            }
        }
        assert!(
            !asked.contains(&destination::Effect::RequestVotes(Slot(6))),
            "{:?} was not needed",
            proofs[missing]
        );
        let effects = destination.step(0, proofs[missing].clone());
        assert!(effects.contains(&destination::Effect::RequestVotes(Slot(6))), "{effects:?}");
    }
}

#[test]
fn an_elected_destination_cannot_be_talked_out_of_it() {
    let (mut destination, _) = Destination::resume(0, TIMEOUT_MS, Slot(6));
    destination.step(0, destination::Input::Certified(Slot(6)));
    destination.step(0, destination::Input::HeadsAgree);
    destination.step(0, destination::Input::Elected(Generation(1)));
    assert!(destination.step(0, destination::Input::Failed).is_empty());
    assert!(destination.step(10 * TIMEOUT_MS, destination::Input::Tick).is_empty());
    assert_eq!(
        destination.step(0, destination::Input::GenerationDurable),
        [destination::Effect::Run(Generation(1))]
    );
}

#[test]
fn a_destination_whose_votes_may_be_out_since_before_its_restart_does_not_decline_for_want_of_time() {
    let (mut destination, _) = Destination::resume(0, TIMEOUT_MS, Slot(6));
    for round in 1..4 {
        let effects = destination.step(round * TIMEOUT_MS, destination::Input::Tick);
        assert_eq!(effects, [destination::Effect::AskHeads(Slot(6))]);
    }
    destination.step(0, destination::Input::Certified(Slot(6)));
    let effects = destination.step(0, destination::Input::HeadsAgree);
    assert_eq!(effects, [destination::Effect::RequestVotes(Slot(6))]);
}

#[test]
fn with_two_voting_rounds_for_one_generation_two_instances_would_run() {
    // One fault too many: verifiers that vote twice. The invariant of this suite must notice.
    let result = std::panic::catch_unwind(|| {
        let mut world = World::new(2);
        while world.vote.is_none() {
            let source = world.to_source.pop_front();
            source.into_iter().for_each(|input| world.step_source(input));
            let destination = world.to_destination.pop_front();
            destination.into_iter().for_each(|input| world.step_destination(input));
        }
        world.vote = None; // the verifiers forget
        world.connected = false;
        world.to_source.clear();
        world.pass_time();
        world.run_until_quiet();
    });
    assert!(result.is_err(), "forgetful verifiers must be seen to break the guarantee");
}

/// What a test may do to the world between two steps.
#[derive(Clone, Copy, Debug)]
enum Disturbance {
    DeliverToSource,
    DeliverToDestination,
    Disconnect,
    Time,
    FailDestination,
    DropToSource,
}

fn disturbances() -> impl Strategy<Value = Vec<Disturbance>> {
    let one = prop_oneof![
        8 => Just(Disturbance::DeliverToSource),
        8 => Just(Disturbance::DeliverToDestination),
        1 => Just(Disturbance::Disconnect),
        1 => Just(Disturbance::Time),
        1 => Just(Disturbance::FailDestination),
        1 => Just(Disturbance::DropToSource),
    ];
    proptest::collection::vec(one, 0..60)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn at_most_one_side_runs_and_in_the_end_exactly_one(steps in disturbances()) {
        let mut world = World::new(3);
        for step in steps {
            match step {
                Disturbance::DeliverToSource => {
                    let input = world.to_source.pop_front();
                    input.into_iter().for_each(|input| world.step_source(input));
                }
                Disturbance::DeliverToDestination => {
                    let input = world.to_destination.pop_front();
                    input.into_iter().for_each(|input| world.step_destination(input));
                }
                Disturbance::Disconnect => world.disconnect(),
                Disturbance::Time => world.pass_time(),
                Disturbance::FailDestination => world.step_destination(destination::Input::Failed),
                // Only what came over the network can get lost; the host's own effects do not.
                Disturbance::DropToSource => {
                    if world.to_source.front().is_some_and(is_remote) {
                        world.to_source.pop_front();
                    }
                }
            }
        }
        // Afterwards time passes: somebody must end up running.
        world.disconnect();
        for _ in 0..6 {
            world.run_until_quiet();
            world.pass_time();
        }
        world.run_until_quiet();
        prop_assert!(world.source_runs ^ world.destination_runs, "{world:?}");
    }
}

fn is_remote(input: &source::Input) -> bool {
    matches!(
        input,
        source::Input::Accepted
            | source::Input::Loaded(_)
            | source::Input::Replayed(_)
            | source::Input::Activated(_)
            | source::Input::Declined
    )
}
