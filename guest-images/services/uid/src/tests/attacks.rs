//! What Byzantine replicas and clients try: with `f` of them nothing happens, with `f + 1` something visibly breaks.

use std::boxed::Box;
use std::vec::Vec;

use quorate_attest::certificate::Certificate;
use quorate_attest::encoding::Bounded;
use quorate_attest::id::{Epoch, OperationId, VmId};
use quorate_attest::key::SecretKey;
use quorate_attest::service::{Answer as Proof, ServiceReceipt, ServiceReceiptTally};
use quorate_attest::state_tree::{StateCommitment, StateTree};
use quorate_attest::statement::{Expected, Statement};

use super::world::{World, add, delete, group, profile, uid};
use crate::client::{Listing, ask_uid, proven_uid};
use crate::collect::{Collector, Event, Outcome, Refusal, Voter};
use crate::{Action, Bind, UID_BIND, uid_key};

/// The proposal to bind a UID for the first time.
pub fn proposal(expected: &Expected, number: u32, text: &str) -> Statement {
    let profile = profile(text);
    let bind = Bind {
        uid: uid(number),
        name: profile.name,
        counter: 1,
        action: Action::Add,
        gid: uid(number),
        gecos: profile.gecos,
        home: profile.home,
        shell: profile.shell,
        previous: [0; 32],
    };
    let Expected { group, epoch, instance, kind } = *expected;
    Statement { kind, group, epoch, instance, seq: 1, body: bind.encoded() }
}

pub fn vote(replica: usize, statement: &Statement, keys: &[SecretKey]) -> Event {
    Event::Vote { replica: replica as u16, signature: statement.sign(&keys[replica]) }
}

/// What a replica that refuses shows.
pub fn refusal(replica: usize, refused: Refusal, keys: &[SecretKey]) -> Event {
    let Refusal::Voted(statement) = refused else { panic!("{refused:?}") };
    let signature = statement.sign(&keys[replica]);
    Event::Refusal { replica: replica as u16, statement, signature }
}

/// How many of two contradicting proposals get a certificate when honest replicas split and the first `liars` sign both.
fn certified_with_double_signers(liars: usize, other: &str, other_uid: u32) -> usize {
    let (group, keys) = group(7, 2);
    let expected = group.expected(VmId::ZERO, UID_BIND);
    let sides = [proposal(&expected, 1000, "alice"), proposal(&expected, other_uid, other)];
    let mut voters: Vec<_> = (0..7).map(|_| Voter::new(group.clone(), expected)).collect();
    let half = liars + (7 - liars) / 2;
    for (replica, voter) in voters.iter_mut().enumerate() {
        assert_eq!(voter.vote(&sides[usize::from(replica >= half)]), Ok(()));
    }
    let certified = |proposed: &Statement| {
        let mut collector = Collector::new(group.clone(), 5, expected, proposed.clone(), 3).unwrap();
        for (replica, voter) in voters.iter().enumerate() {
            let event = match voter.clone().vote(proposed) {
                _ if replica < liars => vote(replica, proposed, &keys),
                Ok(()) => vote(replica, proposed, &keys),
                Err(refused) => refusal(replica, refused, &keys),
            };
            assert!(collector.step(&event).is_ok());
        }
        matches!(collector.outcome(), Outcome::Certified(_))
    };
    sides.iter().filter(|side| certified(side)).count()
}

#[test]
fn test_equivocator_f_double_signers_certify_at_most_one_binding_and_more_certify_two() {
    for (other, other_uid) in [("bob", 1000), ("alice", 1001)] {
        for liars in 0..=2 {
            assert!(certified_with_double_signers(liars, other, other_uid) <= 1, "{liars} liars");
        }
        assert_eq!(certified_with_double_signers(3, other, other_uid), 2);
    }
}

#[test]
fn test_split_in_any_way_certifies_at_most_one_binding_and_every_collector_ends() {
    let (group, keys) = group(7, 2);
    let expected = group.expected(VmId::ZERO, UID_BIND);
    let sides = [proposal(&expected, 1000, "alice"), proposal(&expected, 1000, "bob")];
    for split in 0..1u32 << 7 {
        let heard = |replica: usize| usize::from(split >> replica & 1 == 1);
        let outcomes = [0, 1].map(|side| {
            let mut collector = Collector::new(group.clone(), 5, expected, sides[side].clone(), 3).unwrap();
            for replica in 0..7 {
                let voted = sides[heard(replica)].clone();
                let event = match heard(replica) == side {
                    true => vote(replica, &voted, &keys),
                    false => refusal(replica, Refusal::Voted(Box::new(voted)), &keys),
                };
                assert!(collector.step(&event).is_ok());
            }
            collector.outcome().clone()
        });
        assert!(outcomes.iter().all(|outcome| *outcome != Outcome::Pending), "split {split:07b}");
        let certified = outcomes.iter().filter(|outcome| matches!(outcome, Outcome::Certified(_))).count();
        let side = split.count_ones();
        assert_eq!(certified, usize::from(side >= 5 || side <= 2), "split {split:07b}");
    }
}

