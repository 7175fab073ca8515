//! STALE, ROLLBACK and SPLIT: what was true once, and what is true elsewhere.

use quorate_services::Freshness;

use crate::conduct::Conduct;
use crate::guest::Library;
use crate::scenario::{SIZES, assert_stalls, deregister, f_hold, register, serves};
use crate::world::{Client, Hold, PLENTY, SHORT, World, client_key};

#[tokio::test(flavor = "multi_thread")]
async fn stale_f_change_nothing() {
    f_hold(Conduct::Stale(1)).await;
}

/// A world in which a name was registered, and deregistered behind what the first `stale` nodes know.
async fn deregistered((n, f): (u16, u64), stale: u16) -> (World, Client) {
    let world = World::start(Library::Registry, (n, f), 0, &Conduct::Honest);
    let client = world.client("owner", PLENTY);
    let registered = client.done(&register("endpoint", b"10.0.0.1:80")).await;
    for node in 0..stale {
        world.node(node).turn(Conduct::Stale(registered.number + 1));
    }
    client.done(&deregister("endpoint")).await;
    (world, client)
}

#[tokio::test(flavor = "multi_thread")]
async fn case_12e_3_a_deregistered_endpoint_is_not_returned_with_two_stale() {
    let (world, owner) = deregistered((7, 2), 2).await;
    // They answer first.
    world.hold(2..7, &Hold::Until(2));
    for client in [owner, world.client("newcomer", PLENTY)] {
        assert_eq!(client.lookup("endpoint", Freshness::Linearizable).await.expect("a read"), None);
        assert_eq!(client.names(Freshness::Linearizable).await.expect("a list"), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn stale_f_plus_one_are_believed_by_newcomers_that_ask_for_less_than_the_newest() {
    for (n, f) in SIZES {
        let (world, owner) = deregistered((n, f), f as u16).await;
        world.node(f as u16).turn(Conduct::Stale(2));
        world.hold(f as u16 + 1..n, &Hold::Results);
        let newcomer = world.client("newcomer", PLENTY);
        let value = newcomer.lookup("endpoint", Freshness::Newest).await.expect("once certified");
        assert_eq!(value, Some(b"10.0.0.1:80".to_vec()), "a deregistered endpoint");
        // Who asks a quorum how much is ordered, or knows more, does not go back: it gets no answer.
        let Client { memory, .. } = newcomer;
        let newcomer = world.client_in("newcomer", SHORT, memory);
        assert_stalls(newcomer.lookup("endpoint", Freshness::Linearizable).await);
        let known = owner.service.known().await;
        let Client { memory, .. } = owner;
        let restarted = world.client_in("owner", SHORT, memory);
        assert_eq!(restarted.service.known().await, known, "its head outlived it");
        assert_stalls(restarted.lookup("endpoint", Freshness::Newest).await);
        assert_eq!(restarted.service.known().await, known, "its head did not go back");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rollback_all_that_execute_the_same_again_sign_the_same() {
    let world = World::start(Library::Registry, (4, 1), 0, &Conduct::Honest);
    serves(&world, "before").await;
    let client = world.client("between", PLENTY);
    client.done(&register("kept", b"value")).await;
    for node in world.members() {
        world.node(node).restore();
    }
    assert_eq!(
        client.lookup("kept", Freshness::Linearizable).await.expect("a read"),
        Some(b"value".to_vec())
    );
    serves(&world, "after").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rollback_f_that_execute_something_else_are_refused_by_their_signers() {
    for (n, f) in SIZES {
        let world = World::start(Library::Registry, (n, f), 0, &Conduct::Honest);
        serves(&world, "before").await;
        for node in 0..f as u16 {
            world.node(node).turn(Conduct::Rollback { to: 2, floor: true });
        }
        serves(&world, "after").await;
        assert!((0..f as u16).all(|node| world.node(node).is_stopped()), "n = {n}");
    }
}

/// `f + 1` such replicas are missing, no more: with `n - f - 1` others everything goes on. What breaks it is a signer that forgot, too.
#[tokio::test(flavor = "multi_thread")]
async fn rollback_f_plus_one_break_only_when_their_signers_go_back_too() {
    for (n, f) in SIZES {
        let world = World::start(Library::Registry, (n, f), 0, &Conduct::Honest);
        let client = world.client("client", PLENTY);
        let writer = world.client("writer", PLENTY);
        writer.done(&register("name", b"value")).await;
        let known = client.lookup("name", Freshness::Newest).await.expect("a read");
        for node in 0..=f as u16 {
            world.node(node).turn(Conduct::Rollback { to: 1, floor: true });
        }
        writer.done(&register("another", b"value")).await;
        assert_eq!(writer.lookup("name", Freshness::Linearizable).await.expect("a read"), known);

        for node in 0..=f as u16 {
            world.node(node).turn(Conduct::Rollback { to: 1, floor: false });
        }
        world.hold(f as u16 + 1..n, &Hold::Results);
        let newcomer = world.client("newcomer", PLENTY);
        let forged = newcomer.lookup("name", Freshness::Linearizable).await.expect("f + 1 equal states");
        assert_eq!(forged, Some(vec![b'!', 0]), "history was rewritten");
        // Who knows the log does not take another one for it, whether it has as many entries or more.
        for client in [writer, client] {
            let error = client.lookup("name", Freshness::Newest).await.expect_err("another log");
            assert_eq!(error.kind(), "ConflictingCertificates", "{error}");
        }
    }
}

/// `f + 1` wrong paths make an honest log look like another one: a client stops then. `f` do not.
#[tokio::test(flavor = "multi_thread")]
async fn cabal_f_cannot_make_a_log_look_like_another_one_but_f_plus_one_can() {
    for (n, f) in SIZES {
        let world = World::start(Library::Registry, (n, f), f as u16, &Conduct::Cabal);
        let (client, writer) = (world.client("client", PLENTY), world.client("writer", PLENTY));
        client.done(&register("name", b"value")).await;
        writer.done(&register("another", b"value")).await;
        world.hold(f as u16..n, &Hold::Consistency);
        let Client { memory, .. } = client;
        let client = world.client_in("client", SHORT, memory);
        let known = client.service.known().await;
        assert_stalls(client.lookup("name", Freshness::Newest).await);
        world.node(f as u16).turn(Conduct::Cabal);
        world.release();
        world.hold(f as u16 + 1..n, &Hold::Consistency);
        world.hold([f as u16], &Hold::UntilAt);
        let Client { memory, .. } = client;
        let client = world.client_in("client", PLENTY, memory);
        let error = client.lookup("name", Freshness::Newest).await.expect_err("another log, it seems");
        assert_eq!(error.kind(), "ConflictingCertificates", "{error}");
        world.release();
        world.node(f as u16).turn(Conduct::Honest);
        assert_eq!(client.lookup("name", Freshness::Newest).await.expect("a read"), Some(b"value".to_vec()));
        assert!(client.service.known().await > known, "the head follows the honest log");
    }
}

/// Two logs that begin alike; in the second one somebody else owns the name.
fn split(size: (u16, u64), driven_elsewhere: u16) -> World {
    let world = World::start(Library::Registry, size, driven_elsewhere, &Conduct::Split);
    world.order(1, &client_key("rival"), 1, 1, register("name", b"elsewhere").body());
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn split_f_driven_elsewhere_change_nothing() {
    for (n, f) in SIZES {
        let world = split((n, f), f as u16);
        let client = world.client("client", PLENTY);
        client.done(&register("name", b"here")).await;
        assert_eq!(client.lookup("name", Freshness::Newest).await.expect("a read"), Some(b"here".to_vec()));
        serves(&world, "further").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn split_f_plus_one_driven_elsewhere_stall_calls_and_part_readers() {
    for (n, f) in SIZES {
        let elsewhere = f as u16 + 1;
        let world = split((n, f), elsewhere);
        world.order(0, &client_key("client"), 1, 1, register("name", b"here").body());
        let client = world.client("client", SHORT);
        assert_stalls(client.call(&register("another", b"value")).await);
        world.hold(0..elsewhere, &Hold::Results);
        let here = world.client("here", PLENTY);
        assert_eq!(here.lookup("name", Freshness::Newest).await.expect("a read"), Some(b"here".to_vec()));
        world.release();
        world.hold(elsewhere..n, &Hold::Results);
        let there = world.client("there", PLENTY);
        let other = there.lookup("name", Freshness::Newest).await.expect("a read");
        assert_eq!(other, Some(b"elsewhere".to_vec()), "two readers see two histories");
        // Nobody is led from one to the other.
        let error = here.lookup("name", Freshness::Newest).await.expect_err("another log");
        assert_eq!(error.kind(), "ConflictingCertificates", "{error}");
    }
}
