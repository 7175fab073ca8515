//! The file over kills: whole batches are there or not, in order, and nothing of one service shows in another.

use quorate_attest::encoding::Bounded;
use quorate_attest::id::{Epoch, GroupId, OperationId};
use quorate_attest::key::SecretKey;
use quorate_attest::merkle::{Sha256Tree, TreeHash, verify_consistency, verify_inclusion};
use quorate_attest::state_tree::StateCommitment;

use super::*;
use crate::services::core::Done;

fn service(seed: u8) -> ServiceId {
    ServiceId::from_bytes([seed; 32])
}

/// The entries that follow `log`, so many of them.
fn batch(service: ServiceId, log: &mut Peaks, count: u64) -> Batch {
    let mut batch = Batch::default();
    for _ in 0..count {
        let number = log.size();
        let state = StateCommitment { root: [number as u8; 32], size: number };
        let mut receipt = ServiceReceipt {
            group: GroupId::from_bytes([7; 32]),
            epoch: Epoch::ZERO,
            service,
            number,
            log_index: 3 * number,
            operation: OperationId::from_bytes([number as u8; 32]),
            result: [5; 32],
            log_root: [0; 32],
            log_size: number + 1,
            state,
        };
        batch.nodes.extend(log.push(Sha256Tree::leaf(&receipt.leaf().encoded())));
        receipt.log_root = log.root();
        let signature = (!number.is_multiple_of(3)).then(|| receipt.sign(&SecretKey::from_seed([9; 32])));
        batch.entries.push(Done { receipt, signature, reply: number.to_le_bytes().to_vec() });
    }
    batch
}

#[test]
fn what_was_committed_is_read_back_with_proofs_also_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("services.redb");
    let (a, b) = (service(1), service(2));
    let mut log = Peaks::default();
    let mut roots = vec![log.root()];
    {
        let store = ServiceStore::open(&path).unwrap();
        for count in [1, 4, 9] {
            let batch = batch(a, &mut log, count);
            roots.extend(batch.entries.iter().map(|done| done.receipt.log_root));
            store.commit(&a, &batch).unwrap();
        }
        store.number(&[(a, 0, 10), (a, 1, 12), (b, 0, 11)], 13).unwrap();
        store.sync().unwrap();
    }
    let store = ServiceStore::open(&path).unwrap();
    let view = store.read().unwrap();
    assert_eq!((view.size(&a).unwrap(), view.size(&b).unwrap(), view.walked().unwrap()), (14, 0, 13));
    assert_eq!((view.ordered(&a).unwrap(), view.ordered(&b).unwrap()), (2, 1));
    assert_eq!([0, 1, 2].map(|number| view.place(&a, number).unwrap()), [Some(10), Some(12), None]);
    assert_eq!(view.peaks(&a, 14).unwrap(), log);
    for number in 0..14 {
        let stored = view.receipt(&a, number).unwrap().unwrap();
        assert_eq!(stored.signature.is_some(), !number.is_multiple_of(3));
        assert_eq!(view.reply(&a, number).unwrap(), Some(number.to_le_bytes().to_vec()));
        assert_eq!(view.receipt(&b, number).unwrap(), None);
        let leaf = Sha256Tree::leaf(&stored.receipt.leaf().encoded());
        for size in number + 1..=14 {
            let path = view.inclusion(&a, number, size).unwrap().unwrap();
            verify_inclusion::<Sha256Tree>(&leaf, number, size, &path, &roots[size as usize]).unwrap();
            let proof = view.consistency(&a, number, size).unwrap().unwrap();
            verify_consistency::<Sha256Tree>(
                number,
                &roots[number as usize],
                size,
                &roots[size as usize],
                &proof,
            )
            .unwrap();
        }
    }
    assert_eq!(view.inclusion(&a, 14, 14).unwrap(), None);
    assert_eq!(view.consistency(&a, 15, 14).unwrap(), None);
}

