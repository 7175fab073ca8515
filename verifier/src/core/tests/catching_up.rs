use quorate_attest::id::{Nonce, Slot};
use quorate_attest::vm::{HeadAnswer, Mode, SlotCertificate};

use super::model::*;
use crate::core::*;
use crate::protocol::*;

/// A run of `slots` slots, all attested by this verifier.
fn attested_run(mode: Mode, slots: usize) -> (Verifier, HostRun) {
    let mut run = HostRun::new(&group(4, 1), spec());
    let mut verifier = Verifier::new(&run.group, 0, mode, &run.spec);
    for slot in 0..slots {
        let propose = run.next(&inputs(slot % 3));
        attested(verifier.propose_with_pages(&propose, &run.state));
    }
    (verifier, run)
}

/// A run that went on for `more` slots without this verifier. Certificates are signed by verifiers 1 to 3.
fn left_behind(mode: Mode, more: usize) -> (Verifier, HostRun) {
    let (verifier, mut run) = attested_run(mode, 3);
    for slot in 0..more {
        run.next(&inputs(slot % 2 + 1));
    }
    (verifier, run)
}

fn others(run: &HostRun) -> SlotCertificate {
    certify(&run.group, run.head(), 1..4)
}

fn offer(verifier: &mut Verifier, offer: StateOffer) -> FromVerifier {
    verifier.ask(ToVerifier::StateOffer(offer))
}

#[test]
fn restarted_replaying_verifier_needs_its_own_state_back_and_goes_on() {
    let (verifier, mut run) = attested_run(Mode::Replayed, 3);
    let mut verifier = verifier.restart();
    let at_head = run.clone();
    let propose = run.next(&inputs(2));
    assert_eq!(verifier.propose(&propose), FromVerifier::NeedState(NeedState { next: Slot(3) }));
    verifier.served = Some(at_head.state.clone());
    assert_eq!(kind(&offer(&mut verifier, at_head.offer(3, None))), "(Done)");
    attested(verifier.propose(&propose));
    assert_eq!(verifier.pulls, 1);
}

#[test]
fn restarted_verifier_at_slot_zero_boots_from_the_image() {
    let (verifier, mut run) = attested_run(Mode::Replayed, 1);
    let mut verifier = verifier.restart();
    attested(verifier.propose(&run.next(&inputs(2))));
    assert_eq!((verifier.boots, verifier.pulls), (1, 0));
}

#[test]
fn verifier_that_was_left_behind_adopts_a_certified_slot_and_attests_the_next() {
    for mode in [Mode::Replayed, Mode::Sampled] {
        let (mut verifier, mut run) = left_behind(mode, 4);
        verifier.served = Some(run.state.clone());
        assert_eq!(kind(&offer(&mut verifier, run.offer(3, Some(others(&run))))), "(Done)");
        assert_eq!(verifier.pulls, usize::from(mode == Mode::Replayed));
        let propose = run.next(&inputs(1));
        let answer = attested(verifier.propose_with_pages(&propose, &run.state));
        assert!(!answer.cosignature.is_empty(), "the log was continued without a gap");
        // What was adopted was not signed: a proposal for it is stale, not answered.
        let adopted = run.sign(run.chain[6].clone(), &[]);
        assert_eq!(kind(&verifier.propose(&adopted)), "StaleSlot");
    }
}

#[test]
fn new_verifier_adopts_a_chain_from_slot_zero() {
    let (_, run) = left_behind(Mode::Replayed, 100);
    for mode in [Mode::Replayed, Mode::Sampled] {
        let mut verifier = Verifier::new(&run.group, 0, mode, &run.spec);
        verifier.served = Some(run.state.clone());
        assert_eq!(kind(&offer(&mut verifier, run.offer(0, Some(others(&run))))), "(Done)");
        let mut after = run.clone();
        let propose = after.next(&[]);
        attested(verifier.propose_with_pages(&propose, &after.state));
    }
}

