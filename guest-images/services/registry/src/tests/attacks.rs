//! Byzantine variants: with f they change nothing, with f + 1 they visibly do.

use std::collections::BTreeMap;
use std::vec::Vec;

use quorate_attest::encoding::Bounded;
use quorate_attest::state_tree::StateCommitment;
use quorate_kit::status;

use super::fixture::{ALICE, BOB, F, NOON, Node, VOTERS, deregister, grant, register, register_with};
use crate::*;

const FAR: u64 = NOON + (1 << 40);

/// A registry with a name that a lease of ten seconds keeps, at noon.
fn leased() -> Node {
    let mut node = Node::new();
    node.tick(NOON);
    node.ask(ALICE, &grant(1, 10_000)).unwrap();
    node.ask(ALICE, &register_with(b"web", b"v", 1, None)).unwrap();
    node.tick(NOON + 1);
    node
}

#[test]
fn acceptance_12e_5_f_framers_move_lease_time_not_at_all() {
    let mut node = leased();
    let lease = node.entries().remove(&lease_key(1)[..]);
    for framer in 0..F {
        assert_eq!(node.vote(framer, FAR), status::OK);
        assert_eq!(node.vote(framer, u64::MAX), status::OK);
    }
    assert_eq!(node.replica.time_ms(), NOON + 1);
    assert_eq!(node.entries().remove(&lease_key(1)[..]), lease);
    assert!(node.record(b"web").is_some());
    // Honest voters still move it, as far as they have seen it pass and no further.
    for honest in F..VOTERS {
        node.vote(honest, NOON + 5_000);
    }
    assert_eq!(node.replica.time_ms(), NOON + 5_000);
    assert!(node.record(b"web").is_some());
}

#[test]
fn f_plus_one_framers_end_a_lease_that_should_run() {
    let mut node = leased();
    for framer in 0..=F {
        assert_eq!(node.vote(framer, FAR), status::OK);
    }
    assert_eq!(node.record(b"web"), None);
}

/// Commitments that `f + 1` replicas or more agree on, when some execute the two registrations the other way round.
fn certified(replicas: usize, split: usize, f: usize) -> Vec<StateCommitment> {
    let mut tally: BTreeMap<_, (StateCommitment, usize)> = BTreeMap::new();
    for index in 0..replicas {
        let mut node = Node::new();
        let order = if index < split { [BOB, ALICE] } else { [ALICE, BOB] };
        for client in order {
            let _ = node.ask(client, &register(b"web", &[client as u8]));
        }
        let state = node.replica.state().unwrap().commitment();
        tally.entry(state.encoded()).or_insert((state, 0)).1 += 1;
    }
    tally.into_values().filter(|(_, count)| *count > f).map(|(state, _)| state).collect()
}

#[test]
fn split_registrations_on_f_replicas_leave_one_certified_state() {
    assert_eq!(certified(4, 1, 1).len(), 1);
    assert_eq!(certified(7, 2, 2).len(), 1);
}

#[test]
fn split_registrations_on_f_plus_one_replicas_certify_two_states() {
    assert_eq!(certified(4, 2, 1).len(), 2);
    assert_eq!(certified(7, 3, 2).len(), 2);
}

#[test]
fn a_registration_replayed_after_deregistration_registers_nothing() {
    let mut node = Node::new();
    let old = node.request(ALICE, &register(b"web", b"old"));
    let reply = node.deliver(&old);
    assert_eq!(node.deliver(&old), reply, "the last request again has the reply it had");
    assert!(node.ask(ALICE, &deregister(b"web")).is_ok());
    let before = node.entries();
    for _ in 0..3 {
        assert_eq!(node.deliver(&old).status, status::REPLAYED);
    }
    assert_eq!(node.entries(), before);
    assert_eq!(node.record(b"web"), None);
}

#[test]
fn a_registration_in_anothers_name_is_refused() {
    let mut node = Node::new();
    let mut forged = node.request(BOB, &register(b"web", b"evil"));
    forged.client = crate::testing::key(ALICE).public();
    assert_eq!(node.deliver(&forged).status, status::BAD_SIGNATURE);
    assert_eq!(node.record(b"web"), None);
}
