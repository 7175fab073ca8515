//! Every limit, from both sides, and hostile but authentic requests.

use std::vec;
use std::vec::Vec;

use proptest::prelude::*;
use quorate_attest::encoding::{Bounded, to_bytes};
use quorate_attest::request::{BODY_LIMIT, Call, Request, status};

use super::fixture::{LIMITS, ask, client, contents, get, key, nonce, put, service, spec, status_of};
use crate::client::AnswerError;
use crate::{Answer, KEY_BYTES_MAX, Kv, Limits, Operation, PAGE_ENTRIES_MAX, Page, VALUE_BYTES_MAX, op};

fn failure(kv: &mut Kv, operation: &Operation) -> Option<u16> {
    match ask(kv, &mut client_after(kv), operation) {
        Err(AnswerError::Failed { status }) => Some(status),
        Ok(_) => None,
        other => panic!("{other:?}"),
    }
}

/// A client nobody has seen yet.
fn client_after(kv: &Kv) -> crate::client::Client {
    client(u8::try_from(kv.clients()).expect("few clients") + 100)
}

#[test]
fn keys_and_values_over_their_limits_are_refused() {
    let mut kv = service(LIMITS);
    let (key, value) = (vec![1; KEY_BYTES_MAX], vec![2; VALUE_BYTES_MAX]);
    assert_eq!(failure(&mut kv, &put(&key, &value)), None);
    assert_eq!(failure(&mut kv, &put(&[&key[..], &[1]].concat(), b"")), Some(status::TOO_LARGE));
    assert_eq!(failure(&mut kv, &put(b"k", &[&value[..], &[2]].concat())), Some(status::TOO_LARGE));
    assert_eq!(failure(&mut kv, &put(b"", b"")), Some(status::MALFORMED));
    assert_eq!(failure(&mut kv, &get(b"")), Some(status::MALFORMED));
    let swap = |expected, value| Operation::CompareAndSwap { key: b"k".into(), expected, value };
    let long = Some(vec![0; VALUE_BYTES_MAX + 1]);
    assert_eq!(failure(&mut kv, &swap(long.clone(), None)), Some(status::TOO_LARGE));
    assert_eq!(failure(&mut kv, &swap(None, long)), Some(status::TOO_LARGE));
    let list = |prefix, after, limit| Operation::List { prefix, after, limit };
    assert_eq!(failure(&mut kv, &list(vec![1; KEY_BYTES_MAX + 1], None, 1)), Some(status::TOO_LARGE));
    assert_eq!(failure(&mut kv, &list(vec![], Some(vec![]), 1)), Some(status::MALFORMED));
    assert_eq!(failure(&mut kv, &list(vec![], None, 0)), Some(status::MALFORMED));
    assert_eq!(failure(&mut kv, &list(vec![], None, PAGE_ENTRIES_MAX + 1)), Some(status::TOO_LARGE));
    assert_eq!(failure(&mut kv, &list(vec![], None, PAGE_ENTRIES_MAX)), None);
}

#[test]
fn the_number_of_entries_is_bounded() {
    let mut kv = service(Limits { data_bytes_max: u64::MAX, ..LIMITS });
    let mut alice = client(1);
    for number in 0..100u8 {
        assert!(ask(&mut kv, &mut alice, &put(&[number], b"v")).is_ok());
    }
    let limit = Err(AnswerError::Failed { status: status::LIMIT });
    assert_eq!(ask(&mut kv, &mut alice, &put(&[100], b"v")), limit);
    assert_eq!(ask(&mut kv, &mut alice, &put(&[99], b"w")), Ok(Answer::Stored { replaced: true }));
    assert_eq!(ask(&mut kv, &mut alice, &Operation::Delete { key: vec![5] }), Ok(Answer::Done));
    assert_eq!(ask(&mut kv, &mut alice, &put(&[100], b"v")), Ok(Answer::Stored { replaced: false }));
}

