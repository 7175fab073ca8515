//! What a stranger may send as one of the messages of a recovery.

use proptest::prelude::*;
use quorate_attest::id::Slot;
use quorate_transport::Wire;
use quorate_transport::{decode_frame, encode_frame};

use super::*;
use crate::core::model::{HostRun, activation_certificate, grant, group, host_b, inputs, spec};

fn run() -> HostRun {
    let mut run = HostRun::new(&group(4, 1), spec());
    run.next(&[]);
    run.next(&inputs(2));
    run
}

fn questions() -> Vec<ToVerifier> {
    let run = run();
    let request = StateRequest { grant: grant(run.decision(1, &host_b()), 0..3), slot: run.head().slot };
    vec![SlotRequest { vm: run.vm(), slot: Slot(1) }.into(), request.into()]
}

fn answers() -> Vec<FromVerifier> {
    let mut run = run();
    let propose = run.next(&inputs(3));
    let certificate = run.certificate(2);
    let activation = activation_certificate(&run.group, &run.granted(1, &host_b(), 1));
    let slot = SignedSlot {
        proposal: propose.proposal.clone(),
        attestation: certificate.attestations[0],
        inputs: Some(propose.inputs),
        activation: Some(activation.clone()),
        follows: true,
    };
    let state = StateHead {
        register: Register { spec: run.spec.clone(), image: vec![7; 99] },
        statement: run.head().clone(),
        certificate: Some(certificate),
        input_log: run.log.clone(),
        statements: run.log.clone(),
        history: run.chain.clone(),
        activation: Some(activation),
    };
    let without = SignedSlot { inputs: None, activation: None, follows: false, ..slot.clone() };
    vec![slot.into(), without.into(), state.into(), StatePart { bytes: vec![1, 2, 3] }.into()]
}

/// Everything cut, lengthened and changed is another message or none, and nothing panics.
fn check<W: Wire + PartialEq + std::fmt::Debug>(
    message: &W,
    at: prop::sample::Index,
    bit: u8,
) -> Result<(), TestCaseError> {
    let body = message.encode_body();
    prop_assert!(W::decode_body(message.tag(), &body).as_ref() == Ok(message));
    prop_assert!(W::decode_body(message.tag(), &body[..at.index(body.len())]).is_err(), "truncated");
    prop_assert!(W::decode_body(message.tag(), &[&body[..], &[0]].concat()).is_err(), "trailing");
    let mut changed = body.clone();
    changed[at.index(body.len())] ^= 1 << (bit % 8);
    if let Ok(other) = W::decode_body(message.tag(), &changed) {
        prop_assert!(other != *message);
        prop_assert_eq!(other.encode_body(), changed, "one encoding only");
    }
    Ok(())
}

proptest! {
    #[test]
    fn damaged_recovery_messages_are_refused_or_are_other_messages(
        at in any::<prop::sample::Index>(),
        bit in any::<u8>(),
    ) {
        for message in questions() {
            check(&message, at, bit)?;
        }
        for message in answers() {
            check(&message, at, bit)?;
        }
    }

    #[test]
    fn any_bytes_as_a_recovery_message_decode_to_what_encodes_to_them_or_not_at_all(
        tag in prop::sample::select(vec![8u8, 9, 11, 12, 13]),
        bytes in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        if let Ok(message) = ToVerifier::decode_body(tag, &bytes) {
            prop_assert_eq!(message.encode_body(), bytes.clone());
        }
        if let Ok(message) = FromVerifier::decode_body(tag, &bytes) {
            prop_assert_eq!(message.encode_body(), bytes);
        }
    }
}

#[test]
fn a_recovery_message_over_its_limit_is_refused_by_its_header() {
    for (tag, limit) in [(8, 64), (9, 16_384)] {
        let head = [&[tag][..], &(limit + 1u32).to_le_bytes()].concat();
        assert_eq!(decode_frame::<ToVerifier>(&head).unwrap_err().kind(), "MessageTooLarge");
    }
    for tag in [11, 12, 13] {
        let limit = FromVerifier::limit(tag).unwrap() as u32;
        let head = [&[tag][..], &(limit + 1).to_le_bytes()].concat();
        assert_eq!(decode_frame::<FromVerifier>(&head).unwrap_err().kind(), "MessageTooLarge");
    }
    let part = StatePart { bytes: vec![0; STATE_PART_BYTES_MAX + 1] };
    assert_eq!(encode_frame(&FromVerifier::from(part)).unwrap_err().kind(), "MessageTooLarge");
}
