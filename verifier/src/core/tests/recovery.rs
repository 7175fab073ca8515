//! The host is dead: what verifiers give away, to whom, and that it is enough.

use quorate_attest::id::{Generation, Slot, StatementDigest};
use quorate_attest::key::SecretKey;
use quorate_attest::vm::{Action, Decision, Mode, Tally};

use super::model::*;
use crate::core::Refusal;
use crate::core::handout::Handout;
use crate::protocol::*;

fn verifiers(run: &HostRun, n: u16) -> Vec<Verifier> {
    (0..n).map(|index| Verifier::new(&run.group, index, Mode::Replayed, &run.spec)).collect()
}

fn slot(verifier: &mut Verifier, run: &HostRun, slot: u64) -> FromVerifier {
    verifier.ask(ToVerifier::SlotRequest(SlotRequest { vm: run.vm(), slot: Slot(slot) }))
}

fn signed(answer: FromVerifier) -> SignedSlot {
    match answer {
        FromVerifier::Slot(signed) => signed,
        other => panic!("no slot: {other:?}"),
    }
}

#[test]
fn a_slot_attested_by_two_of_four_when_the_host_died_is_certified_at_all() {
    // Whoever had it, the two others sign it too when they are shown it by anybody.
    for first in 0..4 {
        for second in (0..4).filter(|second| *second != first) {
            let mut run = HostRun::new(&group(4, 1), spec());
            let mut verifiers = verifiers(&run, 4);
            for propose in [run.next(&[]), run.next(&inputs(2))] {
                verifiers.iter_mut().for_each(|verifier| drop(attested(verifier.propose(&propose))));
            }
            let last = run.next(&inputs(3));
            attested(verifiers[first].propose(&last));
            attested(verifiers[second].propose(&last));

            let shown = signed(slot(&mut verifiers[first], &run, 2));
            assert_eq!((&shown.proposal, shown.inputs.as_ref()), (&last.proposal, Some(&last.inputs)));
            let propose = Propose { proposal: shown.proposal, inputs: shown.inputs.unwrap() };
            let mut tally = Tally::new(&run.group, propose.proposal.statement.clone()).unwrap();
            for verifier in &mut verifiers {
                tally.add(attested(verifier.propose(&propose)).attestation).unwrap();
            }
            assert_eq!(tally.progress().0, 4, "asked again, the first two answer the same");
            let certificate = tally.certificate().unwrap();
            assert_eq!(certificate.statement.digest(), run.head().digest());
        }
    }
}

#[test]
fn a_verifier_further_behind_is_led_slot_by_slot() {
    let mut run = HostRun::new(&group(4, 1), spec());
    let mut verifiers = verifiers(&run, 2);
    let proposals: Vec<_> = (0..5).map(|at| run.next(&inputs(if at == 0 { 0 } else { 2 }))).collect();
    proposals.iter().for_each(|propose| drop(attested(verifiers[0].propose(propose))));
    attested(verifiers[1].propose(&proposals[0]));
    let FromVerifier::Behind(behind) = verifiers[1].propose(&proposals[4]) else { panic!("not behind") };
    for at in behind.next.0..5 {
        let shown = signed(slot(&mut verifiers[0], &run, at));
        let propose = Propose { proposal: shown.proposal, inputs: shown.inputs.unwrap() };
        assert_eq!(attested(verifiers[1].propose(&propose)).slot, Slot(at));
    }
}

#[test]
fn a_restarted_verifier_shows_its_newest_slot_without_inputs_and_nothing_older() {
    let mut run = HostRun::new(&group(4, 1), spec());
    let mut verifier = Verifier::replayed(&run);
    attested(verifier.propose(&run.next(&[])));
    attested(verifier.propose(&run.next(&inputs(1))));
    let last = run.next(&inputs(2));
    let answer = attested(verifier.propose(&last));
    let mut verifier = verifier.restart();
    let shown = signed(slot(&mut verifier, &run, 2));
    assert_eq!((shown.proposal, shown.attestation), (last.proposal, answer.attestation));
    assert_eq!((shown.inputs, shown.follows), (None, false));
    assert_eq!(kind(&slot(&mut verifier, &run, 1)), "StaleSlot");
    assert_eq!(kind(&slot(&mut verifier, &run, 3)), "(Behind)");
}

