//! kill -9 of every party at every step of a migration: one active instance within 20 seconds of the restart, every
//! acknowledged write readable, no second signature.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use quorate_cli::load::Load;
use quorate_host::conduct::Step;
use quorate_tests::{A, B, Setup, World, until};
use quorate_verifier::node::conduct::Step as VerifierStep;

/// Steps of a migration that the source takes.
const SOURCE: [Step; 8] = [
    Step::SlotCut,
    Step::SlotDurable,
    Step::OfferSent,
    Step::BaseStreaming,
    Step::Frozen,
    Step::RelinquishDurable,
    Step::HandoverSent,
    Step::ActivationSeen,
];

/// Steps of a migration that the destination takes.
const DESTINATION: [Step; 10] = [
    Step::OfferAccepted,
    Step::BaseLoaded,
    Step::SlotReplayed,
    Step::HandoverReceived,
    Step::HandoverDurable,
    Step::Granted,
    Step::VotesRequested,
    Step::Elected,
    Step::GenerationDurable,
    Step::Running,
];

/// Time until a process that is to be killed reaches the step.
const DEATH: Duration = Duration::from_secs(60);

fn setup() -> Setup {
    Setup { migration_timeout_ms: 1500, ..Setup::default() }
}

#[test]
fn no_step_of_a_host_is_left_out() {
    let tested: BTreeSet<_> = SOURCE.iter().chain(&DESTINATION).map(|step| step.name()).collect();
    let all: BTreeSet<_> = Step::ALL.iter().map(|step| step.name()).collect();
    assert_eq!(tested, all);
}

/// A world whose clients had so many answers and go on.
async fn under_load(setup: Setup, answers: u64) -> (World, Load) {
    let world = World::start(setup).await;
    let load = world.load();
    world.served(&load, answers).await;
    (world, load)
}

async fn assert_nothing_lost(load: Load) {
    let load = load.finish().await.unwrap();
    assert_eq!(load.lost, 0, "acknowledged writes lost: {load:?}");
}

/// Ends load and world: nothing that was acknowledged is lost, nothing was signed twice.
async fn end(world: World, load: Load) {
    assert_nothing_lost(load).await;
    world.assert_no_second_signature();
    world.stop().await;
}

/// Waits for the death of a node by its own hand and starts an honest one on its data.
async fn restart_after_death(world: &mut World, name: &str) {
    let look = async || world.cluster.node(name).unwrap().exit().ok_or("it lives");
    let status = until(&format!("{name} is killed"), DEATH, look).await;
    assert!(!status.success(), "{name} was to be killed, but {status}");
    world.cluster.restart(name, None).await.unwrap();
}

/// Migrates under load while `victim` dies, starts it again, and checks everything.
async fn migrate_with_death_of(world: &mut World, victim: &str) -> usize {
    let load = world.load();
    world.served(&load, 30).await;
    let moving = world.begin_migration(A, B);
    restart_after_death(world, victim).await;
    let active = world.one_active().await;
    // A source that was killed reports nothing.
    if victim == "host-a" {
        moving.abort();
    } else {
        let report = moving.await.unwrap();
        println!("  report: {:?}", report.map(|report| (report.result, report.refused)));
    }
    world.served(&load, 10).await;
    assert_nothing_lost(load).await;
    world.assert_certificates_verify(active).await;
    world.assert_no_second_signature();
    active
}

async fn host_dies_at(host: &'static str, step: Step) {
    let started = Instant::now();
    println!("{host} dies at {}", step.name());
    let conduct = format!("crash-after-offer:{}", step.name());
    let mut world = World::start(setup().with(host, conduct)).await;
    let active = migrate_with_death_of(&mut world, host).await;
    println!("  host {active} serves after {:?}", started.elapsed());
    world.stop().await;
}

macro_rules! deaths {
    ($host:literal: $($name:ident = $step:ident,)*) => {
        $(
            #[tokio::test(flavor = "multi_thread")]
            async fn $name() {
                host_dies_at($host, Step::$step).await;
            }
        )*
    };
}

deaths! { "host-a":
    source_killed_with_a_slot_cut_comes_back = SlotCut,
    source_killed_with_a_slot_durable_comes_back = SlotDurable,
    source_killed_after_the_offer_comes_back = OfferSent,
    source_killed_while_the_base_streams_comes_back = BaseStreaming,
    source_killed_with_the_guest_stopped_comes_back = Frozen,
    source_killed_with_relinquish_durable_leaves_one_instance = RelinquishDurable,
    source_killed_after_the_handover_leaves_one_instance = HandoverSent,
    source_killed_before_it_discards_leaves_one_instance = ActivationSeen,
}

deaths! { "host-b":
    destination_killed_after_accepting_leaves_the_source_active = OfferAccepted,
    destination_killed_with_the_base_loaded_leaves_the_source_active = BaseLoaded,
    destination_killed_after_a_replay_leaves_one_instance = SlotReplayed,
    destination_killed_with_the_handover_received_leaves_one_instance = HandoverReceived,
    destination_killed_with_the_handover_durable_leaves_one_instance = HandoverDurable,
    destination_killed_when_granted_the_generation_leaves_one_instance = Granted,
    destination_killed_before_it_asks_for_votes_leaves_one_instance = VotesRequested,
    destination_killed_when_elected_leaves_one_instance = Elected,
    destination_killed_with_the_generation_durable_leaves_one_instance = GenerationDurable,
    destination_killed_as_soon_as_it_runs_leaves_one_instance = Running,
}

