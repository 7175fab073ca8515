//! The acceptance cases of the specification, by number.

use std::boxed::Box;
use std::collections::BTreeSet;
use std::string::{String, ToString};
use std::vec;
use std::vec::Vec;

use quorate_attest::certificate::Certificate;
use quorate_attest::encoding::{Bounded, to_bytes};
use quorate_attest::id::{Epoch, GroupId, VmId};
use quorate_attest::request::status;
use quorate_attest::service::Answer as Proof;
use quorate_attest::state_tree::AbsenceProof;
use quorate_attest::statement::{Expected, Statement};

use super::attacks::{proposal, refusal, vote};
use super::world::{World, add, delete, group, name, raw_add, sign_body, uid};
use crate::client::{ask_uid, proven_uid};
use crate::collect::{Collector, Outcome, Voter};
use crate::testing::key;
use crate::{Answer, Holder, Subject, UID_BIND, op};

#[test]
fn test_case_1_second_name_on_one_uid_is_a_conflict_at_a_later_counter_too_and_all_replicas_agree() {
    let mut replicas: Vec<_> = (0..5).map(|_| World::new()).collect();
    let mut outcomes = vec![];
    for replica in &mut replicas {
        assert_eq!(replica.change(&add(1000, 1, "alice")).unwrap().bind.counter, 1);
        for counter in [1, 2] {
            let request = replica.sign(0, &add(1000, counter, "bob"), None);
            let (reply, state) = replica.order(request.encoded());
            assert_eq!(reply.status, status::CONFLICT, "counter {counter}");
            outcomes.push((counter, reply, state));
        }
    }
    for [first, second] in outcomes.as_chunks::<2>().0 {
        assert_eq!([first, second], [&outcomes[0], &outcomes[1]]);
    }
}

#[test]
fn test_case_2_second_uid_for_one_name_is_a_conflict() {
    let mut world = World::new();
    world.change(&add(1000, 1, "alice")).unwrap();
    world.change(&add(1001, 1, "bob")).unwrap();
    assert_eq!(world.change(&add(1001, 1, "alice")), Err(status::CONFLICT));
    assert_eq!(world.change(&add(1002, 1, "alice")), Err(status::CONFLICT));
    let Ok(Answer::Found(entry)) = world.lookup(Subject::Name(name("alice"))) else { panic!() };
    assert_eq!(entry.uid, uid(1000));
}

#[test]
fn test_case_3_signatures_on_alice_are_refused_with_the_name_bob() {
    let vector = |name: &str| Statement {
        kind: UID_BIND,
        group: GroupId::from_bytes([0x11; 32]),
        epoch: Epoch(1),
        instance: VmId::from_bytes([0x22; 32]),
        seq: 7,
        body: to_bytes(&(1000u32, String::from(name), 1u64, 0u8)),
    };
    let digests = ["alice", "bob"].map(|name| vector(name).digest().to_string());
    assert_eq!(digests[0], "ea7617bc0c8544e6ec5a5de230ed65bb89b49622f2a90bdf41e6d618c4418dc0");
    assert_eq!(digests[1], "95030116d136bb70f431f4b28861252f59b7b91ab3807cbf018f2c6d323680c3");

    // The same with five signatures of a group of seven, on the whole body.
    let (group, keys) = group(7, 2);
    let expected = group.expected(VmId::from_bytes([0x22; 32]), UID_BIND);
    let alice = proposal(&expected, 1000, "alice");
    let signatures = (0..5).map(|replica| (replica, alice.sign(&keys[usize::from(replica)]))).collect();
    let mut certificate = Certificate { statement: alice, signatures };
    assert_eq!(certificate.verify(&group, &expected), Ok(()));
    certificate.statement = proposal(&expected, 1000, "bob");
    assert_eq!(certificate.verify(&group, &expected).unwrap_err().kind(), "BadSignature");
}

