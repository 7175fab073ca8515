//! Evidence convicts who signed twice, and nobody else.

use crate::fixtures::*;
use quorate_attest::id::*;
use quorate_attest::statement::Kind;
use quorate_attest::vm::*;

fn fork_of(statement: &SlotStatement) -> SlotStatement {
    let mut fork = statement.clone();
    fork.body.input_root = InputRoot::from_bytes([0xf0; 32]);
    fork
}

pub fn equivocation() -> Equivocation {
    let statement = slot(&group(4, 1), 5);
    Equivocation {
        second: Proposal::sign(fork_of(&statement), &host_key(0)),
        first: Proposal::sign(statement, &host_key(0)),
    }
}

pub fn double_vote(first_mode: Mode, second_mode: Mode) -> DoubleVote {
    let first = slot(&group(4, 1), 5);
    let second = fork_of(&first);
    DoubleVote {
        verifier: 2,
        first_mode,
        first_signature: attest(&first, 2, first_mode).signature,
        first,
        second_mode,
        second_signature: attest(&second, 2, second_mode).signature,
        second,
    }
}

pub fn conflict() -> ConflictingCertificates {
    let statement = slot(&group(4, 1), 5);
    ConflictingCertificates {
        second: certificate(&fork_of(&statement), &[1, 2, 3], Mode::Sampled),
        first: certificate(&statement, &[0, 2, 3], Mode::Replayed),
    }
}

#[test]
fn test_fork_convicts_the_host_that_signed_both_sides() {
    let expected = expect(&group(4, 1), Kind::PROPOSAL);
    assert_eq!(equivocation().verify(&expected), Ok(host_key(0).public()));
}

#[test]
fn test_fork_that_is_none_convicts_nobody() {
    let group = group(4, 1);
    let expected = expect(&group, Kind::PROPOSAL);
    let good = equivocation();
    let sign = |statement: SlotStatement, host| Proposal::sign(statement, &host_key(host));
    let mut by_other_host = fork_of(&good.first.statement);
    by_other_host.body.host = host_key(1).public();
    let mut later_generation = fork_of(&good.first.statement);
    later_generation.body.generation = Generation(2);
    let mut elsewhere = fork_of(&good.first.statement);
    elsewhere.vm = VmId::ZERO;
    let cases = [
        (good.first.clone(), "NoConflict"),
        (sign(slot(&group, 6), 0), "NoConflict"),
        (sign(by_other_host, 1), "NoConflict"),
        (sign(later_generation, 0), "NoConflict"),
        (sign(elsewhere, 0), "WrongVm"),
        (sign(good.second.statement.clone(), 1), "BadSignature"),
    ];
    for (number, (second, kind)) in cases.into_iter().enumerate() {
        let verdict = Equivocation { second, ..good.clone() }.verify(&expected);
        assert_eq!(verdict.map_err(|e| e.kind()), Err(kind), "case {number}");
    }
}

#[test]
fn test_double_vote_convicts_the_verifier_in_any_mix_of_modes() {
    let group = group(4, 1);
    let expected = expect(&group, Kind::SLOT_SAMPLED);
    for first in [Mode::Replayed, Mode::Sampled] {
        for second in [Mode::Replayed, Mode::Sampled] {
            assert_eq!(double_vote(first, second).verify(&group, &expected), Ok(vote_key(2).public()));
        }
    }
    let good = double_vote(Mode::Replayed, Mode::Replayed);
    let framed = DoubleVote { verifier: 1, ..good.clone() };
    assert_eq!(framed.verify(&group, &expected).map_err(|e| e.kind()), Err("BadSignature"));
    let wrong_mode = DoubleVote { second_mode: Mode::Sampled, ..good.clone() };
    assert_eq!(wrong_mode.verify(&group, &expected).map_err(|e| e.kind()), Err("BadSignature"));
    // Both modes for one statement are no double vote.
    let one = DoubleVote {
        second: good.first.clone(),
        second_mode: Mode::Sampled,
        second_signature: attest(&good.first, 2, Mode::Sampled).signature,
        ..good
    };
    assert_eq!(one.verify(&group, &expected).map_err(|e| e.kind()), Err("NoConflict"));
}

#[test]
fn test_f_equivocators_cannot_make_two_certificates_and_f_plus_one_can_but_are_named() {
    // Honest verifiers are driven to different values; the Byzantine ones sign both.
    for (n, f) in [(4u16, 1u16), (7, 2)] {
        let group = group(n, u64::from(f));
        let quorum = group.rule().unwrap().quorum() as usize;
        let first = slot(&group, 5);
        let second = fork_of(&first);
        for byzantine in [f, f + 1] {
            let honest = n - byzantine;
            let liars: Vec<u16> = (honest..n).collect();
            let side = |range: core::ops::Range<u16>| -> Vec<u16> { range.chain(liars.clone()).collect() };
            let possible = (0..=honest)
                .map(|split| (side(0..split), side(split..honest)))
                .find(|(one, other)| one.len() >= quorum && other.len() >= quorum);
            assert_eq!(possible.is_some(), byzantine > f, "n = {n}, {byzantine} Byzantine");
            if let Some((one, other)) = possible {
                let conflict = ConflictingCertificates {
                    first: certificate(&first, &one, Mode::Replayed),
                    second: certificate(&second, &other, Mode::Replayed),
                };
                let culprits = conflict.verify(&group, &expect(&group, Kind::SLOT_SAMPLED)).unwrap();
                assert_eq!(culprits, liars);
            }
        }
    }
}

#[test]
fn test_certificates_that_agree_or_lack_a_quorum_are_no_conflict() {
    let group = group(4, 1);
    let expected = expect(&group, Kind::SLOT_REPLAYED);
    let good = conflict();
    assert_eq!(good.verify(&group, &expected), Ok(vec![2, 3]));
    let same = ConflictingCertificates { second: good.first.clone(), ..good.clone() };
    assert_eq!(same.verify(&group, &expected).map_err(|e| e.kind()), Err("NoConflict"));
    let mut short = good;
    short.second.attestations.pop();
    assert_eq!(short.verify(&group, &expected).map_err(|e| e.kind()), Err("QuorumNotReached"));
}