/// Steps that every verifier takes in a migration or on the way to one.
const VERIFIER: [VerifierStep; 10] = [
    VerifierStep::RequestTaken,
    VerifierStep::BeforeImage,
    VerifierStep::AfterImage,
    VerifierStep::BeforePersist,
    VerifierStep::BetweenWriteAndSync,
    VerifierStep::AfterPersist,
    VerifierStep::AfterSend,
    VerifierStep::BeforeBoot,
    VerifierStep::BeforeReplay,
    VerifierStep::AfterReplay,
];

/// Steps of a verifier that has been away and needs a state.
const RETURNING: [VerifierStep; 3] =
    [VerifierStep::BeforePull, VerifierStep::DuringPull, VerifierStep::AfterPull];

/// Steps that need more than a migration: a host that equivocates, a sign-log of 32 MiB (its test is the sign-log's own).
const ELSEWHERE: [VerifierStep; 2] = [VerifierStep::BeforeEvidence, VerifierStep::BeforeCompaction];

#[test]
fn no_step_of_a_verifier_is_left_out() {
    let tested: BTreeSet<_> = VERIFIER.iter().chain(&RETURNING).chain(&ELSEWHERE).collect();
    assert_eq!(tested.len(), VerifierStep::ALL.len());
}

/// Kills verifier-1 at each of the first steps that it takes, one after the other, while the VM starts.
async fn verifier_dies_at(step: VerifierStep, times: u32) {
    println!("verifier-1 dies at {}:{times}", step.name());
    let conduct = format!("crash-at:{}:{times}", step.name());
    let mut world = World::start(setup().with("verifier-1", conduct)).await;
    migrate_with_death_of(&mut world, "verifier-1").await;
    // It takes part again: without it, the other silenced one would leave too few.
    world.cluster.node("verifier-2").unwrap().kill().await;
    world.put("after", "the restart").await.unwrap();
    world.assert_no_second_signature();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn verifier_killed_at_every_step_signs_nothing_twice_and_takes_part_again() {
    for step in VERIFIER {
        // Images and boots happen once, at the beginning; of the others a later one is hit, in the midst of the load.
        let once = [VerifierStep::BeforeImage, VerifierStep::AfterImage, VerifierStep::BeforeBoot];
        verifier_dies_at(step, if once.contains(&step) { 1 } else { 12 }).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verifier_killed_while_it_catches_up_takes_part_again() {
    for step in RETURNING {
        println!("verifier-1 dies at {}", step.name());
        let (mut world, load) = under_load(setup(), 10).await;
        let conduct = format!("crash-at:{}", step.name());
        world.cluster.node("verifier-1").unwrap().kill().await;
        world.served(&load, 20).await;
        world.cluster.restart("verifier-1", Some(&conduct)).await.unwrap();
        let report = world.migrate(A, B).await.unwrap();
        assert_eq!(report.result, "activated", "{report:?}");
        restart_after_death(&mut world, "verifier-1").await;
        assert_eq!(world.one_active().await, B);
        world.cluster.node("verifier-2").unwrap().kill().await;
        world.served(&load, 10).await;
        end(world, load).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn verifier_killed_before_it_stores_evidence_signs_nothing_twice() {
    let setup = setup().with("host-a", "fork").with("verifier-3", "crash-at:before-evidence");
    let (mut world, load) = under_load(setup, 30).await;
    let report = world.migrate(A, B).await.unwrap();
    println!("  report: {:?}", (report.result, report.refused));
    restart_after_death(&mut world, "verifier-3").await;
    world.one_active().await;
    end(world, load).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f_orchestrators_killed_during_a_migration_do_not_stop_it_and_come_back() {
    let (mut world, load) = under_load(setup(), 30).await;
    let moving = world.begin_migration(A, B);
    world.cluster.node("orchestrator-1").unwrap().kill().await;
    let report = moving.await.unwrap().unwrap();
    assert_eq!(report.result, "activated", "{report:?}");
    world.cluster.restart("orchestrator-1", None).await.unwrap();
    assert_eq!(world.migrate(B, A).await.unwrap().result, "activated");
    assert_eq!(world.one_active().await, A);
    end(world, load).await;
}

/// Without a quorum of orchestrators nobody is granted a generation. A VM that runs goes on; one that was given up comes back
/// as soon as they do.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_of_orchestrators_a_vm_runs_on_and_a_handover_waits() {
    let mut world = World::start(setup()).await;
    let order = world.begin(B).await;
    let killed = ["orchestrator-2", "orchestrator-3"];
    for name in killed {
        world.cluster.node(name).unwrap().kill().await;
    }
    world.put("without", "a log").await.unwrap();
    let moving = world.follow(A, order);
    // The source gave the VM away, and nobody can be granted it.
    let look = async || {
        let status = world.status(A).await.map_err(|error| error.to_string())?;
        if status.role == "relinquished" { Ok(()) } else { Err(status.role) }
    };
    until("the source has relinquished", DEATH, look).await;
    let statuses = [world.status(A).await.unwrap(), world.status(B).await.unwrap()];
    assert!(statuses.iter().all(|status| status.active_instances == 0), "{statuses:?}");
    for name in killed {
        world.cluster.restart(name, None).await.unwrap();
    }
    let active = world.one_active().await;
    let report = moving.await.unwrap().unwrap();
    assert_eq!(active == B, report.result == "activated", "{report:?}");
    assert_eq!(world.get("without").await.unwrap(), b"a log");
    world.assert_no_second_signature();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_processes_killed_at_once_come_back_with_everything_acknowledged() {
    let (mut world, load) = under_load(setup(), 50).await;
    let names = world.cluster.node_names();
    for name in &names {
        world.cluster.node(name).unwrap().kill().await;
    }
    for name in &names {
        world.cluster.restart(name, None).await.unwrap();
    }
    assert_eq!(world.one_active().await, A);
    world.served(&load, 20).await;
    end(world, load).await;
}
