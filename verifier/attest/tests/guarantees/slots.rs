//! Slots: proposals, attestations, certificates and their tally.

use crate::fixtures::*;
use quorate_attest::encoding::Bounded;
use quorate_attest::error::{Signer, VerifyError};
use quorate_attest::id::*;
use quorate_attest::statement::{Expected, Kind};
use quorate_attest::vm::*;

/// Every field of a slot statement, changed once.
const CHANGES: [fn(&mut SlotStatement); 23] = [
    |slot| slot.group = GroupId::from_bytes([0xee; 32]),
    |slot| slot.epoch = Epoch(99),
    |slot| slot.vm = VmId::from_bytes([0xee; 32]),
    |slot| slot.slot = Slot(99),
    |slot| slot.body.generation = Generation(99),
    |slot| slot.body.image = ImageDigest::from_bytes([0xee; 32]),
    |slot| slot.body.machine_version = 2,
    |slot| slot.body.platform = PlatformClass::from_bytes([0xee; 32]),
    |slot| slot.body.page_root = PageRoot::from_bytes([0xee; 32]),
    |slot| slot.body.page_count += 1,
    |slot| slot.body.cpu = CpuDigest::from_bytes([0xee; 32]),
    |slot| slot.body.device = DeviceDigest::from_bytes([0xee; 32]),
    |slot| slot.body.input_root = InputRoot::from_bytes([0xee; 32]),
    |slot| slot.body.first_input += 1,
    |slot| slot.body.end_input += 1,
    |slot| slot.body.ordered += 1,
    |slot| slot.body.client_signed += 1,
    |slot| slot.body.unauthenticated += 1,
    |slot| slot.body.output_root = OutputRoot::from_bytes([0xee; 32]),
    |slot| slot.body.output_count += 1,
    |slot| slot.body.doorbells += 1,
    |slot| slot.body.previous = StatementDigest::from_bytes([0xee; 32]),
    |slot| slot.body.host = host_key(2).public(),
];

#[test]
fn test_each_changed_field_of_a_slot_changes_its_digest_and_voids_every_signature() {
    let group = group(4, 1);
    let original = slot(&group, 5);
    let proposal = Proposal::sign(original.clone(), &host_key(0));
    assert_eq!(proposal.verify(), Ok(()));
    let certified = certificate(&original, &[0, 1, 2], Mode::Replayed);
    let expected = expect(&group, Kind::SLOT_SAMPLED);
    for (number, changed) in each_changed(&original, &CHANGES) {
        assert_ne!(changed.digest(), original.digest(), "field {number}");
        let forged = Proposal { statement: changed.clone(), ..proposal.clone() };
        assert_eq!(forged.verify().map_err(|e| e.kind()), Err("BadSignature"), "field {number}");
        let attestation = certified.attestations[0];
        assert!(attestation.verify(&group, &changed).is_err(), "field {number}");
        let kind = match number {
            0 => "WrongCluster",
            1 => "WrongEpoch",
            2 => "WrongVm",
            _ => "BadSignature",
        };
        let forged = SlotCertificate { statement: changed, ..certified.clone() };
        assert_eq!(forged.verify(&group, &expected).map_err(|e| e.kind()), Err(kind), "field {number}");
    }
}

#[test]
fn test_statement_is_read_back_from_what_was_signed_under_slot_kinds_only() {
    let original = slot(&group(4, 1), 5);
    for kind in [Kind::SLOT_REPLAYED, Kind::SLOT_SAMPLED, Kind::PROPOSAL] {
        let statement = original.to_statement(kind);
        assert_eq!(statement.encode(), original.encode(kind));
        assert_eq!(SlotStatement::from_statement(&statement), Ok(original.clone()));
    }
    let other = original.to_statement(Kind::RELINQUISH);
    assert_eq!(SlotStatement::from_statement(&other).map_err(|e| e.kind()), Err("WrongDomain"));
    let mut longer = original.to_statement(Kind::SLOT_REPLAYED);
    longer.body.push(0);
    assert_eq!(SlotStatement::from_statement(&longer).map_err(|e| e.kind()), Err("MessageTooLarge"));
    assert_eq!(original.encoded().len(), SlotStatement::LIMIT);
}

#[test]
fn test_mode_and_role_are_bound_by_the_signature() {
    let group = group(4, 1);
    let statement = slot(&group, 5);
    let sampled = attest(&statement, 0, Mode::Sampled);
    assert_eq!(sampled.verify(&group, &statement), Ok(()));
    let upgraded = Attestation { mode: Mode::Replayed, ..sampled };
    assert_eq!(upgraded.verify(&group, &statement).map_err(|e| e.kind()), Err("BadSignature"));
    // A proposal signed by a verifier's key is no attestation.
    let proposed = Attestation { signature: vote_key(0).sign(&statement.encode(Kind::PROPOSAL)), ..upgraded };
    assert_eq!(proposed.verify(&group, &statement).map_err(|e| e.kind()), Err("BadSignature"));
    let moved = Attestation { verifier: 1, ..sampled };
    assert_eq!(
        moved.verify(&group, &statement),
        Err(VerifyError::BadSignature { signer: Signer::Verifier(1) })
    );
}

