use crate::fixtures::*;
use quorate_attest::error::{Signer, VerifyError};
use quorate_attest::id::*;
use quorate_attest::statement::Kind;
use quorate_attest::vm::*;

const ELSEWHERE: [u8; 32] = [0x77; 32];

#[test]
fn test_decision_needs_a_quorum_of_orchestrators_and_any_quorum_will_do() {
    let group = group(4, 1);
    let expected = expect(&group, Kind::DECISION);
    for (size, verdict) in [(2, Err("QuorumNotReached")), (3, Ok(())), (4, Ok(()))] {
        for signers in subsets(4, size) {
            let certificate = decision_certificate(decision(&group, grant(&group)), &signers);
            let got = certificate.verify(&group, &expected).map_err(|e| e.kind());
            assert_eq!(got, verdict, "{signers:?}");
        }
    }
}

#[test]
fn test_each_changed_field_of_a_decision_is_refused() {
    let group = group(4, 1);
    let original = decision_certificate(decision(&group, grant(&group)), &[0, 1, 2]);
    let changes: [Change<Decision>; 9] = [
        (|d| d.group = GroupId::from_bytes(ELSEWHERE), "WrongCluster"),
        (|d| d.epoch = Epoch(9), "WrongEpoch"),
        (|d| d.vm = VmId::from_bytes(ELSEWHERE), "WrongVm"),
        (|d| d.generation = Generation(3), "BadSignature"),
        (|d| d.operation = OperationId::from_bytes(ELSEWHERE), "BadSignature"),
        (|d| d.index += 1, "BadSignature"),
        (|d| d.action = migrate(), "BadSignature"),
        (
            |d| {
                if let Action::Grant { slot, .. } = &mut d.action {
                    *slot = Slot(4);
                }
            },
            "BadSignature",
        ),
        (
            |d| {
                if let Action::Grant { host, .. } = &mut d.action {
                    *host = host_key(2).public();
                }
            },
            "BadSignature",
        ),
    ];
    for (number, (change, kind)) in changes.into_iter().enumerate() {
        let mut changed = original.clone();
        change(&mut changed.decision);
        let verdict = changed.verify(&group, &expect(&group, Kind::DECISION));
        assert_eq!(verdict.map_err(|e| e.kind()), Err(kind), "change {number}");
        let (index, vote) = original.signatures[0];
        assert!(changed.decision.verify_vote(&group, index, &vote).is_err(), "change {number}");
    }
    let other_kind = original.verify(&group, &expect(&group, Kind::ACTIVATE));
    assert_eq!(other_kind.map_err(|e| e.kind()), Err("WrongDomain"));
}

#[test]
fn test_grant_permits_exactly_one_generation_slot_statement_and_host() {
    let group = group(4, 1);
    let granted = decision(&group, grant(&group));
    let (last, host, other) = (slot(&group, 5), host_key(1).public(), host_key(2).public());
    let (generation, at, digest) = (Generation(2), last.slot, last.digest());
    let check = |generation, at, digest, host| {
        granted.check_grant(generation, at, digest, host).map_err(|error| error.kind())
    };
    assert_eq!(check(generation, at, digest, &host), Ok(()));
    assert_eq!(check(Generation(3), at, digest, &host), Err("FencedGeneration"));
    assert_eq!(check(generation, Slot(4), digest, &host), Err("WrongSlot"));
    assert_eq!(check(generation, at, StatementDigest::ZERO, &host), Err("WrongSlot"));
    assert_eq!(check(generation, at, digest, &other), Err("KeyRoleMismatch"));
    let from_nothing = Decision { generation: Generation::ZERO, ..granted.clone() };
    let verdict = from_nothing.check_grant(Generation::ZERO, at, digest, &host);
    assert_eq!(verdict.map_err(|e| e.kind()), Err("FencedGeneration"));
}