#[test]
fn test_case_4_unproven_claim_that_a_bound_uid_is_unbound_is_refused() {
    let mut world = World::new();
    for (number, text) in [(999 + 1, "alice"), (1001, "bob"), (1002, "carol")] {
        world.change(&add(number, 1, text)).unwrap();
    }
    let (honest, state) = world.query(&ask_uid(1000));
    let found = proven_uid(1000, &honest, &state).unwrap().unwrap();
    assert_eq!(found.user().unwrap().passwd_line(), "alice:x:1000:1000::/home/alice:/bin/sh");

    // Whatever the liars combine from real entries, no two neighbours leave room for the key.
    let tree = world.replica.state().unwrap();
    let mut entries: Vec<_> = tree.entries().iter().map(|(key, _)| tree.membership(key)).collect();
    entries.push(None);
    for before in &entries {
        for after in &entries {
            let lie = Proof::Absent(AbsenceProof { before: before.clone(), after: after.clone() });
            assert_eq!(proven_uid(1000, &lie, &state).unwrap_err().kind(), "ProofInvalid");
        }
    }
    // Another UID's absence does not answer the question either.
    let (other, state) = world.query(&ask_uid(1003));
    assert_eq!(proven_uid(1003, &other, &state), Ok(None));
    assert_eq!(proven_uid(1000, &other, &state).unwrap_err().kind(), "ProofInvalid");
}

#[test]
fn test_case_5_deleted_uid_is_a_conflict_for_a_new_user() {
    let mut world = World::new();
    world.change(&add(1000, 1, "alice")).unwrap();
    world.change(&delete(1000, 2)).unwrap();
    for counter in [1, 3] {
        assert_eq!(world.change(&add(1000, counter, "carol")), Err(status::CONFLICT));
    }
    let Ok(Answer::Found(entry)) = world.lookup(Subject::Uid(1000)) else { panic!() };
    assert_eq!(entry.record.holder, Holder::Deleted(name("alice")));
    assert_eq!(entry.user(), None);
}

#[test]
fn test_case_6_uids_with_a_meaning_of_their_own_are_refused() {
    let mut world = World::new();
    let before = world.query(&ask_uid(0)).1;
    for number in [4_294_967_295, 4_294_967_294, 65_535, 65_534, 0, 1, 999] {
        let sequence = world.replica.next();
        let body = raw_add(number, b"alice");
        let request = sign_body(&key(0), world.service.instance(), sequence, op::ADD_USER, body);
        let (reply, _) = world.order(request.encoded());
        let refused = if number < 1000 { status::NOT_AUTHORIZED } else { status::MALFORMED };
        assert_eq!(reply.status, refused, "{number}");
        let (answer, state) = world.query(&ask_uid(number));
        assert_eq!(proven_uid(number, &answer, &state), Ok(None));
    }
    // Only the client's session was added.
    assert_eq!(world.query(&ask_uid(0)).1.size, before.size + 1);
}

#[test]
fn test_case_7_names_that_would_inject_or_confuse_are_refused_and_32_bytes_are_accepted() {
    let mut world = World::new();
    let mut send = |text: &[u8]| {
        let (number, sequence) = (1000 + world.replica.next() as u32, world.replica.next());
        let body = raw_add(number, text);
        let request = sign_body(&key(0), world.service.instance(), sequence, op::ADD_USER, body);
        world.order(request.encoded()).0.status
    };
    let long = [b'a'; 33];
    let refused: [&[u8]; 14] = [
        b"a:b",
        b"root\n",
        "Ü".as_bytes(),
        b"",
        &long,
        b"Alice",
        b"1a",
        b"-a",
        b"a$b",
        b"$",
        b"a b",
        b"a\0",
        b"\xff",
        b"a.b",
    ];
    for text in refused {
        assert_eq!(send(text), status::MALFORMED, "{text:?}");
    }
    let accepted: [&[u8]; 6] = [&long[..32], b"a", b"_", b"host$", b"a-1_", b"z9"];
    for text in accepted {
        assert_eq!(send(text), status::OK, "{text:?}");
    }
}

