use quorate_attest::id::Slot;
use quorate_attest::vm::Mode;

use super::model::*;
use crate::protocol::*;

fn at_slot_0() -> (Verifier, HostRun) {
    let mut run = HostRun::new(&group(4, 1), spec());
    let mut verifier = Verifier::sampled(&run);
    attested(verifier.propose(&run.next(&[])));
    (verifier, run)
}

#[test]
fn chain_with_proven_pages_is_attested_as_sampled() {
    let (mut verifier, mut run) = at_slot_0();
    for slot in 1..5 {
        let propose = run.next(&inputs(slot));
        let answer = attested(verifier.propose_with_pages(&propose, &run.state));
        assert_eq!((answer.slot, answer.attestation.mode), (Slot(slot as u64), Mode::Sampled));
        answer.attestation.verify(&run.group, run.head()).unwrap();
    }
    assert_eq!((verifier.boots, verifier.pulls), (0, 0), "nothing was executed or fetched");
    // After a restart it goes on without any state.
    let mut verifier = verifier.restart();
    let propose = run.next(&[]);
    attested(verifier.propose_with_pages(&propose, &run.state));
}

#[test]
fn pages_that_are_altered_moved_left_out_or_of_another_slot_are_refused() {
    type Change = fn(&mut Pages);
    let changes: [Change; 8] = [
        |p| p.pages[0].bytes[0] ^= 1,
        |p| p.pages[4].bytes[4095] ^= 0x80,
        |p| p.pages[2].proof[0][0] ^= 1,
        |p| p.pages[2].proof.truncate(1),
        |p| p.pages.swap(0, 1),
        |p| p.pages[1].index += 1,
        |p| p.pages.truncate(4),
        |p| p.pages[3].bytes.truncate(4095),
    ];
    for change in changes {
        let (mut verifier, mut run) = at_slot_0();
        let propose = run.next(&inputs(1));
        let state = run.state.clone();
        let answers = verifier.ask_with(ToVerifier::Propose(propose.clone()), |asked| {
            let mut pages = prove(&state, asked);
            change(&mut pages);
            Some(pages)
        });
        assert_eq!(kind(answers.last().unwrap()), "ProofInvalid");
        attested(verifier.propose_with_pages(&propose, &run.state));
    }
    let (mut verifier, mut run) = at_slot_0();
    let old = run.state.clone();
    let propose = run.next(&inputs(1));
    assert_eq!(
        kind(&verifier.propose_with_pages(&propose, &old)),
        "ProofInvalid",
        "pages of the slot before"
    );
}

#[test]
fn host_that_goes_away_during_a_challenge_gets_nothing_signed() {
    let (mut verifier, mut run) = at_slot_0();
    let propose = run.next(&[]);
    let answers = verifier.ask_with(ToVerifier::Propose(propose.clone()), |_| None);
    assert_eq!(answers.iter().map(kind).collect::<Vec<_>>(), ["(Challenge)", "PeerTimeout"]);
    attested(verifier.propose_with_pages(&propose, &run.state));
}

#[test]
fn each_challenge_is_drawn_anew_and_old_pages_answer_none() {
    let (mut verifier, mut run) = at_slot_0();
    let propose = run.next(&[]);
    let first = verifier.ask_with(ToVerifier::Propose(propose.clone()), |_| None).remove(0);
    let second = verifier.ask_with(ToVerifier::Propose(propose), |_| None).remove(0);
    assert_ne!(first, second);
    let unasked = prove(&run.state, &[0]);
    assert_eq!(kind(&verifier.ask(ToVerifier::Pages(unasked))), "DecodeError");
}
