//! Who may change a name, and when.

use std::vec::Vec;

use quorate_attest::encoding::Bounded;
use quorate_kit::status;

use super::fixture::{ADMIN, ALICE, BOB, LIMITS, Node, deregister, register, register_with};
use crate::testing::{config, key};
use crate::*;

#[test]
fn acceptance_12e_6_of_two_owners_who_register_one_name_exactly_one_wins_on_all_replicas() {
    for order in [[ALICE, BOB], [BOB, ALICE]] {
        let mut replicas: Vec<Node> = (0..4).map(|_| Node::new()).collect();
        for replica in &mut replicas {
            let results =
                order.map(|client| replica.ask(client, &register_with(b"web", &[client as u8], 0, Some(0))));
            let number = 1;
            assert_eq!(results[0], Ok(Outcome::Registered { number, version: 1, previous: None }));
            assert_eq!(results[1], Err(status::NOT_AUTHORIZED));
            assert_eq!(replica.record(b"web").map(|record| record.owner), Some(key(order[0]).public()));
        }
        let roots: Vec<_> =
            replicas.iter().map(|node| node.replica.state().map(|state| state.commitment())).collect();
        assert!(roots.windows(2).all(|pair| pair[0] == pair[1]));
    }
}

#[test]
fn only_the_owner_or_an_admin_changes_or_deregisters_a_name() {
    let mut node = Node::new();
    node.ask(ALICE, &register(b"web", b"1")).unwrap();
    let before = node.entries();
    let range = DeregisterRange { range: NameRange::prefix(b"w"), previous: false };
    for attack in [register(b"web", b"evil"), deregister(b"web"), Operation::DeregisterRange(range)] {
        assert_eq!(node.ask(BOB, &attack), Err(status::NOT_AUTHORIZED));
        assert_eq!(node.entries(), before);
    }
    node.ask(ADMIN, &register(b"web", b"2")).unwrap();
    let record = node.record(b"web").unwrap();
    assert_eq!(
        (record.owner, record.version),
        (key(ALICE).public(), 2),
        "an admin's change takes nothing over"
    );
    node.ask(ALICE, &register(b"web", b"3")).unwrap();
    node.ask(ADMIN, &deregister(b"web")).unwrap();
    assert_eq!(node.record(b"web"), None);
    node.ask(BOB, &register(b"web", b"4")).unwrap();
    node.check();
}

#[test]
fn a_stale_expected_version_is_refused_and_changes_nothing() {
    let mut node = Node::new();
    let swap = |value: &[u8], expected| register_with(b"web", value, 0, Some(expected));
    assert_eq!(node.ask(ALICE, &swap(b"1", 1)), Err(status::STALE), "there is none yet");
    node.ask(ALICE, &swap(b"1", 0)).unwrap();
    node.ask(ALICE, &swap(b"2", 1)).unwrap();
    let before = node.entries();
    assert_eq!(node.ask(ALICE, &swap(b"3", 1)), Err(status::STALE));
    assert_eq!(node.ask(ALICE, &swap(b"3", 3)), Err(status::STALE));
    assert_eq!(node.ask(ALICE, &swap(b"3", 0)), Err(status::CONFLICT));
    let stale = Operation::Deregister { name: b"web".into(), expected: Some(1), previous: false };
    assert_eq!(node.ask(ALICE, &stale), Err(status::STALE));
    assert_eq!(node.entries(), before);
    let fresh = Operation::Deregister { name: b"web".into(), expected: Some(2), previous: false };
    assert_eq!(node.ask(ALICE, &fresh), Ok(Outcome::Deregistered { number: 8, previous: None }));
    assert_eq!(node.ask(ALICE, &fresh), Err(status::NOT_FOUND));
}

#[test]
fn results_tell_numbers_versions_and_previous_records_as_etcd_does() {
    let mut node = Node::new();
    node.ask(ALICE, &register(b"a", b"1")).unwrap();
    let first = node.record(b"a");
    let outcome = node.ask(ALICE, &register(b"a", b"2"));
    assert_eq!(outcome, Ok(Outcome::Registered { number: 2, version: 2, previous: first }));
    let second = node.record(b"a").unwrap();
    let numbers = (second.created, second.modified, second.version, second.lease);
    assert_eq!(numbers, (1, 2, 2, 0));
    assert_eq!(
        node.ask(ALICE, &Operation::Lookup { name: b"a".into() }),
        Ok(Outcome::Found { number: 3, record: Some(second.clone()) })
    );
    node.ask(ALICE, &register(b"b", b"")).unwrap();
    let range = NameRange { low: b"a".into(), high: Some(b"b".into()) };
    let outcome = node.ask(ALICE, &Operation::DeregisterRange(DeregisterRange { range, previous: true }));
    let previous = Vec::from([Entry { name: b"a".into(), record: second }]);
    assert_eq!(outcome, Ok(Outcome::RangeDeregistered { number: 5, deleted: 1, previous }));
    assert_eq!(
        node.ask(ALICE, &Operation::Lookup { name: b"a".into() }),
        Ok(Outcome::Found { number: 6, record: None })
    );
    assert!(node.record(b"b").is_some(), "the upper bound is excluded");
}

#[test]
fn listings_are_ordered_and_go_on_where_they_ended() {
    let mut node = Node::new();
    for name in [&b"b"[..], b"a\xff", b"a", b"a\0", b"ab", b"c"] {
        node.ask(ALICE, &register(name, b"v")).unwrap();
    }
    let mut list = |prefix: &[u8], from: &[u8], limit| {
        let list = List { prefix: prefix.into(), from: from.into(), limit };
        match node.ask(BOB, &Operation::List(list)) {
            Ok(Outcome::Listed { page, .. }) => {
                (page.entries.into_iter().map(|entry| entry.name).collect::<Vec<_>>(), page.more)
            }
            other => panic!("{other:?}"),
        }
    };
    let names = |names: &[&[u8]]| names.iter().map(|name| name.to_vec()).collect::<Vec<_>>();
    assert_eq!(list(b"a", b"", 256), (names(&[b"a", b"a\0", b"ab", b"a\xff"]), false));
    assert_eq!(list(b"a", b"", 2), (names(&[b"a", b"a\0"]), true));
    assert_eq!(list(b"a", b"a\0\0", 2), (names(&[b"ab", b"a\xff"]), false));
    assert_eq!(list(b"", b"b", 9), (names(&[b"b", b"c"]), false));
    assert_eq!(list(b"a", b"b", 9), (names(&[]), false));
}

#[test]
fn a_configuration_that_does_not_decode_or_names_an_admin_twice_is_refused() {
    let twice = Config { admins: [config().admins, config().admins].concat(), ..config() };
    for bytes in [Vec::new(), twice.encoded(), [config().encoded(), Vec::from([0])].concat()] {
        let (_, output) = Node::<Registry>::begin(LIMITS, bytes);
        let refused = quorate_attest::service::Output::Refused { status: status::BAD_CONFIG, next: 0 };
        assert_eq!(output, refused);
    }
}
