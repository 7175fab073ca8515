use super::*;
use crate::merkle::{inclusion_proof, root};
use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec;
use proptest::prelude::*;

/// Keys `k00, k02, k04 ...`: every odd number is absent between two that are there.
fn tree(size: usize) -> StateTree {
    let entry = |index: usize| (key(2 * index), format!("value {index}").into_bytes());
    StateTree::new(&(0..size).map(entry).collect())
}

fn key(number: usize) -> Vec<u8> {
    format!("k{number:02}").into_bytes()
}

#[test]
fn test_root_is_the_log_root_over_borsh_of_key_and_value_in_key_order() {
    let map = BTreeMap::from([(b"b".to_vec(), b"2".to_vec()), (b"a".to_vec(), vec![])]);
    let leaves = [Sha256Tree::leaf(b"\x01\0\0\0a\0\0\0\0"), Sha256Tree::leaf(b"\x01\0\0\0b\x01\0\0\x002")];
    let expected = StateCommitment { root: root::<Sha256Tree>(&leaves), size: 2 };
    assert_eq!(StateTree::new(&map).commitment(), expected);
    assert_eq!(StateTree::default().commitment(), StateCommitment { root: Sha256Tree::empty(), size: 0 });
}

#[test]
fn test_membership_of_every_key_and_only_with_its_value_place_and_state() {
    for size in 1..20 {
        let (tree, state) = (tree(size), tree(size).commitment());
        for index in 0..size {
            let proof = tree.membership(&key(2 * index)).unwrap();
            assert_eq!(proof.verify(&state), Ok(()));
            assert!(EntryProof { value: b"other".to_vec(), ..proof.clone() }.verify(&state).is_err());
            assert!(EntryProof { key: key(1), ..proof.clone() }.verify(&state).is_err());
            assert!(EntryProof { index: proof.index + 1, ..proof.clone() }.verify(&state).is_err());
            // Without the certified size, the place could not be told from others.
            assert!(proof.verify(&StateCommitment { size: state.size * 2 + 1, ..state }).is_err());
            assert_eq!(tree.absence(&key(2 * index)), None);
        }
    }
}

#[test]
fn test_absence_before_the_first_between_all_and_after_the_last() {
    for size in 1..20 {
        let (tree, state) = (tree(size), tree(size).commitment());
        for number in (0..size).map(|index| 2 * index + 1) {
            let proof = tree.absence(&key(number)).unwrap();
            assert_eq!(proof.verify(&state, &key(number)), Ok(()));
            assert_eq!(proof.after.is_none(), number == 2 * size - 1);
            assert_eq!(tree.membership(&key(number)), None);
        }
        let first = tree.absence(b"a").unwrap();
        assert_eq!(first.before, None);
        assert_eq!(first.verify(&state, b"a"), Ok(()));
        assert_eq!(tree.absence(b"z").unwrap().verify(&state, b"z"), Ok(()));
        assert_eq!(tree.absence(b"").unwrap().verify(&state, b""), Ok(()));
    }
}

#[test]
fn test_absence_in_the_empty_state_needs_the_empty_root() {
    let empty = AbsenceProof { before: None, after: None };
    assert_eq!(empty.verify(&StateTree::default().commitment(), b"any"), Ok(()));
    let lie = StateCommitment { root: [1; 32], size: 0 };
    assert_eq!(empty.verify(&lie, b"any").map_err(|e| e.kind()), Err("ProofInvalid"));
    assert!(empty.verify(&tree(1).commitment(), b"any").is_err());
}

#[test]
fn test_hiding_an_entry_behind_neighbours_that_are_not_adjacent_is_refused() {
    let (tree, state) = (tree(9), tree(9).commitment());
    let there = key(8);
    let before = tree.membership(&key(6));
    let after = tree.membership(&key(10));
    let hiding = AbsenceProof { before: before.clone(), after: after.clone() };
    assert!(hiding.verify(&state, &there).is_err(), "k08 lies between");
    for (before, after) in [(before.clone(), None), (None, after.clone()), (None, None), (after, before)] {
        assert!(AbsenceProof { before, after }.verify(&state, &there).is_err());
    }
    let own = AbsenceProof { before: tree.membership(&there), after: tree.membership(&key(10)) };
    assert!(own.verify(&state, &there).is_err(), "the key itself is no neighbour");
    let last = AbsenceProof { before: tree.membership(&key(14)), after: None };
    assert!(last.verify(&state, &key(15)).is_err(), "k14 is not the last entry");
    let first = AbsenceProof { before: None, after: tree.membership(&key(2)) };
    assert!(first.verify(&state, &key(1)).is_err(), "k02 is not the first entry");
}

