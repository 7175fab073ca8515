//! At most once, whatever is ordered how often.

use alloc::vec;
use alloc::vec::Vec;
use std::collections::BTreeMap;

use proptest::prelude::*;
use quorate_attest::encoding::{Bounded, to_bytes};
use quorate_attest::request::status;

use super::fixture::{LIMITS, Node, put, request};
use super::notes::op;
use crate::{CLIENTS_LIMIT, Limits, REPLY_LIMIT};

#[test]
fn a_replayed_request_gets_the_kept_reply_byte_for_byte_and_changes_nothing() {
    let mut node = Node::new();
    let first = put(1, 1, b"k", b"1").encoded();
    let executed = node.apply(core::slice::from_ref(&first));
    assert_eq!(node.ask(&put(2, 1, b"k", b"2")).0, status::OK);
    let state = node.commitment();
    for _ in 0..100 {
        let again = node.apply(core::slice::from_ref(&first));
        assert_eq!((again[0].reply.as_slice(), again[0].state), (executed[0].reply.as_slice(), state));
    }
    assert_eq!(node.replica.next(), 103, "a replay takes a place in the log all the same");
}

#[test]
fn an_older_request_and_another_one_under_a_used_number_are_refused() {
    let mut node = Node::new();
    assert_eq!(node.ask(&put(1, 5, b"k", b"new")).0, status::OK);
    let state = node.commitment();
    assert_eq!(node.ask(&put(1, 4, b"k", b"old")), (status::REPLAYED, vec![]));
    assert_eq!(node.ask(&put(1, 5, b"k", b"other")), (status::REPLAYED, vec![]));
    assert_eq!(node.commitment(), state);
    assert_eq!(node.ask(&put(1, u64::MAX, b"k", b"last")).0, status::OK, "gaps are allowed");
}

#[test]
fn an_error_rolls_everything_back_and_uses_up_the_number() {
    let mut node = Node::new();
    node.ask(&put(1, 1, b"k", b"v"));
    let notes = node.notes();
    for (sequence, error) in (2..).zip([status::CONFLICT, status::LIMIT, 0, 999]) {
        let fail = request(1, sequence, op::FAIL, to_bytes(&error));
        let reply = node.ask(&fail);
        assert_eq!(reply, (error.max(status::MALFORMED), vec![]), "an error never says done");
        assert_eq!(node.notes(), notes);
        assert_eq!(node.ask(&fail), reply, "the error is repeated, not tried again");
        assert_eq!(node.ask(&put(1, sequence, b"k", b"w")).0, status::REPLAYED);
    }
}

#[test]
fn a_reply_too_long_to_be_kept_is_an_error_without_effect() {
    let mut node = Node::new();
    let echo = |sequence, bytes: usize| request(1, sequence, op::ECHO, to_bytes(&(bytes as u32)));
    assert_eq!(node.ask(&echo(1, REPLY_LIMIT + 1)), (status::LIMIT, vec![]));
    assert!(node.notes().is_empty());
    let longest = echo(2, REPLY_LIMIT);
    assert_eq!(node.ask(&longest), (status::OK, vec![7; REPLY_LIMIT]));
    assert_eq!(node.ask(&longest), (status::OK, vec![7; REPLY_LIMIT]));
    assert_eq!(node.notes().len(), 1);
}

#[test]
fn the_client_used_least_recently_is_forgotten_and_the_table_never_exceeds_its_bound() {
    let mut node = Node::with(Limits { session_bytes: u64::MAX, ..LIMITS });
    let first = |client: u16| request(client, 1, op::TIME, vec![]).encoded();
    for clients in (0..CLIENTS_LIMIT as u16).collect::<Vec<_>>().chunks(256) {
        node.apply(&clients.iter().map(|client| first(*client)).collect::<Vec<_>>());
    }
    let size = node.commitment().size;
    assert_eq!(node.ask(&request(0, 2, op::TIME, vec![])).0, status::OK, "client 1 is the oldest now");
    node.raw(&first(1));
    assert_eq!(node.ask(&request(CLIENTS_LIMIT as u16, 1, op::TIME, vec![])).0, status::OK);
    assert_eq!(node.commitment().size, size);
    let other = |client| request(client, 1, op::LIST, to_bytes(&(b"", b"")));
    assert_eq!(node.ask(&other(0)).0, status::REPLAYED);
    assert_eq!(node.ask(&other(2)).0, status::REPLAYED);
    assert_eq!(node.ask(&request(1, 1, op::TIME, vec![0])).0, status::OK, "client 1 was forgotten");
    assert_eq!(node.commitment().size, size);
}

#[test]
fn kept_replies_stay_within_their_budget() {
    let mut node = Node::new();
    let empty = node.commitment().size + 1;
    for client in 0..60 {
        let echo = request(client, 1, op::ECHO, to_bytes(&(REPLY_LIMIT as u32)));
        assert_eq!(node.ask(&echo).0, status::OK);
    }
    assert_eq!(node.commitment().size - empty, LIMITS.session_bytes / (REPLY_LIMIT as u64 + 500));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_delivery_in_any_batches_executes_each_request_at_most_once(
        deliveries in proptest::collection::vec((0u16..3, 1u64..9), 1..60),
        cuts in proptest::collection::vec(1usize..9, 60),
    ) {
        // Request n of a client writes the key client/n; what it answers shows whether the key was there.
        let build = |(client, number): &(u16, u64)| put(*client, *number, &[9, *client as u8, *number as u8], b"x");
        let inputs: Vec<Vec<u8>> = deliveries.iter().map(|delivery| build(delivery).encoded()).collect();
        let (mut batched, mut single) = (Node::new(), Node::new());
        let mut results = Vec::new();
        let mut rest = &inputs[..];
        for cut in cuts {
            let (batch, behind) = rest.split_at(cut.min(rest.len()));
            results.extend(batched.apply(batch));
            rest = behind;
        }
        let mut newest: BTreeMap<u16, u64> = BTreeMap::new();
        for (((client, number), input), result) in deliveries.iter().zip(&inputs).zip(results) {
            let alone = single.apply(core::slice::from_ref(input));
            prop_assert_eq!(&alone[0], &result, "batches changed a result");
            let reply = quorate_attest::request::Reply::decoded(&result.reply).unwrap();
            let newest = newest.entry(*client).or_default();
            if number >= newest {
                *newest = *number;
                prop_assert_eq!((reply.status, reply.body), (status::OK, to_bytes(&None::<Vec<u8>>)));
            } else {
                prop_assert_eq!(reply.status, status::REPLAYED);
            }
        }
        prop_assert_eq!(&batched.replica.state(), &single.replica.state());
    }
}
