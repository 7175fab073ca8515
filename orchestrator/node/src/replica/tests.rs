use quorate_attest::id::Nonce;
use quorate_attest::key::Signature;
use quorate_attest::merkle::verify_inclusion;
use quorate_attest::receipt::ReceiptTally;
use quorate_control::Quota;
use quorate_ordering::protocol::CosignedHead;

use super::heads::{HeadComparison, Verdict};
use super::*;
use crate::config::testing::{group, key};
use crate::store::Store;

fn orchestrators() -> GroupConfig {
    group("orchestrator", 10)
}

fn signer(index: u8) -> Signer {
    Signer { vote: key(10 + index), cosigner: key(20 + index) }
}

fn replica(index: u8) -> Replica {
    Replica::genesis(signer(index), orchestrators(), group("verifier", 60)).unwrap()
}

/// An operation that does something, and bytes that mean nothing.
fn operation(index: u64) -> Vec<u8> {
    if index % 5 == 4 {
        return vec![index as u8; 40];
    }
    let quota = Quota { vms: 1, memory_bytes: 1 << 20, operations: 10 };
    let key = SecretKey::from_seed([(100 + index % 100) as u8; 32]).public();
    let command = Command::RegisterClient { key, quota, revision: 0 };
    let mut nonce = [0; 16];
    nonce[..8].copy_from_slice(&index.to_le_bytes());
    command.to_operation(&self::key(1), orchestrators().id(), Nonce::from_bytes(nonce)).encoded()
}

fn entries(range: std::ops::Range<u64>) -> Vec<Entry> {
    range.map(|index| Entry { index, operation: operation(index) }).collect()
}

/// Steps and performs: what is signed is recorded, what is stored is returned.
fn run(replica: &mut Replica, signed: &mut SignState, range: std::ops::Range<u64>) -> Batch {
    let effects = replica.step(1_700_000_000, signed, &entries(range)).unwrap();
    let mut batch = None;
    for effect in effects {
        match effect {
            Effect::Record(promises) => signed.record(&promises),
            Effect::Persist(persisted) => batch = Some(*persisted),
            _ => {}
        }
    }
    batch.unwrap()
}

#[test]
fn an_answer_leaves_only_after_its_record_and_its_entry() {
    let effects = replica(0).step(0, &SignState::default(), &entries(0..7)).unwrap();
    let names: Vec<_> = effects
        .iter()
        .map(|effect| match effect {
            Effect::Record(promises) => {
                assert_eq!((promises.first, promises.digests.len()), (0, 7), "one record for all");
                "record"
            }
            Effect::Persist(batch) => {
                assert_eq!(batch.entries.len(), 7, "one transaction for all");
                "persist"
            }
            Effect::Answer(answers) => {
                assert_eq!(answers.len(), 7);
                "answer"
            }
            Effect::Count(_) => "count",
            Effect::Roles => "roles",
            Effect::EndEpoch { .. } => "end",
        })
        .collect();
    assert_eq!(names, ["record", "persist", "answer", "count", "roles"]);
}

#[test]
fn receipts_of_a_quorum_are_one_certificate_and_their_leaves_are_in_the_log() {
    let group = orchestrators();
    let runs: Vec<_> =
        (0..3).map(|index| run(&mut replica(index), &mut SignState::default(), 0..9)).collect();
    let head = runs[0].head.as_ref().unwrap();
    for place in 0..9 {
        let mut tally = ReceiptTally::new(&group, runs[0].entries[place].receipt).unwrap();
        for (index, run) in (0u16..).zip(&runs) {
            tally.add(index, run.entries[place].signature).unwrap();
        }
        tally
            .certificate()
            .unwrap()
            .verify(
                &group,
                &group.expected(
                    quorate_attest::receipt::LOG_INSTANCE,
                    quorate_attest::statement::Kind::RECEIPT,
                ),
            )
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("s"), group.id()).unwrap();
        store.commit(&runs[0]).unwrap();
        let path = store.read().unwrap().inclusion(place as u64, 9).unwrap().unwrap();
        let leaf = Sha256Tree::leaf(&runs[0].entries[place].receipt.leaf().encoded());
        verify_inclusion::<Sha256Tree>(&leaf, place as u64, 9, &path, &head.root).unwrap();
    }
}

#[test]
fn a_restart_anywhere_leads_to_the_same_receipts() {
    let mut whole = replica(0);
    let mut signed = SignState::default();
    let expected = run(&mut whole, &mut signed, 0..40);
    for cut in 0..40u64 {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("executed.redb");
        let mut known = SignState::default();
        if cut > 0 {
            let store = Store::open(&path, orchestrators().id()).unwrap();
            let mut batch = run(&mut replica(0), &mut known, 0..cut);
            // Half of the cuts begin from a snapshot, the others from the genesis.
            if cut % 2 == 0 {
                let mut at = replica(0);
                run(&mut at, &mut SignState::default(), 0..cut);
                batch.snapshot = Some(at.control().encode());
            }
            store.commit(&batch).unwrap();
            store.sync().unwrap();
        }
        let store = Store::open(&path, orchestrators().id()).unwrap();
        let view = store.read().unwrap();
        let mut again = Replica::restore(signer(0), orchestrators(), group("verifier", 60), &view).unwrap();
        assert_eq!(again.applied(), cut);
        let rest = run(&mut again, &mut known, cut..40);
        assert_eq!(rest.entries, expected.entries[cut as usize..], "cut at {cut}");
        assert_eq!(again.log_root(), whole.log_root());
    }
}

