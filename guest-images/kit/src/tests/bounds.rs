//! Budgets: what is over one is refused without effect, and outputs fit into messages.

use alloc::vec;
use alloc::vec::Vec;

use quorate_attest::encoding::{Bounded, to_bytes};
use quorate_attest::request::{BODY_LIMIT, status};
use quorate_attest::service::{BATCH_LIMIT, Input, Output};
use quorate_attest::state_tree::{KEY_LIMIT, StateTree, VALUE_LIMIT};

use super::fixture::{LIMITS, Node, ordered, put, request};
use super::notes::op;
use crate::limits::entry_cost;
use crate::{Limits, REPLY_LIMIT, State};

#[test]
fn keys_and_values_over_their_limits_and_keys_of_the_kit_are_refused() {
    let mut node = Node::new();
    let long = vec![1; KEY_LIMIT + 1];
    let cases: [(&[u8], &[u8], u16); 6] = [
        (&long[1..], &[2; VALUE_LIMIT], status::OK),
        (&long, b"", status::TOO_LARGE),
        (b"k", &[2; VALUE_LIMIT + 1], status::TOO_LARGE),
        (b"", b"v", status::MALFORMED),
        (&[0], b"v", status::MALFORMED),
        (&[0, b'g'], b"v", status::MALFORMED),
    ];
    for (sequence, (key, value, status)) in (1..).zip(cases) {
        assert_eq!(node.ask(&put(1, sequence, key, value)).0, status, "{sequence}");
    }
    assert_eq!(node.notes().len(), 1);
}

#[test]
fn the_kits_own_entries_are_neither_seen_nor_removed_by_a_service() {
    let mut node = Node::new();
    node.ask(&put(1, 1, b"k", b"v"));
    let size = node.commitment().size;
    let absent = to_bytes(&None::<Vec<u8>>);
    assert_eq!(node.ask(&request(1, 2, op::REMOVE, to_bytes(&vec![0u8, b'g']))), (status::OK, absent));
    let listed = node.ask(&request(1, 3, op::LIST, to_bytes(&(Vec::<u8>::new(), vec![0xffu8]))));
    assert_eq!(listed.1, to_bytes(&vec![(b"k".to_vec(), b"v".to_vec())]));
    assert_eq!(node.ask(&request(1, 4, op::CLEAR, vec![])).0, status::OK);
    assert_eq!(node.commitment().size, size - 1);
}

#[test]
fn a_full_state_refuses_more_and_takes_less() {
    let mut node = Node::with(Limits { state_bytes: 40_000, ..LIMITS });
    assert_eq!(node.ask(&put(1, 1, b"a", &[1; 12_000])).0, status::OK);
    assert_eq!(node.ask(&put(1, 2, b"b", &[1; 12_000])).0, status::OK);
    assert_eq!(node.ask(&put(1, 3, b"c", &[1; 12_000])).0, status::OK);
    let notes = node.notes();
    assert_eq!(node.ask(&put(1, 4, b"d", &[1; 12_000])).0, status::LIMIT);
    assert_eq!(node.notes(), notes);
    assert_eq!(node.ask(&put(1, 5, b"c", &[1; 2_000])).0, status::OK, "less in the same place");
    assert_eq!(node.ask(&put(1, 6, b"d", &[1; 10_000])).0, status::OK);
    assert_eq!(node.ask(&request(1, 7, op::REMOVE, to_bytes(&b"a".to_vec()))).0, status::OK);
    assert_eq!(node.ask(&put(1, 8, b"e", &[1; 12_000])).0, status::OK);
}

#[test]
fn a_request_that_changes_more_than_its_budget_is_rolled_back() {
    let mut node = Node::with(Limits { change_bytes: 100_000, ..LIMITS });
    let fill =
        |sequence, first: u32, count: u32| request(1, sequence, op::FILL, to_bytes(&(first, count, 50u32)));
    for part in 0..5 {
        assert_eq!(node.ask(&fill(1 + u64::from(part), part * 200, 200)).0, status::OK);
    }
    let notes = node.notes();
    assert_eq!(node.ask(&fill(6, 2000, 500)).0, status::LIMIT, "too many new entries at once");
    assert_eq!(node.ask(&request(1, 7, op::CLEAR, vec![])).0, status::LIMIT, "too many removals at once");
    assert_eq!(node.notes(), notes);
    assert_eq!(node.ask(&put(1, 8, b"k", b"v")).0, status::OK);
}

#[test]
fn a_service_that_goes_on_after_too_many_removals_fails_all_the_same() {
    let entry = |number: u8| (vec![1, number], vec![number; 100]);
    let tree = StateTree::from_sorted((0..50).map(entry).collect());
    let used = tree.entries().iter().map(|(key, value)| entry_cost(key, value)).sum();
    let limits = Limits { change_bytes: 2_000, ..LIMITS };
    let mut state = State::new(&tree, used, &limits);
    for _ in 0..10 {
        (0..50).for_each(|number| state.remove(&[1, number]));
        let _ = state.put(vec![1, 60], vec![]);
    }
    assert!(state.get(&[1, 49]).is_some(), "what was not removed is still there");
    assert!(state.finish().is_none());
}

#[test]
fn what_replies_leave_no_room_for_is_left_for_the_next_input() {
    let mut node = Node::with(Limits { session_bytes: u64::MAX, ..LIMITS });
    let requests: Vec<_> = (0..BATCH_LIMIT as u16)
        .map(|client| ordered(&request(client, 1, op::ECHO, to_bytes(&(REPLY_LIMIT as u32))).encoded()))
        .collect();
    let (mut done, mut inputs) = (0, 0);
    while done < requests.len() {
        let input = Input::Apply { first: 1 + done as u64, requests: requests[done..].to_vec() };
        let output = node.feed(&input);
        assert!(output.encoded().len() <= BODY_LIMIT);
        let Output::Applied(applied) = output else { panic!("{output:?}") };
        assert!(applied.executed.len() >= 15.min(requests.len() - done));
        done += applied.executed.len();
        inputs += 1;
    }
    assert!(inputs > 16);
    assert_eq!(node.replica.next(), 1 + requests.len() as u64);
}

#[test]
fn limits_leave_room_for_messages_in_the_smallest_machine() {
    assert_eq!(Limits::for_machine(14 << 20, (6 << 20) - 1), None);
    let limits = Limits::for_machine(14 << 20, 6 << 20).expect("6 MiB suffice");
    let budgets = limits.state_bytes + limits.session_bytes + limits.change_bytes;
    assert!(budgets + (4 << 20) < 6 << 20);
    assert!(limits.change_bytes > 3 * VALUE_LIMIT as u64);
    assert!(limits.session_bytes > 8 * REPLY_LIMIT as u64);
}
