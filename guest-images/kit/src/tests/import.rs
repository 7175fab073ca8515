//! A state moves from one guest to another and goes on there as if it had been there all along.

use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;
use quorate_attest::encoding::{Bounded, to_bytes};
use quorate_attest::request::{BODY_LIMIT, status};
use quorate_attest::service::{Answer, Applied, Genesis, Input, Output, Query, StateEntry};
use quorate_attest::state_tree::{StateCommitment, VALUE_LIMIT};

use super::fixture::{LIMITS, Node, genesis, put, request, tick};
use super::notes::op;
use crate::{Limits, REPLY_LIMIT};

const ROOMY: Limits = Limits { state_bytes: 4 << 20, session_bytes: 2 << 20, ..LIMITS };

/// A service with a past: entries, clients, votes, long replies.
fn old() -> Node {
    let mut node = Node::with(ROOMY);
    for number in 0..40u16 {
        node.ask(&put(number, 1, &[b'k', number as u8], &vec![7; 60_000 * usize::from(number % 2)]));
        node.ask(&request(number, 2, op::ECHO, to_bytes(&(REPLY_LIMIT as u32 / 2))));
    }
    (0..4).for_each(|number| {
        node.ask(&tick(number, 1000 + u64::from(number)));
    });
    node
}

fn parts(node: &mut Node) -> Vec<Vec<StateEntry>> {
    let (mut parts, mut after) = (Vec::new(), Vec::new());
    loop {
        let Output::Answered { answer, .. } = node.query(Query::Export { after }) else { panic!("refused") };
        let Answer::Entries { entries, more } = *answer else { panic!("no export") };
        after = entries.last().expect("an entry").key.clone();
        parts.push(entries);
        if !more {
            return parts;
        }
    }
}

fn import(number: u64, entries: Vec<StateEntry>, complete: Option<StateCommitment>) -> Input {
    Input::Import { genesis: genesis(), number, entries, complete }
}

fn taken(first: u64) -> Output {
    Output::Applied(Applied { first, executed: vec![] })
}

fn moved(from: &mut Node, to: &mut Node) {
    let (number, commitment) = (from.replica.next(), from.commitment());
    let mut parts = parts(from);
    let last = parts.pop().expect("a part");
    for part in parts {
        let input = import(number, part, None);
        assert!(input.encoded().len() <= BODY_LIMIT);
        assert_eq!(to.feed(&input), taken(0));
        assert_eq!(to.replica.state(), None);
    }
    assert_eq!(to.feed(&import(number, last, Some(commitment))), taken(number));
}

#[test]
fn an_imported_state_is_the_exported_one_and_goes_on_alike() {
    let (mut from, mut to) = (old(), Node::empty(1, ROOMY));
    moved(&mut from, &mut to);
    assert!(parts(&mut from).len() > 3, "one part shows little");
    assert_eq!(to.replica.state(), from.replica.state());
    assert_eq!((to.replica.next(), to.replica.time_ms()), (from.replica.next(), from.replica.time_ms()));
    // Replays, stale votes, eviction and budgets follow from what was imported.
    let inputs: Vec<Vec<u8>> = [
        put(3, 1, b"k3", b"v").encoded(),
        request(3, 2, op::ECHO, to_bytes(&(REPLY_LIMIT as u32 / 2))).encoded(),
        tick(0, 900).encoded(),
        tick(4, 2000).encoded(),
        request(3, 3, op::TIME, vec![]).encoded(),
    ]
    .into();
    let many = (100..350).map(|client| request(client, 1, op::ECHO, to_bytes(&16_000u32)).encoded());
    for input in inputs.into_iter().chain(many) {
        let input = [input];
        assert_eq!(from.apply(&input), to.apply(&input));
    }
    assert_eq!(to.replica.state(), from.replica.state());
}

#[test]
fn an_import_that_was_interrupted_begins_again_with_its_first_part() {
    let mut from = old();
    let number = from.replica.next();
    let parts = parts(&mut from);
    let mut to = Node::empty(1, ROOMY);
    for part in &parts[..2] {
        assert_eq!(to.feed(&import(number, part.clone(), None)), taken(0));
    }
    moved(&mut from, &mut to);
    assert_eq!(to.replica.state(), from.replica.state());
}

#[test]
fn a_part_with_the_longest_configuration_still_fits() {
    let mut node = Node::with(ROOMY);
    for number in 0..30u8 {
        node.ask(&put(1, u64::from(number) + 1, &[b'k', number], &[7; VALUE_LIMIT]));
    }
    let mut genesis = genesis();
    genesis.spec.config = vec![1; quorate_attest::service::CONFIG_LIMIT];
    for entries in parts(&mut node) {
        let complete = Some(node.commitment());
        let input = Input::Import { genesis: genesis.clone(), number: 1, entries, complete };
        assert!(input.encoded().len() <= BODY_LIMIT);
    }
}

