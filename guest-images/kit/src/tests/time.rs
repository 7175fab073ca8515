//! Service time: f liars cannot move it, f + 1 can.

use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;
use quorate_attest::encoding::{Bounded, to_bytes};
use quorate_attest::id::Nonce;
use quorate_attest::request::{Call, Request, status};
use quorate_attest::service::TICK;

use super::fixture::{F, LIMITS, Node, VOTERS, key, put, request, service_spec, tick, voter};
use super::notes::op;
use crate::{Limits, wire};

fn vote(node: &mut Node, number: u16, time_ms: u64) -> (u16, Vec<u8>) {
    node.ask(&tick(number, time_ms))
}

#[test]
fn f_liars_cannot_move_time_and_one_more_can() {
    let mut node = Node::new();
    for liar in 0..F as u16 {
        assert_eq!(vote(&mut node, liar, u64::MAX), (status::OK, to_bytes(&0u64)));
    }
    assert_eq!(node.replica.time_ms(), 0, "nobody honest has told the time");
    for honest in F as u16..VOTERS {
        vote(&mut node, honest, 1000);
        assert_eq!(node.replica.time_ms(), 1000);
    }
    assert_eq!(vote(&mut node, F as u16, u64::MAX).1, to_bytes(&u64::MAX), "f + 1 liars");
    assert_eq!(node.replica.time_ms(), u64::MAX);
}

#[test]
fn f_silent_voters_cannot_stop_time_and_votes_too_low_cannot_turn_it_back() {
    let mut node = Node::new();
    for time in [5, 6, 7] {
        for honest in F as u16..VOTERS {
            vote(&mut node, honest, time);
        }
        assert_eq!(node.replica.time_ms(), time);
    }
    for number in F as u16..VOTERS {
        for time in [0, 6, 7] {
            assert_eq!(vote(&mut node, number, time), (status::STALE, vec![]));
        }
    }
    for late in 0..F as u16 {
        assert_eq!(vote(&mut node, late, 1), (status::OK, to_bytes(&7u64)));
    }
    assert_eq!(node.replica.time_ms(), 7);
}

#[test]
fn a_vote_counts_only_from_a_voter_and_only_as_a_number() {
    let mut node = Node::new();
    let state = node.commitment();
    let service = service_spec().id();
    let stranger = wire::tick(&key(1), service, 7);
    assert_eq!(node.ask(&stranger), (status::NOT_AUTHORIZED, vec![]));
    for body in [vec![], vec![1; 7], vec![1; 9]] {
        let odd = wire::call(&voter(0), service, 1, Nonce::from_bytes([0; 16]), TICK, body);
        assert_eq!(node.ask(&odd), (status::MALFORMED, vec![]));
    }
    let call =
        Call { op: TICK, sequence: 1, nonce: Nonce::from_bytes([0; 16]), epoch: 1, body: to_bytes(&7u64) };
    let epoch = Request::sign(&voter(0), service.instance(), call);
    assert_eq!(node.ask(&epoch), (status::WRONG_EPOCH, vec![]));
    assert_eq!(node.commitment(), state);
}

#[test]
fn the_service_hears_of_time_once_each_time_it_advances_and_requests_carry_it() {
    let mut node = Node::new();
    let ticked =
        |node: &Node| node.notes().into_iter().find(|(key, _)| key == b"ticked").map(|(_, value)| value);
    vote(&mut node, 0, 10);
    vote(&mut node, 1, 20);
    assert_eq!(ticked(&node), None);
    vote(&mut node, 2, 30);
    assert_eq!(ticked(&node), Some(to_bytes(&(3u64, 10u64))));
    vote(&mut node, 2, 40);
    assert_eq!(ticked(&node), Some(to_bytes(&(3u64, 10u64))), "time did not advance");
    assert_eq!(node.ask(&request(1, 1, op::TIME, vec![])), (status::OK, to_bytes(&10u64)));
}

#[test]
fn a_service_that_changes_too_much_at_a_tick_does_not_keep_time_from_passing() {
    let mut node = Node::with(Limits { change_bytes: 3_000, ..LIMITS });
    for sequence in 1..40 {
        node.ask(&put(1, sequence, &[sequence as u8; 8], b"v"));
    }
    let before = node.notes();
    (0..3).for_each(|number| {
        vote(&mut node, number, 1 << 40);
    });
    assert_eq!((node.replica.time_ms(), node.notes()), (1 << 40, before));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn time_never_falls_and_lies_between_honest_votes(
        votes in proptest::collection::vec((0u16..VOTERS, 1u64..1000), 1..60), lie: u64,
    ) {
        let mut node = Node::new();
        let mut newest = [0; VOTERS as usize];
        for liar in 0..F as u16 {
            vote(&mut node, liar, lie.max(1));
        }
        let mut last = node.replica.time_ms();
        for (number, time) in votes {
            if number < F as u16 {
                continue;
            }
            let stale = time <= newest[usize::from(number)];
            let status = vote(&mut node, number, time).0;
            prop_assert_eq!(status == status::STALE, stale);
            newest[usize::from(number)] = time.max(newest[usize::from(number)]);
            let now = node.replica.time_ms();
            prop_assert!(last <= now && now <= newest.iter().copied().max().unwrap_or(0));
            last = now;
        }
        // The lowest of n - 2f honest voters' votes is not above service time.
        let mut honest: Vec<u64> = newest[F as usize..].to_vec();
        honest.sort_unstable();
        prop_assert!(last >= honest[honest.len() - 1 - F as usize]);
        let copy = node.replica.clone();
        node.raw(&tick(3, 0).encoded());
        prop_assert_eq!(copy.state(), node.replica.state());
    }
}
