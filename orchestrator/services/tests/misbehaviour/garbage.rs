//! BADSIG, REPLAY and FUZZ: answers that are not what they seem, or nothing at all.

use quorate_services::Freshness;

use crate::conduct::{Conduct, Replay};
use crate::scenario::{assert_stalls, f_hold, register, too_many};
use crate::world::{Hold, SHORT};

const REPLAYS: [Replay; 4] = [Replay::Service, Replay::Epoch, Replay::Kind, Replay::Number];

#[tokio::test(flavor = "multi_thread")]
async fn badsig_f_change_nothing() {
    f_hold(Conduct::BadSig).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fuzz_f_change_nothing() {
    f_hold(Conduct::Fuzz).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replay_f_change_nothing() {
    for replay in REPLAYS {
        f_hold(Conduct::Replay(replay)).await;
    }
}

/// Nothing that these send counts. So `f + 1` of them are never believed, not even when they alone answer; what breaks is the quorum.
#[tokio::test(flavor = "multi_thread")]
async fn badsig_replay_and_fuzz_f_plus_one_stall_calls_and_are_never_believed() {
    let replays = REPLAYS.map(Conduct::Replay);
    for conduct in [Conduct::BadSig, Conduct::Fuzz].into_iter().chain(replays) {
        let world = too_many(&conduct);
        let client = world.client("client", SHORT);
        assert_stalls(client.call(&register("name", b"value")).await);
        world.hold(2..4, &Hold::Results);
        // The entry before is a truth, though an old one, when two replicas say so: entry 0 is before entry 1.
        let freshness = if conduct == Conduct::Replay(Replay::Number) {
            Freshness::Linearizable
        } else {
            Freshness::Newest
        };
        assert_stalls(client.lookup("name", freshness).await);
    }
}
