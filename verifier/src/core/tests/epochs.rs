//! The group changes its members while a VM runs and while it moves (threat T53, fault F19).

use quorate_attest::epoch::GroupChain;
use quorate_attest::group::GroupConfig;
use quorate_attest::id::{Nonce, Slot};
use quorate_attest::vm::{Activation, ActivationTally, Mode, SlotCertificate};

use super::model::*;
use crate::protocol::*;

/// Two epochs that differ in an operator, and a VM with three slots that four verifiers signed in the first.
fn world() -> (GroupChain, GroupChain, HostRun, Vec<Verifier>) {
    let first = GroupChain::from_checkpoint(group(4, 1)).unwrap();
    let second = next_epoch(&first, |config| config.operators.push(key(50).public()));
    let mut run = HostRun::new(&first, spec());
    let mut verifiers: Vec<_> =
        (0..4).map(|index| Verifier::new(&first, index, Mode::Replayed, &run.spec)).collect();
    for slot in 0..3 {
        let propose = run.next(&inputs(if slot == 0 { 0 } else { 2 }));
        verifiers.iter_mut().for_each(|verifier| drop(attested(verifier.propose(&propose))));
    }
    (first, second, run, verifiers)
}

fn in_epoch(run: &HostRun, group: &GroupConfig) -> HostRun {
    HostRun { group: group.clone(), ..run.clone() }
}

/// The process is started again in an epoch, and gets the state of its newest slot back from the host.
fn restarted(verifier: Verifier, chain: &GroupChain, run: &HostRun) -> Verifier {
    let mut verifier = verifier.restart_in(chain);
    verifier.served = Some(run.state.clone());
    let offer = run.offer(run.chain.len(), None);
    assert_eq!(kind(&verifier.ask(ToVerifier::StateOffer(offer))), "(Done)");
    verifier
}

fn offer(run: &HostRun, from: usize, signed_by: &GroupConfig) -> ToVerifier {
    let certificate = certify(signed_by, run.head(), 0..3);
    ToVerifier::StateOffer(run.offer(from, Some(certificate)))
}

#[test]
fn old_epoch_quorum_cannot_sign_a_new_slot() {
    let (first, second, run, mut verifiers) = world();
    let (mut old, mut new) = (run.clone(), in_epoch(&run, &second));
    let mut verifier = restarted(verifiers.remove(0), &second, &run);
    let late = old.next(&inputs(1));
    assert_eq!(kind(&verifier.propose(&late)), "EpochRetired");
    attested(verifier.propose(&new.next(&inputs(2))));
    // The members of the epoch that ended go on nevertheless, with certificates that hold in it.
    assert_eq!(kind(&verifier.ask(offer(&old, 3, &first))), "EpochRetired");
    old.next(&inputs(1));
    assert_eq!(kind(&verifier.ask(offer(&old, 3, &first))), "EpochRetired");
    // Nor does an epoch come back along one chain.
    let mut back = in_epoch(&new, &first);
    let fourth = back.next(&inputs(1));
    assert_eq!(kind(&verifier.propose(&fourth)), "EpochRetired");
    assert_eq!(kind(&verifier.ask(offer(&back, 4, &first))), "EpochRetired");
    attested(verifier.propose(&new.next(&inputs(1))));
}

#[test]
fn old_epoch_quorum_cannot_begin_a_generation() {
    let (_, second, run, mut verifiers) = world();
    let mut verifier = verifiers.remove(0).restart_in(&second);
    let activate = run.hand_over(&host_b(), 1);
    assert_eq!(kind(&verifier.ask(ToVerifier::Activate(activate))), "EpochRetired");
    assert!(verifier.core.state().votes.is_empty());
}

#[test]
fn certificate_of_a_set_that_was_never_final_is_refused() {
    let (first, second, run, mut verifiers) = world();
    let verifier = &mut verifiers[0];
    let mut ahead = in_epoch(&run, &second);
    assert_eq!(kind(&verifier.propose(&ahead.next(&inputs(1)))), "EpochUnlinked");
    assert_eq!(kind(&verifier.ask(offer(&ahead, 3, &second))), "EpochUnlinked");
    // Two sets were proposed for one epoch; this verifier follows the other one.
    let fork = next_epoch(&first, |config| config.members[0].vote_key = vote_key(10).public());
    let mut verifier = verifiers.remove(1).restart_in(&second);
    let statement = ahead.head().clone();
    let mut attestations = certify(&second, &statement, 0..3).attestations;
    attestations[0] = quorate_attest::vm::Attestation::sign(&statement, 0, Mode::Replayed, &vote_key(10));
    let never_final = SlotCertificate { statement, attestations };
    let expected = fork.expected(run.vm(), quorate_attest::statement::Kind::SLOT_SAMPLED);
    assert!(never_final.verify(&fork, &expected).is_ok(), "it holds in the set that lost");
    let offered = ToVerifier::StateOffer(ahead.offer(3, Some(never_final)));
    assert_eq!(kind(&verifier.ask(offered)), "BadSignature");
}

