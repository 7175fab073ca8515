//! Before the service knows its VM.

use std::vec::Vec;

use proptest::prelude::*;
use quorate_attest::encoding::Bounded;
use quorate_attest::request::status;
use quorate_attest::vm::VmSpec;

use super::fixture::{LIMITS, MEMORY, ask, client, key, nonce, put, service, spec};
use crate::client::{Client, genesis};
use crate::{Kv, Refusal};

fn refused(kv: &mut Kv, input: &[u8]) -> bool {
    Refusal::decoded(&kv.apply(input)).is_ok_and(|refusal| refusal.status == status::BAD_CONFIG)
}

#[test]
fn everything_before_the_specification_is_refused() {
    let mut kv = Kv::new(LIMITS);
    let request = client(1).request(&put(b"k", b"v"), nonce(1));
    assert!(refused(&mut kv, &request.encoded()));
    assert!(refused(&mut kv, b""));
    assert_eq!(kv.vm(), None);
    assert!(kv.apply(&genesis(&spec())).is_empty());
    assert_eq!(kv.vm(), Some(spec().id()));
    assert!(ask(&mut kv, &mut client(1), &put(b"k", b"v")).is_ok());
}

#[test]
fn a_specification_of_another_machine_is_refused() {
    let others: [fn(&mut VmSpec); 3] =
        [|s| s.memory_bytes = MEMORY * 2, |s| s.machine_version = 2, |s| s.name.clear()];
    for change in others {
        let mut other = spec();
        change(&mut other);
        assert!(refused(&mut Kv::new(LIMITS), &genesis(&other)), "{other:?}");
    }
}

#[test]
fn a_second_specification_does_not_move_the_service_to_another_vm() {
    let mut kv = service(LIMITS);
    let other = VmSpec { nonce: nonce(77), ..spec() };
    let refusal = Refusal::decoded(&kv.apply(&genesis(&other))).expect("a refusal");
    assert_eq!((refusal.status, kv.vm()), (status::MALFORMED, Some(spec().id())));
    let mut stranger = Client::new(key(1), other.id(), 0);
    assert!(ask(&mut kv, &mut stranger, &put(b"k", b"v")).is_err());
}

proptest! {
    #[test]
    fn no_byte_string_but_a_specification_starts_the_service(
        change in proptest::option::of((0usize..200, 1u8..)), cut in 0usize..50, extra in proptest::collection::vec(any::<u8>(), 0..4),
    ) {
        let mut input = genesis(&spec());
        let whole = change.is_none() && cut == 0 && extra.is_empty();
        if let Some((at, flip)) = change {
            let at = at % input.len();
            input[at] ^= flip;
        }
        input.truncate(input.len() - cut);
        input.extend(&extra);
        let mut kv = Kv::new(LIMITS);
        let output = kv.apply(&input);
        // Another valid specification is the specification of another VM.
        let accepted = VmSpec::decoded(&input).is_ok_and(|s| s.validate().is_ok() && s.memory_bytes == MEMORY);
        prop_assert_eq!(kv.vm().is_some(), accepted);
        prop_assert_eq!(output.is_empty(), accepted);
        prop_assert!(!whole || accepted);
        prop_assert!(!accepted || kv.vm() == VmSpec::decoded(&input).ok().map(|spec| spec.id()));
    }

    #[test]
    fn no_input_panics_before_or_after_genesis(inputs in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..300), 0..8)) {
        let (mut before, mut after) = (Kv::new(LIMITS), service(LIMITS));
        for input in inputs {
            prop_assert!(!before.apply(&input).is_empty());
            prop_assert!(!after.apply(&input).is_empty());
        }
    }
}

#[test]
fn golden_outputs_of_version_1() {
    // A failure here means that recorded executions of kv guests no longer replay.
    let mut kv = service(LIMITS);
    let output = kv.apply(&client(1).request(&put(b"key", b"value"), nonce(5)).encoded());
    let mut expected: Vec<u8> = Vec::new();
    expected.extend(1u16.to_le_bytes());
    expected.extend(key(1).public().as_bytes());
    expected.extend(1u64.to_le_bytes());
    expected.extend(nonce(5).as_bytes());
    expected.extend(0u16.to_le_bytes());
    expected.extend(1u32.to_le_bytes());
    expected.push(0);
    assert_eq!(output, expected);
    let refusal = kv.apply(b"?");
    assert_eq!(refusal[..4], [1, 0, 1, 0]);
    assert_eq!(refusal[4..], Refusal::digest(b"?"));
}
