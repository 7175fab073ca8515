//! BADSIG, REPLAY and FUZZ: answers that are not what they seem, or nothing at all.

use quorate_services::Freshness;

use crate::conduct::{Conduct, Replay};
use crate::library::Change::Bind;
use crate::scenario::{KEY, Setting, assert_stalls, everywhere, f_hold, too_many};
use crate::world::{Hold, SHORT};

const REPLAYS: [Replay; 4] = [Replay::Service, Replay::Epoch, Replay::Kind, Replay::Number];

everywhere!(
    badsig_f_change_nothing,
    badsig_f_plus_one_stall_calls_and_are_never_believed,
    fuzz_f_change_nothing,
    fuzz_f_plus_one_stall_calls_and_are_never_believed,
    replay_f_change_nothing,
    replay_f_plus_one_stall_calls_and_are_never_believed,
);

async fn badsig_f_change_nothing(setting: Setting) {
    f_hold(setting, Conduct::BadSig).await;
}

async fn fuzz_f_change_nothing(setting: Setting) {
    f_hold(setting, Conduct::Fuzz).await;
}

async fn replay_f_change_nothing(setting: Setting) {
    for replay in REPLAYS {
        f_hold(setting, Conduct::Replay(replay)).await;
    }
}

/// Nothing that these send counts. So `f + 1` of them are never believed, not even when they alone answer; what breaks is the quorum.
async fn stall_calls_and_are_never_believed(setting: Setting, conduct: Conduct) {
    let world = too_many(setting, &conduct);
    let client = world.client("client", SHORT);
    assert_stalls(client.call(Bind(KEY, "value")).await);
    world.hold(setting.f + 1..setting.n, &Hold::Results);
    // The entry before is a truth, though an old one, when f + 1 replicas say so: entry 0 is before entry 1.
    let freshness =
        if conduct == Conduct::Replay(Replay::Number) { Freshness::Linearizable } else { Freshness::Newest };
    assert_stalls(client.value(KEY, freshness).await);
}

async fn badsig_f_plus_one_stall_calls_and_are_never_believed(setting: Setting) {
    stall_calls_and_are_never_believed(setting, Conduct::BadSig).await;
}

async fn fuzz_f_plus_one_stall_calls_and_are_never_believed(setting: Setting) {
    stall_calls_and_are_never_believed(setting, Conduct::Fuzz).await;
}

async fn replay_f_plus_one_stall_calls_and_are_never_believed(setting: Setting) {
    // All at once: it is waiting, most of it.
    let each = |replay| stall_calls_and_are_never_believed(setting, Conduct::Replay(replay));
    let [service, epoch, kind, number] = REPLAYS.map(each);
    tokio::join!(service, epoch, kind, number);
}
