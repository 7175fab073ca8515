//! Acceptance cases 12e 1 and 2.

use super::fixture::{ALICE, Node};
use crate::{Operation, Outcome, QuorumRange};

fn derive(node: &mut Node, n: u64, f: u64) -> Option<(u64, u64)> {
    match node.ask(ALICE, &Operation::Derive { n, f }) {
        Ok(Outcome::Derived { quorum }) => quorum.map(|QuorumRange { min, max }| (min, max)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn acceptance_12e_1_derived_quorums_are_those_of_the_table_and_do_not_overflow() {
    let table = [
        ((4, 1), Some((3, 3))),
        ((5, 1), Some((4, 4))),
        ((6, 1), Some((4, 5))),
        ((7, 1), Some((5, 6))),
        ((7, 2), Some((5, 5))),
        ((8, 2), Some((6, 6))),
        ((9, 2), Some((6, 7))),
        ((10, 2), Some((7, 8))),
        ((10, 3), Some((7, 7))),
        ((13, 4), Some((9, 9))),
        ((16, 5), Some((11, 11))),
        ((100, 33), Some((67, 67))),
        ((6, 2), None),
        ((3, 1), None),
        ((4_294_967_295, 1_431_655_764), Some((2_863_311_530, 2_863_311_531))),
        ((u64::MAX, u64::MAX), None),
        ((0, 0), None),
    ];
    let mut node = Node::new();
    for ((n, f), expected) in table {
        assert_eq!(derive(&mut node, n, f), expected, "n={n} f={f}");
    }
    assert_eq!(derive(&mut node, u64::MAX, 0), Some((9_223_372_036_854_775_808, u64::MAX)));
}

/// Fewest members that two sets of `q` out of `n` share, by trying all pairs.
fn smallest_overlap(n: u32, q: u32) -> u32 {
    let sets = || (0u32..1 << n).filter(move |set| set.count_ones() == q);
    // By symmetry one set may stand for all of its size.
    let first = (1u32 << q) - 1;
    sets().map(|second| (first & second).count_ones()).min().unwrap_or(0)
}

#[test]
fn acceptance_12e_2_every_quorum_up_to_thirteen_members_agrees_with_brute_force() {
    let mut node = Node::new();
    for n in 1..=13u32 {
        let overlaps: std::vec::Vec<u32> = (0..=n).map(|q| smallest_overlap(n, q)).collect();
        for f in 0..=n {
            let derived = derive(&mut node, n.into(), f.into());
            for q in 1..=n {
                // Safe: two quorums share more than f members. Live: the others suffice when f are silent.
                let good = overlaps[q as usize] > f && q <= n - f;
                let in_range = derived.is_some_and(|(min, max)| (min..=max).contains(&q.into()));
                assert_eq!(in_range, good, "n={n} f={f} q={q}");
            }
        }
    }
}
