//! SILENT and SLOW: nodes that do not answer, or too late.

use quorate_services::{Freshness, find};

use crate::conduct::Conduct;
use crate::library::Change::Bind;
use crate::library::Library;
use crate::scenario::{KEY, OTHER, Setting, assert_stalls, everywhere, f_hold, serves, too_many};
use crate::world::{FOREVER, Hold, PLENTY, SHORT, STRANGER, World};

everywhere!(
    silent_f_change_nothing,
    silent_f_plus_one_stall_calls_and_reads,
    slow_f_change_nothing_when_they_answer_after_the_quorum,
    slow_f_plus_one_stall_until_they_answer,
);

async fn silent_f_change_nothing(setting: Setting) {
    f_hold(setting, Conduct::Silent).await;
}

async fn silent_f_plus_one_stall_calls_and_reads(setting: Setting) {
    let world = too_many(setting, &Conduct::Silent);
    let client = world.client("client", SHORT);
    assert_stalls(client.call(Bind(KEY, "value")).await);
    assert_stalls(client.value(KEY, Freshness::Linearizable).await);
    // What is only to be certified needs f + 1 replicas, and there are as many left.
    let client = world.client("another", PLENTY);
    assert_eq!(client.value(OTHER, Freshness::Newest).await.expect("f + 1 are honest"), None);
}

async fn slow_f_change_nothing_when_they_answer_after_the_quorum(setting: Setting) {
    let world = World::start(setting, 0, &Conduct::Honest);
    world.hold(0..setting.f, &Hold::All);
    serves(&world, "before").await;
    world.release();
    serves(&world, "after").await;
}

async fn slow_f_plus_one_stall_until_they_answer(setting: Setting) {
    let world = World::start(setting, 0, &Conduct::Honest);
    world.hold(0..setting.f + 1, &Hold::All);
    let hasty = world.client("hasty", SHORT);
    assert_stalls(hasty.call(Bind(KEY, "value")).await);
    let patient = world.client("patient", PLENTY);
    let asking = tokio::spawn(async move { patient.value(OTHER, Freshness::Linearizable).await });
    world.release();
    assert_eq!(asking.await.expect("no panic").expect("all answer now"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_found_by_the_word_of_f_plus_one_while_f_are_silent_or_lie() {
    let [setting, _] = Library::Registry.settings();
    for conduct in [Conduct::Silent, Conduct::Cabal] {
        let world = World::start(setting, setting.f, &conduct);
        let client = world.client("client", PLENTY);
        let found = find::named(&client.orderer, "under-attack", FOREVER, false).await.expect("an answer");
        assert_eq!(found.expect("it exists").service, world.shared.service.id(), "{conduct:?}");
        let none = find::named(&client.orderer, "nowhere", FOREVER, false).await.expect("an answer");
        assert!(none.is_none(), "{conduct:?}");
    }
    // f + 1 that agree on another service of that name are believed.
    let world = too_many(setting, &Conduct::Cabal);
    world.node(2).turn(Conduct::Silent);
    world.node(3).turn(Conduct::Silent);
    let client = world.client("client", SHORT);
    let found = find::named(&client.orderer, "under-attack", SHORT, false).await.expect("an answer");
    assert_ne!(found.expect("the liars' service").service, world.shared.service.id());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_refused_everywhere_ends_without_waiting_for_results() {
    let [setting, _] = Library::Registry.settings();
    let world = World::start(setting, setting.f, &Conduct::Silent);
    let client = world.client(STRANGER, FOREVER);
    let error = client.call(Bind(KEY, "value")).await.expect_err("no rights");
    assert_eq!(error.kind(), "NotAuthorized", "{error}");
}