#[test]
fn test_proposal_signed_by_another_host_is_refused() {
    let statement = slot(&group(4, 1), 5);
    assert_eq!(
        Proposal::sign(statement, &host_key(1)).verify(),
        Err(VerifyError::BadSignature { signer: Signer::Key(host_key(0).public()) })
    );
}

#[test]
fn test_certificate_tells_how_many_were_replayed_and_a_strict_caller_refuses_sampled_ones() {
    let group = group(4, 1);
    let statement = slot(&group, 5);
    let mut mixed = certificate(&statement, &[0, 1, 2, 3], Mode::Replayed);
    mixed.attestations[2] = attest(&statement, 2, Mode::Sampled);
    let verified = mixed.verify(&group, &expect(&group, Kind::SLOT_SAMPLED)).unwrap();
    assert_eq!((verified, verified.total()), (Verified { replayed: 3, sampled: 1 }, 4));
    assert_eq!(mixed.count(), verified);
    let strict = mixed.verify(&group, &expect(&group, Kind::SLOT_REPLAYED));
    assert_eq!(strict.map_err(|e| e.kind()), Err("WrongDomain"));
    let replayed = certificate(&statement, &[0, 1, 3], Mode::Replayed);
    assert!(replayed.verify(&group, &expect(&group, Kind::SLOT_REPLAYED)).is_ok());
    let other_kind = replayed.verify(&group, &expect(&group, Kind::PROPOSAL));
    assert_eq!(other_kind.map_err(|e| e.kind()), Err("WrongDomain"));
}

#[test]
fn test_duplicate_unsorted_out_of_range_and_too_few_attestations_are_refused() {
    let group = group(4, 1);
    let statement = slot(&group, 5);
    let verdict = |verifiers: &[u16]| {
        let certificate = certificate(&statement, verifiers, Mode::Replayed);
        certificate.verify(&group, &expect(&group, Kind::SLOT_SAMPLED)).map_err(|error| error.kind())
    };
    assert!(verdict(&[0, 1, 2]).is_ok());
    assert_eq!(verdict(&[0, 1, 1]), Err("DuplicateSigner"));
    assert_eq!(verdict(&[0, 2, 1]), Err("SignerOutOfOrder"));
    assert_eq!(verdict(&[0, 1, 4]), Err("SignerOutOfRange"));
    assert_eq!(verdict(&[0, 1]), Err("QuorumNotReached"));
    // Both modes of one verifier are one vote.
    let mut doubled = certificate(&statement, &[0, 1], Mode::Replayed);
    doubled.attestations.push(attest(&statement, 1, Mode::Sampled));
    let error = doubled.verify(&group, &expect(&group, Kind::SLOT_SAMPLED)).unwrap_err();
    assert_eq!(error, VerifyError::DuplicateSigner { verifier: 1 });
}

#[test]
fn test_certificate_is_checked_with_the_members_of_its_own_epoch_only() {
    let group = group(4, 1);
    let mut later = slot(&group, 5);
    later.epoch = Epoch(4);
    let certificate = certificate(&later, &[0, 1, 2], Mode::Replayed);
    let expected = Expected { epoch: Epoch(4), ..expect(&group, Kind::SLOT_SAMPLED) };
    assert_eq!(certificate.verify(&group, &expected).map_err(|e| e.kind()), Err("WrongEpoch"));
}

#[test]
fn test_any_f_wrong_voters_change_nothing() {
    for (n, f) in [(4u16, 1u64), (7, 2)] {
        let group = group(n, f);
        let right = slot(&group, 5);
        let mut wrong = right.clone();
        wrong.body.page_root = PageRoot::from_bytes([0xbd; 32]);
        for liars in subsets(n, f as u32) {
            let mut tally = Tally::new(&group, right.clone()).unwrap();
            let mut lie = Tally::new(&group, wrong.clone()).unwrap();
            // The liars come first, with votes for the wrong state that claim to be for the right one.
            for liar in &liars {
                let vote = attest(&wrong, *liar, Mode::Replayed);
                assert_eq!(
                    tally.add(vote),
                    Err(VerifyError::BadSignature { signer: Signer::Verifier(*liar) })
                );
                lie.add(vote).unwrap();
            }
            assert_eq!(lie.certificate().map_err(|e| e.kind()), Err("QuorumNotReached"));
            for honest in (0..n).filter(|index| !liars.contains(index)) {
                tally.add(attest(&right, honest, Mode::Replayed)).unwrap();
            }
            let certificate = tally.certificate().unwrap();
            assert!(certificate.verify(&group, &expect(&group, Kind::SLOT_REPLAYED)).is_ok());
            assert!(tally.verifiers().all(|verifier| !liars.contains(&verifier)));
        }
    }
}

