//! Answers: provable against the certified state, complete, small enough, and without effect.

use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;
use quorate_attest::encoding::{Bounded, to_bytes};
use quorate_attest::request::{BODY_LIMIT, status};
use quorate_attest::service::{Answer, Output, Query};
use quorate_attest::state_tree::{KEY_LIMIT, StateCommitment, VALUE_LIMIT};

use super::fixture::{LIMITS, Node, put, request, tick};
use super::notes::op;
use crate::Limits;

/// The answer, after checking it as a client does who knows the certified state.
fn proven(node: &mut Node, query: &Query, certified: &StateCommitment) -> Answer {
    let output = node.query(query.clone());
    assert!(output.encoded().len() <= BODY_LIMIT);
    let Output::Answered { size, state, answer } = output else { panic!("{output:?}") };
    assert_eq!((size, state), (node.replica.next(), *certified));
    assert_eq!(answer.verify(query, certified), Ok(()));
    *answer
}

fn keys(answer: &Answer) -> (Vec<Vec<u8>>, bool) {
    let Answer::Range { proof, more } = answer else { panic!("{answer:?}") };
    (proof.entries.iter().map(|entry| entry.key.clone()).collect(), *more)
}

#[test]
fn presence_and_absence_are_proved_and_heads_name_the_size() {
    let mut node = Node::new();
    node.ask(&put(1, 1, b"k2", b"v"));
    let state = node.commitment();
    let get = |key: &[u8]| Query::Get { key: key.to_vec() };
    let Answer::Present(entry) = proven(&mut node, &get(b"k2"), &state) else { panic!("absent") };
    assert_eq!(entry.value, b"v");
    for absent in [&b""[..], b"k1", b"k20", b"z", &[0, b'g', 1]] {
        assert!(matches!(proven(&mut node, &get(absent), &state), Answer::Absent(_)));
    }
    assert_eq!(proven(&mut node, &Query::Head, &state), Answer::Head);
}

#[test]
fn a_range_ends_at_its_limit_and_goes_on_behind_its_last_entry() {
    let mut node = Node::new();
    let names: Vec<Vec<u8>> = (0..20u8).map(|number| vec![b'k', number]).collect();
    for (sequence, name) in (1..).zip(&names) {
        node.ask(&put(1, sequence, name, b"v"));
    }
    let state = node.commitment();
    let mut seen = Vec::new();
    let mut low = b"k".to_vec();
    loop {
        let answer = proven(&mut node, &Query::Range { low, high: b"l".to_vec(), limit: 7 }, &state);
        let (keys, more) = keys(&answer);
        assert_eq!(keys.len(), if more { 7 } else { 6 });
        seen.extend(keys);
        if !more {
            break;
        }
        low = [&seen[seen.len() - 1][..], &[0]].concat();
    }
    assert_eq!(seen, names);
    let exact = Query::Range { low: b"k".to_vec(), high: b"l".to_vec(), limit: 20 };
    assert_eq!(keys(&proven(&mut node, &exact, &state)), (names, false));
}

#[test]
fn a_range_whose_bounds_or_limit_make_no_sense_is_refused() {
    let mut node = Node::new();
    let range =
        |low: &[u8], high: &[u8], limit| Query::Range { low: low.to_vec(), high: high.to_vec(), limit };
    for query in [range(b"a", b"b", 0), range(b"a", b"b", 257), range(b"b", b"a", 1)] {
        assert_eq!(node.query(query), Output::Refused { status: status::MALFORMED, next: 1 });
    }
}

#[test]
fn the_longest_entries_fit_one_at_a_time_with_both_neighbours() {
    let limits = Limits { state_bytes: 4 << 20, ..LIMITS };
    let mut node = Node::with(limits);
    for number in 1..8u8 {
        let key = [&[number][..], &[0; KEY_LIMIT - 1]].concat();
        assert_eq!(node.ask(&put(1, number.into(), &key, &[number; VALUE_LIMIT])).0, status::OK);
    }
    let state = node.commitment();
    let absent = proven(&mut node, &Query::Get { key: vec![3, 1] }, &state);
    assert!(matches!(absent, Answer::Absent(_)));
    let all = Query::Range { low: vec![2], high: vec![9], limit: 256 };
    let (first, more) = keys(&proven(&mut node, &all, &state));
    assert!((1..=2).contains(&first.len()) && more, "{}", first.len());
    let Output::Answered { answer, .. } = node.query(Query::Export { after: vec![] }) else {
        panic!("refused")
    };
    let Answer::Entries { entries, more } = *answer else { panic!("no export") };
    assert!(more && entries.len() > 2);
}

#[test]
fn before_genesis_nothing_is_answered() {
    let mut node = Node::empty(0, LIMITS);
    assert_eq!(node.query(Query::Head), Output::Refused { status: status::NOT_FOUND, next: 0 });
}

fn any_key() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(0u8..4, 0..4)
}

fn any_query() -> impl Strategy<Value = Query> {
    prop_oneof![
        any_key().prop_map(|key| Query::Get { key }),
        (any_key(), any_key(), 0u16..9).prop_map(|(low, high, limit)| Query::Range { low, high, limit }),
        Just(Query::Head),
        any_key().prop_map(|after| Query::Export { after }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn queries_change_nothing_and_every_answer_holds_against_the_state(
        entries in proptest::collection::btree_map(proptest::collection::vec(1u8..4, 1..4), any::<u8>(), 0..30),
        queries in proptest::collection::vec(any_query(), 1..30),
    ) {
        let mut node = Node::new();
        for (sequence, (key, value)) in (1..).zip(&entries) {
            node.ask(&put(1, sequence, key, &[*value]));
        }
        node.ask(&tick(0, 7));
        let (before, state) = (node.replica.clone(), node.commitment());
        for query in queries {
            match node.query(query.clone()) {
                Output::Answered { state: at, answer, .. } => {
                    prop_assert_eq!(at, state);
                    let verified = answer.verify(&query, &state);
                    prop_assert!(verified.is_ok() || matches!(*answer, Answer::Entries { .. }), "{:?}", query);
                    if let (Query::Range { low, high, limit }, Answer::Range { proof, more }) = (&query, &*answer) {
                        let within: Vec<&Vec<u8>> =
                            entries.keys().filter(|key| *key >= low && *key <= high).collect();
                        let own = proof.entries.iter().filter(|entry| entry.key[0] != 0).map(|entry| &entry.key);
                        prop_assert!(own.zip(&within).all(|(found, expected)| found == *expected));
                        prop_assert!(*more || proof.entries.len() <= usize::from(*limit));
                    }
                }
                Output::Refused { status, .. } => prop_assert_eq!(status, status::MALFORMED),
                other => prop_assert!(false, "{:?}", other),
            }
        }
        prop_assert!(node.replica == before);
    }
}

#[test]
fn an_ordered_listing_and_a_proven_one_agree() {
    let mut node = Node::new();
    for (sequence, key) in (1..).zip([b"a", b"c", b"b"]) {
        node.ask(&put(1, sequence, key, b"v"));
    }
    let listed = node.ask(&request(1, 4, op::LIST, to_bytes(&(b"a".to_vec(), b"b".to_vec())))).1;
    let state = node.commitment();
    let query = Query::Range { low: b"a".to_vec(), high: b"b".to_vec(), limit: 9 };
    let Answer::Range { proof, .. } = proven(&mut node, &query, &state) else { panic!("no range") };
    let proved: Vec<_> = proof.entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
    assert_eq!(listed, to_bytes(&proved));
}
