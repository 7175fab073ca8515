use super::*;
use proptest::prelude::*;
use quorate_attest::merkle::{self, Blake3Tree, verify_inclusion};

/// RFC 6962 section 2.1, word by word and without any shortcut.
fn reference_root(leaves: &[Digest]) -> Digest {
    match leaves.len() {
        0 => *blake3::hash(b"").as_bytes(),
        1 => leaves[0],
        len => {
            let split = len.next_power_of_two() / 2;
            let (left, right) = (reference_root(&leaves[..split]), reference_root(&leaves[split..]));
            *blake3::Hasher::new().update(&[1]).update(&left).update(&right).finalize().as_bytes()
        }
    }
}

fn reference_leaf(page: &Page) -> Digest {
    *blake3::Hasher::new().update(&[0]).update(page).finalize().as_bytes()
}

fn numbered_leaf(number: u64) -> Digest {
    let mut page = [0; PAGE_BYTES];
    page[..8].copy_from_slice(&number.to_le_bytes());
    hash_page(&page)
}

/// A mixture of zero pages and others.
fn leaves(count: usize, seed: u64) -> Vec<Digest> {
    let number = |index: u64| (seed ^ index).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40;
    (0..count as u64)
        .map(|index| if number(index) % 3 == 0 { ZERO_LEAF } else { numbered_leaf(number(index)) })
        .collect()
}

fn hex(digest: &Digest) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_leaf_is_the_hash_of_prefix_and_page() {
    assert_eq!(ZERO_LEAF, reference_leaf(&[0; PAGE_BYTES]));
    assert_eq!(hash_page(&[0; PAGE_BYTES]), ZERO_LEAF);
    for at in [0, 1, 63, 64, 1023, 1024, 4095] {
        let mut page = [0; PAGE_BYTES];
        page[at] = 1;
        assert!(!is_zero(&page));
        assert_eq!(hash_page(&page), reference_leaf(&page), "byte {at}");
    }
    assert_eq!(hash_page(&[0xff; PAGE_BYTES]), reference_leaf(&[0xff; PAGE_BYTES]));
}

#[test]
fn every_size_has_the_shape_of_rfc_6962() {
    for count in (0..=300).chain([511, 512, 513, 1023, 1025, 5 * 512, 7 * 512 + 1]) {
        let leaves = leaves(count, 7);
        let tree = PageTree::from_leaves(&leaves);
        assert_eq!(tree.root(), reference_root(&leaves), "{count} pages");
        assert_eq!(tree.count() as usize, count);
        assert!(tree.leaves().eq(leaves.iter()));
    }
}

#[test]
fn golden_roots_of_zero_and_numbered_pages() {
    // A change here means that no old certificate fits any memory any more.
    let golden = [
        (0, ZERO_ROOTS[0], ZERO_ROOTS[0]),
        (1, ZERO_ROOTS[1], NUMBERED_ROOTS[0]),
        (3, ZERO_ROOTS[2], NUMBERED_ROOTS[1]),
        (2048, ZERO_ROOTS[3], NUMBERED_ROOTS[2]),
        (2560, ZERO_ROOTS[4], NUMBERED_ROOTS[3]),
    ];
    for (count, zero, numbered) in golden {
        assert_eq!(hex(&PageTree::zero(count).root()), zero, "{count} zero pages");
        let leaves: Vec<Digest> = (1..=u64::from(count)).map(numbered_leaf).collect();
        assert_eq!(hex(&PageTree::from_leaves(&leaves).root()), numbered, "{count} numbered pages");
    }
}

const ZERO_ROOTS: [&str; 5] = [
    "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262",
    "84e5fa82c1670822633b16214c3c808824025289006d86489d9b05a63d087f0c",
    "3ad61fe7a1e61537374bfb10b2a51eee1064426bc5fe39189dbfadc76472298d",
    "9735c6161ca6942f8dc59f1e1ab5c6ea89fc1a1b4599da72156716aa897d1f58",
    "3fa6aa9ecd2abdf64212c1939dc5544b7d3663aa1eeb5279b9d545db2d218c53",
];
const NUMBERED_ROOTS: [&str; 4] = [
    "f1fb8df64d01ad1d29e1429ca854e6cc954958d31290808e1e2e949b12ed62d8",
    "674e93e36fef9b94fe2b82fd85810899a805f9dee379c7cf18c9f54991da0d2c",
    "0479504376c86bc82751794c7c2686f11a28daa3b9d93e8235f2cefd0c0ed019",
    "c9135d23be045f69aeb70fd81e2483850aaccbd093f97ad6b61cad6d4eb9a5d2",
];