#[test]
fn fork_of_the_epoch_chain_is_refused() {
    let (first, second, ..) = world();
    let fork = next_epoch(&first, |config| config.members[0].vote_key = vote_key(10).public());
    let third = next_epoch(&fork, |config| config.operators.push(key(51).public()));
    let mut followed = second.clone();
    let error = followed.advance(third.links()[1].clone()).unwrap_err();
    assert_eq!((error.kind(), followed), ("EpochUnlinked", second));
}

#[test]
fn newest_slot_of_the_old_epoch_stays_certified_and_is_only_repeated() {
    let (first, second, run, mut verifiers) = world();
    let newest = run.sign(run.head().clone(), &inputs(2));
    let before: Vec<_> = verifiers.iter_mut().map(|verifier| attested(verifier.propose(&newest))).collect();
    // One verifier slept: it gets what the others certified in the epoch that ended.
    let mut asleep = Verifier::new(&first, 3, Mode::Replayed, &run.spec).restart_in(&second);
    for (verifier, before) in verifiers.into_iter().zip(before) {
        let mut verifier = restarted(verifier, &second, &run);
        assert_eq!(attested(verifier.propose(&newest)), before);
        // A host that comes back begins with slots that are signed already, and must learn so.
        let earlier = run.sign(run.chain[1].clone(), &inputs(2));
        assert_eq!(kind(&verifier.propose(&earlier)), "StaleSlot");
        let mut fork = in_epoch(&run, &second);
        let other = fork.forged(&newest, |statement| statement.epoch = second.epoch);
        assert_eq!(
            kind(&verifier.propose(&other)),
            "EquivocationEvidence",
            "one slot is signed in one epoch"
        );
        attested(verifier.propose(&fork.next(&inputs(1))));
    }
    asleep.served = Some(run.state.clone());
    assert_eq!(kind(&asleep.ask(offer(&run, 0, &first))), "(Done)");
    attested(asleep.propose(&in_epoch(&run, &second).next(&inputs(1))));
}

#[test]
fn migration_goes_on_when_the_epoch_changes_at_any_step() {
    for voted_before in 0..=4 {
        let (first, second, run, mut verifiers) = world();
        let certificate = run.certificate(2);
        let asked = |chain: &GroupChain| {
            let activate = run.hand_over(&host_b(), 1);
            let decision = &activate.grant.decision;
            let nonce = Nonce::from_bytes([1; 16]);
            let activation = Activation::of(decision, chain.id(), chain.epoch, nonce).unwrap();
            Activate { activation, certificate: certificate.clone(), ..activate }
        };
        for verifier in verifiers.iter_mut().take(voted_before) {
            assert_eq!(kind(&verifier.ask(ToVerifier::Activate(asked(&first)))), "(Voted)");
        }
        if voted_before == 4 {
            let certificate = activation_certificate(&first, &asked(&first));
            assert_eq!(kind(&verifiers[0].ask(ToVerifier::Activated(certificate))), "(Done)");
        }
        let mut verifiers: Vec<_> =
            verifiers.into_iter().map(|verifier| restarted(verifier, &second, &run)).collect();
        let again = asked(&second);
        let mut tally = ActivationTally::new(&second, again.activation.clone(), again.grant.clone()).unwrap();
        for (index, verifier) in verifiers.iter_mut().enumerate().skip(usize::from(voted_before == 4)) {
            let FromVerifier::Voted(voted) = verifier.ask(ToVerifier::Activate(again.clone())) else {
                panic!("verifier {index} does not vote again after {voted_before} votes");
            };
            tally.add(voted.verifier, voted.signature).unwrap();
            // Another instance gets no vote, whatever epoch names it.
            let mut other = again.clone();
            other.activation.instance = Nonce::from_bytes([2; 16]);
            assert_eq!(kind(&verifier.ask(ToVerifier::Activate(other))), "DuplicateInstance");
        }
        let began = tally.certificate().unwrap();
        let mut arrived = HostRun { group: second.current().clone(), ..run.taken_over(host_b(), 1) };
        let (next, late) = (arrived.next(&inputs(1)), run.clone().next(&inputs(1)));
        for verifier in &mut verifiers {
            assert_eq!(kind(&verifier.ask(ToVerifier::Activated(began.clone()))), "(Done)");
            attested(verifier.propose(&next));
            assert_eq!(kind(&verifier.propose(&late)), "FencedGeneration");
            assert!(verifier.stopped.is_none() && verifier.evidence.is_empty(), "nobody is to blame");
        }
        assert_eq!(arrived.head().slot, Slot(3));
    }
}