#[test]
fn inputs_that_somebody_changed_on_the_way_are_not_signed() {
    let mut run = HostRun::new(&group(4, 1), spec());
    let mut verifiers = verifiers(&run, 2);
    let genesis = run.next(&[]);
    verifiers.iter_mut().for_each(|verifier| drop(attested(verifier.propose(&genesis))));
    let last = run.next(&inputs(2));
    attested(verifiers[0].propose(&last));
    let shown = signed(slot(&mut verifiers[0], &run, 1));
    let mut inputs = shown.inputs.unwrap();
    inputs[1][0] ^= 1;
    let changed = Propose { proposal: shown.proposal, inputs };
    assert_eq!(kind(&verifiers[1].propose(&changed)), "LogChainBroken");
    attested(verifiers[1].propose(&last));
}

/// Asks for the state with a grant that `change` has gone over.
fn ask(
    verifier: &Verifier,
    run: &HostRun,
    asker: &SecretKey,
    change: impl FnOnce(&mut Decision),
) -> Result<Handout, Refusal> {
    let mut decision = run.decision(1, &host_b());
    change(&mut decision);
    let slot = run.head().slot;
    verifier.core.hand_out(&StateRequest { grant: grant(decision, 0..3), slot }, &asker.public())
}

fn replayed_to_slot_2() -> (HostRun, Verifier) {
    let mut run = HostRun::new(&group(4, 1), spec());
    let mut verifier = Verifier::replayed(&run);
    for count in [0, 1, 2] {
        attested(verifier.propose(&run.next(&inputs(count))));
    }
    (run, verifier)
}

#[test]
fn the_granted_host_gets_the_state_with_all_it_needs_to_go_on() {
    let (run, verifier) = replayed_to_slot_2();
    let handout = ask(&verifier, &run, &host_b(), |_| {}).unwrap();
    assert_eq!(&handout.statement, run.head());
    assert_eq!(handout.input_log, run.log);
    assert_eq!((handout.statements.size(), &handout.history[..]), (3, &run.chain[..2]));
}

#[test]
fn nobody_gets_a_state_without_a_grant_that_names_them_and_this_slot() {
    let (run, verifier) = replayed_to_slot_2();
    let kind = |result: Result<Handout, Refusal>| result.map(drop).unwrap_err().kind();
    assert_eq!(kind(ask(&verifier, &run, &host_a(), |_| {})), "KeyRoleMismatch");
    let migrate = Action::Migrate { source: host_a().public(), destination: host_b().public() };
    assert_eq!(kind(ask(&verifier, &run, &host_b(), |d| d.action = migrate)), "NoActivationCertificate");
    assert_eq!(kind(ask(&verifier, &run, &host_b(), |d| d.generation = Generation(0))), "FencedGeneration");
    assert_eq!(kind(ask(&verifier, &run, &host_b(), |d| d.epoch = run.group.epoch)), "EpochUnlinked");
    let grant_of =
        |slot: Slot, statement: StatementDigest| Action::Grant { slot, statement, host: host_b().public() };
    let (head, digest) = (run.head().slot, run.head().digest());
    assert_eq!(kind(ask(&verifier, &run, &host_b(), |d| d.action = grant_of(Slot(1), digest))), "WrongSlot");
    let other = StatementDigest::from_bytes([1; 32]);
    assert_eq!(kind(ask(&verifier, &run, &host_b(), |d| d.action = grant_of(head, other))), "WrongSlot");

    let too_few = grant(run.decision(1, &host_b()), 0..2);
    let request = StateRequest { grant: too_few, slot: head };
    assert_eq!(kind(verifier.core.hand_out(&request, &host_b().public())), "QuorumNotReached");
}

#[test]
fn a_grant_of_an_older_slot_gets_nothing_and_a_restarted_verifier_has_nothing() {
    let (mut run, mut verifier) = replayed_to_slot_2();
    let old = StateRequest { grant: grant(run.decision(1, &host_b()), 0..3), slot: run.head().slot };
    attested(verifier.propose(&run.next(&inputs(1))));
    let refused = verifier.core.hand_out(&old, &host_b().public()).unwrap_err();
    assert_eq!(refused, Refusal::StaleSlot { have: Slot(3), got: Slot(2) });

    let verifier = verifier.restart();
    assert_eq!(ask(&verifier, &run, &host_b(), |_| {}).unwrap_err().kind(), "MachineMissing");
    let sampled = Verifier::sampled(&run);
    assert_eq!(ask(&sampled, &run, &host_b(), |_| {}).unwrap_err().kind(), "MachineMissing");
}

#[test]
fn a_grant_whose_generation_has_begun_is_spent() {
    let (run, mut verifier) = replayed_to_slot_2();
    let activate = run.granted(1, &host_b(), 1);
    let certificate = activation_certificate(&run.group, &activate);
    assert_eq!(kind(&verifier.ask(ToVerifier::Activated(certificate))), "(Done)");
    assert_eq!(ask(&verifier, &run, &host_b(), |_| {}).unwrap_err().kind(), "FencedGeneration");
}
