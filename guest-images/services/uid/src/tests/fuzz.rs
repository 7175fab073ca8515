//! Whatever arrives, decoding and executing end in a result, and decoding is injective.

use std::vec::Vec;

use proptest::prelude::*;
use quorate_attest::encoding::Bounded;
use quorate_attest::service::Answer as Proof;

use super::world::{World, add, sign_body};
use crate::client::{Listing, proven_uid};
use crate::testing::{Random, Script, key};
use crate::{Answer, Bind, Change, Config, Entry, NameRecord, Operation, UidRecord, op};

/// Bodies of valid operations, for bytes that nearly are one.
fn valid(seed: u64) -> (u16, Vec<u8>) {
    let mut script = Script::new(seed, quorate_attest::id::VmId::ZERO);
    let request = script.request();
    (request.op, request.body)
}

fn bytes() -> impl Strategy<Value = (u16, Vec<u8>)> {
    let noise = (0..14u16, prop::collection::vec(any::<u8>(), 0..400));
    let mutated = (any::<u64>(), any::<prop::sample::Index>(), any::<u8>(), any::<bool>()).prop_map(
        |(seed, place, value, cut)| {
            let (number, mut body) = valid(seed);
            if !body.is_empty() {
                let place = place.index(body.len());
                body[place] = value;
                if cut {
                    body.truncate(place);
                }
            }
            (number, body)
        },
    );
    prop_oneof![noise, mutated]
}

proptest! {
    #[test]
    fn test_decoded_operation_has_one_encoding((number, body) in bytes()) {
        if let Ok((operation, approval)) = Operation::decode(number, &body) {
            prop_assert_eq!(operation.op(), number);
            prop_assert_eq!(operation.body(approval.as_ref()), body);
        }
    }

    #[test]
    fn test_any_body_of_any_client_is_answered_and_errors_change_nothing(
        calls in prop::collection::vec((bytes(), 0..4u64), 1..12),
    ) {
        let mut world = World::new();
        world.change(&add(1000, 1, "alice")).unwrap();
        for ((number, body), client) in calls {
            let registry = |world: &World| -> Vec<_> {
                let entries = world.replica.state().unwrap().entries();
                entries.iter().filter(|(key, _)| key[0] == 2).cloned().collect()
            };
            let before = registry(&world);
            let sequence = world.replica.next();
            let request = sign_body(&key(client), world.service.instance(), sequence, number, body);
            let (reply, _) = world.order(request.encoded());
            prop_assert!(reply.answers(&request));
            match reply.status {
                0 => prop_assert!(Answer::decode(number, &reply.body).is_ok()),
                1..=13 => prop_assert_eq!(before, registry(&world)),
                other => prop_assert!(false, "status {}", other),
            }
        }
    }

    #[test]
    fn test_bytes_that_are_no_record_are_refused_and_records_have_one_encoding(
        bytes in prop::collection::vec(any::<u8>(), 0..900),
    ) {
        fn one<T: Bounded>(bytes: &[u8]) -> bool {
            T::decoded(bytes).map_or(true, |value| value.encoded() == bytes)
        }
        prop_assert!(one::<Bind>(&bytes) && one::<Change>(&bytes) && one::<Entry>(&bytes));
        prop_assert!(one::<UidRecord>(&bytes) && one::<NameRecord>(&bytes) && one::<Config>(&bytes));
        prop_assert!(Config::decode(&bytes).is_err());
        for number in op::ADD_USER..=op::HISTORY {
            if let Ok(answer) = Answer::decode(number, &bytes) {
                prop_assert_eq!(answer.body(), bytes.clone());
            }
        }
    }

    #[test]
    fn test_changed_answers_prove_nothing_else(place in any::<prop::sample::Index>(), bit in 0..8u8) {
        let mut world = World::new();
        world.change(&add(1000, 1, "alice")).unwrap();
        let state = world.replica.state().unwrap().commitment();
        let query = Listing::of_users(state).query().unwrap();
        let (answer, _) = world.query(&query);
        let mut bytes = borsh::to_vec(&answer).unwrap();
        let place = place.index(bytes.len());
        bytes[place] ^= 1 << bit;
        let Ok(changed) = borsh::from_slice::<Proof>(&bytes) else { return Ok(()) };
        let mut listing = Listing::of_users(state);
        match listing.add(&changed, &state) {
            // Whether more entries follow is checked with the next part.
            Ok(()) => prop_assert!(listing.complete().is_none_or(|users| users.len() == 1)),
            Err(error) => prop_assert!(["ProofInvalid", "DecodeError", "Inconsistent"].contains(&error.kind())),
        }
        prop_assert!(proven_uid(1000, &changed, &state).is_err());
    }
}

#[test]
fn test_truncated_body_of_each_operation_is_malformed() {
    let mut random = Random::new(7);
    let mut seen = [false; 11];
    while !seen[1..].iter().all(|seen| *seen) {
        let (number, body) = valid(random.draw());
        if Operation::decode(number, &body).is_err() {
            continue;
        }
        seen[usize::from(number)] = true;
        for length in 0..body.len() {
            assert_eq!(
                Operation::decode(number, &body[..length]),
                Err(1),
                "operation {number}, {length} bytes"
            );
        }
        let longer = [&body[..], &[0]].concat();
        assert_eq!(Operation::decode(number, &longer), Err(1), "operation {number}");
    }
}
