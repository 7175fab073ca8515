//! FRAMER: more entries claimed than there are, and time that has not passed.

use quorate_attest::encoding::{Bounded, from_bytes, to_bytes};
use quorate_attest::request::Reply;
use quorate_attest::service::TICK;
use quorate_registry::{LeaseGrant, Operation};
use quorate_services::Freshness;

use crate::conduct::Conduct;
use crate::keys::member_key;
use crate::library::Change::Bind;
use crate::library::{Library, of_registry, registration};
use crate::scenario::{KEY, Setting, assert_stalls, everywhere, f_hold, some, too_many};
use crate::world::{Client, Hold, PLENTY, SHORT, World};

everywhere!(
    framer_f_cost_an_entry_and_nothing_else,
    framer_f_plus_one_that_agree_stall_reads_of_what_is_newest,
    framers_that_do_not_agree_are_doubted_however_many_they_are,
);

async fn framer_f_cost_an_entry_and_nothing_else(setting: Setting) {
    f_hold(setting, Conduct::Framer { alone: false }).await;
}

async fn framer_f_plus_one_that_agree_stall_reads_of_what_is_newest(setting: Setting) {
    let world = too_many(setting, &Conduct::Framer { alone: false });
    // All of them are among the quorum that answers: with fewer the number would be doubted.
    world.hold(setting.n - setting.f..setting.n, &Hold::All);
    let client = world.client("client", SHORT);
    assert_stalls(client.value(KEY, Freshness::Linearizable).await);
    // Calls and certified reads do not depend on that number.
    let client = world.client("another", PLENTY);
    client.done(Bind(KEY, "value")).await;
    assert_eq!(client.value(KEY, Freshness::Newest).await.expect("a read"), some("value"));
}

async fn framers_that_do_not_agree_are_doubted_however_many_they_are(setting: Setting) {
    let world = too_many(setting, &Conduct::Framer { alone: true });
    let client = world.client("client", PLENTY);
    client.done(Bind(KEY, "value")).await;
    let value = client.value(KEY, Freshness::Linearizable).await.expect("an entry of its own settles it");
    assert_eq!(value, some("value"));
}

/// Service time after the votes of these voters that it is `far`, and of the others that it is `now`.
async fn time_after(world: &World, framers: u16, now: u64, far: u64) -> u64 {
    for voter in world.members() {
        let time = if voter < framers { far } else { now };
        let voter = member_key("orchestrators", "vote", voter);
        world.order_raw(0, &voter, time, (TICK, to_bytes(&time)));
    }
    let newest = world.node(0).replies().pop().expect("a reply");
    from_bytes(&Reply::decoded(&newest).expect("a reply").body, 8).expect("the time")
}

/// A client of the service registry whose lease keeps a name.
async fn leased(world: &World) -> Client {
    let client = world.client("client", PLENTY);
    let grant = Operation::LeaseGrant(LeaseGrant { id: 7, ttl_ms: 1_000 });
    for operation in [grant, registration(KEY, "value", 7)] {
        let (op, body) = of_registry(&operation);
        let called = client.service.call(op, body).await.expect("the call succeeds");
        let reply = called.proof.reply().unwrap().unwrap();
        quorate_registry::client::outcome(op, &reply).expect("the result of this operation");
    }
    assert_eq!(time_after(world, 0, 1_000_000, 0).await, 1_000_000, "the lease begins to run");
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn case_12e_5_framer_f_voters_move_lease_time_not_at_all() {
    for setting in Library::Registry.settings() {
        let world = World::start(setting, 0, &Conduct::Honest);
        let client = leased(&world).await;
        assert_eq!(time_after(&world, setting.f, 1_000_100, 1 << 50).await, 1_000_100);
        let value = client.value(KEY, Freshness::Linearizable).await.expect("a read");
        assert_eq!(value, some("value"), "the lease runs on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn framer_f_plus_one_voters_end_a_lease_early() {
    for setting in Library::Registry.settings() {
        let world = World::start(setting, 0, &Conduct::Honest);
        let client = leased(&world).await;
        assert_eq!(time_after(&world, setting.f + 1, 1_000_100, 1 << 50).await, 1 << 50);
        assert_eq!(client.value(KEY, Freshness::Linearizable).await.expect("a read"), None);
    }
}
