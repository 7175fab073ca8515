use alloc::format;
use alloc::vec;

use super::*;
use crate::encoding::{from_bytes, to_bytes};
use crate::id::from_hex;

fn leaves(count: usize) -> Vec<Digest> {
    (0..count).map(|index| Sha256Tree::leaf(format!("op-{index}").as_bytes())).collect()
}

fn hex(text: &str) -> Digest {
    from_hex("digest", text).unwrap()
}

const ROOTS: [&str; 9] = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "5bcb634103728912903be21b67e2b96f5eac3e1346b067dc0fe89f4644c60f80",
    "cbca6f6e7d63b2bb0109342b085c4e8fdbca3ed7eb16964ef46ee455afaa8f09",
    "c59f93f4c039b9c37ed08ed67a0f73cc5b6b929e721f47cd74da1d79d14eb6e1",
    "4bf4fcadf241d627a62f81874da2c1e808ede52b903d015f81284c6199e32c17",
    "1ee916976baf6d72009bebbb38a5765106b1b1e25e2b69cd9c9405885d2ebf88",
    "c0c7f425200a5c43851f505682448d081ddf89f995c6d01769fc630eff37ba53",
    "41779501bbd12388de4fd94c4bc271227677727a49762acdbe826e7d301a84d5",
    "9bd94e41360e45cd1afc18e17660578e845431e3a1c1bb8787df3faaa8001332",
];

#[test]
fn test_roots_of_the_specification_for_0_to_8_leaves() {
    for (size, expected) in ROOTS.iter().enumerate() {
        assert_eq!(root::<Sha256Tree>(&leaves(size)), hex(expected), "size {size}");
        let data: Vec<_> = (0..size).map(|index| format!("op-{index}")).collect();
        assert_eq!(root_of_data::<Sha256Tree, _>(data), hex(expected), "size {size}");
    }
}

#[test]
fn test_inclusion_paths_of_the_specification() {
    let leaves = leaves(7);
    let path = inclusion_proof::<Sha256Tree>(&leaves, 6).unwrap();
    assert_eq!(
        path,
        [hex("1726953b1628b49f63821661e5d9a3c231872ff69d1ec0c06ef7455b6cb7a7d8"), hex(ROOTS[4])]
    );
    assert_eq!(inclusion_proof::<Sha256Tree>(&leaves, 3).unwrap().len(), 3);
    assert_eq!(inclusion_proof::<Sha256Tree>(&leaves, 7), None);
    assert_eq!(inclusion_proof::<Sha256Tree>(&[], 0), None);
    assert_eq!(inclusion_proof::<Sha256Tree>(&leaves, u64::MAX), None);
}

#[test]
fn test_frontier_has_the_root_of_every_prefix() {
    let leaves = leaves(200);
    let mut frontier = Frontier::<Sha256Tree>::new();
    for size in 0..leaves.len() {
        assert_eq!(frontier.root(), root::<Sha256Tree>(&leaves[..size]), "size {size}");
        assert_eq!(frontier.size(), size as u64);
        let again = Frontier::<Sha256Tree>::decoded(&to_bytes(&frontier)).unwrap();
        assert_eq!(again, frontier);
        frontier.push_digest(leaves[size]);
    }
}

#[test]
fn test_frontier_with_another_number_of_subtrees_than_its_size_has_bits_does_not_decode() {
    for (size, subtrees) in [(0u64, 1usize), (1, 0), (3, 1), (u64::MAX, 63), (4, 64)] {
        let bytes = to_bytes(&(size, vec![[7u8; 32]; subtrees]));
        assert!(from_bytes::<Frontier<Sha256Tree>>(&bytes, 4096).is_err(), "{size} {subtrees}");
    }
}

#[test]
fn test_every_inclusion_proof_up_to_64_leaves_verifies_and_every_mutation_fails() {
    let all = leaves(64);
    for size in 1..=64u64 {
        let tree = &all[..size as usize];
        let root = root::<Sha256Tree>(tree);
        for index in 0..size {
            let path = inclusion_proof::<Sha256Tree>(tree, index).unwrap();
            let leaf = tree[index as usize];
            let check = |leaf: &Digest, index, size, path: &[Digest], root: &Digest| {
                verify_inclusion::<Sha256Tree>(leaf, index, size, path, root)
            };
            assert_eq!(check(&leaf, index, size, &path, &root), Ok(()), "{index} of {size}");
            for at in 0..path.len() {
                let mut bad = path.clone();
                bad[at][at % 32] ^= 1;
                assert!(check(&leaf, index, size, &bad, &root).is_err());
                bad.remove(at);
                assert!(check(&leaf, index, size, &bad, &root).is_err());
            }
            let longer = [&path[..], &[root]].concat();
            assert!(check(&leaf, index, size, &longer, &root).is_err());
            let other = (index + 1) % size;
            assert!(other == index || check(&leaf, other, size, &path, &root).is_err());
            assert!(check(&leaf, size, size, &path, &root).is_err());
            assert!(check(&[0; 32], index, size, &path, &root).is_err());
            assert!(check(&leaf, index, size, &path, &leaf).is_err() || size == 1);
        }
    }
}

