//! The main job with honest parties only.

use std::time::Duration;

use quorate_attest::id::Generation;
use quorate_kv::Operation;
use quorate_tests::{A, B, Setup, World};

#[tokio::test(flavor = "multi_thread")]
async fn migration_under_load_loses_nothing_and_leaves_one_active_instance() {
    let world = World::start(Setup { memory_mib: 32, ..Setup::default() }).await;
    let report = world.migrate_under_load().await;
    assert_eq!((report.result.as_str(), report.generation), ("activated", Generation(1)), "{report:?}");
    assert!(report.stopped_ns > 0 && report.running_ns > report.stopped_ns, "no downtime: {report:?}");
    assert!(report.replay_ns > 0 && report.pages_moved > 0 && report.bytes_moved > 4096, "{report:?}");
    let downtime = Duration::from_nanos(report.running_ns - report.stopped_ns);
    println!("downtime {downtime:?}, replay {:?}", Duration::from_nanos(report.replay_ns));
    assert_eq!(world.one_active().await, B);
    let records = world.assert_certificates_verify(B).await;
    assert_eq!(records.activations.len(), 1);
    world.assert_no_second_signature();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn request_repeated_after_the_migration_gets_the_identical_reply() {
    let world = World::start(Setup::default()).await;
    let mut client = world.client();
    let put = Operation::Put { key: b"once".to_vec(), value: b"only".to_vec() };
    let request = client.sign(put.op(), put.body()).unwrap();
    let before = client.repeat(&request).await.unwrap();
    let report = world.migrate(A, B).await.unwrap();
    assert_eq!(report.result, "activated", "{report:?}");
    let after = client.repeat(&request).await.unwrap();
    assert_eq!(after.reply, before.reply);
    assert_eq!((before.generation, after.generation), (Generation(0), Generation(1)));
    assert!(after.slot > before.slot);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn vm_migrates_there_and_back_again() {
    let world = World::start(Setup::default()).await;
    let load = world.load();
    for (round, (from, to)) in [(A, B), (B, A), (A, B), (B, A)].into_iter().enumerate() {
        world.served(&load, 20).await;
        let report = world.migrate(from, to).await.unwrap();
        assert_eq!(report.result, "activated", "round {round}: {report:?}");
        assert_eq!(report.generation, Generation(round as u64 + 1));
    }
    world.served(&load, 20).await;
    let load = load.finish().await.unwrap();
    assert_eq!(load.lost, 0, "{load:?}");
    assert_eq!(world.one_active().await, A);
    let records = world.assert_certificates_verify(A).await;
    assert!(!records.activations.is_empty());
    world.assert_no_second_signature();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sampling_verifiers_certify_beside_replaying_ones() {
    let world = World::start(Setup { sampled: 2, ..Setup::default() }).await;
    let report = world.migrate_under_load().await;
    assert_eq!(report.result, "activated", "{report:?}");
    assert_eq!(world.one_active().await, B);
    world.assert_certificates_verify(B).await;
    world.assert_no_second_signature();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn migration_to_a_host_that_is_down_is_given_up_and_the_vm_goes_on() {
    let mut world = World::start(Setup { migration_timeout_ms: 1000, ..Setup::default() }).await;
    world.cluster.node("host-b").unwrap().kill().await;
    let report = world.migrate(A, B).await.unwrap();
    assert_eq!(report.result, "aborted", "{report:?}");
    world.serves(A).await.unwrap();
    world.cluster.restart("host-b", None).await.unwrap();
    assert_eq!(world.one_active().await, A);
    let report = world.migrate(A, B).await.unwrap();
    assert_eq!(report.result, "activated", "{report:?}");
    world.stop().await;
}
