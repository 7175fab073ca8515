//! Generic certificates: every rule of their module's documentation, broken once.

use crate::fixtures::*;
use quorate_attest::certificate::{Certificate, Tally};
use quorate_attest::error::{Signer, VerifyError};
use quorate_attest::group::GroupConfig;
use quorate_attest::id::{Epoch, GroupId, VmId};
use quorate_attest::key::Signature;
use quorate_attest::statement::{Expected, Kind, Statement};

fn statement(group: &GroupConfig) -> Statement {
    Statement {
        kind: Kind(0x0201),
        group: group.id(),
        epoch: group.epoch,
        instance: VmId::from_bytes([0x22; 32]),
        seq: 7,
        body: vec![1, 2, 3],
    }
}

fn expected(group: &GroupConfig) -> Expected {
    group.expected(VmId::from_bytes([0x22; 32]), Kind(0x0201))
}

fn signed_by(group: &GroupConfig, verifiers: &[u16]) -> Certificate {
    let statement = statement(group);
    let signature = |verifier: &u16| (*verifier, statement.sign(&vote_key(*verifier)));
    Certificate { signatures: verifiers.iter().map(signature).collect(), statement }
}

fn verdict(group: &GroupConfig, certificate: &Certificate) -> Result<(), &'static str> {
    certificate.verify(group, &expected(group)).map_err(|error| error.kind())
}

#[test]
fn test_every_quorum_is_enough_and_every_smaller_set_is_not() {
    for (n, f) in [(4, 1), (5, 1), (7, 2)] {
        let group = group(n, f);
        let quorum = group.rule().unwrap().quorum() as u32;
        for size in 0..=u32::from(n) {
            for verifiers in subsets(n, size) {
                let expected = if size >= quorum { Ok(()) } else { Err("QuorumNotReached") };
                assert_eq!(verdict(&group, &signed_by(&group, &verifiers)), expected, "{verifiers:?}");
            }
        }
    }
}

#[test]
fn test_two_f_plus_one_signatures_are_refused_where_that_is_no_quorum() {
    // n = 10, f = 2: two disjoint sets of five would certify two statements without any Byzantine member.
    let group = group(10, 2);
    for verifiers in [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]] {
        let error = signed_by(&group, &verifiers).verify(&group, &expected(&group));
        assert_eq!(error, Err(VerifyError::QuorumNotReached { need: 7, got: 5 }));
    }
}

#[test]
fn test_replay_in_another_group_epoch_instance_kind_seq_or_body_is_refused() {
    let group = group(4, 1);
    let good = signed_by(&group, &[0, 1, 2]);
    let changes: [Change<Statement>; 6] = [
        (|statement| statement.group = GroupId::from_bytes([9; 32]), "WrongCluster"),
        (|statement| statement.epoch = Epoch(4), "WrongEpoch"),
        (|statement| statement.instance = VmId::from_bytes([9; 32]), "WrongVm"),
        (|statement| statement.kind = Kind(0x0202), "WrongDomain"),
        (|statement| statement.seq = 8, "BadSignature"),
        (|statement| statement.body.push(0), "BadSignature"),
    ];
    for (change, kind) in changes {
        let mut changed = good.clone();
        change(&mut changed.statement);
        assert_eq!(verdict(&group, &changed), Err(kind));
        // Expecting what the certificate says does not help: the signatures are for the original.
        let scope = Expected {
            group: changed.statement.group,
            epoch: group.epoch,
            instance: changed.statement.instance,
            kind: changed.statement.kind,
        };
        let error = changed.verify(&group, &scope).unwrap_err();
        assert!(["BadSignature", "WrongEpoch"].contains(&error.kind()), "{error}");
    }
}

#[test]
fn test_certificate_of_another_epoch_is_not_checked_with_this_epochs_members() {
    let group = group(4, 1);
    let mut later = signed_by(&group, &[0, 1, 2]);
    later.statement.epoch = Epoch(4);
    let expected = Expected { epoch: Epoch(4), ..expected(&group) };
    assert_eq!(later.verify(&group, &expected).map_err(|e| e.kind()), Err("WrongEpoch"));
}

#[test]
fn test_duplicate_unsorted_and_out_of_range_signers_are_refused() {
    let group = group(4, 1);
    assert_eq!(verdict(&group, &signed_by(&group, &[0, 1, 1])), Err("DuplicateSigner"));
    assert_eq!(verdict(&group, &signed_by(&group, &[0, 0, 0, 0])), Err("DuplicateSigner"));
    assert_eq!(verdict(&group, &signed_by(&group, &[0, 2, 1])), Err("SignerOutOfOrder"));
    assert_eq!(verdict(&group, &signed_by(&group, &[0, 1, 2, 0])), Err("SignerOutOfOrder"));
    assert_eq!(verdict(&group, &signed_by(&group, &[0, 1, 4])), Err("SignerOutOfRange"));
    assert_eq!(verdict(&group, &signed_by(&group, &[0, 1, 2, 3, u16::MAX])), Err("SignerOutOfRange"));
}