#[test]
fn offer_without_a_quorum_or_with_a_false_certificate_is_refused() {
    let (mut verifier, run) = left_behind(Mode::Sampled, 2);
    assert_eq!(kind(&offer(&mut verifier, run.offer(3, None))), "QuorumNotReached");
    let mut few = others(&run);
    few.attestations.pop();
    assert_eq!(kind(&offer(&mut verifier, run.offer(3, Some(few)))), "QuorumNotReached");
    let mut doubled = others(&run);
    doubled.attestations[1] = doubled.attestations[0];
    assert_eq!(kind(&offer(&mut verifier, run.offer(3, Some(doubled)))), "DuplicateSigner");
    let mut bad = others(&run);
    bad.attestations[2].signature = bad.attestations[1].signature;
    assert_eq!(kind(&offer(&mut verifier, run.offer(3, Some(bad)))), "BadSignature");
    let of_another = certify(&run.group, &run.chain[3], 1..4);
    assert_eq!(kind(&offer(&mut verifier, run.offer(3, Some(of_another)))), "WrongSlot");
    assert_eq!(verifier.core.state().chain.next(), Slot(3), "nothing was adopted");
}

#[test]
fn chain_with_a_gap_a_broken_link_or_a_foreign_statement_is_refused() {
    let (mut verifier, run) = left_behind(Mode::Sampled, 4);
    let certificate = others(&run);
    let mut chains = vec![("LogChainBroken", run.chain[4..].to_vec())];
    let mut without = run.chain[3..].to_vec();
    without.remove(1);
    chains.push(("LogChainBroken", without));
    let mut swapped = run.chain[3..].to_vec();
    swapped.swap(0, 1);
    chains.push(("LogChainBroken", swapped));
    let mut altered = run.chain[3..].to_vec();
    altered[1].body.output_count += 1;
    chains.push(("LogChainBroken", altered));
    let mut foreign = run.chain[3..].to_vec();
    foreign[0].vm = quorate_attest::id::VmId::from_bytes([0; 32]);
    chains.push(("WrongVm", foreign));
    for (want, chain) in chains {
        let forged = StateOffer { chain, ..run.offer(3, Some(certificate.clone())) };
        assert_eq!(kind(&offer(&mut verifier, forged)), want);
    }
}

#[test]
fn input_log_that_is_not_the_certified_one_is_refused() {
    let (mut verifier, run) = left_behind(Mode::Sampled, 2);
    let mut longer = run.offer(3, Some(others(&run)));
    longer.input_log.push(b"more");
    assert_eq!(kind(&offer(&mut verifier, longer)), "LogTruncated");
    let mut other = run.offer(3, Some(others(&run)));
    other.input_log = Default::default();
    (0..run.log.size()).for_each(|_| other.input_log.push(b"x"));
    assert_eq!(kind(&offer(&mut verifier, other)), "LogChainBroken");
}

#[test]
fn rollback_by_an_older_certificate_is_refused_as_stale() {
    let (mut verifier, run) = attested_run(Mode::Sampled, 5);
    let mut old = run.clone();
    old.chain.truncate(3);
    let certificate = others(&old);
    assert_eq!(kind(&offer(&mut verifier, old.offer(1, Some(certificate)))), "StaleSlot");
}

#[test]
fn state_that_does_not_arrive_as_certified_is_not_adopted() {
    let (mut verifier, run) = left_behind(Mode::Replayed, 2);
    verifier.served = Some(State::genesis());
    assert_eq!(kind(&offer(&mut verifier, run.offer(3, Some(others(&run))))), "ChunkHashMismatch");
    assert_eq!(verifier.core.state().chain.next(), Slot(3));
    verifier.served = Some(run.state.clone());
    assert_eq!(kind(&offer(&mut verifier, run.offer(3, Some(others(&run))))), "(Done)");
}

