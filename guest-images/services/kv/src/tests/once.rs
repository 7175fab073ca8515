//! At most once, whatever is delivered how often and in which order.

use std::collections::BTreeSet;
use std::vec::Vec;

use proptest::prelude::*;
use quorate_attest::encoding::Bounded;
use quorate_attest::id::VmId;
use quorate_attest::key::SecretKey;
use quorate_attest::request::{Call, Reply, Request, status};

use super::fixture::{LIMITS, ask, client, contents, forged, get, key, nonce, put, service, spec, status_of};
use crate::client::{AnswerError, Client, answer};
use crate::{Answer, CLIENTS_MAX, Limits, Operation, Refusal};

#[test]
fn a_replayed_request_gets_the_stored_reply_byte_for_byte_and_changes_nothing() {
    let mut kv = service(LIMITS);
    let (mut alice, mut bob) = (client(1), client(2));
    let insert = Operation::CompareAndSwap { key: b"k".into(), expected: None, value: Some(b"1".into()) };
    let request = alice.request(&insert, nonce(1)).encoded();
    let reply = kv.apply(&request);
    assert_eq!(status_of(&reply), status::OK);
    assert_eq!(ask(&mut kv, &mut bob, &Operation::Delete { key: b"k".into() }), Ok(Answer::Done));
    for _ in 0..1000 {
        assert_eq!(kv.apply(&request), reply);
    }
    assert!(contents(&mut kv, &mut bob).is_empty(), "a replay was executed");
}

#[test]
fn an_older_request_is_refused_after_a_newer_one() {
    let mut kv = service(LIMITS);
    let mut alice = client(1);
    let old = alice.request(&put(b"k", b"old"), nonce(1)).encoded();
    let new = alice.request(&put(b"k", b"new"), nonce(2)).encoded();
    kv.apply(&old);
    kv.apply(&new);
    assert_eq!(status_of(&kv.apply(&old)), status::REPLAYED);
    assert_eq!(ask(&mut kv, &mut alice, &get(b"k")), Ok(Answer::Value(b"new".into())));
}

#[test]
fn another_request_under_a_used_sequence_is_refused() {
    let mut kv = service(LIMITS);
    let first = client(1).request(&put(b"k", b"1"), nonce(1));
    let second = client(1).request(&put(b"k", b"2"), nonce(2));
    assert_eq!(status_of(&kv.apply(&first.encoded())), status::OK);
    let output = kv.apply(&second.encoded());
    assert_eq!(answer(&second, &output), Err(AnswerError::Failed { status: status::REPLAYED }));
    assert_eq!(ask(&mut kv, &mut client(2), &get(b"k")), Ok(Answer::Value(b"1".into())));
}

#[test]
fn gaps_in_the_sequence_are_allowed_up_to_the_last_number() {
    let mut kv = service(LIMITS);
    for last in [41, u64::MAX - 1] {
        let mut alice = Client::new(key(1), spec().id(), last);
        assert!(ask(&mut kv, &mut alice, &put(b"k", b"v")).is_ok());
    }
    let first = client(1).request(&put(b"k", b"w"), nonce(1));
    assert_eq!(status_of(&kv.apply(&first.encoded())), status::REPLAYED);
}

#[test]
fn a_failed_operation_uses_up_its_sequence_too() {
    let mut kv = service(LIMITS);
    let request = client(1).request(&get(b"k"), nonce(1));
    let reply = kv.apply(&request.encoded());
    assert_eq!(status_of(&reply), status::NOT_FOUND);
    assert!(ask(&mut kv, &mut client(2), &put(b"k", b"v")).is_ok());
    assert_eq!(kv.apply(&request.encoded()), reply);
}