#[test]
fn test_doubler_one_replica_counts_once() {
    let (group, keys) = group(7, 2);
    let expected = group.expected(VmId::ZERO, UID_BIND);
    let alice = proposal(&expected, 1000, "alice");
    let mut collector = Collector::new(group.clone(), 5, expected, alice.clone(), 3).unwrap();
    for replica in 0..4 {
        assert_eq!(collector.step(&vote(replica, &alice, &keys)), Ok(&Outcome::Pending));
    }
    for _ in 0..3 {
        assert_eq!(collector.step(&vote(0, &alice, &keys)).unwrap_err().kind(), "DuplicateSigner");
    }
    // Nor do the signatures of one replica under the index of another.
    let borrowed = Event::Vote { replica: 5, signature: alice.sign(&keys[0]) };
    assert_eq!(collector.step(&borrowed).unwrap_err().kind(), "BadSignature");
    assert_eq!(*collector.outcome(), Outcome::Pending);
    let mut signatures: Vec<_> = (0..4).map(|r| (r as u16, alice.sign(&keys[r]))).collect();
    signatures.push((3, alice.sign(&keys[3])));
    let doubled = Certificate { statement: alice.clone(), signatures };
    assert_eq!(doubled.verify(&group, &expected).unwrap_err().kind(), "DuplicateSigner");
    assert!(matches!(collector.step(&vote(4, &alice, &keys)), Ok(Outcome::Certified(_))));
}

#[test]
fn test_replay_votes_of_another_epoch_instance_or_kind_do_not_count() {
    let (group, keys) = group(7, 2);
    let expected = group.expected(VmId::ZERO, UID_BIND);
    let alice = proposal(&expected, 1000, "alice");
    let mut collector = Collector::new(group.clone(), 5, expected, alice.clone(), 3).unwrap();
    let foreign = [
        Statement { epoch: Epoch(1), ..alice.clone() },
        Statement { instance: VmId::from_bytes([3; 32]), ..alice.clone() },
        Statement { kind: quorate_attest::statement::Kind(0x0301), ..alice.clone() },
    ];
    for other in &foreign {
        for replica in 0..7 {
            let error = collector.step(&vote(replica, other, &keys)).unwrap_err();
            assert_eq!(error.kind(), "BadSignature");
            let shown = Refusal::Voted(Box::new(other.clone()));
            let error = collector.step(&refusal(replica, shown, &keys)).unwrap_err();
            assert!(["WrongEpoch", "WrongVm", "WrongDomain"].contains(&error.kind()), "{error}");
        }
        let refused = Voter::new(group.clone(), expected).vote(other).unwrap_err();
        assert!(["WrongEpoch", "WrongVm", "WrongDomain"].contains(&refused.kind()), "{refused}");
    }
    assert_eq!(*collector.outcome(), Outcome::Pending);
}

#[test]
fn test_refusal_without_a_signed_contradiction_is_not_counted() {
    let (group, keys) = group(7, 2);
    let expected = group.expected(VmId::ZERO, UID_BIND);
    let alice = proposal(&expected, 1000, "alice");
    let mut collector = Collector::new(group.clone(), 5, expected, alice.clone(), 3).unwrap();
    let unrelated = proposal(&expected, 1001, "bob");
    let conflicting = Box::new(proposal(&expected, 1000, "bob"));
    for replica in 0..7u16 {
        for shown in [&alice, &unrelated] {
            let event = refusal(usize::from(replica), Refusal::Voted(Box::new(shown.clone())), &keys);
            assert_eq!(collector.step(&event).unwrap_err().kind(), "Inconsistent");
        }
        let signature = conflicting.sign(&keys[usize::from(replica + 1) % 7]);
        let forged = Event::Refusal { replica, statement: conflicting.clone(), signature };
        assert_eq!(collector.step(&forged).unwrap_err().kind(), "BadSignature");
    }
    assert_eq!(*collector.outcome(), Outcome::Pending);
}