#[test]
fn verifier_that_an_equivocating_host_led_astray_rejoins_the_certified_chain() {
    for mode in [Mode::Replayed, Mode::Sampled] {
        let (mut verifier, mut run) = attested_run(mode, 3);
        let mut astray = run.clone();
        let propose = astray.next(&inputs(5));
        attested(verifier.propose_with_pages(&propose, &astray.state));
        run.next(&inputs(1));
        run.next(&inputs(1));
        verifier.served = Some(run.state.clone());
        // The certificate is of slots 3 and 4 on the other branch: it is offered from slot 3 on.
        assert_eq!(kind(&offer(&mut verifier, run.offer(4, Some(others(&run))))), "LogChainBroken");
        assert_eq!(kind(&offer(&mut verifier, run.offer(3, Some(others(&run))))), "(Done)");
        let propose = run.next(&inputs(1));
        let answer = attested(verifier.propose_with_pages(&propose, &run.state));
        assert_eq!(answer.cosignature, "", "two logs of one VM are never both cosigned");
        let again = run.sign(run.chain[3].clone(), &[]);
        assert_eq!(kind(&verifier.propose(&again)), "StaleSlot", "slot 3 is not signed a second time");
    }
}

#[test]
fn own_vote_that_the_sign_log_does_not_know_stops_the_verifier() {
    // ROLLBACK: an old copy of the data directory is restored, and a host shows what was signed since.
    let (verifier, mut run) = attested_run(Mode::Replayed, 3);
    let old = verifier.records.clone();
    run.next(&[]);
    let mut restored = Verifier::restored(verifier.context, old);
    let with_own = certify(&run.group, run.head(), 0..3);
    assert_eq!(kind(&offer(&mut restored, run.offer(3, Some(with_own)))), "SignStateRolledBack");
    assert!(restored.stopped.as_ref().is_some_and(Refusal::is_safety_stop));
    let propose = run.next(&[]);
    assert_eq!(kind(&restored.propose(&propose)), "ConflictingCertificates");
    assert_eq!(kind(&restored.restart().propose(&propose)), "ConflictingCertificates", "for good");
}

#[test]
fn conflicting_certificates_are_kept_as_evidence_and_stop_the_verifier() {
    let (mut verifier, run) = attested_run(Mode::Sampled, 3);
    let (mut left, mut right) = (run.clone(), run.clone());
    left.next(&inputs(1));
    right.next(&inputs(2));
    assert_eq!(kind(&offer(&mut verifier, left.offer(3, Some(others(&left))))), "(Done)");
    assert_eq!(kind(&offer(&mut verifier, right.offer(3, Some(others(&right))))), "ConflictingCertificates");
    let [Evidence::ConflictingCertificates(pair)] = &verifier.evidence[..] else { panic!("no evidence") };
    let expected = verifier.context.expected(run.vm(), Mode::Replayed.kind());
    assert_eq!(pair.verify(&run.group, &expected), Ok(vec![1, 2, 3]));
    assert!(verifier.stopped.is_some());
    let query = HeadQuery { vm: run.vm(), nonce: Nonce::from_bytes([1; 16]) };
    assert_eq!(
        kind(&verifier.ask(ToVerifier::HeadQuery(query))),
        "(Head)",
        "what was signed can still be asked"
    );
}

#[test]
fn head_answer_is_signed_fresh_and_tells_the_newest_signed_slot() {
    let (mut verifier, run) = attested_run(Mode::Replayed, 4);
    let nonce = Nonce::from_bytes([9; 16]);
    let query = HeadQuery { vm: run.vm(), nonce };
    let expected = verifier.context.expected(run.vm(), quorate_attest::statement::Kind::HEAD);
    let head = |answer: FromVerifier| -> HeadAnswer {
        let FromVerifier::Head(answer) = answer else { panic!("{answer:?}") };
        answer.verify(&run.group, &expected, &nonce).unwrap();
        answer
    };
    let answer = head(verifier.ask(ToVerifier::HeadQuery(query.clone())));
    assert_eq!(answer.proposal.map(|proposal| proposal.statement), Some(run.chain[3].clone()));
    let answer = head(verifier.restart().ask(ToVerifier::HeadQuery(query)));
    assert_eq!(answer.attestation.map(|attestation| attestation.verifier), Some(0));
}
