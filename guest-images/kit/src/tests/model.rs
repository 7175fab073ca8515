//! A service's view of the state against the simplest map that could be right.

use alloc::vec;
use alloc::vec::Vec;
use std::collections::BTreeMap;

use proptest::prelude::*;
use quorate_attest::encoding::to_bytes;
use quorate_attest::request::status;

use super::fixture::{LIMITS, Node, request};
use super::notes::{LIST_LIMIT, op};
use crate::limits::entry_cost;
use crate::state::State;

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

fn key() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(1u8..4, 1..4)
}

#[derive(Debug, Clone)]
enum Step {
    Put(Vec<u8>, Vec<u8>),
    Remove(Vec<u8>),
    List(Vec<u8>, Vec<u8>),
    Fail,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (key(), proptest::collection::vec(any::<u8>(), 0..3)).prop_map(|(key, value)| Step::Put(key, value)),
        2 => key().prop_map(Step::Remove),
        2 => (key(), key()).prop_map(|(low, high)| Step::List(low, high)),
        1 => Just(Step::Fail),
    ]
}

fn execute(map: &mut Map, step: &Step) -> (u16, Vec<u8>, (u16, Vec<u8>)) {
    match step.clone() {
        Step::Put(key, value) => {
            let body = to_bytes(&(&key, &value));
            (op::PUT, body, (status::OK, to_bytes(&map.insert(key, value))))
        }
        Step::Remove(key) => (op::REMOVE, to_bytes(&key), (status::OK, to_bytes(&map.remove(&key)))),
        Step::List(low, high) => {
            let within = |(key, _): &(&Vec<u8>, &Vec<u8>)| **key >= low && **key <= high;
            let list: Vec<_> = map.iter().filter(within).take(LIST_LIMIT).collect();
            (op::LIST, to_bytes(&(&low, &high)), (status::OK, to_bytes(&list)))
        }
        Step::Fail => (op::FAIL, to_bytes(&status::CONFLICT), (status::CONFLICT, vec![])),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn replies_and_entries_equal_the_models(steps in proptest::collection::vec((0u16..3, step()), 1..60)) {
        let (mut node, mut map) = (Node::new(), Map::new());
        for (sequence, (client, step)) in (1..).zip(&steps) {
            let (op, body, expected) = execute(&mut map, step);
            prop_assert_eq!(node.ask(&request(*client, sequence, op, body)), expected, "{:?}", step);
        }
        prop_assert_eq!(node.notes(), map.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn within_one_request_a_service_sees_its_own_changes_and_costs_are_counted_exactly(
        before in proptest::collection::btree_map(key(), proptest::collection::vec(any::<u8>(), 0..3), 0..12),
        steps in proptest::collection::vec(step(), 0..30),
    ) {
        let cost = |map: &Map| map.iter().map(|(key, value)| entry_cost(key, value)).sum::<u64>();
        let tree = quorate_attest::state_tree::StateTree::new(&before);
        let mut map = before.clone();
        let mut state = State::new(&tree, cost(&before), &LIMITS);
        for step in steps {
            match step {
                Step::Put(key, value) => {
                    prop_assert_eq!(state.put(key.clone(), value.clone()), Ok(()));
                    map.insert(key, value);
                }
                Step::Remove(key) => {
                    state.remove(&key);
                    map.remove(&key);
                }
                Step::List(low, high) => {
                    let found: Vec<_> = state.range(&low, &high).map(|(k, v)| (k.to_vec(), v.to_vec())).collect();
                    let within = map.iter().filter(|(key, _)| **key >= low && **key <= high);
                    prop_assert_eq!(found, within.map(|(k, v)| (k.clone(), v.clone())).collect::<Vec<_>>());
                }
                Step::Fail => {}
            }
        }
        for key in before.keys().chain(map.keys()) {
            prop_assert_eq!(state.get(key), map.get(key).map(Vec::as_slice));
        }
        let outcome = state.finish().expect("within the budget");
        prop_assert_eq!(outcome.used_bytes, cost(&map));
        let mut tree = tree.clone();
        tree.apply(outcome.changes);
        prop_assert_eq!(tree, quorate_attest::state_tree::StateTree::new(&map));
    }
}
