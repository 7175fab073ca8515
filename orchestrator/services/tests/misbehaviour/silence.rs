//! SILENT and SLOW: nodes that do not answer, or too late.

use quorate_services::{Freshness, find};

use crate::conduct::Conduct;
use crate::guest::Library;
use crate::scenario::{SIZES, assert_stalls, f_hold, register, serves, too_many};
use crate::world::{FOREVER, Hold, PLENTY, SHORT, STRANGER, World};

#[tokio::test(flavor = "multi_thread")]
async fn silent_f_change_nothing() {
    f_hold(Conduct::Silent).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_f_plus_one_stall_calls_and_reads() {
    let world = too_many(&Conduct::Silent);
    let client = world.client("client", SHORT);
    assert_stalls(client.call(&register("name", b"value")).await);
    assert_stalls(client.lookup("name", Freshness::Linearizable).await);
    // What is only to be certified needs f + 1 replicas, and there are as many left.
    assert_eq!(client.lookup("nobody", Freshness::Newest).await.expect("f + 1 are honest"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_f_change_nothing_when_they_answer_after_the_quorum() {
    for (n, f) in SIZES {
        let world = World::start(Library::Registry, (n, f), 0, &Conduct::Honest);
        world.hold(0..f as u16, &Hold::All);
        serves(&world, "before").await;
        world.release();
        serves(&world, "after").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_f_plus_one_stall_until_they_answer() {
    let world = World::start(Library::Registry, (4, 1), 0, &Conduct::Honest);
    world.hold(0..2, &Hold::All);
    let hasty = world.client("hasty", SHORT);
    assert_stalls(hasty.call(&register("name", b"value")).await);
    let patient = world.client("patient", PLENTY);
    let asking = tokio::spawn(async move { patient.lookup("nobody", Freshness::Linearizable).await });
    world.release();
    assert_eq!(asking.await.expect("no panic").expect("all answer now"), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_found_by_the_word_of_f_plus_one_while_f_are_silent_or_lie() {
    for conduct in [Conduct::Silent, Conduct::Cabal] {
        let world = World::start(Library::Registry, (4, 1), 1, &conduct);
        let client = world.client("client", PLENTY);
        let found = find::named(&client.orderer, "under-attack", FOREVER, false).await.expect("an answer");
        assert_eq!(found.expect("it exists").service, world.shared.service.id(), "{conduct:?}");
        let none = find::named(&client.orderer, "nowhere", FOREVER, false).await.expect("an answer");
        assert!(none.is_none(), "{conduct:?}");
    }
    // f + 1 that agree on another service of that name are believed.
    let world = World::start(Library::Registry, (4, 1), 2, &Conduct::Cabal);
    world.node(2).turn(Conduct::Silent);
    world.node(3).turn(Conduct::Silent);
    let client = world.client("client", SHORT);
    let found = find::named(&client.orderer, "under-attack", SHORT, false).await.expect("an answer");
    assert_ne!(found.expect("the liars' service").service, world.shared.service.id());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_is_refused_everywhere_ends_without_waiting_for_results() {
    let world = World::start(Library::Registry, (4, 1), 1, &Conduct::Silent);
    let client = world.client(STRANGER, FOREVER);
    let error = client.call(&register("name", b"value")).await.expect_err("no rights");
    assert_eq!(error.kind(), "NotAuthorized", "{error}");
}
