use std::collections::BTreeMap;

use proptest::prelude::*;
use quorate_attest::id::{Generation, Slot, StatementDigest};
use quorate_attest::vm::Mode;

use super::model::*;
use crate::core::Record;
use crate::protocol::*;

/// One thing that a Byzantine host, network or group of orchestrators may do next.
#[derive(Clone, Debug)]
enum Move {
    /// Propose a slot of a branch.
    Propose { branch: usize, slot: usize },
    /// Offer the certified prefix of a branch.
    Offer { branch: usize, slot: usize, from: usize },
    /// Ask for a vote from a slot of a branch.
    Activate { branch: usize, slot: usize, generation: u64, instance: u8, word: bool },
    /// Tell of such an activation.
    Activated { branch: usize, slot: usize, generation: u64, instance: u8 },
    /// Kill the process and start it again.
    Restart,
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let branch = 0..BRANCHES;
    let slot = 0..SLOTS;
    let one = prop_oneof![
        8 => (branch.clone(), slot.clone()).prop_map(|(branch, slot)| Move::Propose { branch, slot }),
        2 => (branch.clone(), slot.clone(), 0..SLOTS)
            .prop_map(|(branch, slot, from)| Move::Offer { branch, slot, from }),
        2 => (branch.clone(), slot.clone(), 0..4u64, 0..2u8, any::<bool>()).prop_map(
            |(branch, slot, generation, instance, word)| {
                Move::Activate { branch, slot, generation, instance, word }
            }
        ),
        1 => (branch, slot, 1..3u64, 0..2u8).prop_map(|(branch, slot, generation, instance)| {
            Move::Activated { branch, slot, generation, instance }
        }),
        1 => Just(Move::Restart),
    ];
    prop::collection::vec(one, 1..60)
}

const BRANCHES: usize = 4;
const SLOTS: usize = 6;

/// Branches of one VM: two of host A that part at slot 2, and one of host B in generation 1 on top of each.
struct Forks {
    /// The run at each slot of each branch, and the proposal that ended it.
    slots: Vec<Vec<(HostRun, Propose)>>,
}

impl Forks {
    fn new() -> Self {
        let mut slots: Vec<Vec<(HostRun, Propose)>> = Vec::new();
        for branch in 0..2 {
            let mut run = HostRun::new(&group(4, 1), spec());
            slots.push(steps(&mut run, 0, |slot| if slot < 2 { 1 } else { branch + 1 }));
        }
        for branch in 0..2 {
            let mut run = slots[branch][2].0.taken_over(host_b(), 1);
            let mut taken = slots[branch][..3].to_vec();
            taken.extend(steps(&mut run, 3, |_| 3));
            slots.push(taken);
        }
        Self { slots }
    }

    fn at(&self, branch: usize, slot: usize) -> &(HostRun, Propose) {
        &self.slots[branch][slot]
    }
}

fn steps(run: &mut HostRun, from: usize, count: impl Fn(usize) -> usize) -> Vec<(HostRun, Propose)> {
    (from..SLOTS)
        .map(|slot| {
            let propose = run.next(&inputs(if slot == 0 { 0 } else { count(slot) }));
            (run.clone(), propose)
        })
        .collect()
}

fn play(forks: &Forks, verifier: &mut Verifier, one: &Move) {
    match *one {
        Move::Propose { branch, slot } => {
            let (run, propose) = forks.at(branch, slot);
            verifier.propose_with_pages(propose, &run.state);
        }
        Move::Offer { branch, slot, from } => {
            let (run, _) = forks.at(branch, slot);
            verifier.served = Some(run.state.clone());
            let certificate = certify(&run.group, run.head(), 1..4);
            verifier.ask(ToVerifier::StateOffer(run.offer(from.min(slot), Some(certificate))));
        }
        Move::Activate { branch, slot, generation, instance, word } => {
            let run = &forks.at(branch, slot).0;
            let relinquish = word.then(|| run.relinquish(&host_b()));
            let ask = run.granted(generation, &host_b(), instance);
            verifier.ask(ToVerifier::Activate(Activate { relinquish, ..ask }));
        }
        Move::Activated { branch, slot, generation, instance } => {
            let run = &forks.at(branch, slot).0;
            let ask = run.granted(generation, &host_b(), instance);
            verifier.ask(ToVerifier::Activated(activation_certificate(&run.group, &ask)));
        }
        Move::Restart => {}
    }
}

/// Everything that was ever signed, read from the records.
fn check_signed_once(records: &[Record]) -> Result<(), TestCaseError> {
    let mut places: BTreeMap<(Generation, Slot), StatementDigest> = BTreeMap::new();
    let mut votes: BTreeMap<Generation, _> = BTreeMap::new();
    let mut fences: Vec<(Generation, Slot)> = Vec::new();
    let mut newest = None;
    for record in records {
        match record {
            Record::Signed { signed, .. } => {
                let place = signed.place();
                prop_assert!(newest < Some(place), "places ascend");
                newest = Some(place);
                prop_assert!(places.insert(place, signed.statement().digest()).is_none(), "signed once");
                let fenced = fences.iter().any(|(generation, slot)| place.0 < *generation && place.1 > *slot);
                prop_assert!(!fenced, "{place:?} is fenced by a vote");
            }
            Record::Voted { activation, .. } => {
                prop_assert!(votes.insert(activation.generation, activation.clone()).is_none(), "one vote");
                fences.push((activation.generation, activation.slot));
            }
            _ => {}
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_order_of_messages_and_restarts_gets_a_second_signature_or_vote(
        moves in moves(), sampled: bool,
    ) {
        let forks = Forks::new();
        let run = &forks.at(0, 0).0;
        let mode = if sampled { Mode::Sampled } else { Mode::Replayed };
        let mut verifier = Verifier::new(&run.group, 0, mode, &run.spec);
        for one in &moves {
            if matches!(one, Move::Restart) {
                verifier = verifier.restart();
            } else {
                play(&forks, &mut verifier, one);
            }
        }
        check_signed_once(&verifier.records)?;
    }

    #[test]
    fn requests_that_do_not_decode_are_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..600), tag in 0u8..9) {
        use quorate_transport::Wire;
        let _ = ToVerifier::decode_body(tag, &bytes);
        let _ = FromVerifier::decode_body(tag, &bytes);
        let _ = quorate_attest::encoding::from_bytes::<Record>(&bytes, 4096);
    }

    #[test]
    fn damaged_requests_never_get_an_attestation(at in any::<prop::sample::Index>(), flip in 1u8.., slot in 0usize..3) {
        use quorate_transport::Wire;
        let mut run = HostRun::new(&group(4, 1), spec());
        let mut verifier = Verifier::replayed(&run);
        for number in 0..slot {
            attested(verifier.propose(&run.next(&inputs(number))));
        }
        let propose = run.next(&inputs(slot));
        let mut bytes = ToVerifier::Propose(propose).encode_body();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(damaged) = ToVerifier::decode_body(2, &bytes) {
            let answer = verifier.ask(damaged);
            prop_assert!(!matches!(answer, FromVerifier::Attested(_)), "{:?}", answer);
        }
    }
}
