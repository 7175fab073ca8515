//! Relinquishment, recovery, activation and refusal.

use crate::fixtures::*;
use quorate_attest::encoding::Bounded;
use quorate_attest::error::{Signer, VerifyError};
use quorate_attest::id::*;
use quorate_attest::statement::Kind;
use quorate_attest::vm::*;

const ELSEWHERE: [u8; 32] = [0xee; 32];

#[test]
fn test_each_changed_field_of_a_relinquishment_is_refused() {
    let group = group(4, 1);
    let expected = expect(&group, Kind::RELINQUISH);
    let original = relinquish(&group);
    assert_eq!(original.verify(&expected, &host_key(0).public()), Ok(()));
    let changes: [fn(&mut Relinquish); 7] = [
        |r| r.vm = VmId::from_bytes(ELSEWHERE),
        |r| r.group = GroupId::from_bytes(ELSEWHERE),
        |r| r.epoch = Epoch(9),
        |r| r.generation = Generation(9),
        |r| r.slot = Slot(4),
        |r| r.statement = StatementDigest::from_bytes(ELSEWHERE),
        |r| r.successor = host_key(2).public(),
    ];
    let kinds = ["WrongVm", "WrongCluster", "WrongEpoch"];
    for (number, changed) in each_changed(&original, &changes) {
        let kind = kinds.get(number).copied().unwrap_or("BadSignature");
        let verdict = changed.verify(&expected, &host_key(0).public());
        assert_eq!(verdict.map_err(|e| e.kind()), Err(kind), "field {number}");
        assert_ne!(changed.to_statement().digest(), original.to_statement().digest(), "field {number}");
    }
    let by_another = original.verify(&expected, &host_key(1).public());
    assert_eq!(by_another, Err(VerifyError::BadSignature { signer: Signer::Key(host_key(1).public()) }));
}

#[test]
fn test_each_changed_field_of_a_recovery_is_refused() {
    let group = group(4, 1);
    let expected = expect(&group, Kind::RECOVERY);
    let original = recovery(&group);
    assert_eq!(original.verify(&group, &expected), Ok(()));
    let changes: [fn(&mut Recovery); 9] = [
        |r| r.vm = VmId::from_bytes(ELSEWHERE),
        |r| r.group = GroupId::from_bytes(ELSEWHERE),
        |r| r.epoch = Epoch(9),
        |r| r.operator = host_key(0).public(),
        |r| r.operator = secret(Use::Operator, 0).public(),
        |r| r.generation = Generation(9),
        |r| r.slot = Slot(4),
        |r| r.statement = StatementDigest::from_bytes(ELSEWHERE),
        |r| r.host = host_key(1).public(),
    ];
    let kinds = ["WrongVm", "WrongCluster", "WrongEpoch", "KeyRoleMismatch"];
    for (number, changed) in each_changed(&original, &changes) {
        let kind = kinds.get(number).copied().unwrap_or("BadSignature");
        let verdict = changed.verify(&group, &expected);
        assert_eq!(verdict.map_err(|e| e.kind()), Err(kind), "field {number}");
    }
}

#[test]
fn test_recovery_ordered_by_a_verifier_or_host_is_refused() {
    let group = group(4, 1);
    for key in [vote_key(0), host_key(0), secret(Use::Operator, 7)] {
        let forged = Recovery { operator: key.public(), ..recovery(&group) }.signed(&key);
        let verdict = forged.verify(&group, &expect(&group, Kind::RECOVERY));
        assert_eq!(verdict, Err(VerifyError::KeyRoleMismatch { role: "operator", got: key.public() }));
    }
}

#[test]
fn test_activation_is_certified_from_either_cause() {
    let group = group(4, 1);
    let expected = expect(&group, Kind::ACTIVATE);
    let old_host = host_key(0).public();
    for cause in [Cause::Relinquish(relinquish(&group)), Cause::Recovery(recovery(&group))] {
        let certificate = activation_certificate(&group, cause.clone(), &[0, 1, 3]);
        assert_eq!(certificate.activation.generation, Generation(2));
        assert_eq!(certificate.verify(&group, &expected, Some(&old_host)), Ok(()));
        assert_eq!(certificate.verify(&group, &expected, None), Ok(()));
        assert_eq!(cause.verify(&group, &expected, &old_host), Ok(()));
    }
}