#[test]
fn a_request_for_another_vm_or_with_another_signature_names_no_client_in_its_refusal() {
    let mut kv = service(LIMITS);
    let genuine = client(1).request(&put(b"k", b"v"), nonce(1));
    let foreign = Client::new(key(1), VmId::from_bytes([9; 32]), 0).request(&put(b"k", b"v"), nonce(1));
    let cases = [
        (foreign.encoded(), status::NOT_AUTHORIZED),
        (forged(&genuine, |r| r.body[4] ^= 1), status::BAD_SIGNATURE),
        (forged(&genuine, |r| r.nonce = nonce(2)), status::BAD_SIGNATURE),
        (forged(&genuine, |r| r.sequence += 1), status::BAD_SIGNATURE),
        (forged(&genuine, |r| r.op += 1), status::BAD_SIGNATURE),
        (forged(&genuine, |r| r.epoch += 1), status::BAD_SIGNATURE),
        (forged(&genuine, |r| r.client = key(2).public()), status::BAD_SIGNATURE),
        (forged(&genuine, |r| r.vm = VmId::from_bytes([9; 32])), status::NOT_AUTHORIZED),
        (forged(&genuine, |r| r.abi = 2), status::MALFORMED),
        (Vec::new(), status::MALFORMED),
    ];
    for (input, status) in cases {
        let output = kv.apply(&input);
        let refusal = Refusal::decoded(&output).expect("a refusal");
        assert_eq!((refusal.status, refusal.input), (status, Refusal::digest(&input)));
        // The host cannot present the refusal of its forgery as the answer to the genuine request.
        assert_eq!(answer(&genuine, &output), Err(AnswerError::OtherRequest));
    }
    assert_eq!(kv.clients(), 0);
    assert_eq!(answer(&genuine, &kv.apply(&genuine.encoded())), Ok(Answer::Stored { replaced: false }));
}

#[test]
fn an_epoch_other_than_zero_is_refused() {
    let mut kv = service(LIMITS);
    let operation = get(b"k");
    let call = Call { op: operation.op(), sequence: 1, nonce: nonce(1), epoch: 1, body: operation.body() };
    let request = Request::sign(&key(1), spec().id(), call);
    assert_eq!(status_of(&kv.apply(&request.encoded())), status::WRONG_EPOCH);
}

fn numbered(number: usize) -> SecretKey {
    let mut seed = [0; 32];
    seed[..8].copy_from_slice(&(number as u64).to_le_bytes());
    SecretKey::from_seed(seed)
}

#[test]
fn the_table_forgets_the_client_heard_least_recently_and_never_exceeds_its_bound() {
    let mut kv = service(Limits { session_bytes_max: u64::MAX, ..LIMITS });
    let request =
        |number: usize| Client::new(numbered(number), spec().id(), 0).request(&get(b"k"), nonce(1)).encoded();
    for number in 0..CLIENTS_MAX {
        kv.apply(&request(number));
    }
    assert_eq!(kv.clients(), CLIENTS_MAX);
    // A repeated request counts as use: client 0 stays, client 1 is now the oldest.
    kv.apply(&request(0));
    kv.apply(&request(CLIENTS_MAX));
    assert_eq!(kv.clients(), CLIENTS_MAX);
    let other = |number: usize| {
        let mut client = Client::new(numbered(number), spec().id(), 0);
        client.request(&get(b"other"), nonce(2)).encoded()
    };
    assert_eq!(status_of(&kv.apply(&other(0))), status::REPLAYED);
    assert_eq!(status_of(&kv.apply(&other(2))), status::REPLAYED);
    assert_eq!(status_of(&kv.apply(&other(1))), status::NOT_FOUND, "client 1 was forgotten");
}

#[test]
fn stored_replies_stay_within_their_budget() {
    let mut kv = service(LIMITS);
    let value = [7; 60_000];
    assert!(ask(&mut kv, &mut client(1), &put(b"k", &value)).is_ok());
    for number in 2..40 {
        assert_eq!(ask(&mut kv, &mut client(number), &get(b"k")), Ok(Answer::Value(value.to_vec())));
    }
    assert_eq!(kv.clients() as u64, LIMITS.session_bytes_max / 60_600);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_delivery_order_executes_each_request_at_most_once(
        deliveries in proptest::collection::vec((0usize..2, 0usize..8), 1..60),
    ) {
        let mut kv = service(LIMITS);
        // Request n of a client creates the key `client/n`; a second execution would answer `replaced`.
        let requests: Vec<Vec<Request>> = (0..2u8)
            .map(|who| {
                let mut client = client(who + 1);
                (0..8u8).map(|number| client.request(&put(&[who, number], b"x"), nonce(number.into()))).collect()
            })
            .collect();
        let mut executed = BTreeSet::new();
        let mut newest = [None, None];
        for (who, number) in deliveries {
            let request = &requests[who][number];
            let output = kv.apply(&request.encoded());
            if newest[who].is_none_or(|newest| number >= newest) {
                newest[who] = Some(number);
                executed.insert(Vec::from([who as u8, number as u8]));
                prop_assert_eq!(answer(request, &output), Ok(Answer::Stored { replaced: false }));
            } else {
                prop_assert_eq!(Reply::decoded(&output).unwrap().status, status::REPLAYED);
            }
        }
        let keys: BTreeSet<Vec<u8>> =
            contents(&mut kv, &mut client(9)).into_iter().map(|(key, _)| key).collect();
        prop_assert_eq!(keys, executed);
    }
}
