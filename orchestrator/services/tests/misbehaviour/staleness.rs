//! STALE, ROLLBACK and SPLIT: what was true once, and what is true elsewhere.

use quorate_services::Freshness;

use crate::conduct::Conduct;
use crate::library::Change::{Bind, Free};
use crate::library::forged;
use crate::scenario::{KEY, OTHER, Setting, assert_stalls, everywhere, f_hold, serves, some};
use crate::world::{Client, Hold, PLENTY, SHORT, World};

everywhere!(
    stale_f_change_nothing,
    case_12e_3_what_was_freed_is_not_returned_with_f_stale_that_answer_first,
    stale_f_plus_one_are_believed_by_newcomers_that_ask_for_less_than_the_newest,
    rollback_all_that_execute_the_same_again_sign_the_same,
    rollback_f_that_execute_something_else_are_refused_by_their_signers,
    rollback_f_plus_one_break_only_when_their_signers_go_back_too,
    cabal_f_cannot_make_a_log_look_like_another_one_but_f_plus_one_can,
    split_f_driven_elsewhere_change_nothing,
    split_f_plus_one_driven_elsewhere_stall_calls_and_part_readers,
);

async fn stale_f_change_nothing(setting: Setting) {
    f_hold(setting, Conduct::Stale(1)).await;
}

/// A world in which something was bound, and freed behind what the first `stale` nodes know.
async fn freed(setting: Setting, stale: u16) -> (World, Client) {
    let world = World::start(setting, 0, &Conduct::Honest);
    let client = world.client("owner", PLENTY);
    let registered = client.done(Bind(KEY, "former")).await;
    for node in 0..stale {
        world.node(node).turn(Conduct::Stale(registered.number + 1));
    }
    client.done(Free(KEY)).await;
    (world, client)
}

async fn case_12e_3_what_was_freed_is_not_returned_with_f_stale_that_answer_first(setting: Setting) {
    let Setting { n, f, .. } = setting;
    let (world, owner) = freed(setting, f).await;
    world.hold(f..n, &Hold::Until(f.into()));
    for client in [owner, world.client("newcomer", PLENTY)] {
        assert_eq!(client.value(KEY, Freshness::Linearizable).await.expect("a read"), None);
        assert_eq!(client.keys(Freshness::Linearizable).await.expect("a list"), Vec::<u32>::new());
    }
}

async fn stale_f_plus_one_are_believed_by_newcomers_that_ask_for_less_than_the_newest(setting: Setting) {
    let Setting { n, f, .. } = setting;
    let (world, owner) = freed(setting, f).await;
    world.node(f).turn(Conduct::Stale(2));
    world.hold(f + 1..n, &Hold::Results);
    let newcomer = world.client("newcomer", PLENTY);
    let value = newcomer.value(KEY, Freshness::Newest).await.expect("once certified");
    assert_eq!(value, some("former"), "what was freed is bound, it seems");
    // Who asks a quorum how much is ordered, or knows more, does not go back: it gets no answer.
    let Client { memory, .. } = newcomer;
    let newcomer = world.client_in("newcomer", SHORT, memory);
    assert_stalls(newcomer.value(KEY, Freshness::Linearizable).await);
    let known = owner.service.known().await;
    let Client { memory, .. } = owner;
    let restarted = world.client_in("owner", SHORT, memory);
    assert_eq!(restarted.service.known().await, known, "its head outlived it");
    assert_stalls(restarted.value(KEY, Freshness::Newest).await);
    assert_eq!(restarted.service.known().await, known, "its head did not go back");
}

async fn rollback_all_that_execute_the_same_again_sign_the_same(setting: Setting) {
    let world = World::start(setting, 0, &Conduct::Honest);
    serves(&world, "before").await;
    let client = world.client("between", PLENTY);
    client.done(Bind(KEY, "value")).await;
    for node in world.members() {
        world.node(node).restore();
    }
    assert_eq!(client.value(KEY, Freshness::Linearizable).await.expect("a read"), some("value"));
    serves(&world, "after").await;
}

async fn rollback_f_that_execute_something_else_are_refused_by_their_signers(setting: Setting) {
    let f = setting.f;
    let world = World::start(setting, 0, &Conduct::Honest);
    serves(&world, "before").await;
    for node in 0..f {
        world.node(node).turn(Conduct::Rollback { to: 2, floor: true });
    }
    serves(&world, "after").await;
    assert!((0..f).all(|node| world.node(node).is_stopped()));
}