#[test]
fn test_every_consistency_proof_up_to_64_leaves_verifies_and_every_mutation_fails() {
    let all = leaves(64);
    let roots: Vec<_> = (0..=64).map(|size| root::<Sha256Tree>(&all[..size])).collect();
    for new in 0..=64usize {
        for old in 0..=new {
            let path = consistency_proof::<Sha256Tree>(&all[..new], old as u64).unwrap();
            let check = |path: &[Digest], old_root: &Digest, new_root: &Digest| {
                verify_consistency::<Sha256Tree>(old as u64, old_root, new as u64, new_root, path)
            };
            assert_eq!(check(&path, &roots[old], &roots[new]), Ok(()), "{old} -> {new}");
            for at in 0..path.len() {
                let mut bad = path.clone();
                bad[at][(at * 5) % 32] ^= 0x80;
                assert!(check(&bad, &roots[old], &roots[new]).is_err(), "{old} -> {new}, hash {at}");
                bad.remove(at);
                assert!(check(&bad, &roots[old], &roots[new]).is_err());
            }
            let longer = [&path[..], &[roots[1]]].concat();
            assert!(check(&longer, &roots[old], &roots[new]).is_err());
            assert!(check(&path, &[9; 32], &roots[new]).is_err());
            // Nothing commits the empty tree to a successor, so only there any new root passes.
            assert_eq!(check(&path, &roots[old], &[9; 32]).is_ok(), old == 0 && new > 0);
            if old < new {
                let shrunk =
                    verify_consistency::<Sha256Tree>(new as u64, &roots[new], old as u64, &roots[old], &path);
                assert!(shrunk.is_err(), "a smaller tree was accepted as the newer one");
            }
        }
    }
    assert_eq!(consistency_proof::<Sha256Tree>(&all[..3], 4), None);
}

#[test]
fn test_consistency_proof_between_forks_is_refused() {
    let all = leaves(32);
    for new in 2..=32usize {
        for old in 1..new {
            let mut fork = all[..new].to_vec();
            fork[old - 1] = [0xee; 32];
            let path = consistency_proof::<Sha256Tree>(&fork, old as u64).unwrap();
            let (old_root, new_root) = (root::<Sha256Tree>(&all[..old]), root::<Sha256Tree>(&fork));
            let error = verify_consistency::<Sha256Tree>(old as u64, &old_root, new as u64, &new_root, &path);
            assert_eq!(error.map_err(|e| e.kind()), Err("ProofInvalid"), "{old} -> {new}");
        }
    }
}

#[test]
fn test_duplicated_last_leaf_and_node_passed_off_as_leaf_have_other_roots() {
    let three = leaves(3);
    let four = [&three[..], &three[2..]].concat();
    assert_ne!(root::<Sha256Tree>(&three), root::<Sha256Tree>(&four));
    let two = leaves(2);
    let node_as_data = Sha256Tree::leaf(&two.concat());
    assert_ne!(root::<Sha256Tree>(&two), root::<Sha256Tree>(&[node_as_data]));
}

#[test]
fn test_sizes_near_the_end_of_the_range_do_not_overflow() {
    let error = verify_inclusion::<Sha256Tree>(&[0; 32], u64::MAX - 1, u64::MAX, &[[0; 32]; 64], &[0; 32]);
    assert_eq!(error.unwrap_err().kind(), "ProofInvalid");
    let error =
        verify_consistency::<Sha256Tree>(u64::MAX - 1, &[0; 32], u64::MAX, &[0; 32], &[[0; 32]; PROOF_LIMIT]);
    assert_eq!(error.unwrap_err().kind(), "ProofInvalid");
}

#[cfg(feature = "blake3")]
#[test]
fn test_blake3_tree_has_the_same_shape_and_its_own_digests() {
    let data = [&b"a"[..], b"b", b"c"];
    let leaves: Vec<_> = data.iter().map(|data| Blake3Tree::leaf(data)).collect();
    let expected = Blake3Tree::node(&Blake3Tree::node(&leaves[0], &leaves[1]), &leaves[2]);
    assert_eq!(root::<Blake3Tree>(&leaves), expected);
    assert_eq!(root_of_data::<Blake3Tree, _>(data), expected);
    assert_ne!(expected, root_of_data::<Sha256Tree, _>(data));
    assert_eq!(Blake3Tree::leaf(b"a"), *blake3::hash(b"\0a").as_bytes());
    assert_eq!(Blake3Tree::empty(), *blake3::hash(b"").as_bytes());
    let path = inclusion_proof::<Blake3Tree>(&leaves, 2).unwrap();
    assert_eq!(verify_inclusion::<Blake3Tree>(&leaves[2], 2, 3, &path, &expected), Ok(()));
}