#[test]
fn zero_memory_needs_no_storage_and_equals_hashed_zero_leaves() {
    let tree = PageTree::zero(513);
    assert!(tree.blocks.windows(2).take(3).all(|pair| Arc::ptr_eq(&pair[0], &pair[1])));
    assert_eq!(tree.root(), reference_root(&[ZERO_LEAF; 513]));
    assert_eq!(tree.nonzero().count(), 0);
}

#[test]
fn a_clone_keeps_its_root_while_the_original_changes() {
    let mut tree = PageTree::from_leaves(&leaves(1000, 1));
    let (kept, root) = (tree.clone(), tree.root());
    assert_eq!(tree.update(&[(999, numbered_leaf(9)), (3, numbered_leaf(8))]), [3, 999]);
    assert_eq!(kept.root(), root);
    assert_ne!(tree.root(), root);
    assert_eq!(tree.difference(&kept), [3, 999]);
    let path = kept.proof(3).unwrap();
    assert_ne!(path, tree.proof(3).unwrap());
}

#[test]
fn an_update_names_only_pages_that_really_changed() {
    let leaves = leaves(300, 2);
    let mut tree = PageTree::from_leaves(&leaves);
    let root = tree.root();
    assert!(tree.update(&[(5, leaves[5]), (299, leaves[299])]).is_empty());
    assert_eq!(
        tree.update(&[(5, numbered_leaf(1)), (5, leaves[5])]),
        [0u32; 0],
        "the last leaf of a page counts"
    );
    assert_eq!(tree.root(), root);
}

#[test]
#[should_panic(expected = "page 300 of a tree of 300 pages")]
fn an_update_past_the_end_is_a_bug() {
    PageTree::zero(300).update(&[(300, ZERO_LEAF)]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn incremental_equals_full(
        count in 1usize..1500, seed: u64,
        rounds in prop::collection::vec(prop::collection::vec((any::<u32>(), 0u64..4), 0..40), 1..4),
    ) {
        let mut leaves = leaves(count, seed);
        let mut tree = PageTree::from_leaves(&leaves);
        for round in rounds {
            let changes: Vec<(u32, Digest)> = round
                .into_iter()
                .map(|(index, number)| {
                    (index % count as u32, if number == 0 { ZERO_LEAF } else { numbered_leaf(number) })
                })
                .collect();
            for (index, leaf) in &changes {
                leaves[*index as usize] = *leaf;
            }
            tree.update(&changes);
            prop_assert_eq!(tree.root(), reference_root(&leaves));
            prop_assert_eq!(tree.root(), PageTree::from_leaves(&leaves).root());
        }
    }

    #[test]
    fn the_attested_tree_is_the_same_and_verifies_the_proofs(count in 1usize..3000, seed: u64, other: u32) {
        let leaves = leaves(count, seed);
        let tree = PageTree::from_leaves(&leaves);
        let (root, size) = (tree.root(), count as u64);
        prop_assert_eq!(root, merkle::root::<Blake3Tree>(&leaves));
        let index = other % count as u32;
        let proof = tree.proof(index).unwrap();
        prop_assert_eq!(Some(proof.clone()), merkle::inclusion_proof::<Blake3Tree>(&leaves, index.into()));
        let verify = |index: u64, size, leaf: &Digest, proof: &[Digest]| {
            verify_inclusion::<Blake3Tree>(leaf, index, size, proof, &root).is_ok()
        };
        let leaf = &leaves[index as usize];
        prop_assert!(verify(index.into(), size, leaf, &proof));
        // T04: an inner node as a leaf, a wrong size, a proof with a level more or less.
        if let Some(sibling) = proof.first() {
            let (left, right) = if index.is_multiple_of(2) { (leaf, sibling) } else { (sibling, leaf) };
            let node = hash::join(0, left, right);
            prop_assert!(!verify(u64::from(index) / 2, size.div_ceil(2), &node, &proof));
            prop_assert!(!verify(index.into(), size, leaf, &proof[1..]));
        }
        prop_assert!(!verify(index.into(), size, leaf, &[&proof[..], &[*leaf]].concat()));
        prop_assert!(!verify(size + u64::from(index), size, leaf, &proof));
        prop_assert!(tree.proof(count as u32).is_none());
    }
}