#[test]
fn another_state_than_the_certified_one_is_refused_as_a_whole() {
    let mut from = old();
    let (number, commitment) = (from.replica.next(), from.commitment());
    let parts = parts(&mut from);
    let all: Vec<StateEntry> = parts.iter().flatten().cloned().collect();
    let refused = |status| Output::Refused { status, next: 0 };
    let changed = |change: &dyn Fn(&mut Vec<StateEntry>)| {
        let mut entries = all.clone();
        change(&mut entries);
        entries
    };
    let cases: [(Vec<StateEntry>, u16); 6] = [
        (changed(&|entries| entries[60].value.push(0)), status::CONFLICT),
        (changed(&|entries| drop(entries.remove(60))), status::CONFLICT),
        (changed(&|entries| entries.truncate(60)), status::CONFLICT),
        (changed(&|entries| entries.swap(60, 61)), status::MALFORMED),
        (changed(&|entries| entries[60].key = vec![]), status::MALFORMED),
        (changed(&|entries| entries[0].value[0] ^= 1), status::BAD_CONFIG),
    ];
    for (entries, status) in cases {
        let mut to = Node::empty(1, ROOMY);
        let chunks: Vec<_> = entries.chunks(2).collect();
        let (last, first) = chunks.split_last().expect("a part");
        let early = first.iter().find_map(|part| {
            let output = to.feed(&import(number, part.to_vec(), None));
            (output != taken(0)).then_some(output)
        });
        let end = early.unwrap_or_else(|| to.feed(&import(number, last.to_vec(), Some(commitment))));
        assert_eq!(end, refused(status));
        assert_eq!(to.feed(&Input::Query(Query::Head)), refused(status::NOT_FOUND));
        moved(&mut from, &mut to);
        assert_eq!(to.replica.state(), from.replica.state(), "an import begins again");
    }
}

#[test]
fn entries_of_the_kit_that_the_kit_never_wrote_are_refused() {
    let (from, limits) = (Node::new(), LIMITS);
    let own = |key: &[u8], value: &[u8]| StateEntry { key: key.to_vec(), value: value.to_vec() };
    let session = [&[0, b's'][..], super::fixture::key(1).public().as_bytes()].concat();
    let voter = [&[0, b't'][..], super::fixture::key(1).public().as_bytes()].concat();
    for entry in [own(&session, b"no session"), own(&voter, &[1; 8]), own(&[0], b""), own(&[0, b'z'], b"")] {
        let mut to = Node::empty(1, limits);
        let output = to.feed(&import(from.replica.next(), vec![entry], None));
        assert_eq!(output, Output::Refused { status: status::BAD_CONFIG, next: 0 });
    }
    let mut to = Node::empty(1, limits);
    let empty = Node::new().commitment();
    let output = to.feed(&import(1, vec![own(&[1], b"")], Some(empty)));
    assert_eq!(output, Output::Refused { status: status::CONFLICT, next: 0 }, "a state without genesis");
}

#[test]
fn a_state_of_another_service_or_with_other_voters_is_refused() {
    let mut from = old();
    let (number, commitment) = (from.replica.next(), from.commitment());
    let first = parts(&mut from).remove(0);
    let mut others: [Genesis; 3] = [genesis(), genesis(), genesis()];
    others[0].spec.config = b"other".to_vec();
    others[1].voters.rotate_left(1);
    others[2].f = 1;
    for genesis in others {
        let mut to = Node::empty(1, ROOMY);
        let input = Input::Import { genesis, number, entries: first.clone(), complete: Some(commitment) };
        assert_eq!(to.feed(&input), Output::Refused { status: status::BAD_CONFIG, next: 0 });
    }
    let mut to = Node::empty(1, ROOMY);
    assert_eq!(
        to.feed(&import(0, first, None)),
        Output::Refused { status: status::MALFORMED, next: 0 },
        "creation itself is an entry"
    );
}

#[test]
fn a_state_over_the_budget_of_the_new_machine_is_refused() {
    let mut from = old();
    let parts = parts(&mut from);
    for limits in [Limits { session_bytes: 90_000, ..ROOMY }, Limits { state_bytes: 90_000, ..ROOMY }] {
        let mut to = Node::empty(1, limits);
        let outputs: Vec<_> = parts
            .iter()
            .map(|part| to.feed(&import(9, part.clone(), None)))
            .take_while(|o| *o == taken(0))
            .collect();
        assert!(outputs.len() < parts.len());
    }
}

/// One of some requests, votes and garbage.
fn step() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        4 => (0u16..5, 1u64..9, 1u8..6, any::<u8>())
            .prop_map(|(client, sequence, key, value)| put(client, sequence, &[key], &[value]).encoded()),
        1 => (0u16..5, 1u64..9).prop_map(|(client, sequence)| request(client, sequence, op::CLEAR, vec![]).encoded()),
        1 => (0u16..5, 1u64..9).prop_map(|(client, sequence)| request(client, sequence, op::TIME, vec![]).encoded()),
        2 => (0u16..7, 1u64..50).prop_map(|(number, time)| tick(number, time).encoded()),
        1 => proptest::collection::vec(any::<u8>(), 0..9),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn after_any_history_an_imported_state_in_any_parts_has_the_same_root_and_the_same_future(
        history in proptest::collection::vec(step(), 0..40),
        future in proptest::collection::vec(step(), 1..20),
        cuts in proptest::collection::vec(1usize..6, 60),
    ) {
        let (mut from, mut to) = (Node::new(), Node::empty(1, LIMITS));
        from.apply(&history);
        let (number, commitment) = (from.replica.next(), from.commitment());
        let entries: Vec<StateEntry> = parts(&mut from).concat();
        let mut rest = &entries[..];
        for cut in cuts {
            let (part, behind) = rest.split_at(cut.min(rest.len()));
            if part.is_empty() {
                break;
            }
            let complete = behind.is_empty().then_some(commitment);
            let expected = taken(if behind.is_empty() { number } else { 0 });
            prop_assert_eq!(to.feed(&import(number, part.to_vec(), complete)), expected);
            rest = behind;
        }
        prop_assert_eq!(to.replica.state(), from.replica.state());
        prop_assert_eq!(to.apply(&future), from.apply(&future));
        prop_assert_eq!(to.replica.state(), from.replica.state());
    }
}