#[test]
fn test_one_key_under_two_indices_counts_once_even_in_a_group_that_was_never_validated() {
    let mut group = group(4, 1);
    group.members[1].vote_key = group.members[0].vote_key;
    let statement = statement(&group);
    let signature = statement.sign(&vote_key(0));
    let third = statement.sign(&vote_key(2));
    let certificate = Certificate { statement, signatures: vec![(0, signature), (1, signature), (2, third)] };
    assert_eq!(
        certificate.verify(&group, &expected(&group)),
        Err(VerifyError::DuplicateSigner { verifier: 1 })
    );
}

#[test]
fn test_one_bad_signature_at_any_place_refuses_a_certificate_of_any_size() {
    for n in [4u16, 16, 64] {
        let group = group(n, (u64::from(n) - 1) / 3);
        let all: Vec<u16> = (0..n).collect();
        let good = signed_by(&group, &all);
        assert_eq!(verdict(&group, &good), Ok(()));
        for place in 0..n {
            let mut bad = good.clone();
            bad.signatures[usize::from(place)].1 = statement(&group).sign(&host_key(0));
            let error = bad.verify(&group, &expected(&group)).unwrap_err();
            assert_eq!(error, VerifyError::BadSignature { signer: Signer::Verifier(place) });
        }
    }
}

#[test]
fn test_malleated_signature_of_an_honest_member_is_refused_as_non_canonical() {
    /// The group order, little endian.
    const ORDER: [u8; 16] =
        [0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14];
    let group = group(4, 1);
    let mut certificate = signed_by(&group, &[0, 1, 2]);
    let mut bytes = certificate.signatures[1].1.to_bytes();
    let mut carry = 0u16;
    for index in 0..32 {
        let order = ORDER.get(index).copied().unwrap_or(if index == 31 { 0x10 } else { 0 });
        carry += u16::from(bytes[32 + index]) + u16::from(order);
        bytes[32 + index] = carry as u8;
        carry >>= 8;
    }
    certificate.signatures[1].1 = Signature::from_bytes(bytes);
    let error = certificate.verify(&group, &expected(&group)).unwrap_err();
    assert_eq!(error, VerifyError::SignatureNonCanonical { signer: Signer::Verifier(1) });
}

#[test]
fn test_valid_signature_of_a_removed_or_foreign_key_is_refused() {
    let group = group(4, 1);
    let mut certificate = signed_by(&group, &[0, 1, 2]);
    certificate.signatures[2].1 = certificate.statement.sign(&vote_key(9));
    assert_eq!(verdict(&group, &certificate), Err("BadSignature"));
    // The right key at another's index.
    certificate.signatures[2] = (3, certificate.statement.sign(&vote_key(2)));
    assert_eq!(verdict(&group, &certificate), Err("BadSignature"));
}

#[test]
fn test_tally_is_not_poisoned_by_bad_votes_and_names_who_sent_them() {
    let group = group(4, 1);
    let statement = statement(&group);
    let mut tally = Tally::new(&group, &expected(&group), statement.clone()).unwrap();
    let good = |verifier| statement.sign(&vote_key(verifier));
    assert_eq!(tally.certificate().map_err(|e| e.kind()), Err("QuorumNotReached"));
    assert_eq!(tally.add(1, good(0)), Err(VerifyError::BadSignature { signer: Signer::Verifier(1) }));
    assert_eq!(tally.add(4, good(0)).map_err(|e| e.kind()), Err("SignerOutOfRange"));
    assert_eq!(tally.add(3, good(3)), Ok(false));
    assert_eq!(tally.add(3, good(3)).map_err(|e| e.kind()), Err("DuplicateSigner"));
    // The refused vote took nobody's place.
    assert_eq!(tally.add(1, good(1)), Ok(false));
    assert_eq!(tally.progress(), (2, 3));
    assert_eq!(tally.add(0, good(0)), Ok(true));
    let certificate = tally.certificate().unwrap();
    assert_eq!(verdict(&group, &certificate), Ok(()));
    let order: Vec<u16> = certificate.signatures.iter().map(|(verifier, _)| *verifier).collect();
    assert_eq!(order, [0, 1, 3]);
}

#[test]
fn test_tally_for_an_unexpected_statement_does_not_start() {
    let group = group(4, 1);
    let foreign = Statement { epoch: Epoch(9), ..statement(&group) };
    assert_eq!(
        Tally::new(&group, &expected(&group), foreign).map_err(|e| e.kind()).err(),
        Some("WrongEpoch")
    );
}