#[test]
fn entries_that_were_signed_and_lost_lead_to_the_same_signatures_or_to_none() {
    let mut signed = SignState::default();
    let expected = run(&mut replica(0), &mut signed, 0..20);
    // The executed log was lost with everything in it; the sign-log was not.
    let again = run(&mut replica(0), &mut signed.clone(), 0..20);
    assert_eq!(again.entries, expected.entries);
    // The sign-log knows that something was signed, but not what any more.
    let mut mute = SignState::default();
    mute.record(&Promises { first: 15, digests: vec![[0; 32]; 0], ..Promises::default() });
    let silent = run(&mut replica(0), &mut mute, 0..20);
    for (stored, index) in silent.entries.iter().zip(0u64..) {
        assert_eq!(stored.signer.is_none(), index < 15, "{index}");
        assert_eq!(stored.signature == Signature::NONE, index < 15, "{index}");
        assert_eq!(stored.applied().is_none(), index < 15, "{index}");
    }
}

#[test]
fn another_receipt_for_a_signed_index_stops_the_replica() {
    let mut signed = SignState::default();
    run(&mut replica(0), &mut signed, 0..6);
    // The log delivers another operation at a place that has been signed.
    let mut forked = entries(0..6);
    forked[3].operation = operation(33);
    let error = replica(0).step(0, &signed, &forked).unwrap_err();
    assert_eq!(error.kind(), "OwnVoteObserved");
    assert!(matches!(error, ReplicaError::Contradiction(Contradiction::Receipt { index: 3 })), "{error}");
}

#[test]
fn a_log_with_a_gap_or_a_repetition_is_not_executed() {
    let mut replica = replica(0);
    run(&mut replica, &mut SignState::default(), 0..3);
    for from in [2, 4] {
        let error = replica.step(0, &SignState::default(), &entries(from..6)).unwrap_err();
        assert_eq!(error.kind(), "LogChainBroken");
    }
}

#[test]
fn no_head_is_cosigned_below_one_that_was_signed_before() {
    let mut signed = SignState::default();
    run(&mut replica(0), &mut signed, 0..9);
    let mut again = replica(0);
    assert_eq!(run(&mut again, &mut signed, 0..8).head, None);
    assert_eq!(run(&mut again, &mut signed, 8..9).head.unwrap().size, 9);
}

#[test]
fn a_damaged_entry_is_noticed_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("executed.redb"), orchestrators().id()).unwrap();
    let mut batch = run(&mut replica(0), &mut SignState::default(), 0..9);
    batch.entries[4].outcome.push(0);
    store.commit(&batch).unwrap();
    let view = store.read().unwrap();
    let error = Replica::restore(signer(0), orchestrators(), group("verifier", 60), &view).unwrap_err();
    assert_eq!(error.kind(), "ReplayDivergence");
}

/// The head of an orchestrator that executed something else at the end.
fn lying_head(index: u8) -> CosignedHead {
    let mut replica = replica(index);
    let mut other = entries(0..9);
    other[8].operation = vec![7; 99];
    let effects = replica.step(1, &SignState::default(), &other).unwrap();
    let batch = effects.into_iter().find_map(|effect| match effect {
        Effect::Persist(batch) => Some(batch),
        _ => None,
    });
    batch.unwrap().head.unwrap()
}

#[test]
fn heads_of_more_than_f_others_against_ones_own_log_stop_the_replica() {
    let group = orchestrators();
    let mut own = replica(0);
    let honest = run(&mut own, &mut SignState::default(), 0..9).head.unwrap();
    let our_root = |size| Ok::<_, std::convert::Infallible>((size == 9).then(|| own.log_root()));
    let mut comparison = HeadComparison::default();
    let told = |comparison: &mut HeadComparison, index: u16, head: CosignedHead| {
        comparison.compare(&group, index, &[head], our_root).unwrap()
    };
    let theirs = run(&mut replica(1), &mut SignState::default(), 0..9).head.unwrap();
    assert_eq!(theirs.root, honest.root);
    assert_eq!(told(&mut comparison, 1, theirs), Verdict::Agree);
    let mut forged = lying_head(2);
    forged.root[0] ^= 1;
    assert_eq!(told(&mut comparison, 2, forged), Verdict::Agree, "nobody signed that");
    assert_eq!(told(&mut comparison, 3, lying_head(2)), Verdict::Agree, "another one's signature");
    let Verdict::Suspect(found) = told(&mut comparison, 2, lying_head(2)) else { panic!("one liar") };
    assert_eq!((found.len(), found[0].orchestrator), (1, 2));
    assert_eq!(told(&mut comparison, 2, lying_head(2)), Verdict::Agree, "told once");
    let Verdict::WeDiverge(found) = told(&mut comparison, 3, lying_head(3)) else { panic!("two: f + 1") };
    assert_eq!(found.len(), 2);
}
