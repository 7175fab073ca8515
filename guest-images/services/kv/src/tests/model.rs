//! The service against the simplest map that could be right.

use std::collections::BTreeMap;
use std::vec::Vec;

use proptest::prelude::*;
use quorate_attest::request::status;

use super::fixture::{LIMITS, ask, client, contents, service};
use crate::client::AnswerError;
use crate::{Answer, Entry, Operation, Page};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

fn key() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(0u8..3, 1..4)
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(0u8..2, 0..3)
}

fn operation() -> impl Strategy<Value = Operation> {
    let maybe = || proptest::option::of(value());
    prop_oneof![
        key().prop_map(|key| Operation::Get { key }),
        (key(), value()).prop_map(|(key, value)| Operation::Put { key, value }),
        key().prop_map(|key| Operation::Delete { key }),
        (key(), maybe(), maybe()).prop_map(|(key, expected, value)| Operation::CompareAndSwap {
            key,
            expected,
            value
        }),
        (proptest::collection::vec(0u8..3, 0..3), proptest::option::of(key()), 1u16..6)
            .prop_map(|(prefix, after, limit)| Operation::List { prefix, after, limit }),
        (0u64..100_000, any::<u64>()).prop_map(|(bytes, seed)| Operation::Fill { bytes, seed }),
    ]
}

fn model(map: &mut Map, operation: &Operation) -> Result<Answer, u16> {
    match operation.clone() {
        Operation::Get { key } => map.get(&key).cloned().map(Answer::Value).ok_or(status::NOT_FOUND),
        Operation::Put { key, value } => Ok(Answer::Stored { replaced: map.insert(key, value).is_some() }),
        Operation::Delete { key } => map.remove(&key).map(|_| Answer::Done).ok_or(status::NOT_FOUND),
        Operation::CompareAndSwap { key, expected, value } => {
            if map.get(&key) != expected.as_ref() {
                return Err(status::CONFLICT);
            }
            match value {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
            Ok(Answer::Done)
        }
        Operation::List { prefix, after, limit } => {
            let behind = |key: &Vec<u8>| after.as_ref().is_none_or(|after| key > after);
            let all: Vec<Entry> = map
                .iter()
                .filter(|(key, _)| key.starts_with(&prefix) && behind(key))
                .map(|(key, value)| Entry { key: key.clone(), value_bytes: value.len() as u32 })
                .collect();
            let more = all.len() > usize::from(limit);
            Ok(Answer::Page(Page { entries: all.into_iter().take(limit.into()).collect(), more }))
        }
        Operation::Fill { bytes, seed } => {
            let words = bytes / 8;
            let checksum = (1..=words).fold(0u64, |sum, index| sum.wrapping_add(split_mix(seed, index)));
            Ok(Answer::Filled { bytes: words * 8, checksum })
        }
    }
}

/// Word number `index` of SplitMix64, from its definition.
fn split_mix(seed: u64, index: u64) -> u64 {
    let mut word = seed.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn answers_and_contents_equal_the_models(operations in proptest::collection::vec((0u8..3, operation()), 1..60)) {
        let mut kv = service(LIMITS);
        let mut clients = [client(1), client(2), client(3)];
        let mut map = Map::new();
        for (who, operation) in operations {
            let answer = ask(&mut kv, &mut clients[usize::from(who)], &operation);
            let expected = model(&mut map, &operation).map_err(|status| AnswerError::Failed { status });
            prop_assert_eq!(answer, expected, "{:?}", operation);
        }
        prop_assert_eq!(contents(&mut kv, &mut clients[0]), map.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn operations_and_answers_survive_their_encoding(operation in operation()) {
        let body = operation.body();
        prop_assert_eq!(Operation::decode(operation.op(), &body), Ok(operation.clone()));
        let mut map = Map::from([(Vec::from([1]), Vec::from([0, 1]))]);
        if let Ok(answer) = model(&mut map, &operation) {
            prop_assert_eq!(Answer::decode(operation.op(), &answer.body()), Ok(answer));
        }
    }

    #[test]
    fn truncated_or_extended_bodies_are_malformed(operation in operation(), cut in 1usize..20, extra: u8) {
        let mut body = operation.body();
        let short = body.len().saturating_sub(cut);
        prop_assert_eq!(Operation::decode(operation.op(), &body[..short]), Err(status::MALFORMED));
        body.push(extra);
        prop_assert_eq!(Operation::decode(operation.op(), &body), Err(status::MALFORMED));
    }
}
