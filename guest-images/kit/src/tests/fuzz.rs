//! Anything may come: nothing panics, and what is not accepted changes nothing.

use alloc::vec;
use alloc::vec::Vec;

use proptest::prelude::*;
use quorate_attest::encoding::{Bounded, to_bytes};
use quorate_attest::key::PublicKey;
use quorate_attest::request::{BODY_LIMIT, Reply, status};
use quorate_attest::service::{Input, Output, Query, StateEntry};

use super::fixture::{LIMITS, Node, genesis, key, ordered, put, request, tick, vm_spec};
use super::notes::{Notes, op};
use crate::{Limits, Replica, wire};

/// Feeds bytes to a replica and checks what must hold whatever they are.
fn fed(node: &mut Node, bytes: &[u8]) -> Result<(), TestCaseError> {
    let before = node.replica.clone();
    let output = node.replica.handle(bytes);
    prop_assert!(output.len() <= quorate_attest::request::MESSAGE_LIMIT);
    let reply = Reply::decoded(&output).expect("every output is a reply");
    let accepted = match reply.status {
        status::OK => match Output::decoded(&reply.body).expect("every reply is an output") {
            Output::Applied(_) => true,
            Output::Answered { .. } => {
                prop_assert!(node.replica == before, "a query changed something");
                false
            }
            Output::Refused { .. } => false,
        },
        _ => false,
    };
    // An import that is refused ends; before genesis that is the only change.
    prop_assert!(accepted || node.replica == before || before.state().is_none());
    Ok(())
}

fn wrapped(input: &Input) -> Vec<u8> {
    wire::wrap(vm_spec(0).id(), key(50_000).public(), 1, input).encoded()
}

fn inputs() -> impl Strategy<Value = Vec<u8>> {
    let request = prop_oneof![
        (0u16..4, 0u64..6, 0u16..10, proptest::collection::vec(any::<u8>(), 0..40))
            .prop_map(|(client, sequence, op, body)| request(client, sequence, op, body).encoded()),
        (0u16..4, 0u64..6, any::<u8>()).prop_map(|(client, sequence, value)| put(
            client,
            sequence,
            b"k",
            &[value]
        )
        .encoded()),
        (0u16..9, any::<u64>()).prop_map(|(number, time)| tick(number, time).encoded()),
        proptest::collection::vec(any::<u8>(), 0..200),
    ];
    let entry = (proptest::collection::vec(any::<u8>(), 0..9), proptest::collection::vec(any::<u8>(), 0..9))
        .prop_map(|(key, value)| StateEntry { key, value });
    prop_oneof![
        3 => (0u64..3, proptest::collection::vec(request, 0..5)).prop_map(|(first, requests)| {
            Input::Apply { first, requests: requests.iter().map(|request| ordered(request)).collect() }
        }),
        1 => Just(Input::Genesis(genesis())),
        1 => (0u64..3, proptest::collection::vec(entry, 0..4)).prop_map(|(number, entries)| {
            Input::Import { genesis: genesis(), number, entries, complete: None }
        }),
        1 => proptest::collection::vec(any::<u8>(), 0..9).prop_map(|key| Input::Query(Query::Get { key })),
        1 => (any::<u8>(), any::<u8>(), any::<u16>())
            .prop_map(|(low, high, limit)| Input::Query(Query::Range { low: vec![low], high: vec![high], limit })),
        1 => any::<u8>().prop_map(|after| Input::Query(Query::Export { after: vec![after] })),
    ]
    .prop_map(|input| wrapped(&input))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn arbitrary_bytes_never_panic_and_change_nothing(
        inputs in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..400), 1..8),
        running: bool,
    ) {
        let mut node = if running { Node::new() } else { Node::empty(0, LIMITS) };
        let before = node.replica.clone();
        for input in inputs {
            fed(&mut node, &input)?;
        }
        prop_assert!(node.replica == before);
        let mut blank = Replica::<Notes>::new(LIMITS);
        prop_assert!(!blank.handle(b"no specification").is_empty());
    }

    #[test]
    fn mutated_inputs_never_panic_and_change_nothing_unless_accepted(
        inputs in proptest::collection::vec((inputs(), proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3), 0usize..6), 1..12),
        running: bool,
    ) {
        let mut node = if running { Node::new() } else { Node::empty(0, LIMITS) };
        for (mut input, flips, cut) in inputs {
            for (at, value) in flips {
                let at = at.index(input.len());
                input[at] ^= value;
            }
            input.truncate(input.len() - cut.saturating_sub(3));
            fed(&mut node, &input)?;
        }
    }

    #[test]
    fn arbitrary_bodies_inside_a_wrapper_never_panic(
        bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..200), 1..8),
    ) {
        let mut node = Node::new();
        for body in bodies {
            let mut wrapper = wire::wrap(vm_spec(0).id(), PublicKey::NOBODY, 1, &Input::Query(Query::Head));
            wrapper.body = body;
            fed(&mut node, &wrapper.encoded())?;
        }
    }

    #[test]
    fn authentic_requests_in_the_tightest_budgets_never_panic(
        calls in proptest::collection::vec((0u16..40, 0u16..10, 0u32..100, 0u32..60, 0u32..20_000), 1..60),
    ) {
        let limits = Limits { state_bytes: 30_000, session_bytes: 50_000, change_bytes: 20_000, ..LIMITS };
        let mut node = Node::with(limits);
        for (sequence, (client, op, first, count, bytes)) in (1..).zip(calls) {
            let body = match op {
                op::PUT => to_bytes(&(first.to_be_bytes().to_vec(), vec![1u8; bytes as usize])),
                op::REMOVE => to_bytes(&first.to_be_bytes().to_vec()),
                op::ECHO => to_bytes(&bytes),
                op::FAIL => to_bytes(&(count as u16)),
                op::FILL => to_bytes(&(first, count, bytes / 100)),
                _ => vec![],
            };
            let answer = node.ask(&request(client, sequence, op, body));
            prop_assert!(answer.0 <= status::INCONCLUSIVE || op == op::FAIL);
            let cost: u64 = node.notes().iter().map(|(key, value)| crate::limits::entry_cost(key, value)).sum();
            prop_assert!(cost <= limits.state_bytes);
        }
    }
}

#[test]
fn the_longest_garbage_is_refused_like_the_shortest() {
    let mut node = Node::new();
    for length in [0, 1, BODY_LIMIT, BODY_LIMIT + 1, 262_144, 262_145] {
        for byte in [0, 0xff] {
            let reply = Reply::decoded(&node.replica.handle(&vec![byte; length])).expect("a reply");
            assert_eq!(reply.status, status::MALFORMED);
        }
    }
    assert_eq!(node.replica.next(), 1);
}