#[test]
fn test_each_changed_field_of_an_activation_is_refused() {
    let group = group(4, 1);
    let expected = expect(&group, Kind::ACTIVATE);
    let original = activation_certificate(&group, Cause::Relinquish(relinquish(&group)), &[0, 1, 2]);
    let changes: [Change<Activation>; 9] = [
        (|a| a.group = GroupId::from_bytes(ELSEWHERE), "WrongCluster"),
        (|a| a.epoch = Epoch(9), "WrongEpoch"),
        (|a| a.vm = VmId::from_bytes(ELSEWHERE), "WrongVm"),
        (|a| a.generation = Generation(3), "FencedGeneration"),
        (|a| a.slot = Slot(4), "WrongSlot"),
        (|a| a.statement = StatementDigest::from_bytes(ELSEWHERE), "WrongSlot"),
        (|a| a.host = host_key(2).public(), "KeyRoleMismatch"),
        (|a| a.instance = Nonce::ZERO, "BadSignature"),
        (|a| a.cause = StatementDigest::from_bytes(ELSEWHERE), "Inconsistent"),
    ];
    for (number, (change, kind)) in changes.into_iter().enumerate() {
        let mut changed = original.clone();
        change(&mut changed.activation);
        let verdict = changed.verify(&group, &expected, Some(&host_key(0).public()));
        assert_eq!(verdict.map_err(|e| e.kind()), Err(kind), "field {number}");
        let (verifier, vote) = original.attestations[0];
        assert!(changed.activation.verify_vote(&group, verifier, &vote).is_err(), "field {number}");
    }
    let other_kind = original.verify(&group, &expect(&group, Kind::RELINQUISH), None);
    assert_eq!(other_kind.map_err(|e| e.kind()), Err("WrongDomain"));
}

#[test]
fn test_one_relinquishment_activates_one_instance_only() {
    let group = group(4, 1);
    let cause = Cause::Relinquish(relinquish(&group));
    let first = activation(&group, &cause);
    let second = Activation { instance: Nonce::from_bytes([9; 16]), ..first.clone() };
    assert_ne!(first.digest(), second.digest());
    let votes = activation_certificate(&group, cause.clone(), &[0, 1, 2]).attestations;
    let copied = ActivationCertificate { activation: second, cause, attestations: votes };
    let verdict = copied.verify(&group, &expect(&group, Kind::ACTIVATE), None);
    assert_eq!(verdict.map_err(|e| e.kind()), Err("BadSignature"));
}

#[test]
fn test_quorum_cannot_stand_in_for_a_cause_that_the_old_host_did_not_sign() {
    let group = group(4, 1);
    let forged = relinquish(&group).signed(&host_key(1));
    let certificate = activation_certificate(&group, Cause::Relinquish(forged), &[0, 1, 2]);
    let verdict = certificate.verify(&group, &expect(&group, Kind::ACTIVATE), Some(&host_key(0).public()));
    assert_eq!(verdict.map_err(|e| e.kind()), Err("BadSignature"));
    let unsigned = recovery(&group).signed(&host_key(1));
    let certificate = activation_certificate(&group, Cause::Recovery(unsigned), &[0, 1, 2]);
    let verdict = certificate.verify(&group, &expect(&group, Kind::ACTIVATE), None);
    assert_eq!(verdict.map_err(|e| e.kind()), Err("BadSignature"));
}

#[test]
fn test_cause_of_another_vm_or_group_is_refused_even_when_the_digest_fits() {
    let group = group(4, 1);
    let foreign = Relinquish { group: GroupId::from_bytes(ELSEWHERE), ..relinquish(&group) };
    let cause = Cause::Relinquish(foreign.signed(&host_key(0)));
    let certificate = activation_certificate(&group, cause, &[0, 1, 2]);
    for previous in [None, Some(host_key(0).public())] {
        let verdict = certificate.verify(&group, &expect(&group, Kind::ACTIVATE), previous.as_ref());
        assert_eq!(verdict.map_err(|e| e.kind()), Err("WrongCluster"));
    }
}