#[test]
fn what_a_kill_takes_back_is_a_whole_batch_and_the_position_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let (path, copy) = (folder.path().join("services.redb"), folder.path().join("copy.redb"));
    let a = service(1);
    let mut log = Peaks::default();
    let store = ServiceStore::open(&path).unwrap();
    store.commit(&a, &batch(a, &mut log, 5)).unwrap();
    store.sync().unwrap();
    let durable = log.clone();
    store.commit(&a, &batch(a, &mut log, 6)).unwrap();
    // What a disk holds that lost everything since the last sync, or nothing of it.
    std::fs::copy(&path, &copy).unwrap();
    let killed = ServiceStore::open(&copy).unwrap();
    let view = killed.read().unwrap();
    let size = view.size(&a).unwrap();
    let expected = if size == 5 { &durable } else { &log };
    assert_eq!(view.peaks(&a, size).unwrap(), *expected);
    assert_eq!(view.receipt(&a, size).unwrap(), None);
    let mut again = expected.clone();
    killed.commit(&a, &batch(a, &mut again, 3)).unwrap();
    assert_eq!(killed.read().unwrap().peaks(&a, again.size()).unwrap(), again);
}

#[test]
fn a_stopped_service_forgets_what_was_wrong_and_goes_on_from_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("services.redb");
    let (a, b) = (service(1), service(2));
    let store = ServiceStore::open(&path).unwrap();
    let (mut log, mut other) = (Peaks::default(), Peaks::default());
    store.commit(&a, &batch(a, &mut log, 20)).unwrap();
    store.commit(&b, &batch(b, &mut other, 20)).unwrap();
    for size in [4, 9, 12] {
        let head = CosignedHead { size, root: [0; 32], cosignature: "line".into() };
        store.put_head(&a, &head).unwrap();
        store.put_head(&b, &head).unwrap();
    }
    let why = Refused { kind: "ServiceStopped".into(), detail: "others differ".into() };
    store.stop(&a, 9, &why).unwrap();
    drop(store);
    let store = ServiceStore::open(&path).unwrap();
    let view = store.read().unwrap();
    assert_eq!((view.size(&a).unwrap(), view.size(&b).unwrap()), (9, 20));
    assert_eq!((view.stopped(&a).unwrap(), view.stopped(&b).unwrap()), (Some(why), None));
    assert_eq!((view.reply(&a, 9).unwrap(), view.receipt(&a, 9).unwrap()), (None, None));
    let sizes = |service| view.heads(service).unwrap().iter().map(|head| head.size).collect::<Vec<_>>();
    assert_eq!((sizes(&a), sizes(&b)), (vec![4, 9], vec![4, 9, 12]));
    let mut log = view.peaks(&a, 9).unwrap();
    store.commit(&a, &batch(a, &mut log, 3)).unwrap();
    assert_eq!(store.read().unwrap().peaks(&a, 12).unwrap(), log);
    store.resume(&a).unwrap();
    assert_eq!(store.read().unwrap().stopped(&a).unwrap(), None);
}

#[test]
fn heads_and_replies_are_bounded_and_the_newest_stay() {
    let folder = tempfile::tempdir().unwrap();
    let store = ServiceStore::open(&folder.path().join("services.redb")).unwrap();
    let (a, b) = (service(1), service(2));
    for size in 1..=HEADS_KEPT + 5 {
        store.put_head(&a, &CosignedHead { size, root: [0; 32], cosignature: "line".into() }).unwrap();
    }
    let heads = store.read().unwrap().heads(&a).unwrap();
    assert_eq!((heads.len() as u64, heads[0].size), (HEADS_KEPT, 6));
    let mut first = batch(b, &mut Peaks::default(), 3);
    store.commit(&b, &first).unwrap();
    // A batch far behind, as if everything between had been written.
    for done in &mut first.entries {
        done.receipt.number += REPLIES_KEPT;
        done.receipt.log_size += REPLIES_KEPT;
    }
    first.entries.pop();
    store.commit(&b, &first).unwrap();
    let view = store.read().unwrap();
    let kept = [0, 1, 2, REPLIES_KEPT].map(|number| view.reply(&b, number).unwrap().is_some());
    assert_eq!(kept, [false, false, true, true]);
    assert!(view.receipt(&b, 0).unwrap().is_some(), "what is proved stays");
}