#[test]
fn test_f_silent_voters_do_not_block_and_f_plus_one_do() {
    for (n, f) in [(4u16, 1u32), (7, 2)] {
        let group = group(n, u64::from(f));
        let statement = slot(&group, 5);
        for (silent, reached) in [(f, true), (f + 1, false)] {
            for silent in subsets(n, silent) {
                let mut tally = Tally::new(&group, statement.clone()).unwrap();
                for verifier in (0..n).filter(|index| !silent.contains(index)) {
                    tally.add(attest(&statement, verifier, Mode::Sampled)).unwrap();
                }
                assert_eq!(tally.is_complete(), reached, "silent: {silent:?}");
                assert_eq!(tally.certificate().is_ok(), reached);
            }
        }
    }
}

#[test]
fn test_tally_refuses_repeats_and_reports_a_double_vote() {
    let group = group(4, 1);
    let statement = slot(&group, 5);
    let mut tally = Tally::new(&group, statement.clone()).unwrap();
    assert_eq!(tally.add(attest(&statement, 2, Mode::Replayed)), Ok(false));
    for mode in [Mode::Replayed, Mode::Sampled] {
        let again = tally.add(attest(&statement, 2, mode));
        assert_eq!(again, Err(VerifyError::DuplicateSigner { verifier: 2 }));
    }
    assert!(tally.contains(2) && !tally.contains(1));
    assert_eq!(tally.progress(), (1, 3));

    let mut fork = statement.clone();
    fork.body.output_root = OutputRoot::from_bytes([0xfe; 32]);
    let mut second = |verifier, statement: &SlotStatement| {
        tally.add_with_statement(&group, statement, attest(statement, verifier, Mode::Replayed))
    };
    assert_eq!(second(2, &fork), Err(VerifyError::DoubleVote { verifier: 2, slot: Slot(5) }));
    assert_eq!(second(1, &fork).map_err(|e| e.kind()), Err("WrongSlot"), "its only vote so far");
    assert_eq!(second(2, &slot(&group, 6)).map_err(|e| e.kind()), Err("WrongSlot"), "a later slot");
    let mut next_generation = fork.clone();
    next_generation.body.generation = Generation(2);
    assert_eq!(second(2, &next_generation).map_err(|e| e.kind()), Err("WrongSlot"));
    assert_eq!(second(0, &statement), Ok(false));
    // An unsigned accusation is no double vote.
    let forged = Attestation { verifier: 2, ..attest(&fork, 3, Mode::Replayed) };
    let error = tally.add_with_statement(&group, &fork, forged).unwrap_err();
    assert_eq!(error, VerifyError::BadSignature { signer: Signer::Verifier(2) });
}

#[test]
fn test_tally_for_another_group_or_epoch_does_not_start() {
    let mut statement = slot(&group(4, 1), 5);
    let error = Tally::new(&group(7, 2), statement.clone()).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), "WrongCluster");
    statement.epoch = Epoch(0);
    assert_eq!(Tally::new(&group(4, 1), statement).map(|_| ()).unwrap_err().kind(), "WrongEpoch");
}

#[test]
fn test_vm_id_binds_every_field_of_the_specification() {
    let changes: [fn(&mut VmSpec); 9] = [
        |spec| spec.name.push('x'),
        |spec| spec.image = ImageDigest::ZERO,
        |spec| spec.machine_version = 2,
        |spec| spec.memory_bytes += 2 << 20,
        |spec| spec.input_policy = InputPolicy::Any,
        |spec| spec.input_policy = InputPolicy::SignedBy(host_key(1).public()),
        |spec| spec.output_policy = OutputPolicy::Immediate,
        |spec| spec.host = host_key(1).public(),
        |spec| spec.nonce = Nonce::ZERO,
    ];
    for (number, changed) in each_changed(&spec(), &changes) {
        assert_ne!(changed.id(), spec().id(), "field {number}");
    }
}

#[test]
fn test_specifications_that_no_machine_can_run_are_refused() {
    assert_eq!(spec().validate(), Ok(()));
    for memory in [8 << 20, 16 << 30] {
        assert_eq!(VmSpec { memory_bytes: memory, ..spec() }.validate(), Ok(()));
    }
    for memory in [0, 1, 6 << 20, (8 << 20) + 4096, (16 << 30) + (2 << 20), u64::MAX] {
        let refused = VmSpec { memory_bytes: memory, ..spec() }.validate();
        assert_eq!(refused.map_err(|e| e.kind()), Err("BadConfig"), "{memory}");
    }
    for name in ["", "A", "a/b", "..", "a b", &"x".repeat(65)] {
        assert!(VmSpec { name: name.into(), ..spec() }.validate().is_err(), "{name:?}");
    }
    assert!(VmSpec { machine_version: 0, ..spec() }.validate().is_err());
}
