//! Head answers.

use crate::fixtures::*;
use quorate_attest::error::VerifyError;
use quorate_attest::group::GroupConfig;
use quorate_attest::id::*;
use quorate_attest::key::Signature;
use quorate_attest::statement::{Expected, Kind};
use quorate_attest::vm::*;

fn verdict(group: &GroupConfig, answer: &HeadAnswer) -> Result<(), &'static str> {
    answer.verify(group, &expect(group, Kind::HEAD), &question()).map_err(|error| error.kind())
}

/// Signs again what was changed: the inner rules must refuse it.
fn signed_again(group: &GroupConfig, answer: HeadAnswer) -> HeadAnswer {
    let key = vote_key(answer.verifier);
    answer.signed(group.id(), group.epoch, &key)
}

#[test]
fn test_answers_with_and_without_a_slot_are_accepted() {
    let group = group(4, 1);
    for verifier in 0..4 {
        assert_eq!(verdict(&group, &head(&group, verifier)), Ok(()));
    }
    let nothing = HeadAnswer {
        proposal: None,
        attestation: None,
        generation: Generation::ZERO,
        vote: None,
        vote_signature: None,
        ..head(&group, 1)
    };
    assert_eq!(verdict(&group, &signed_again(&group, nothing)), Ok(()));
}

#[test]
fn test_each_changed_field_of_an_answer_is_refused() {
    let group = group(4, 1);
    let changes: [fn(&mut HeadAnswer); 9] = [
        |answer| answer.vm = VmId::ZERO,
        |answer| answer.nonce = Nonce::ZERO,
        |answer| answer.verifier = 0,
        |answer| answer.proposal = None,
        |answer| answer.attestation = None,
        |answer| answer.generation = Generation(1),
        |answer| answer.vote = None,
        |answer| answer.vote_signature = None,
        |answer| answer.signature = Signature::NONE,
    ];
    for (number, changed) in each_changed(&head(&group, 1), &changes) {
        let kind = match number {
            0 => "WrongVm",
            1 => "NonceReused",
            8 => "SignatureNonCanonical",
            _ => "BadSignature",
        };
        assert_eq!(verdict(&group, &changed), Err(kind), "field {number}");
    }
}

#[test]
fn test_answer_to_another_question_group_or_epoch_is_refused() {
    let group = group(4, 1);
    let answer = head(&group, 1);
    let other_nonce = answer.verify(&group, &expect(&group, Kind::HEAD), &Nonce::ZERO);
    assert_eq!(other_nonce, Err(VerifyError::NonceReused));
    let other_group = Expected { group: GroupId::ZERO, ..expect(&group, Kind::HEAD) };
    assert_eq!(answer.verify(&group, &other_group, &question()).map_err(|e| e.kind()), Err("BadSignature"));
    let other_epoch = Expected { epoch: Epoch(4), ..expect(&group, Kind::HEAD) };
    assert_eq!(answer.verify(&group, &other_epoch, &question()).map_err(|e| e.kind()), Err("WrongEpoch"));
    let out_of_range = HeadAnswer { verifier: 4, ..answer };
    assert_eq!(verdict(&group, &out_of_range), Err("SignerOutOfRange"));
}

#[test]
fn test_verifier_cannot_answer_with_what_others_signed_or_nobody_signed() {
    let group = group(4, 1);
    let (own, other) = (head(&group, 1), head(&group, 2));
    let unsigned_slot = Proposal::sign(slot(&group, 5), &host_key(1));
    let mut foreign = slot(&group, 5);
    foreign.vm = VmId::ZERO;
    let foreign_attestation = attest(&foreign, 1, Mode::Replayed);
    let cases = [
        (HeadAnswer { attestation: other.attestation, ..own.clone() }, "Inconsistent"),
        (HeadAnswer { attestation: None, ..own.clone() }, "Inconsistent"),
        (HeadAnswer { proposal: None, ..own.clone() }, "Inconsistent"),
        (HeadAnswer { proposal: Some(unsigned_slot), ..own.clone() }, "BadSignature"),
        (HeadAnswer { vote: None, ..own.clone() }, "Inconsistent"),
        (HeadAnswer { vote: None, vote_signature: None, ..own.clone() }, "Inconsistent"),
        (HeadAnswer { vote_signature: other.vote_signature, ..own.clone() }, "BadSignature"),
        (HeadAnswer { generation: Generation(7), ..own.clone() }, "Inconsistent"),
        (
            HeadAnswer { proposal: Some(Proposal::sign(slot(&group, 6), &host_key(0))), ..own.clone() },
            "BadSignature",
        ),
        (
            HeadAnswer {
                proposal: Some(Proposal::sign(foreign, &host_key(0))),
                attestation: Some(foreign_attestation),
                ..own
            },
            "WrongVm",
        ),
    ];
    for (number, (answer, kind)) in cases.into_iter().enumerate() {
        assert_eq!(verdict(&group, &signed_again(&group, answer)), Err(kind), "case {number}");
    }
}
