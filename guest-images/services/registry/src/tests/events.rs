//! Watching from a number, and what is no longer kept.

use std::vec::Vec;

use quorate_kit::status;

use super::fixture::{ALICE, BOB, LIMITS, Node, SMALLEST, deregister, register};
use crate::client::{self, AnswerError};
use crate::testing::config;
use crate::*;

fn watch(node: &mut Node, number: u64, sub: u32, limit: u16) -> Watched {
    match node.ask(BOB, &Operation::Watch(Watch { number, sub, limit })) {
        Ok(Outcome::Watched { watched, .. }) => watched,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_watch_goes_on_from_any_number_without_a_gap() {
    let mut node = Node::new();
    for value in [b"1", b"2"] {
        node.ask(ALICE, &register(b"a", value)).unwrap();
    }
    let last = node.record(b"a").unwrap();
    node.ask(ALICE, &deregister(b"a")).unwrap();
    let proven = node.events_from(1);
    assert_eq!(watch(&mut node, 1, 0, 256), Watched::Events { events: proven.clone(), more: false });
    assert_eq!(watch(&mut node, 2, 0, 1), Watched::Events { events: proven[1..2].into(), more: true });
    assert_eq!(watch(&mut node, 2, 1, 9), Watched::Events { events: proven[2..].into(), more: false });
    assert_eq!(watch(&mut node, 900, 0, 9), Watched::Events { events: Vec::new(), more: false });
    let told: Vec<_> = proven.iter().map(|e| (e.number, e.event.put, e.event.record.version)).collect();
    assert_eq!(told, [(1, true, 1), (2, true, 2), (3, false, 2)]);
    assert_eq!(proven[2].event.record, last, "a deletion tells what was there");
}

#[test]
fn below_the_window_a_watch_is_told_the_lowest_number() {
    let mut node = Node::new();
    let first = node.replica.next();
    while node.lowest() == 1 {
        node.ask(ALICE, &register(b"a", &[0; 900])).unwrap();
    }
    node.check();
    let lowest = node.lowest();
    assert!(lowest > first);
    assert_eq!(watch(&mut node, lowest - 1, 0, 1), Watched::Compacted { lowest });
    assert_eq!(client::check_window(lowest - 1, lowest), Err(AnswerError::Compacted { lowest }));
    assert_eq!(client::check_window(lowest, lowest), Ok(()));
    assert!(
        matches!(watch(&mut node, lowest, 0, 1), Watched::Events { events, .. } if events[0].number == lowest)
    );
    let kept = node.events_from(lowest);
    let numbers: Vec<_> = kept.iter().map(|event| event.number).collect();
    let expected: Vec<u64> = (lowest..lowest + kept.len() as u64).collect();
    assert_eq!(numbers, expected, "events are missing inside the window");
}

#[test]
fn no_more_than_8192_events_are_kept() {
    let mut node = Node::with(LIMITS, Config { event_bytes_max: 64 << 20, ..config() });
    let put = |name: u8| TxnOp::Put { name: [name].into(), value: Vec::new(), lease: 0, previous: false };
    let puts: Vec<TxnOp> = (0..128).map(put).collect();
    let operation = Operation::Txn(Txn { compare: Vec::new(), success: puts, failure: Vec::new() });
    for _ in 0..64 {
        node.ask(ALICE, &operation).unwrap();
    }
    assert_eq!(node.lowest(), 1);
    let events = |node: &Node| node.entries().keys().filter(|key| key[1] == b'e').count();
    assert_eq!(events(&node), 8_192);
    node.ask(ALICE, &register(b"one more", b"")).unwrap();
    assert_eq!((node.lowest(), events(&node)), (2, 8_192));
    node.check();
}

#[test]
fn events_that_fit_in_no_window_are_lost_visibly_and_the_change_is_made() {
    let mut node = Node::with(LIMITS, Config { event_bytes_max: 1_000, ..config() });
    node.ask(ALICE, &register(b"a", b"1")).unwrap();
    node.ask(ALICE, &register(b"a", &[0; 2_000])).unwrap();
    assert_eq!(node.record(b"a").unwrap().version, 2);
    assert_eq!((node.lowest(), node.events_from(0)), (3, Vec::new()));
    assert_eq!(watch(&mut node, 2, 0, 1), Watched::Compacted { lowest: 3 });
    node.ask(ALICE, &deregister(b"a")).unwrap();
    node.check();
}

#[test]
fn names_take_the_room_of_events_and_a_full_state_still_lets_them_be_deregistered() {
    let mut node = Node::with(SMALLEST, Config { event_bytes_max: 64 << 20, ..config() });
    let mut names = 0u8;
    let full = loop {
        match node.ask(ALICE, &register(&[names], &[1; VALUE_BYTES_MAX])) {
            Ok(_) => names += 1,
            Err(status) => break status,
        }
        assert!(names < 100, "the state never fills");
    };
    assert_eq!(full, status::LIMIT);
    node.check();
    assert!(usize::from(names) > 1_000_000 / (VALUE_BYTES_MAX + 1_000), "events kept names out: {names}");
    for name in 0..names {
        let operation = Operation::Deregister { name: [name].into(), expected: None, previous: false };
        assert!(node.ask(ALICE, &operation).is_ok());
    }
    assert!(node.lowest() > 1, "events made room");
    node.check();
    assert!(node.ask(ALICE, &register(b"again", &[1; VALUE_BYTES_MAX])).is_ok());
}