#[test]
fn entries_and_arena_share_one_budget_and_a_refusal_changes_nothing() {
    let mut kv = service(LIMITS);
    let mut alice = client(1);
    let limit = Err(AnswerError::Failed { status: status::LIMIT });
    let fill = |bytes| Operation::Fill { bytes, seed: 1 };
    assert!(matches!(ask(&mut kv, &mut alice, &fill(350_000)), Ok(Answer::Filled { bytes: 350_000, .. })));
    assert_eq!(ask(&mut kv, &mut alice, &put(b"k", &[1; 60_000])), limit);
    assert!(ask(&mut kv, &mut alice, &put(b"k", &[1; 40_000])).is_ok());
    assert_eq!(ask(&mut kv, &mut alice, &fill(370_000)), limit);
    assert_eq!(ask(&mut kv, &mut alice, &fill(u64::MAX)), limit);
    assert_eq!(ask(&mut kv, &mut alice, &put(b"k", &[1; 60_000])), limit);
    assert_eq!(contents(&mut kv, &mut alice), [(b"k".to_vec(), vec![1; 40_000])]);
    assert!(matches!(ask(&mut kv, &mut alice, &fill(0)), Ok(Answer::Filled { bytes: 0, checksum: 0 })));
    assert!(ask(&mut kv, &mut alice, &put(b"k", &[1; 60_000])).is_ok());
}

#[test]
fn a_long_fill_paces_itself() {
    let mut kv = service(Limits { data_bytes_max: 64 << 20, ..LIMITS });
    let request = client(1).request(&Operation::Fill { bytes: 33 << 20, seed: 9 }, nonce(1));
    let mut paces = 0;
    kv.apply_paced(&request.encoded(), &mut || paces += 1);
    assert_eq!(paces, 17);
}

#[test]
fn a_listing_of_long_keys_ends_early_and_continues_where_it_ended() {
    let mut kv = service(LIMITS);
    let mut alice = client(1);
    let keys: Vec<Vec<u8>> =
        (0..40u8).map(|number| [&[number][..], &[0; KEY_BYTES_MAX - 1]].concat()).collect();
    for key in &keys {
        assert!(ask(&mut kv, &mut alice, &put(key, b"")).is_ok());
    }
    let mut seen = Vec::new();
    loop {
        let list = Operation::List { prefix: vec![], after: seen.last().cloned(), limit: PAGE_ENTRIES_MAX };
        let Ok(Answer::Page(Page { entries, more })) = ask(&mut kv, &mut alice, &list) else {
            panic!("no page")
        };
        assert!(entries.len() <= 16);
        seen.extend(entries.into_iter().map(|entry| entry.key));
        if !more {
            break;
        }
    }
    assert_eq!(seen, keys);
}

#[test]
fn the_longest_request_and_the_longest_reply_fit_into_one_message() {
    let mut kv = service(Limits { data_bytes_max: 1 << 20, ..LIMITS });
    let value = || Some(vec![1; VALUE_BYTES_MAX]);
    let longest =
        Operation::CompareAndSwap { key: vec![1; KEY_BYTES_MAX], expected: value(), value: value() };
    assert_eq!(failure(&mut kv, &longest), Some(status::CONFLICT));
    let body = vec![0; BODY_LIMIT];
    let call = Call { op: op::PUT, sequence: 1, nonce: nonce(1), epoch: 0, body };
    let request = Request::sign(&key(1), spec().id(), call).encoded();
    assert!(request.len() <= 262_144);
    assert_eq!(status_of(&kv.apply(&request)), status::MALFORMED);
}

#[test]
fn limits_leave_room_for_one_message_in_the_smallest_machine() {
    assert_eq!(Limits::for_machine(8 << 20, (2 << 20) - 4096), None);
    let heap = (4 << 20) - 4096;
    let limits = Limits::for_machine(10 << 20, heap).expect("10 MiB suffice");
    assert!(limits.data_bytes_max + limits.session_bytes_max + (2 << 20) < heap);
    assert!(limits.session_bytes_max > 2 * (VALUE_BYTES_MAX as u64 + 1024));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn authentic_requests_with_any_body_never_panic(
        calls in proptest::collection::vec((0u16..9, proptest::collection::vec(any::<u8>(), 0..80)), 1..10),
    ) {
        let mut kv = service(LIMITS);
        for (sequence, (op, body)) in calls.into_iter().enumerate() {
            // A fill of random size is answered by the limit; its body is valid whatever it says.
            let call = Call { op, sequence: sequence as u64, nonce: nonce(0), epoch: 0, body };
            let output = kv.apply(&Request::sign(&key(1), spec().id(), call).encoded());
            prop_assert!(status_of(&output) <= status::INCONCLUSIVE);
        }
    }

    #[test]
    fn length_prefixes_that_lie_are_malformed(length in 5u32.., op in 1u16..5) {
        let body = to_bytes(&(length, [1u8; 4]));
        prop_assert_eq!(Operation::decode(op, &body), Err(status::MALFORMED));
    }
}
