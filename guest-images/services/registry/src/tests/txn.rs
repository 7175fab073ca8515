//! Transactions: etcd's rules, all or nothing.

use std::vec::Vec;

use quorate_kit::status;

use super::fixture::{ALICE, BOB, Node, register};
use crate::*;

fn put(name: &[u8], value: &[u8]) -> TxnOp {
    TxnOp::Put { name: name.into(), value: value.into(), lease: 0, previous: true }
}

fn get(range: NameRange) -> TxnOp {
    TxnOp::Get { range, limit: 9 }
}

fn txn(compare: &[Compare], success: &[TxnOp], failure: &[TxnOp]) -> Operation {
    Operation::Txn(Txn { compare: compare.into(), success: success.into(), failure: failure.into() })
}

fn succeeds(node: &mut Node, name: &[u8], target: Target, relation: Relation) -> bool {
    match node.ask(BOB, &txn(&[Compare { name: name.into(), relation, target }], &[], &[])) {
        Ok(Outcome::Txn { succeeded, .. }) => succeeded,
        other => panic!("{other:?}"),
    }
}

#[test]
fn comparisons_follow_etcd() {
    let mut node = Node::new();
    for value in [b"1", b"2", b"5"] {
        node.ask(ALICE, &register(b"a", value)).unwrap();
    }
    use Relation::{Equal, Greater, Less, NotEqual};
    // Created by 1, modified by 3, version 3, value "5", no lease.
    type Make = fn(u64) -> Target;
    let targets: [(Make, u64); 4] =
        [(Target::Version, 3), (Target::Created, 1), (Target::Modified, 3), (Target::Lease, 0)];
    for (target, there) in targets {
        for given in [0, 1, 2, 3, 4] {
            let expected = [
                (Equal, there == given),
                (Greater, there > given),
                (Less, there < given),
                (NotEqual, there != given),
            ];
            for (relation, expected) in expected {
                assert_eq!(
                    succeeds(&mut node, b"a", target(given), relation),
                    expected,
                    "{:?} {relation:?}",
                    target(given)
                );
            }
        }
        // A name that is not there has zeroes.
        assert!(succeeds(&mut node, b"b", target(0), Equal));
        assert!(succeeds(&mut node, b"b", target(1), Less));
    }
    let value = |value: &[u8]| Target::Value(value.into());
    for (given, relation) in
        [(&b"5"[..], Equal), (b"4", Greater), (b"6", Less), (b"50", Less), (b"", NotEqual)]
    {
        assert!(succeeds(&mut node, b"a", value(given), relation));
    }
    for relation in [Equal, Greater, Less, NotEqual] {
        assert!(!succeeds(&mut node, b"b", value(b""), relation), "no value compares with none");
    }
}

#[test]
fn one_list_is_done_with_one_number_and_numbered_events() {
    let mut node = Node::new();
    node.ask(ALICE, &register(b"old", b"1")).unwrap();
    let old = node.record(b"old").unwrap();
    let absent = Compare { name: b"a".into(), relation: Relation::Equal, target: Target::Version(0) };
    let delete = TxnOp::DeleteRange(DeregisterRange { range: NameRange::one(b"old"), previous: true });
    let success = [put(b"a", b"1"), delete, put(b"b", b"2"), get(NameRange::prefix(b""))];
    let failure = [get(NameRange::one(b"a"))];
    let operation = txn(&[absent], &success, &failure);
    let outcome = node.ask(ALICE, &operation);
    let entry =
        |node: &mut Node, name: &[u8]| Entry { name: name.into(), record: node.record(name).unwrap() };
    let entries = Vec::from([entry(&mut node, b"a"), entry(&mut node, b"b")]);
    assert!(entries.iter().all(|entry| (entry.record.created, entry.record.modified) == (2, 2)));
    let previous = Vec::from([Entry { name: b"old".into(), record: old }]);
    let results = Vec::from([
        TxnResult::Put { previous: None },
        TxnResult::Deleted { deleted: 1, previous },
        TxnResult::Put { previous: None },
        TxnResult::Got(Page { entries: entries.clone(), more: false }),
    ]);
    assert_eq!(outcome, Ok(Outcome::Txn { number: 2, succeeded: true, results }));
    let events = node.events_from(2);
    let told: Vec<_> = events.iter().map(|e| (e.number, e.sub, e.event.put, &e.event.name[..])).collect();
    assert_eq!(told, [(2, 0, true, &b"a"[..]), (2, 1, false, b"old"), (2, 2, true, b"b")]);
    // Again: now the name is there.
    let results = Vec::from([TxnResult::Got(Page { entries: entries[..1].into(), more: false })]);
    assert_eq!(node.ask(ALICE, &operation), Ok(Outcome::Txn { number: 3, succeeded: false, results }));
    node.check();
}

#[test]
fn a_transaction_that_fails_halfway_changes_nothing() {
    let mut node = Node::new();
    node.ask(BOB, &register(b"bobs", b"1")).unwrap();
    let before = node.entries();
    let missing = TxnOp::Put { name: b"c".into(), value: Vec::new(), lease: 9, previous: false };
    let delete = TxnOp::DeleteRange(DeregisterRange { range: NameRange::prefix(b"bob"), previous: false });
    for (last, expected) in [
        (put(b"bobs", b"2"), status::NOT_AUTHORIZED),
        (delete, status::NOT_AUTHORIZED),
        (missing, status::NOT_FOUND),
        (put(b"a", b"again"), status::MALFORMED),
    ] {
        assert_eq!(node.ask(ALICE, &txn(&[], &[put(b"a", b"1"), put(b"b", b"2"), last], &[])), Err(expected));
        assert_eq!(node.entries(), before);
    }
}

#[test]
fn a_transaction_holds_128_operations() {
    let mut node = Node::new();
    let puts: Vec<TxnOp> = (0..129u8).map(|name| put(&[name], b"v")).collect();
    assert_eq!(node.ask(ALICE, &txn(&[], &puts, &[])), Err(status::TOO_LARGE));
    assert!(node.ask(ALICE, &txn(&[], &puts[..128], &[])).is_ok());
    assert_eq!(node.events_from(2).len(), 128);
    node.check();
}
