use quorate_attest::id::{Epoch, Generation, OperationId, Slot, VmId};
use quorate_attest::key::Signature;
use quorate_attest::vm::{Action, Decision, DecisionCertificate, Mode};

use super::model::*;
use crate::core::*;
use crate::protocol::*;

/// A run of `slots` slots at host A, all attested by verifier 0.
fn attested_run(slots: usize) -> (Verifier, HostRun) {
    let mut run = HostRun::new(&group(4, 1), spec());
    let mut verifier = Verifier::replayed(&run);
    for slot in 0..slots {
        attested(verifier.propose(&run.next(&inputs(slot % 3))));
    }
    (verifier, run)
}

fn activate(verifier: &mut Verifier, activate: &Activate) -> FromVerifier {
    verifier.ask(ToVerifier::Activate(activate.clone()))
}

fn activated(verifier: &mut Verifier, run: &HostRun, activate: &Activate) -> FromVerifier {
    verifier.ask(ToVerifier::Activated(activation_certificate(&run.group, activate)))
}

#[test]
fn hand_over_is_voted_for_and_the_new_host_goes_on() {
    let (mut verifier, run) = attested_run(3);
    let ask = run.hand_over(&host_b(), 1);
    let FromVerifier::Voted(voted) = activate(&mut verifier, &ask) else { panic!() };
    assert_eq!((voted.generation, voted.verifier), (Generation(1), 0));
    ask.activation.verify_vote(&run.group, 0, &voted.signature).unwrap();

    let mut source = run.clone();
    let mut destination = run.taken_over(host_b(), 1);
    let propose = destination.next(&inputs(1));
    assert_eq!(kind(&verifier.propose(&propose)), "(NeedActivation)", "a vote is not the certificate");
    assert_eq!(kind(&activated(&mut verifier, &run, &ask)), "(Done)");
    assert_eq!(kind(&activated(&mut verifier, &run, &ask)), "(Done)", "told twice");
    assert!(!attested(verifier.propose(&propose)).cosignature.is_empty());
    // Split brain: the source runs on, and no verifier attests it.
    assert_eq!(kind(&verifier.propose(&source.next(&inputs(1)))), "FencedGeneration");
    assert_eq!(kind(&verifier.restart().propose(&source.next(&[]))), "FencedGeneration");
}

#[test]
fn after_a_vote_no_later_slot_of_the_old_generation_is_attested() {
    let (mut verifier, mut run) = attested_run(3);
    let ask = run.hand_over(&host_b(), 1);
    activate(&mut verifier, &ask);
    let late = run.next(&[]);
    assert_eq!(kind(&verifier.propose(&late)), "FencedGeneration");
    assert_eq!(kind(&verifier.restart().propose(&late)), "FencedGeneration", "durably");
}

#[test]
fn host_that_relinquished_stays_fenced_even_if_the_vote_is_refused() {
    let (mut verifier, mut run) = attested_run(3);
    let mut ask = run.hand_over(&host_b(), 1);
    ask.certificate.attestations.pop();
    assert_eq!(kind(&activate(&mut verifier, &ask)), "QuorumNotReached");
    let late = run.next(&[]);
    assert_eq!(kind(&verifier.propose(&late)), "FencedGeneration");
    assert_eq!(kind(&verifier.restart().propose(&late)), "FencedGeneration");
}

#[test]
fn relinquishment_that_the_active_host_did_not_sign_fences_nothing() {
    let (mut verifier, run) = attested_run(3);
    let by_b = HostRun { key: host_b(), ..run.clone() };
    let mut unsigned = run.relinquish(&host_b());
    unsigned.signature = Signature::from_bytes([0; 64]);
    for forged in [by_b.relinquish(&host_b()), unsigned] {
        let mut ask = run.hand_over(&host_b(), 1);
        (ask.relinquish, ask.grant.signatures) = (Some(forged), Vec::new());
        assert_eq!(kind(&activate(&mut verifier, &ask)), "NoActivationCertificate");
    }
    let mut late = run.clone();
    attested(verifier.propose(&late.next(&[])));
}

