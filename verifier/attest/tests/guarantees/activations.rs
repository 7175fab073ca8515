//! Relinquishment, activation and refusal.

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
fn test_activation_is_certified_by_a_grant_and_a_quorum_of_votes() {
    let (group, orchestrators) = (group(4, 1), orchestrators(4, 1));
    let expected = expect(&group, Kind::ACTIVATE);
    for signers in subsets(4, 3) {
        let grant = grant_certificate(granted(&group), &signers);
        let certificate = activation_certificate(&group, grant, &signers);
        assert_eq!(certificate.activation.generation, Generation(2));
        assert_eq!(certificate.verify(&group, &expected, Some(&orchestrators)), Ok(()));
        assert_eq!(certificate.verify(&group, &expected, None), Ok(()));
    }
}

#[test]
fn test_each_changed_field_of_an_activation_is_refused() {
    let (group, orchestrators) = (group(4, 1), orchestrators(4, 1));
    let expected = expect(&group, Kind::ACTIVATE);
    let original = activated(&group);
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
        let verdict = changed.verify(&group, &expected, Some(&orchestrators));
        assert_eq!(verdict.map_err(|e| e.kind()), Err(kind), "field {number}");
        let (verifier, vote) = original.attestations[0];
        assert!(changed.activation.verify_vote(&group, verifier, &vote).is_err(), "field {number}");
    }
    let other_kind = original.verify(&group, &expect(&group, Kind::RELINQUISH), None);
    assert_eq!(other_kind.map_err(|e| e.kind()), Err("WrongDomain"));
}

#[test]
fn test_one_grant_activates_one_instance_only() {
    let group = group(4, 1);
    let ActivationCertificate { activation: first, grant, attestations } = activated(&group);
    let second = Activation { instance: Nonce::from_bytes([9; 16]), ..first.clone() };
    assert_ne!(first.digest(), second.digest());
    let copied = ActivationCertificate { activation: second, grant, attestations };
    let verdict = copied.verify(&group, &expect(&group, Kind::ACTIVATE), None);
    assert_eq!(verdict.map_err(|e| e.kind()), Err("BadSignature"));
}

#[test]
fn test_quorum_of_verifiers_cannot_stand_in_for_a_grant_that_the_orchestrators_did_not_sign() {
    let (group, orchestrators) = (group(4, 1), orchestrators(4, 1));
    let verdict = |grant: DecisionCertificate| {
        let certificate = activation_certificate(&group, grant, &[0, 1, 2]);
        let expected = expect(&group, Kind::ACTIVATE);
        certificate.verify(&group, &expected, Some(&orchestrators)).map_err(|error| error.kind())
    };
    let by_verifiers = decision_certificate(granted(&group), &[0, 1, 2]);
    assert_eq!(verdict(by_verifiers), Err("BadSignature"));
    assert_eq!(verdict(grant_certificate(granted(&group), &[0, 3])), Err("QuorumNotReached"));
    assert_eq!(verdict(grant_certificate(granted(&group), &[1, 1, 2])), Err("DuplicateSigner"));
    assert_eq!(verdict(grant_certificate(granted(&group), &[0, 1, 2])), Ok(()));
}

#[test]
fn test_grant_of_another_group_or_epoch_is_refused_even_when_the_digest_fits() {
    let (group, orchestrators) = (group(4, 1), orchestrators(4, 1));
    let foreign = [
        (Decision { group: group.id(), ..granted(&group) }, "WrongCluster"),
        (Decision { epoch: Epoch(8), ..granted(&group) }, "WrongEpoch"),
    ];
    for (decision, kind) in foreign {
        let certificate = activation_certificate(&group, grant_certificate(decision, &[0, 1, 2]), &[0, 1, 2]);
        let verdict = certificate.verify(&group, &expect(&group, Kind::ACTIVATE), Some(&orchestrators));
        assert_eq!(verdict.map_err(|e| e.kind()), Err(kind));
    }
}

#[test]
fn test_grant_of_another_vm_is_refused() {
    let group = group(4, 1);
    let elsewhere = Decision { vm: VmId::from_bytes(ELSEWHERE), ..granted(&group) };
    let cause = elsewhere.digest();
    let forged = Activation { cause, ..activation(&group, &granted(&group)) };
    assert_eq!(forged.check_grant(&elsewhere).map_err(|e| e.kind()), Err("WrongVm"));
    let tally = ActivationTally::new(&group, forged, grant_certificate(elsewhere, &[0, 1, 2]));
    assert_eq!(tally.map(|_| ()).map_err(|e| e.kind()), Err("WrongVm"));
}

#[test]
fn test_permission_to_prepare_a_migration_activates_nothing() {
    let group = group(4, 1);
    let begun = Decision { action: migrate(), ..granted(&group) };
    assert_eq!(Activation::of(&begun, group.id(), group.epoch, Nonce::ZERO), None);
    let activation = Activation { cause: begun.digest(), ..activation(&group, &granted(&group)) };
    assert_eq!(activation.check_grant(&begun).map_err(|e| e.kind()), Err("Inconsistent"));
}

#[test]
fn test_no_grant_begins_generation_0() {
    let group = group(4, 1);
    let zero = Decision { generation: Generation::ZERO, ..granted(&group) };
    let activation = activation(&group, &zero);
    assert_eq!(activation.check_grant(&zero).map_err(|e| e.kind()), Err("FencedGeneration"));
}

#[test]
fn test_duplicate_unsorted_out_of_range_and_too_few_votes_are_refused() {
    let group = group(4, 1);
    let verdict = |verifiers: &[u16]| {
        let grant = grant_certificate(granted(&group), &[0, 1, 2]);
        let certificate = activation_certificate(&group, grant, verifiers);
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
    let ActivationCertificate { activation, grant, .. } = activated(&group);
    let other = Activation { instance: Nonce::ZERO, ..activation.clone() };
    let mut tally = ActivationTally::new(&group, activation.clone(), grant.clone()).unwrap();
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
    assert_eq!(
        certificate.verify(&group, &expect(&group, Kind::ACTIVATE), Some(&orchestrators(4, 1))),
        Ok(())
    );
    let later = DecisionCertificate {
        decision: Decision { generation: Generation(3), ..grant.decision.clone() },
        ..grant
    };
    assert!(ActivationTally::new(&group, other, later).is_err());
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
