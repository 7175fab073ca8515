//! What f Byzantine verifiers cannot do, and what f + 1 can.

use quorate_attest::vm::{ActivationTally, Attestation, Mode, SlotCertificate, Tally};

use super::model::*;
use crate::protocol::*;

/// Everything that a group's verifiers sign for the two branches of a fork at slot 1. Byzantine ones sign both.
fn votes(n: u16, f: u64, byzantine: u16, to_left: impl Fn(u16) -> bool) -> [Option<SlotCertificate>; 2] {
    let mut run = HostRun::new(&group(n, f), spec());
    let genesis = run.next(&[]);
    let (mut left, mut right) = (run.clone(), run.clone());
    let branches = [left.next(&inputs(1)), right.next(&inputs(2))];
    let mut tallies =
        branches.clone().map(|propose| Tally::new(&run.group, propose.proposal.statement).unwrap());
    for index in 0..n {
        if index < byzantine {
            for (tally, propose) in tallies.iter_mut().zip(&branches) {
                let key = vote_key(index);
                tally
                    .add(Attestation::sign(&propose.proposal.statement, index, Mode::Replayed, &key))
                    .unwrap();
            }
            continue;
        }
        let mut verifier = Verifier::new(&run.group, index, Mode::Replayed, &run.spec);
        attested(verifier.propose(&genesis));
        let order = if to_left(index) { [0, 1] } else { [1, 0] };
        for branch in order {
            if let FromVerifier::Attested(attested) = verifier.propose(&branches[branch]) {
                tallies[branch].add(attested.attestation).unwrap();
            }
        }
    }
    tallies.map(|tally| tally.certificate().ok())
}

#[test]
fn fork_gets_at_most_one_certificate_whatever_half_sees_which_branch() {
    for (n, f) in [(4u16, 1u64), (7, 2)] {
        for split in 0..1u32 << n {
            let certificates = votes(n, f, f as u16, |index| split & (1 << index) != 0);
            assert!(certificates.iter().flatten().count() <= 1, "n={n} split={split:b}");
        }
    }
}

#[test]
fn f_plus_one_double_voters_break_agreement() {
    for (n, f) in [(4u16, 1u64), (7, 2)] {
        let broken = (0..1u32 << n).any(|split| {
            votes(n, f, f as u16 + 1, |index| split & (1 << index) != 0).iter().flatten().count() == 2
        });
        assert!(broken, "with more than f Byzantine verifiers the fault model is left: n={n}");
    }
}

#[test]
fn f_silent_verifiers_do_not_block_and_f_plus_one_do() {
    for (n, f) in [(4u16, 1u64), (7, 2)] {
        let mut run = HostRun::new(&group(n, f), spec());
        let genesis = run.next(&[]);
        let certify = |silent: u16| {
            let mut tally = Tally::new(&run.group, genesis.proposal.statement.clone()).unwrap();
            for index in silent..n {
                let mut verifier = Verifier::new(&run.group, index, Mode::Replayed, &run.spec);
                tally.add(attested(verifier.propose(&genesis)).attestation).unwrap();
            }
            tally.certificate()
        };
        assert!(certify(f as u16).is_ok());
        assert_eq!(certify(f as u16 + 1).unwrap_err().kind(), "QuorumNotReached");
    }
}

#[test]
fn f_liars_cannot_certify_a_wrong_state_and_a_quorum_of_liars_can() {
    for (n, f) in [(4u16, 1u64), (7, 2)] {
        let mut run = HostRun::new(&group(n, f), spec());
        let genesis = run.next(&[]);
        let honest = run.next(&inputs(1));
        let wrong = run.forged(&honest, |s| s.body.output_count += 1);
        let certify = |liars: u16| {
            let statement = &wrong.proposal.statement;
            let mut tally = Tally::new(&run.group, statement.clone()).unwrap();
            for index in 0..n {
                if index < liars {
                    tally.add(Attestation::sign(statement, index, Mode::Replayed, &vote_key(index))).unwrap();
                    continue;
                }
                let mut verifier = Verifier::new(&run.group, index, Mode::Replayed, &run.spec);
                attested(verifier.propose(&genesis));
                assert_eq!(kind(&verifier.propose(&wrong)), "RootMismatch");
            }
            tally.certificate()
        };
        let quorum = run.group.rule().unwrap().quorum() as u16;
        assert!((0..quorum).all(|liars| certify(liars).is_err()));
        assert!(certify(quorum).is_ok());
    }
}

/// How many of two grants for one generation get a quorum of votes. More than f orchestrators are Byzantine: both grants are
/// certified. Verifier `index` is asked for the first of them first if `to_first` says so; Byzantine verifiers vote for both.
fn instances(n: u16, f: u64, byzantine: u16, to_first: impl Fn(u16) -> bool) -> usize {
    let mut run = HostRun::new(&group(n, f), spec());
    let genesis = run.next(&[]);
    let asks = [run.granted(1, &host_a(), 1), run.granted(1, &host_b(), 2)];
    let mut tallies =
        asks.clone().map(|ask| ActivationTally::new(&run.group, ask.activation, ask.grant).unwrap());
    for index in 0..n {
        if index < byzantine {
            for (tally, ask) in tallies.iter_mut().zip(&asks) {
                tally.add(index, ask.activation.sign(&vote_key(index))).unwrap();
            }
            continue;
        }
        let mut verifier = Verifier::new(&run.group, index, Mode::Sampled, &run.spec);
        verifier.propose_with_pages(&genesis, &run.state);
        for ask in if to_first(index) { [0, 1] } else { [1, 0] } {
            if let FromVerifier::Voted(voted) = verifier.ask(ToVerifier::Activate(asks[ask].clone())) {
                tallies[ask].add(index, voted.signature).unwrap();
            }
        }
    }
    tallies.iter().filter(|tally| tally.certificate().is_ok()).count()
}

#[test]
fn orchestrators_that_grant_one_generation_twice_get_at_most_one_instance() {
    for (n, f) in [(4u16, 1u64), (7, 2)] {
        for split in 0..1u32 << n {
            let instances = instances(n, f, f as u16, |index| split & (1 << index) != 0);
            assert!(instances <= 1, "n={n} split={split:b}");
        }
    }
}

#[test]
fn two_grants_and_f_plus_one_double_voters_are_two_instances() {
    for (n, f) in [(4u16, 1u64), (7, 2)] {
        let broken =
            (0..1u32 << n).any(|split| instances(n, f, f as u16 + 1, |index| split & (1 << index) != 0) == 2);
        assert!(broken, "with both limits broken the fault model is left: n={n}");
    }
}
