//! Leases by service time.

use std::vec::Vec;

use quorate_kit::status;

use super::fixture::{
    ADMIN, ALICE, BOB, LIMITS, NOON, Node, SMALLEST, deregister, grant, register, register_with,
};
use crate::client::{self, StateEntry};
use crate::testing::config;
use crate::*;

fn renew(id: u64) -> Operation {
    Operation::LeaseRenew { id }
}

fn revoke(id: u64) -> Operation {
    Operation::LeaseRevoke { id }
}

#[test]
fn a_lease_ends_with_its_names_and_tells_watchers() {
    let mut node = Node::new();
    node.tick(NOON);
    node.ask(ALICE, &grant(7, 1_000)).unwrap();
    node.ask(ALICE, &register_with(b"a", b"1", 7, None)).unwrap();
    node.ask(ALICE, &register_with(b"b", b"2", 7, None)).unwrap();
    node.ask(ALICE, &register(b"c", b"3")).unwrap();
    node.tick(NOON + 10);
    node.tick(NOON + 1_009);
    assert!(node.record(b"a").is_some());
    let watch_from = node.replica.next();
    node.tick(NOON + 1_010);
    assert_eq!((node.record(b"a"), node.record(b"b")), (None, None));
    assert!(node.record(b"c").is_some());
    let events = node.events_from(watch_from);
    let told: Vec<_> =
        events.iter().map(|event| (event.sub, event.event.put, &event.event.name[..])).collect();
    assert_eq!(told, [(0, false, &b"a"[..]), (1, false, b"b")]);
    assert_eq!(events[0].number, events[1].number);
    assert_eq!(node.prove(client::needs_time_query()), []);
    node.check();
}

#[test]
fn a_lease_granted_while_time_stands_still_runs_from_the_next_tick() {
    let mut node = Node::new();
    // Before anybody has told the time.
    node.ask(ALICE, &grant(1, 1_000)).unwrap();
    assert_eq!(node.prove(client::needs_time_query()), [StateEntry::Expiry { expires_ms: 0, id: 1 }]);
    node.tick(NOON);
    node.tick(NOON + 999);
    assert_eq!(node.prove(client::lease_query(1)).len(), 1);
    node.tick(NOON + 1_000);
    assert_eq!(node.prove(client::lease_query(1)), []);
    // A day later, after which nobody had reason to tell the time.
    node.ask(ALICE, &grant(2, 1_000)).unwrap();
    node.tick(NOON + 86_400_000);
    assert_eq!(node.prove(client::lease_query(2)).len(), 1);
    node.tick(NOON + 86_401_000);
    assert_eq!(node.prove(client::lease_query(2)), []);
    node.check();
}

#[test]
fn renewal_lets_a_lease_run_anew_and_an_ended_one_is_gone() {
    let mut node = Node::new();
    node.ask(ALICE, &grant(1, 1_000)).unwrap();
    let number = node.replica.next();
    let waiting = Outcome::LeaseRenewed { number, ttl_ms: 1_000, expires_ms: 0 };
    assert_eq!(node.ask(ALICE, &renew(1)), Ok(waiting), "it has not begun to run");
    node.tick(NOON);
    node.tick(NOON + 900);
    let number = node.replica.next();
    let expires_ms = NOON + 1_900;
    assert_eq!(node.ask(ALICE, &renew(1)), Ok(Outcome::LeaseRenewed { number, ttl_ms: 1_000, expires_ms }));
    node.tick(expires_ms - 1);
    assert!(node.ask(ALICE, &renew(1)).is_ok());
    node.tick(expires_ms + 999);
    assert_eq!(node.ask(ALICE, &renew(1)), Err(status::NOT_FOUND));
    assert_eq!(node.ask(ALICE, &register_with(b"a", b"", 1, None)), Err(status::NOT_FOUND));
    node.check();
}

#[test]
fn only_its_owner_or_an_admin_renews_revokes_or_uses_a_lease() {
    let mut node = Node::new();
    node.ask(ALICE, &grant(1, 1_000)).unwrap();
    for attack in [renew(1), revoke(1), register_with(b"b", b"", 1, None)] {
        assert_eq!(node.ask(BOB, &attack), Err(status::NOT_AUTHORIZED));
    }
    assert_eq!(node.ask(BOB, &grant(1, 1_000)), Err(status::CONFLICT));
    assert!(node.ask(ADMIN, &renew(1)).is_ok());
    node.ask(ALICE, &register_with(b"a", b"", 1, None)).unwrap();
    let number = node.replica.next();
    assert_eq!(node.ask(ADMIN, &revoke(1)), Ok(Outcome::LeaseRevoked { number, deleted: 1 }));
    assert_eq!(node.record(b"a"), None);
    assert_eq!(node.ask(ALICE, &revoke(1)), Err(status::NOT_FOUND));
    node.check();
}