/// What a vote is refused with when the grant is `decision`, signed by `signers`.
fn verdict(run: &HostRun, decision: Decision, signers: &[u16]) -> String {
    let certificate = grant(decision, signers.iter().copied());
    let mut ask = run.hand_over(&host_b(), 1);
    ask.activation.cause = certificate.decision.digest();
    ask.grant = certificate;
    // The one that has signed none of these slots.
    kind(&activate(&mut Verifier::new(&run.group, 3, Mode::Sampled, &run.spec), &ask))
}

#[test]
fn grant_needs_a_quorum_of_orchestrators() {
    let (_, run) = attested_run(3);
    let decision = run.decision(1, &host_b());
    assert_eq!(verdict(&run, decision.clone(), &[1, 2, 3]), "(Voted)");
    for signers in [&[][..], &[0, 1], &[0, 3], &[0, 0, 1], &[1, 0, 2]] {
        assert_eq!(verdict(&run, decision.clone(), signers), "NoActivationCertificate", "{signers:?}");
    }
}

#[test]
fn grant_signed_by_verifiers_hosts_or_operators_is_refused() {
    let (mut verifier, run) = attested_run(3);
    let decision = run.decision(1, &host_b());
    for keys in [[vote_key(0), vote_key(1), vote_key(2)], [host_a(), host_b(), operator()]] {
        let signatures = (0u16..).zip(keys.map(|key| decision.sign(&key))).collect();
        let forged = DecisionCertificate { signatures, decision: decision.clone() };
        let ask = run.activate(forged, 1);
        assert_eq!(kind(&activate(&mut verifier, &ask)), "NoActivationCertificate");
    }
    let mut late = run.clone();
    attested(verifier.propose(&late.next(&[])));
}

#[test]
fn grant_does_not_serve_another_vm_generation_slot_host_group_or_epoch() {
    let (_, run) = attested_run(3);
    let at = |slot: usize, host: &quorate_attest::key::SecretKey| Action::Grant {
        slot: Slot(slot as u64),
        statement: run.chain[slot].digest(),
        host: host.public(),
    };
    let decision = run.decision(1, &host_b());
    let other = [
        (Decision { vm: VmId::from_bytes([1; 32]), ..decision.clone() }, "WrongVm"),
        (Decision { generation: Generation(2), ..decision.clone() }, "FencedGeneration"),
        (Decision { action: at(1, &host_b()), ..decision.clone() }, "WrongSlot"),
        (Decision { action: at(2, &host_a()), ..decision.clone() }, "KeyRoleMismatch"),
        (Decision { group: run.group.id(), ..decision.clone() }, "WrongCluster"),
        (Decision { epoch: Epoch(3), ..decision.clone() }, "EpochUnlinked"),
    ];
    for (other, want) in other {
        assert_eq!(verdict(&run, other, &[0, 1, 2]), want);
    }
    let begun = Action::Migrate { source: host_a().public(), destination: host_b().public() };
    assert_eq!(
        verdict(&run, Decision { action: begun, ..decision.clone() }, &[0, 1, 2]),
        "NoActivationCertificate",
        "the order to prepare a migration grants nothing"
    );
    let mut unnamed = run.hand_over(&host_b(), 1);
    unnamed.grant = grant(Decision { operation: OperationId::from_bytes([4; 32]), ..decision }, 0..3);
    let mut verifier = Verifier::new(&run.group, 3, Mode::Sampled, &run.spec);
    assert_eq!(kind(&activate(&mut verifier, &unnamed)), "Inconsistent");
}

#[test]
fn vote_is_asked_for_by_the_granted_host_slot_and_vm_only() {
    let (mut verifier, run) = attested_run(3);
    let ask = run.hand_over(&host_b(), 1);
    let mut thief = ask.clone();
    thief.activation.host = host_a().public();
    assert_eq!(kind(&activate(&mut verifier, &thief)), "KeyRoleMismatch");
    let mut other_slot = ask.clone();
    other_slot.activation.slot = Slot(1);
    assert_eq!(kind(&activate(&mut verifier, &other_slot)), "WrongSlot");
    let mut other_vm = ask.clone();
    other_vm.activation.vm = VmId::from_bytes([1; 32]);
    assert_eq!(kind(&activate(&mut verifier, &other_vm)), "WrongVm");
    let stranger = run.granted(1, &key(50), 1);
    assert_eq!(kind(&activate(&mut verifier, &stranger)), "KeyRoleMismatch", "no host of the group");
    assert_eq!(kind(&activate(&mut verifier, &ask)), "(Voted)");
}