#[test]
fn test_permission_to_prepare_a_migration_is_no_grant_and_a_grant_is_no_such_permission() {
    let group = group(4, 1);
    let last = slot(&group, 5);
    let (source, destination) = (host_key(0).public(), host_key(1).public());
    let begun = decision(&group, migrate());
    assert_eq!(begun.check_migrate(Generation(2), &source, &destination), Ok(()));
    let as_grant = begun.check_grant(Generation(2), last.slot, last.digest(), &destination);
    assert_eq!(as_grant.map_err(|e| e.kind()), Err("Inconsistent"));
    let as_begin = decision(&group, grant(&group)).check_migrate(Generation(2), &source, &destination);
    assert_eq!(as_begin.map_err(|e| e.kind()), Err("Inconsistent"));
    for (from, to) in [(destination, destination), (source, source)] {
        let verdict = begun.check_migrate(Generation(2), &from, &to);
        assert_eq!(verdict.map_err(|e| e.kind()), Err("KeyRoleMismatch"));
    }
    let later = begun.check_migrate(Generation(3), &source, &destination);
    assert_eq!(later.map_err(|e| e.kind()), Err("FencedGeneration"));
}

/// f + 1 = 2 Byzantine orchestrators with the one they lie to certify both sides, so the test above can fail.
#[test]
fn test_f_orchestrators_cannot_certify_a_second_grant_and_f_plus_one_can() {
    let group = group(4, 1);
    let expected = expect(&group, Kind::DECISION);
    let first = decision(&group, grant(&group));
    let second = Decision {
        action: Action::Grant {
            slot: Slot(5),
            statement: slot(&group, 5).digest(),
            host: host_key(2).public(),
        },
        ..first.clone()
    };
    let verdict = |decision: &Decision, signers: &[u16]| {
        decision_certificate(decision.clone(), signers).verify(&group, &expected).is_ok()
    };
    for byzantine in 0..4u16 {
        let honest: Vec<u16> = (0..4).filter(|index| *index != byzantine).collect();
        for split in 0..=3 {
            let side = |members: &[u16]| {
                let mut signers = members.to_vec();
                signers.push(byzantine);
                signers.sort_unstable();
                signers
            };
            let (left, right) = honest.split_at(split);
            assert!(!(verdict(&first, &side(left)) && verdict(&second, &side(right))));
        }
    }
    assert!(verdict(&first, &[0, 1, 2]) && verdict(&second, &[0, 1, 3]));
}

#[test]
fn test_decision_tally_is_not_poisoned_by_bad_signatures() {
    let group = group(4, 1);
    let decided = decision(&group, migrate());
    let mut tally = DecisionTally::new(&group, decided.clone()).unwrap();
    let other = Decision { index: 18, ..decided.clone() };
    assert_eq!(
        tally.add(2, other.sign(&vote_key(2))),
        Err(VerifyError::BadSignature { signer: Signer::Verifier(2) })
    );
    assert_eq!(tally.certificate().map_err(|e| e.kind()), Err("QuorumNotReached"));
    for (index, complete) in [(3, false), (2, false), (0, true)] {
        assert_eq!(tally.add(index, decided.sign(&vote_key(index))), Ok(complete));
        let again = tally.add(index, decided.sign(&vote_key(index)));
        assert_eq!(again, Err(VerifyError::DuplicateSigner { verifier: index }));
    }
    assert_eq!((tally.progress(), tally.subject()), ((3, 3), &decided));
    assert_eq!(tally.certificate().unwrap().verify(&group, &expect(&group, Kind::DECISION)), Ok(()));
    let foreign = Decision { epoch: Epoch(9), ..decided };
    assert_eq!(DecisionTally::new(&group, foreign).map(|_| ()).map_err(|e| e.kind()), Err("WrongEpoch"));
}

#[test]
fn test_duplicate_unsorted_out_of_range_and_foreign_signatures_are_refused() {
    let group = group(4, 1);
    let verdict = |signers: &[u16]| {
        let certificate = decision_certificate(decision(&group, migrate()), signers);
        certificate.verify(&group, &expect(&group, Kind::DECISION)).map_err(|error| error.kind())
    };
    assert_eq!(verdict(&[0, 1, 1]), Err("DuplicateSigner"));
    assert_eq!(verdict(&[0, 2, 1]), Err("SignerOutOfOrder"));
    assert_eq!(verdict(&[0, 1, 4]), Err("SignerOutOfRange"));
    assert_eq!(verdict(&[]), Err("QuorumNotReached"));
}
