//! Limits: what is over one fails as a whole.

use std::vec::Vec;

use quorate_attest::encoding::Bounded;
use quorate_kit::{Call, Service, State, status};

use super::fixture::{ALICE, BOB, LIMITS, Node, grant, register, register_with};
use crate::testing::config;
use crate::*;

fn fill(node: &mut Node, prefix: u8, names: u16, lease: u64) {
    let put = |name: u16| TxnOp::Put {
        name: [&[prefix][..], &name.to_be_bytes()].concat(),
        value: Vec::new(),
        lease,
        previous: false,
    };
    let all: Vec<TxnOp> = (0..names).map(put).collect();
    for part in all.chunks(TXN_OPERATIONS_MAX) {
        let txn = Txn { compare: Vec::new(), success: part.into(), failure: Vec::new() };
        node.ask(ALICE, &Operation::Txn(txn)).unwrap();
    }
}

#[test]
fn one_operation_changes_1024_names_at_most() {
    let mut node = Node::new();
    fill(&mut node, b'a', 1_025, 0);
    let delete = |low: &[u8]| {
        let range = NameRange { low: low.into(), high: None };
        Operation::DeregisterRange(DeregisterRange { range, previous: false })
    };
    let before = node.entries();
    assert_eq!(node.ask(ALICE, &delete(b"a")), Err(status::LIMIT));
    // Also when two operations of a transaction share it.
    let half = |low: &[u8], high: Option<&[u8]>| {
        let range = NameRange { low: low.into(), high: high.map(Vec::from) };
        TxnOp::DeleteRange(DeregisterRange { range, previous: false })
    };
    let success = Vec::from([half(b"a", Some(&[b'a', 2])), half(&[b'a', 2], None)]);
    let txn = Txn { compare: Vec::new(), success, failure: Vec::new() };
    assert_eq!(node.ask(ALICE, &Operation::Txn(txn)), Err(status::LIMIT));
    assert_eq!(node.entries(), before);
    let number = node.replica.next();
    let done = Outcome::RangeDeregistered { number, deleted: 1_024, previous: Vec::new() };
    assert_eq!(node.ask(ALICE, &delete(&[b'a', 0, 1])), Ok(done));
    node.check();
}

#[test]
fn a_lease_keeps_1024_names_at_most_and_is_revoked_with_all_of_them() {
    let mut node = Node::new();
    node.ask(ALICE, &grant(1, 1_000)).unwrap();
    fill(&mut node, b'a', 1_024, 1);
    assert_eq!(node.ask(ALICE, &register_with(b"one more", b"", 1, None)), Err(status::LIMIT));
    assert!(node.ask(ALICE, &register_with(&[b'a', 0, 0], b"again", 1, None)).is_ok());
    let number = node.replica.next();
    let revoked = Outcome::LeaseRevoked { number, deleted: 1_024 };
    assert_eq!(node.ask(ALICE, &Operation::LeaseRevoke { id: 1 }), Ok(revoked));
    assert!(node.entries().keys().all(|key| !matches!(key[1], b'r' | b'l' | b'm' | b'x')));
    node.check();
}

/// A registry that begins with other totals, as they would be after very many operations.
struct Full;

impl Service for Full {
    fn genesis(state: &mut State<'_>, bytes: &[u8]) -> Result<(), u16> {
        let (config, totals) = bytes.split_at(bytes.len() - Totals::LIMIT);
        Registry::genesis(state, config)?;
        state.put(totals_key(), totals.into())
    }

    fn apply(state: &mut State<'_>, call: &Call<'_>) -> Result<Vec<u8>, u16> {
        Registry::apply(state, call)
    }
}

#[test]
fn there_are_65536_names_and_leases_at_most() {
    let totals = Totals { services: SERVICES_MAX - 1, leases: LEASES_MAX - 1, ..Totals::default() };
    let (mut node, _) = Node::<Full>::begin(LIMITS, [config().encoded(), totals.encoded()].concat());
    assert!(node.ask(ALICE, &register(b"last", b"")).is_ok());
    assert!(node.ask(ALICE, &grant(1, 1)).is_ok());
    let before = node.entries();
    assert_eq!(node.ask(ALICE, &register(b"one more", b"")), Err(status::LIMIT));
    assert_eq!(node.ask(ALICE, &grant(0, 1)), Err(status::LIMIT));
    assert_eq!(node.entries(), before);
    assert!(node.ask(ALICE, &register(b"last", b"again")).is_ok());
}

#[test]
fn the_longest_name_and_value_are_registered_and_proved() {
    let mut node = Node::with(LIMITS, Config { event_bytes_max: 1 << 20, ..config() });
    node.ask(ALICE, &grant(1, 1_000)).unwrap();
    let (name, value) = ([7; NAME_BYTES_MAX], [1; VALUE_BYTES_MAX]);
    assert!(node.ask(ALICE, &register_with(&name, &value, 1, None)).is_ok());
    assert_eq!(node.record(&name).map(|record| record.value), Some(value.into()));
    let events = node.events_from(1);
    assert_eq!(events[0].event.name, name);
    // A result that is too long is no success without its result.
    let before = node.entries();
    assert_eq!(node.ask(ALICE, &register_with(&name, b"", 1, None)), Err(status::LIMIT));
    assert_eq!(node.ask(BOB, &Operation::Lookup { name: name.into() }), Err(status::LIMIT));
    assert_eq!(node.entries(), before);
    let operation = Operation::Deregister { name: name.into(), expected: None, previous: false };
    assert!(node.ask(ALICE, &operation).is_ok());
    node.check();
}

#[test]
fn every_outcome_stays_within_its_bound() {
    let mut node = Node::new();
    for name in 0..40u8 {
        node.ask(ALICE, &register(&[b'a', name], &[name; 1_000])).unwrap();
    }
    let list = List { prefix: Vec::new(), from: Vec::new(), limit: 256 };
    let Ok(outcome) = node.ask(BOB, &Operation::List(list)) else { panic!("a page fits") };
    assert!(matches!(&outcome, Outcome::Listed { page, .. } if page.more && page.entries.len() > 10));
    assert!(outcome.encoded().len() <= OUTCOME_BYTES_MAX);
    let number = node.lowest();
    let Ok(outcome) = node.ask(BOB, &Operation::Watch(Watch { number, sub: 0, limit: 256 })) else {
        panic!("a page fits")
    };
    assert!(outcome.encoded().len() <= OUTCOME_BYTES_MAX);
    let delete = DeregisterRange { range: NameRange::prefix(b"a"), previous: true };
    let before = node.entries();
    assert_eq!(node.ask(ALICE, &Operation::DeregisterRange(delete.clone())), Err(status::LIMIT));
    let get = TxnOp::Get { range: NameRange::prefix(b"a"), limit: 256 };
    let txn =
        |count| Txn { compare: Vec::new(), success: std::vec![get.clone(); count], failure: Vec::new() };
    assert!(node.ask(BOB, &Operation::Txn(txn(1))).is_ok());
    assert_eq!(node.ask(BOB, &Operation::Txn(txn(2))), Err(status::LIMIT));
    assert_eq!(node.entries(), before);
    assert!(
        node.ask(ALICE, &Operation::DeregisterRange(DeregisterRange { previous: false, ..delete })).is_ok()
    );
}