#[test]
fn second_instance_of_one_generation_gets_no_vote() {
    let (mut verifier, run) = attested_run(3);
    let ask = run.hand_over(&host_b(), 1);
    let first = activate(&mut verifier, &ask);
    assert_eq!(activate(&mut verifier, &ask), first, "the same question, the same vote");
    assert_eq!(kind(&activate(&mut verifier, &run.hand_over(&host_b(), 2))), "DuplicateInstance");
    let second_grant = run.granted(1, &host_a(), 3);
    assert_eq!(kind(&activate(&mut verifier, &second_grant)), "DuplicateInstance");
    let mut verifier = verifier.restart();
    assert_eq!(activate(&mut verifier, &ask), first);
    assert_eq!(kind(&activate(&mut verifier, &run.hand_over(&host_b(), 2))), "DuplicateInstance");
}

#[test]
fn activation_from_a_slot_below_the_newest_signed_one_is_refused_as_stale() {
    let (mut verifier, run) = attested_run(5);
    let mut old = run.clone();
    old.chain.truncate(4);
    let stale = old.granted(1, &host_b(), 1);
    assert_eq!(kind(&activate(&mut verifier, &stale)), "StaleSlot", "although the orchestrators granted it");
    assert_eq!(kind(&activate(&mut verifier, &run.granted(1, &host_b(), 1))), "(Voted)");
}

#[test]
fn certificate_of_another_slot_or_statement_starts_no_generation() {
    let (mut verifier, run) = attested_run(3);
    let mut ask = run.hand_over(&host_b(), 1);
    ask.certificate = run.certificate(1);
    assert_eq!(kind(&activate(&mut verifier, &ask)), "WrongSlot");
    let mut few = run.hand_over(&host_b(), 1);
    few.certificate.attestations.truncate(2);
    assert_eq!(kind(&activate(&mut verifier, &few)), "QuorumNotReached");
}

#[test]
fn grant_may_skip_generations_and_never_goes_below_a_vote_or_the_current_one() {
    let (mut verifier, run) = attested_run(3);
    assert_eq!(kind(&activate(&mut verifier, &run.granted(5, &host_b(), 1))), "(Voted)");
    assert_eq!(kind(&activate(&mut verifier, &run.granted(3, &host_a(), 1))), "FencedGeneration");
    assert_eq!(kind(&activate(&mut verifier, &run.granted(0, &host_a(), 1))), "FencedGeneration");
    assert_eq!(kind(&activated(&mut verifier, &run, &run.granted(5, &host_b(), 1))), "(Done)");
    let late = run.granted(4, &host_a(), 1);
    assert_eq!(kind(&activate(&mut verifier, &late)), "FencedGeneration");
    assert_eq!(kind(&activated(&mut verifier, &run, &late)), "FencedGeneration");
}

#[test]
fn vote_for_a_later_generation_fences_every_earlier_one() {
    let (mut verifier, run) = attested_run(3);
    let hand_over = run.hand_over(&host_b(), 1);
    assert_eq!(kind(&activate(&mut verifier, &hand_over)), "(Voted)");
    let second = run.granted(2, &host_a(), 1);
    assert_eq!(kind(&activate(&mut verifier, &second)), "(Voted)");
    // Generation 1 begins all the same, and must not get past the slot that generation 2 starts from.
    assert_eq!(kind(&activated(&mut verifier, &run, &hand_over)), "(Done)");
    let mut destination = run.taken_over(host_b(), 1);
    assert_eq!(kind(&verifier.propose(&destination.next(&[]))), "FencedGeneration");
}

#[test]
fn activation_certificate_without_a_quorum_or_with_a_false_vote_begins_nothing() {
    let (mut verifier, run) = attested_run(3);
    let ask = run.hand_over(&host_b(), 1);
    let good = activation_certificate(&run.group, &ask);
    let mut few = good.clone();
    few.attestations.pop();
    let mut doubled = good.clone();
    doubled.attestations[2] = doubled.attestations[1];
    let mut bad = good.clone();
    bad.attestations[0].1 = bad.attestations[1].1;
    let mut other = good;
    other.activation.instance = quorate_attest::id::Nonce::from_bytes([9; 16]);
    let mut not_granted = activation_certificate(&run.group, &ask);
    not_granted.grant.signatures.pop();
    let kinds =
        [few, doubled, bad, other, not_granted].map(|c| kind(&verifier.ask(ToVerifier::Activated(c))));
    let want = ["QuorumNotReached", "DuplicateSigner", "BadSignature", "BadSignature", "QuorumNotReached"];
    assert_eq!(kinds, want);
    assert_eq!(verifier.core.state().generation, Generation::ZERO);
}

