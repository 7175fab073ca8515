//! FRAMER: more entries claimed than there are, and time that has not passed.

use quorate_attest::encoding::{Bounded, from_bytes, to_bytes};
use quorate_attest::request::Reply;
use quorate_attest::service::TICK;
use quorate_registry::{LeaseGrant, Operation, Outcome, Register};
use quorate_services::Freshness;

use crate::conduct::Conduct;
use crate::guest::Library;
use crate::keys::member_key;
use crate::scenario::{SIZES, assert_stalls, f_hold, register, too_many};
use crate::world::{Client, Hold, PLENTY, SHORT, World};

#[tokio::test(flavor = "multi_thread")]
async fn framer_f_cost_an_entry_and_nothing_else() {
    f_hold(Conduct::Framer { alone: false }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn framer_f_plus_one_that_agree_stall_reads_of_what_is_newest() {
    let world = too_many(&Conduct::Framer { alone: false });
    // Both are among the quorum that answers: with one of them alone the number would be doubted.
    world.hold([3], &Hold::All);
    let client = world.client("client", SHORT);
    assert_stalls(client.lookup("name", Freshness::Linearizable).await);
    // Calls and certified reads do not depend on that number.
    let client = world.client("another", PLENTY);
    client.done(&register("name", b"value")).await;
    assert_eq!(client.lookup("name", Freshness::Newest).await.expect("a read"), Some(b"value".to_vec()));
}

#[tokio::test(flavor = "multi_thread")]
async fn framers_that_do_not_agree_are_doubted_however_many_they_are() {
    let world = too_many(&Conduct::Framer { alone: true });
    let client = world.client("client", PLENTY);
    client.done(&register("name", b"value")).await;
    let value = client.lookup("name", Freshness::Linearizable).await.expect("an entry of its own settles it");
    assert_eq!(value, Some(b"value".to_vec()));
}

/// Service time after the votes of these voters that it is `far`, and of the others that it is `now`.
async fn time_after(world: &World, framers: u16, now: u64, far: u64) -> u64 {
    for voter in world.members() {
        let time = if voter < framers { far } else { now };
        world.order(0, &member_key("orchestrators", "vote", voter), time, TICK, to_bytes(&time));
    }
    let newest = world.node(0).replies().pop().expect("a reply");
    from_bytes(&Reply::decoded(&newest).expect("a reply").body, 8).expect("the time")
}

async fn leased(world: &World) -> Client {
    let client = world.client("client", PLENTY);
    let granted = client.done(&Operation::LeaseGrant(LeaseGrant { id: 7, ttl_ms: 1_000 })).await;
    assert!(Outcome::decoded(&granted.body).is_ok());
    let Operation::Register(name) = register("leased", b"value") else { panic!("a registration") };
    client.done(&Operation::Register(Register { lease: 7, ..name })).await;
    assert_eq!(time_after(world, 0, 1_000_000, 0).await, 1_000_000, "the lease begins to run");
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn case_12e_5_framer_f_voters_move_lease_time_not_at_all() {
    for (n, f) in SIZES {
        let world = World::start(Library::Registry, (n, f), 0, &Conduct::Honest);
        let client = leased(&world).await;
        assert_eq!(time_after(&world, f as u16, 1_000_100, 1 << 50).await, 1_000_100);
        let value = client.lookup("leased", Freshness::Linearizable).await.expect("a read");
        assert_eq!(value, Some(b"value".to_vec()), "the lease runs on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn framer_f_plus_one_voters_end_a_lease_early() {
    for (n, f) in SIZES {
        let world = World::start(Library::Registry, (n, f), 0, &Conduct::Honest);
        let client = leased(&world).await;
        assert_eq!(time_after(&world, f as u16 + 1, 1_000_100, 1 << 50).await, 1 << 50);
        assert_eq!(client.lookup("leased", Freshness::Linearizable).await.expect("a read"), None);
    }
}