#[test]
fn the_service_chooses_an_identifier_that_nobody_has() {
    let mut node = Node::new();
    node.ask(ALICE, &grant(2, 1)).unwrap();
    node.ask(ALICE, &grant(3, 1)).unwrap();
    let number = node.replica.next();
    assert_eq!(node.ask(BOB, &grant(0, 5)), Ok(Outcome::LeaseGranted { number, id: 4, ttl_ms: 5 }));
}

#[test]
fn a_name_leaves_its_lease_when_it_is_registered_with_another_or_none() {
    let mut node = Node::new();
    node.ask(ALICE, &grant(1, 1_000)).unwrap();
    node.ask(ALICE, &grant(2, 9_000)).unwrap();
    for (name, lease) in [(b"a", 0), (b"b", 2), (b"c", 1)] {
        node.ask(ALICE, &register_with(name, b"", 1, None)).unwrap();
        node.ask(ALICE, &register_with(name, b"", lease, None)).unwrap();
    }
    node.check();
    node.tick(NOON);
    node.tick(NOON + 1_000);
    assert!(node.record(b"a").is_some() && node.record(b"b").is_some());
    assert_eq!(node.record(b"c"), None);
    node.ask(ALICE, &deregister(b"b")).unwrap();
    assert_eq!(node.prove(client::lease_names_query(2, b"", 9)), []);
    node.check();
}

#[test]
fn many_names_end_over_several_ticks_in_the_smallest_guest() {
    let config = Config { event_bytes_max: 200_000, ..config() };
    for (limits, names, value) in [(LIMITS, 300u16, 0), (SMALLEST, 20, VALUE_BYTES_MAX)] {
        let mut node = Node::with(limits, config.clone());
        node.ask(ALICE, &grant(1, 1_000)).unwrap();
        for name in 0..names {
            let name = [
                &name.to_be_bytes()[..],
                &[7; NAME_BYTES_MAX - 2][..usize::from(value > 0) * (NAME_BYTES_MAX - 2)],
            ];
            let registered = node.ask(ALICE, &register_with(&name.concat(), &std::vec![1; value], 1, None));
            assert!(registered.is_ok(), "{registered:?}");
        }
        node.tick(NOON);
        let mut left = Vec::new();
        for tick in 0..u64::from(names) {
            node.tick(NOON + 2_000 + tick);
            node.check();
            left.push(node.entries().keys().filter(|key| key[1] == b'r').count());
            if left.last() == Some(&0) {
                break;
            }
        }
        assert!(left.len() > 1 && left.last() == Some(&0), "{left:?}");
        assert!(left.windows(2).all(|pair| pair[0] > pair[1]), "a tick did nothing: {left:?}");
        assert_eq!(node.ask(ALICE, &renew(1)), Err(status::NOT_FOUND));
    }
}

#[test]
fn a_tick_that_must_forget_many_events_for_one_large_name_still_ends_it_in_the_smallest_guest() {
    let mut node = Node::with(SMALLEST, Config { event_bytes_max: 90_000, ..config() });
    node.ask(ALICE, &grant(1, 1_000)).unwrap();
    let (name, value) = ([7; NAME_BYTES_MAX], [1; VALUE_BYTES_MAX]);
    let large =
        Register { name: name.into(), value: value.into(), lease: 1, expected: None, previous: false };
    node.ask(ALICE, &Operation::Register(large)).unwrap();
    for client in 0..40u64 {
        node.ask(ALICE, &grant(100 + client, 1_000_000)).unwrap();
    }
    // As many events as the window holds, of the smallest size there is.
    let put = |name: u8| TxnOp::Put { name: [name].into(), value: Vec::new(), lease: 0, previous: false };
    let puts = Txn { compare: Vec::new(), success: (0..128).map(put).collect(), failure: Vec::new() };
    for _ in 0..9 {
        node.ask(ALICE, &Operation::Txn(puts.clone())).unwrap();
    }
    let events = |node: &Node| node.entries().keys().filter(|key| key[1] == b'e').count();
    let before = events(&node);
    node.tick(NOON);
    node.tick(NOON + 1);
    node.tick(NOON + 1_000);
    assert!(!node.entries().contains_key(&record_key(&name)), "the tick had no effect");
    assert!(events(&node) + 400 < before, "{before} events, {} are left", events(&node));
    node.check();
}