#[test]
fn two_activations_of_one_generation_stop_the_verifier() {
    let (mut verifier, run) = attested_run(3);
    let (first, second) = (run.hand_over(&host_b(), 1), run.hand_over(&host_b(), 2));
    assert_eq!(kind(&activated(&mut verifier, &run, &first)), "(Done)");
    assert_eq!(kind(&activated(&mut verifier, &run, &second)), "ConflictingCertificates");
    assert!(matches!(verifier.evidence[..], [Evidence::ConflictingActivations(_)]));
    assert!(verifier.stopped.is_some());
}

#[test]
fn verifier_that_slept_through_a_hand_over_learns_it_and_adopts_what_it_missed() {
    for mode in [Mode::Replayed, Mode::Sampled] {
        let mut run = HostRun::new(&group(4, 1), spec());
        let mut verifier = Verifier::new(&run.group, 0, mode, &run.spec);
        attested(verifier.propose(&run.next(&[])));
        run.next(&inputs(1));
        run.next(&inputs(2));
        let ask = run.hand_over(&host_b(), 1);
        let mut destination = run.taken_over(host_b(), 1);
        let propose = destination.next(&inputs(1));
        assert_eq!(kind(&verifier.propose(&propose)), "(NeedActivation)");
        assert_eq!(kind(&activated(&mut verifier, &run, &ask)), "(Done)");
        assert_eq!(verifier.propose(&propose), FromVerifier::NeedState(NeedState { next: Slot(1) }));
        verifier.served = Some(run.state.clone());
        let certificate = certify(&run.group, run.head(), 1..4);
        assert_eq!(kind(&verifier.ask(ToVerifier::StateOffer(run.offer(1, Some(certificate))))), "(Done)");
        let answer = attested(verifier.propose_with_pages(&propose, &destination.state));
        assert_eq!(answer.slot, Slot(3));
    }
}

#[test]
fn slots_that_an_activation_left_behind_are_replaced_and_their_log_is_not_cosigned_again() {
    // The source shows slot 3 to this verifier only, and hands over at slot 2.
    let (mut verifier, run) = attested_run(3);
    let mut source = run.clone();
    attested(verifier.propose(&source.next(&inputs(2))));
    let ask = run.hand_over(&host_b(), 1);
    assert_eq!(kind(&activate(&mut verifier, &ask)), "StaleSlot");
    assert_eq!(kind(&activated(&mut verifier, &run, &ask)), "(Done)", "the others have voted");
    let mut destination = run.taken_over(host_b(), 1);
    let propose = destination.next(&inputs(1));
    assert_eq!(verifier.propose(&propose), FromVerifier::NeedState(NeedState { next: Slot(3) }));
    verifier.served = Some(run.state.clone());
    let certificate = certify(&run.group, run.head(), 1..4);
    assert_eq!(kind(&verifier.ask(ToVerifier::StateOffer(run.offer(3, Some(certificate))))), "(Done)");
    let answer = attested(verifier.propose(&propose));
    assert_eq!((answer.slot, &answer.cosignature[..]), (Slot(3), ""));
}

#[test]
fn hand_overs_there_and_back_keep_one_chain() {
    let (mut verifier, mut run) = attested_run(2);
    for generation in 1..6u64 {
        let successor = if generation % 2 == 1 { host_b() } else { host_a() };
        let ask = run.hand_over(&successor, generation as u8);
        assert_eq!(kind(&activate(&mut verifier, &ask)), "(Voted)", "generation {generation}");
        assert_eq!(kind(&activated(&mut verifier, &run, &ask)), "(Done)");
        // A hand-over right after a hand-over starts from the same slot.
        run = run.taken_over(successor, generation);
        if generation % 3 != 0 {
            attested(verifier.propose(&run.next(&inputs(1))));
        }
    }
    assert_eq!(verifier.boots, 1);
}
