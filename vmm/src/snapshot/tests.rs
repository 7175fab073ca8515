use super::*;
use crate::execution::{Execution, Stop};
use crate::page_tree::is_zero;
use crate::tests::fixture::{KVM_NEEDED, MEMORY, work_input, worker};
use quorate_attest::merkle::{Blake3Tree, verify_inclusion};

/// Runs to the next input, feeds it, runs on and cuts.
fn interval(execution: &mut Execution, seed: u64) -> Vec<u32> {
    assert_eq!(execution.run().unwrap(), Stop::Idle);
    execution.feed(work_input(seed, 50)).unwrap();
    assert_eq!(execution.run().unwrap(), Stop::Idle);
    execution.cut().unwrap().pages.changed
}

fn equals_machine(snapshot: &PageSnapshot, machine: &Machine) -> bool {
    snapshot.tree().root() == machine.page_tree().root()
        && (0..snapshot.tree().count()).all(|index| snapshot.page(index) == Some(&machine.read_page(index)))
}

#[test]
fn a_snapshot_follows_the_machine_from_genesis() {
    let mut execution = Execution::genesis(&worker(), MEMORY).expect(KVM_NEEDED);
    let mut snapshot = PageSnapshot::genesis(&worker(), MEMORY).unwrap();
    let changed = execution.cut().unwrap().pages.changed;
    snapshot.apply(execution.machine(), &changed);
    assert!(equals_machine(&snapshot, execution.machine()));
    for seed in 0..5 {
        let changed = interval(&mut execution, seed);
        snapshot.apply(execution.machine(), &changed);
        assert!(equals_machine(&snapshot, execution.machine()), "interval {seed}");
    }
    assert!(equals_machine(&PageSnapshot::of_machine(execution.machine()), execution.machine()));
}

#[test]
fn a_clone_stays_at_its_slot_and_serves_proofs_while_the_vm_runs_on() {
    let mut execution = Execution::genesis(&worker(), MEMORY).expect(KVM_NEEDED);
    let mut snapshot = PageSnapshot::genesis(&worker(), MEMORY).unwrap();
    let changed = interval(&mut execution, 1);
    snapshot.apply(execution.machine(), &changed);

    let slot = snapshot.clone();
    let root = slot.tree().root();
    let before: Vec<Page> = changed.iter().map(|index| *slot.page(*index).unwrap()).collect();
    for seed in 2..6 {
        let changed = interval(&mut execution, seed);
        snapshot.apply(execution.machine(), &changed);
    }
    assert_ne!(snapshot.tree().root(), root);
    assert_eq!(slot.tree().root(), root);
    for (index, page) in changed.iter().zip(&before) {
        assert_eq!(slot.page(*index), Some(page));
    }
    let count = slot.tree().count();
    for index in (0..count).step_by(97).chain([count - 1]).chain(changed) {
        let (page, proof) = (slot.page(index).unwrap(), slot.proof(index).unwrap());
        let verified =
            verify_inclusion::<Blake3Tree>(&hash_page(page), index.into(), count.into(), &proof, &root);
        assert!(verified.is_ok(), "page {index}");
    }
}

#[test]
#[should_panic(expected = "differs, but is not among the changed pages")]
fn a_snapshot_that_missed_a_measurement_is_not_patched_up() {
    let mut execution = Execution::genesis(&worker(), MEMORY).expect(KVM_NEEDED);
    let mut snapshot = PageSnapshot::genesis(&worker(), MEMORY).unwrap();
    interval(&mut execution, 1);
    execution.cut().unwrap();
    snapshot.apply(execution.machine(), &[]);
}

#[test]
fn pages_outside_memory_do_not_exist() {
    let snapshot = PageSnapshot::genesis(&worker(), MEMORY).unwrap();
    let count = snapshot.tree().count();
    assert_eq!(u64::from(count) * 4096, MEMORY);
    for index in [count, count + 1, u32::MAX] {
        assert!(snapshot.page(index).is_none() && snapshot.proof(index).is_none());
    }
    assert!(snapshot.page(count - 1).is_some_and(is_zero));
}

#[test]
fn a_received_page_must_have_the_digest_of_its_place() {
    let genesis = genesis(&worker(), MEMORY).unwrap();
    let mut snapshot = PageSnapshot::expecting(genesis.tree);
    let pages: Vec<(u32, Page)> = genesis.pages.into_iter().map(|(index, page)| (index, *page)).collect();
    let (first, second) = (pages[0], pages[1]);
    assert_eq!(snapshot.receive(first.0, Arc::new(second.1)), Err(WrongPage), "two exchanged pages");
    let mut flipped = first.1;
    flipped[4095] ^= 0x80;
    assert_eq!(snapshot.receive(first.0, Arc::new(flipped)), Err(WrongPage));
    assert_eq!(snapshot.receive(u32::MAX, Arc::new(first.1)), Err(WrongPage));
    assert_eq!(snapshot.receive(first.0, Arc::new(first.1)), Ok(()));
    assert_eq!(snapshot.page(first.0), Some(&first.1));
}
