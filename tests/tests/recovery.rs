//! A host dies and does not come back: another takes its VM up from what verifiers hold, and nothing acknowledged is lost.

use std::time::Duration;

use quorate_host::conduct::Step;
use quorate_host::protocol::Status;
use quorate_tests::{A, B, Setup, World, until};

/// Time for a recovery and what follows from it.
const WITHIN: Duration = Duration::from_secs(60);

/// Has `host-b` take the VM up, again and again until the orders and the verifiers' connections are there.
async fn recover(world: &World) {
    let host = world.target.hosts()[B].key;
    let attempt = async || world.control.recover(world.vm(), host).await.map_err(|error| error.to_string());
    let recovered = until("the recovery", WITHIN, attempt).await;
    println!("  {recovered:?}");
    assert_eq!(recovered.left, [], "nothing that anybody signed is left behind");
}

async fn is_fenced(world: &World, host: usize) -> Status {
    let look = async || match world.status(host).await {
        Ok(status) if status.errors.iter().any(|error| error.kind == "FencedGeneration") => Ok(status),
        other => Err(format!("{other:?}")),
    };
    until("the old host learns that it is overruled", WITHIN, look).await
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_host_loses_no_acknowledged_write_and_is_fenced_when_it_returns() {
    let mut world = World::start(Setup::default()).await;
    world.put("written", "before").await.unwrap();
    let load = world.load();
    world.served(&load, 200).await;
    world.cluster.node("host-a").unwrap().kill().await;
    recover(&world).await;
    // The very clients that were waiting get their answers at the new host.
    world.served(&load, 100).await;
    let load = load.finish().await.unwrap();
    assert_eq!(load.lost, 0, "acknowledged writes lost: {load:?}");
    assert_eq!(world.get("written").await.unwrap(), b"before");

    world.cluster.restart("host-a", None).await.unwrap();
    let fenced = is_fenced(&world, A).await;
    assert_eq!(fenced.active_instances, 0);
    assert_eq!(world.one_active().await, B);
    world.assert_certificates_verify(B).await;
    world.assert_no_second_signature();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn recovery_succeeds_with_a_verifier_gone_for_good() {
    let mut world = World::start(Setup::default()).await;
    let load = world.load();
    world.served(&load, 100).await;
    world.cluster.node("verifier-1").unwrap().kill().await;
    world.served(&load, 50).await;
    world.cluster.node("host-a").unwrap().kill().await;
    recover(&world).await;
    world.served(&load, 50).await;
    let load = load.finish().await.unwrap();
    assert_eq!(load.lost, 0, "acknowledged writes lost: {load:?}");
    world.assert_no_second_signature();
    world.stop().await;
}

/// `host-b` dies at a step of the recovery; started again, it goes on by itself or is ordered once more.
async fn recovering_host_dies_at(step: Step) {
    let setup = Setup::default().with("host-b", format!("crash-at:{}", step.name()));
    let mut world = World::start(setup).await;
    let load = world.load();
    world.served(&load, 60).await;
    world.cluster.node("host-a").unwrap().kill().await;
    let (control, vm) = (world.control.clone(), world.vm());
    let host = world.target.hosts()[B].key;
    let ordered = tokio::spawn(async move { control.recover(vm, host).await });
    let look = async || world.cluster.node("host-b").unwrap().exit().ok_or("it lives");
    until("host-b is killed", WITHIN, look).await;
    ordered.abort();
    world.cluster.restart("host-b", None).await.unwrap();
    let runs = async || match world.status(B).await {
        Ok(status) if status.active_instances == 1 => Ok(()),
        other => Err(format!("{other:?}")),
    };
    until("host-b runs the VM", WITHIN, runs).await;
    world.served(&load, 40).await;
    let load = load.finish().await.unwrap();
    assert_eq!(load.lost, 0, "acknowledged writes lost: {load:?}");
    world.assert_no_second_signature();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn host_killed_with_the_recovered_state_durable_goes_on_by_itself() {
    recovering_host_dies_at(Step::BaseLoaded).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn host_killed_when_elected_for_a_recovery_asks_for_the_same_votes() {
    recovering_host_dies_at(Step::Elected).await;
}