#[test]
fn test_case_8_stated_quorum_that_size_and_faults_do_not_demand_is_refused() {
    let (group, _) = group(10, 2);
    let expected = group.expected(VmId::ZERO, UID_BIND);
    let start = |stated| {
        Collector::new(group.clone(), stated, expected, proposal(&expected, 1000, "alice"), 3).map(|_| ())
    };
    assert_eq!(start(5).unwrap_err().kind(), "BadConfig");
    assert_eq!(start(7), Ok(()));
}

#[test]
fn test_case_9_split_of_4_and_3_reports_a_conflict_within_bounded_steps_and_the_ordered_mode_commits_one() {
    let (group, keys) = group(7, 2);
    let expected: Expected = group.expected(VmId::ZERO, UID_BIND);
    let sides = [proposal(&expected, 1000, "alice"), proposal(&expected, 1000, "bob")];
    let mut voters: Vec<_> = (0..7).map(|_| Voter::new(group.clone(), expected)).collect();
    // Replicas 0 to 3 hear of alice first, 4 to 6 of bob.
    for (replica, voter) in voters.iter_mut().enumerate() {
        assert_eq!(voter.vote(&sides[usize::from(replica >= 4)]), Ok(()));
    }
    for (side, proposed) in sides.iter().enumerate() {
        let mut collector = Collector::new(group.clone(), 5, expected, proposed.clone(), 3).unwrap();
        let mut steps = 0;
        for (replica, voter) in voters.iter_mut().enumerate() {
            let event = match voter.vote(proposed) {
                Ok(()) => vote(replica, proposed, &keys),
                Err(refused) => refusal(replica, refused, &keys),
            };
            steps += 1;
            if *collector.step(&event).unwrap() != Outcome::Pending {
                break;
            }
        }
        assert_eq!(*collector.outcome(), Outcome::Conflict, "side {side}");
        assert!(steps <= 7, "{steps}");
    }

    // In order, exactly one wins, whichever comes first, and all replicas agree.
    for order in [["alice", "bob"], ["bob", "alice"]] {
        let outcomes: BTreeSet<_> = (0..7)
            .map(|_| {
                let mut world = World::new();
                let results =
                    order.map(|name| world.change(&add(1000, 1, name)).map(|change| change.encoded()));
                (results, world.query(&ask_uid(1000)).1.root)
            })
            .collect();
        assert_eq!(outcomes.len(), 1);
        let (results, _) = outcomes.into_iter().next().unwrap();
        assert!(results[0].is_ok());
        assert_eq!(results[1], Err(status::CONFLICT));
    }
}

#[test]
fn test_split_with_two_silent_replicas_ends_in_a_conflict_after_the_rounds() {
    let (group, keys) = group(7, 2);
    let expected = group.expected(VmId::ZERO, UID_BIND);
    let (alice, bob) = (proposal(&expected, 1000, "alice"), proposal(&expected, 1000, "bob"));
    let collect = |refusals: &[usize]| {
        let mut collector = Collector::new(group.clone(), 5, expected, alice.clone(), 3).unwrap();
        for replica in 0..5 {
            let event = match refusals.contains(&replica) {
                true => refusal(replica, crate::collect::Refusal::Voted(Box::new(bob.clone())), &keys),
                false => vote(replica, &alice, &keys),
            };
            assert!(collector.step(&event).is_ok());
        }
        (0..3).for_each(|_| assert!(collector.step(&crate::collect::Event::Round).is_ok()));
        collector.outcome().clone()
    };
    assert_eq!(collect(&[3, 4]), Outcome::Conflict);
    assert!(matches!(collect(&[]), Outcome::Certified(_)));
    let mut silent = Collector::new(group.clone(), 5, expected, alice.clone(), 3).unwrap();
    (0..3).for_each(|_| assert!(silent.step(&crate::collect::Event::Round).is_ok()));
    assert_eq!(*silent.outcome(), Outcome::Inconclusive);
}