#[test]
fn test_every_range_is_complete_and_no_entry_of_it_can_be_left_out() {
    let size = 8;
    let (tree, state) = (tree(size), tree(size).commitment());
    for low in 0..2 * size {
        for high in low..2 * size + 1 {
            let (low, high) = (key(low), key(high));
            let proof = tree.range(&low, &high);
            assert_eq!(proof.verify(&state, &low, &high), Ok(()));
            for at in 0..proof.entries.len() {
                let mut without = proof.clone();
                without.entries.remove(at);
                assert!(without.verify(&state, &low, &high).is_err());
                let mut twice = proof.clone();
                twice.entries.insert(at, proof.entries[at].clone());
                assert!(twice.verify(&state, &low, &high).is_err());
            }
            for without in
                [RangeProof { before: None, ..proof.clone() }, RangeProof { after: None, ..proof.clone() }]
            {
                assert_eq!(without.verify(&state, &low, &high).is_ok(), without == proof);
            }
        }
    }
}

#[test]
fn test_range_proof_for_narrower_bounds_does_not_prove_wider_ones() {
    let (tree, state) = (tree(8), tree(8).commitment());
    let proof = tree.range(&key(4), &key(8));
    assert!(proof.verify(&state, &key(2), &key(8)).is_err());
    assert!(proof.verify(&state, &key(4), &key(10)).is_err());
    assert!(proof.verify(&state, &key(5), &key(8)).is_err(), "k04 is outside");
    assert!(proof.verify(&state, &key(8), &key(4)).is_err(), "bounds are swapped");
    let empty = StateTree::default();
    assert_eq!(empty.range(b"a", b"z").verify(&empty.commitment(), b"a", b"z"), Ok(()));
}

#[test]
fn test_range_over_u64_edges_does_not_overflow() {
    let state = StateCommitment { root: [0; 32], size: u64::MAX };
    let entry = EntryProof { key: b"m".to_vec(), value: vec![], index: u64::MAX, path: vec![] };
    let proof = RangeProof { entries: vec![entry.clone(), entry.clone()], before: Some(entry), after: None };
    assert!(proof.verify(&state, b"a", b"z").is_err());
}

proptest! {
    #[test]
    fn test_any_map_proves_each_key_present_or_absent_and_never_both(
        map in proptest::collection::btree_map(
            proptest::collection::vec(0u8..4, 0..4), proptest::collection::vec(any::<u8>(), 0..4), 0..40),
        key in proptest::collection::vec(0u8..4, 0..4),
        bounds in proptest::array::uniform2(proptest::collection::vec(0u8..4, 0..4)),
    ) {
        let tree = StateTree::new(&map);
        let state = tree.commitment();
        match (tree.membership(&key), tree.absence(&key)) {
            (Some(present), None) => {
                prop_assert!(map.contains_key(&key));
                prop_assert_eq!(present.verify(&state), Ok(()));
            }
            (None, Some(absent)) => {
                prop_assert!(!map.contains_key(&key));
                prop_assert_eq!(absent.verify(&state, &key), Ok(()));
            }
            both => prop_assert!(false, "{:?}", both),
        }
        let [low, high] = if bounds[0] <= bounds[1] { bounds } else { [bounds[1].clone(), bounds[0].clone()] };
        let proof = tree.range(&low, &high);
        prop_assert_eq!(proof.verify(&state, &low, &high), Ok(()));
        let found: Vec<_> = proof.entries.iter().map(|entry| &entry.key).collect();
        let expected: Vec<_> = map.range(low..=high).map(|(key, _)| key).collect();
        prop_assert_eq!(found, expected);
    }
}

/// The root by its definition, over all leaves at once.
fn defined(model: &BTreeMap<Vec<u8>, Vec<u8>>) -> (StateCommitment, Vec<Digest>) {
    let leaves: Vec<_> = model.iter().map(|(key, value)| leaf(key, value)).collect();
    (StateCommitment { root: root::<Sha256Tree>(&leaves), size: leaves.len() as u64 }, leaves)
}

proptest! {
    #[test]
    fn test_root_and_paths_kept_up_to_date_are_those_computed_anew(
        batches in proptest::collection::vec(
            proptest::collection::vec((0u8..40, proptest::option::weighted(0.7, any::<u8>())), 1..6), 0..60)
    ) {
        let (mut tree, mut model) = (StateTree::default(), BTreeMap::new());
        prop_assert_eq!(tree.commitment(), defined(&model).0);
        for batch in batches {
            let changes: Changes =
                batch.into_iter().map(|(key, value)| (vec![key], value.map(|value| vec![value]))).collect();
            for (key, value) in &changes {
                match value {
                    Some(value) => model.insert(key.clone(), value.clone()),
                    None => model.remove(key),
                };
            }
            tree.apply(changes);
            let (commitment, leaves) = defined(&model);
            prop_assert_eq!(tree.commitment(), commitment);
            for (index, (key, value)) in (0u64..).zip(&model) {
                let proof = tree.membership(key).unwrap();
                prop_assert_eq!(&proof.path, &inclusion_proof::<Sha256Tree>(&leaves, index).unwrap());
                prop_assert_eq!((proof.index, tree.get(key)), (index, Some(value.as_slice())));
            }
        }
        let entries: Vec<_> = model.into_iter().collect();
        prop_assert_eq!(&StateTree::from_sorted(entries.clone()), &tree);
        prop_assert_eq!(tree.entries(), &entries[..]);
    }
}
