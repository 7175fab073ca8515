//! The generator of random operations that tests of other packages use.

use std::collections::{BTreeMap, BTreeSet};

use quorate_attest::encoding::Bounded;

use super::world::World;
use crate::op;
use crate::testing::{Script, config};

#[test]
fn test_random_operations_repeat_from_their_seed_and_reach_every_operation_and_status() {
    const SEED: u64 = 20;
    let run = || {
        let mut world = World::with(&config());
        let mut script = Script::new(SEED, world.service.instance());
        let mut statuses: BTreeMap<u16, BTreeSet<u16>> = BTreeMap::new();
        for _ in 0..3000 {
            let request = script.request();
            let (reply, _) = world.order(request.encoded());
            statuses.entry(request.op).or_default().insert(reply.status);
            script.observe(&reply);
        }
        (world.replica.state().unwrap().commitment(), statuses)
    };
    let (state, statuses) = run();
    assert_eq!(run(), (state, statuses.clone()), "seed {SEED}");
    for number in op::ADD_USER..=op::HISTORY {
        assert!(
            statuses[&number].contains(&0),
            "operation {number} never succeeds, seed {SEED}: {statuses:?}"
        );
    }
    let all: BTreeSet<_> = statuses.values().flatten().copied().collect();
    for status in [1, 2, 3, 4, 5, 7, 8, 9] {
        assert!(all.contains(&status), "status {status} never occurs, seed {SEED}: {statuses:?}");
    }
}