#[test]
fn test_generation_numbers_end_without_wrapping() {
    let group = group(4, 1);
    let last = Relinquish { generation: Generation(u64::MAX), ..relinquish(&group) };
    let cause = Cause::Relinquish(last.signed(&host_key(0)));
    assert_eq!(Activation::of(&cause, group.id(), group.epoch, Nonce::ZERO), None);
    let wrapped = Activation {
        generation: Generation::ZERO,
        cause: cause.digest(),
        ..activation(&group, &Cause::Relinquish(relinquish(&group)))
    };
    assert_eq!(wrapped.check_cause(&cause).map_err(|e| e.kind()), Err("FencedGeneration"));
    let zero = Cause::Recovery(Recovery { generation: Generation::ZERO, ..recovery(&group) });
    let activation = activation(&group, &zero);
    assert_eq!(activation.check_cause(&zero).map_err(|e| e.kind()), Err("FencedGeneration"));
}

#[test]
fn test_duplicate_unsorted_out_of_range_and_too_few_votes_are_refused() {
    let group = group(4, 1);
    let cause = Cause::Relinquish(relinquish(&group));
    let verdict = |verifiers: &[u16]| {
        let certificate = activation_certificate(&group, cause.clone(), verifiers);
        certificate.verify(&group, &expect(&group, Kind::ACTIVATE), None).map_err(|error| error.kind())
    };
    assert_eq!(verdict(&[0, 1, 1]), Err("DuplicateSigner"));
    assert_eq!(verdict(&[0, 2, 1]), Err("SignerOutOfOrder"));
    assert_eq!(verdict(&[0, 1, 4]), Err("SignerOutOfRange"));
    assert_eq!(verdict(&[2, 3]), Err("QuorumNotReached"));
}

#[test]
fn test_activation_tally_is_not_poisoned_by_bad_votes() {
    let group = group(4, 1);
    let cause = Cause::Relinquish(relinquish(&group));
    let activation = activation(&group, &cause);
    let other = Activation { instance: Nonce::ZERO, ..activation.clone() };
    let mut tally = ActivationTally::new(&group, activation.clone(), cause.clone()).unwrap();
    assert_eq!(
        tally.add(2, other.sign(&vote_key(2))),
        Err(VerifyError::BadSignature { signer: Signer::Verifier(2) })
    );
    for (verifier, complete) in [(3, false), (2, false), (0, true)] {
        assert_eq!(tally.add(verifier, activation.sign(&vote_key(verifier))), Ok(complete));
        let again = tally.add(verifier, activation.sign(&vote_key(verifier)));
        assert_eq!(again, Err(VerifyError::DuplicateSigner { verifier }));
    }
    assert_eq!(tally.progress(), (3, 3));
    let certificate = tally.certificate().unwrap();
    assert_eq!(certificate.verify(&group, &expect(&group, Kind::ACTIVATE), None), Ok(()));
    let mismatch = ActivationTally::new(&group, other, Cause::Recovery(recovery(&group)));
    assert!(mismatch.is_err());
}

#[test]
fn test_each_changed_field_of_a_refusal_is_refused_and_long_reasons_are_cut() {
    let group = group(4, 1);
    let expected = expect(&group, Kind::REFUSAL);
    let original = refusal(&group);
    assert_eq!(original.verify(&expected), Ok(()));
    let changes: [fn(&mut Refusal); 7] = [
        |r| r.group = GroupId::from_bytes(ELSEWHERE),
        |r| r.epoch = Epoch(9),
        |r| r.vm = VmId::from_bytes(ELSEWHERE),
        |r| r.generation = Generation(9),
        |r| r.slot = Slot(4),
        |r| r.host = host_key(2).public(),
        |r| r.reason.push('x'),
    ];
    let kinds = ["WrongCluster", "WrongEpoch", "WrongVm"];
    for (number, changed) in each_changed(&original, &changes) {
        let kind = kinds.get(number).copied().unwrap_or("BadSignature");
        assert_eq!(changed.verify(&expected).map_err(|e| e.kind()), Err(kind), "field {number}");
    }
    let long = Refusal { reason: "é".repeat(200), ..original }.signed(&host_key(1));
    assert_eq!(long.reason.len(), 256);
    assert_eq!(long.verify(&expected), Ok(()));
    assert_eq!(Refusal::decoded(&long.encoded()), Ok(long));
}