/// `f + 1` such replicas are missing, no more: with `n - f - 1` others everything goes on. What breaks it is a signer that forgot, too.
async fn rollback_f_plus_one_break_only_when_their_signers_go_back_too(setting: Setting) {
    let Setting { n, f, .. } = setting;
    let world = World::start(setting, 0, &Conduct::Honest);
    let client = world.client("client", PLENTY);
    let writer = world.client("writer", PLENTY);
    writer.done(Bind(KEY, "value")).await;
    let known = client.value(KEY, Freshness::Newest).await.expect("a read");
    for node in 0..=f {
        world.node(node).turn(Conduct::Rollback { to: 1, floor: true });
    }
    writer.done(Bind(OTHER, "further")).await;
    assert_eq!(writer.value(KEY, Freshness::Linearizable).await.expect("a read"), known);

    for node in 0..=f {
        world.node(node).turn(Conduct::Rollback { to: 1, floor: false });
    }
    world.hold(f + 1..n, &Hold::Results);
    let newcomer = world.client("newcomer", PLENTY);
    let value = newcomer.value(KEY, Freshness::Linearizable).await.expect("f + 1 equal states");
    assert_eq!(value, Some(forged(KEY, 0)), "history was rewritten");
    // Who knows the log does not take another one for it, whether it has as many entries or more.
    for client in [writer, client] {
        let error = client.value(KEY, Freshness::Newest).await.expect_err("another log");
        assert_eq!(error.kind(), "ConflictingCertificates", "{error}");
    }
}

/// `f + 1` wrong paths make an honest log look like another one: a client stops then. `f` do not.
async fn cabal_f_cannot_make_a_log_look_like_another_one_but_f_plus_one_can(setting: Setting) {
    let Setting { n, f, .. } = setting;
    let world = World::start(setting, f, &Conduct::Cabal);
    let (client, writer) = (world.client("client", PLENTY), world.client("writer", PLENTY));
    client.done(Bind(KEY, "value")).await;
    writer.done(Bind(OTHER, "further")).await;
    world.hold(f..n, &Hold::Consistency);
    let Client { memory, .. } = client;
    let client = world.client_in("client", SHORT, memory);
    let known = client.service.known().await;
    assert_stalls(client.value(KEY, Freshness::Newest).await);
    world.node(f).turn(Conduct::Cabal);
    world.release();
    world.hold(f + 1..n, &Hold::Consistency);
    world.hold([f], &Hold::UntilAt);
    let Client { memory, .. } = client;
    let client = world.client_in("client", PLENTY, memory);
    let error = client.value(KEY, Freshness::Newest).await.expect_err("another log, it seems");
    assert_eq!(error.kind(), "ConflictingCertificates", "{error}");
    world.release();
    world.node(f).turn(Conduct::Honest);
    assert_eq!(client.value(KEY, Freshness::Newest).await.expect("a read"), some("value"));
    assert!(client.service.known().await > known, "the head follows the honest log");
}

/// Two logs that begin alike; in the second one somebody else owns the key.
fn split(setting: Setting, driven_elsewhere: u16) -> World {
    let world = World::start(setting, driven_elsewhere, &Conduct::Split);
    world.order(1, "rival", 1, Bind(KEY, "elsewhere"));
    world
}

async fn split_f_driven_elsewhere_change_nothing(setting: Setting) {
    let world = split(setting, setting.f);
    let client = world.client("client", PLENTY);
    client.done(Bind(KEY, "here")).await;
    assert_eq!(client.value(KEY, Freshness::Newest).await.expect("a read"), some("here"));
    serves(&world, "further").await;
}

async fn split_f_plus_one_driven_elsewhere_stall_calls_and_part_readers(setting: Setting) {
    let elsewhere = setting.f + 1;
    let world = split(setting, elsewhere);
    world.order(0, "client", 1, Bind(KEY, "here"));
    let client = world.client("client", SHORT);
    assert_stalls(client.call(Bind(OTHER, "further")).await);
    world.hold(0..elsewhere, &Hold::Results);
    let here = world.client("here", PLENTY);
    assert_eq!(here.value(KEY, Freshness::Newest).await.expect("a read"), some("here"));
    world.release();
    world.hold(elsewhere..setting.n, &Hold::Results);
    let there = world.client("there", PLENTY);
    let other = there.value(KEY, Freshness::Newest).await.expect("a read");
    assert_eq!(other, some("elsewhere"), "two readers see two histories");
    // Nobody is led from one to the other.
    let error = here.value(KEY, Freshness::Newest).await.expect_err("another log");
    assert_eq!(error.kind(), "ConflictingCertificates", "{error}");
}