#[test]
fn test_voter_binds_a_deleted_uid_or_a_later_counter_only_where_it_follows() {
    let (group, keys) = group(7, 2);
    let expected = group.expected(VmId::ZERO, UID_BIND);
    let alice = proposal(&expected, 1000, "alice");
    let mut voter = Voter::new(group, expected);
    let second = |action, text: &str, previous| {
        let mut bind = Bind::decoded(&proposal(&expected, 1000, text).body).unwrap();
        (bind.counter, bind.action, bind.previous) = (2, action, previous);
        Statement { body: bind.encoded(), ..alice.clone() }
    };
    let first = Bind::decoded(&alice.body).unwrap().digest();
    // The text's own gap: (1000, alice, 1) and (1000, bob, 2).
    assert_eq!(voter.vote(&second(Action::Add, "bob", first)), Err(Refusal::Stale));
    assert_eq!(voter.vote(&alice), Ok(()));
    assert_eq!(voter.vote(&second(Action::Rename, "bob", first)), Err(Refusal::Stale));
    let signatures = (0..5).map(|r| (r as u16, alice.sign(&keys[r]))).collect();
    voter.learn(&Certificate { statement: alice.clone(), signatures }).unwrap();
    assert_eq!(voter.vote(&second(Action::Add, "bob", first)), Err(Refusal::Stale));
    assert_eq!(voter.vote(&second(Action::Transfer, "bob", first)), Err(Refusal::Stale));
    assert_eq!(voter.vote(&second(Action::Rename, "bob", [1; 32])), Err(Refusal::Stale));
    assert_eq!(voter.vote(&second(Action::Rename, "bob", first)), Ok(()));
    let taken = voter.vote(&proposal(&expected, 1001, "alice")).unwrap_err();
    assert_eq!(taken.kind(), "BindingConflict");
}

fn receipt(
    world: &World,
    group: &quorate_attest::group::GroupConfig,
    state: StateCommitment,
) -> ServiceReceipt {
    ServiceReceipt {
        group: group.id(),
        epoch: group.epoch,
        service: world.service,
        number: world.replica.next() - 1,
        log_index: 40,
        operation: OperationId::from_bytes([4; 32]),
        result: [5; 32],
        log_root: [6; 32],
        log_size: world.replica.next(),
        state,
    }
}

#[test]
fn test_liar_f_forged_states_certify_no_absence_and_more_do() {
    let (group, keys) = group(7, 2);
    let mut world = World::new();
    world.change(&add(1000, 1, "alice")).unwrap();
    // The liars' state is the true one without alice; there the absence can be proved.
    let mut forged: StateTree = world.replica.state().unwrap().clone();
    forged.remove(&uid_key(1000));
    let lie = Proof::Absent(forged.absence(&uid_key(1000)).unwrap());
    let truth = world.query(&ask_uid(1000)).1;
    assert_eq!(proven_uid(1000, &lie, &truth).unwrap_err().kind(), "ProofInvalid");
    let certify = |liars: usize| {
        let receipt = receipt(&world, &group, forged.commitment());
        let mut tally = ServiceReceiptTally::new(&group, receipt).unwrap();
        for (liar, key) in keys.iter().enumerate().take(liars) {
            tally.add(liar as u16, receipt.sign(key)).unwrap();
        }
        tally.certificate().map(|certificate| certificate.receipt.state)
    };
    assert_eq!(certify(2).unwrap_err().kind(), "QuorumNotReached");
    // One liar more than the group tolerates: the client believes that alice does not exist.
    assert_eq!(proven_uid(1000, &lie, &certify(3).unwrap()), Ok(None));
}

#[test]
fn test_stale_proof_from_before_a_deletion_does_not_hold_afterwards() {
    let mut world = World::new();
    world.change(&add(1000, 1, "alice")).unwrap();
    let (old, old_state) = world.query(&ask_uid(1000));
    world.change(&delete(1000, 2)).unwrap();
    let (new, new_state) = world.query(&ask_uid(1000));
    assert!(proven_uid(1000, &old, &old_state).unwrap().unwrap().user().is_some());
    assert_eq!(proven_uid(1000, &old, &new_state).unwrap_err().kind(), "ProofInvalid");
    assert_eq!(proven_uid(1000, &new, &new_state).unwrap().unwrap().user(), None);
}

#[test]
fn test_omit_listing_without_one_user_is_refused() {
    let mut world = World::new();
    for number in 1000..1010 {
        world.change(&add(number, 1, &std::format!("u{number}"))).unwrap();
    }
    let (_, state) = world.query(&ask_uid(1000));
    let query = Listing::of_users(state).query().unwrap();
    let (honest, _) = world.query(&query);
    let Proof::Range { proof, more } = &honest else { panic!() };
    assert_eq!((proof.entries.len(), *more), (10, false));
    for hidden in 0..10 {
        let mut lie = proof.clone();
        lie.entries.remove(hidden);
        let refused = Listing::of_users(state).add(&Proof::Range { proof: lie, more: false }, &state);
        assert_eq!(refused.unwrap_err().kind(), "ProofInvalid", "entry {hidden}");
    }
    let mut cut = proof.clone();
    cut.entries.truncate(5);
    let refused = Listing::of_users(state).add(&Proof::Range { proof: cut, more: false }, &state);
    assert_eq!(refused.unwrap_err().kind(), "ProofInvalid");
    let mut listing = Listing::of_users(state);
    listing.add(&honest, &state).unwrap();
    assert_eq!(listing.complete().unwrap().len(), 10);
}
