//! One Byzantine party: each attack is refused with its error kind, and exactly one host serves the VM afterwards.

use quorate_attest::encoding::from_bytes;
use quorate_attest::id::Generation;
use quorate_attest::statement::Kind;
use quorate_attest::vm::{Action, ConflictingCertificates};
use quorate_faulty::host::liars::CONFLICT_FILE;
use quorate_faulty::report;
use quorate_host::protocol::Report;
use quorate_tests::{A, B, Setup, World, until};
use std::time::Duration;

/// The migration of a VM whose source has this conduct.
async fn attacked_by_source(conduct: &str) -> (World, Report) {
    let world = World::start(Setup::default().with("host-a", conduct)).await;
    let report = world.migrate_under_load().await;
    (world, report)
}

/// The destination refuses with `kind`; the source goes on serving, in whatever generation.
async fn assert_destination_refuses(conduct: &str, kind: &str) {
    let (world, report) = attacked_by_source(conduct).await;
    assert_eq!(report.result, "aborted", "{report:?}");
    let refused = report.refused.expect("somebody refused");
    assert_eq!(refused.kind, kind, "{refused:?}");
    assert_eq!(report.refused_by.as_deref(), Some("destination"));
    world.noted(B, kind).await;
    assert_eq!(world.one_active().await, A);
    world.assert_certificates_verify(A).await;
    world.assert_no_second_signature();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_rollback_is_refused_as_stale_slot() {
    assert_destination_refuses("rollback", "StaleSlot").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_rollback_pair_is_refused_as_stale_slot() {
    assert_destination_refuses("rollback-pair", "StaleSlot").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_splice_memory_is_refused_as_root_mismatch() {
    assert_destination_refuses("splice-memory", "RootMismatch").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_splice_registers_is_refused_as_root_mismatch() {
    assert_destination_refuses("splice-registers", "RootMismatch").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_drop_input_is_refused_as_log_truncated() {
    assert_destination_refuses("drop-input", "LogTruncated").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_extra_input_is_refused_as_log_trailing_records() {
    assert_destination_refuses("extra-input", "LogTrailingRecords").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_reorder_inputs_is_refused_as_log_chain_broken() {
    assert_destination_refuses("reorder-inputs", "LogChainBroken").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_forge_input_is_refused_as_input_unauthenticated() {
    assert_destination_refuses("forge-input", "InputUnauthenticated").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_flip_page_is_refused_as_chunk_hash_mismatch() {
    assert_destination_refuses("flip-page", "ChunkHashMismatch").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_swap_pages_is_refused_as_chunk_hash_mismatch() {
    assert_destination_refuses("swap-pages", "ChunkHashMismatch").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_fork_leaves_evidence_with_the_deceived_verifier_and_one_history_certified() {
    let (world, report) = attacked_by_source("fork").await;
    // The deceived verifier is one of four: the others certify, and the destination may or may not hear of it in time.
    if let Some(refused) = &report.refused {
        assert_eq!(refused.kind, "EquivocationEvidence", "{report:?}");
    }
    let said = world.noted(A, "EquivocationEvidence").await;
    assert!(said.starts_with("verifier-3"), "{said}");
    let evidence = world.cluster.data_dir("verifier-3").join("evidence");
    assert!(evidence.read_dir().is_ok_and(|mut files| files.next().is_some()), "no file in {evidence:?}");
    let active = world.one_active().await;
    assert_eq!(active == B, report.result == "activated", "{report:?}");
    world.assert_certificates_verify(active).await;
    world.assert_no_second_signature();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_fork_in_halves_certifies_neither_history() {
    let world = World::start(Setup::default().with("host-a", "fork-half")).await;
    let load = world.load();
    world.served(&load, 40).await;
    let report = world.migrate(A, B).await.unwrap();
    assert_eq!(report.result, "aborted", "{report:?}");
    world.noted(A, "EquivocationEvidence").await;
    // Nobody gets an answer any more, from neither history: the slot has no certificate.
    assert!(world.serves(A).await.is_err() && world.serves(B).await.is_err());
    let statuses = [world.status(A).await.unwrap(), world.status(B).await.unwrap()];
    assert!(statuses[A].certified < Some(statuses[A].slot), "{statuses:?}");
    assert_eq!(statuses[B].active_instances, 0);
    world.assert_certificates_verify(A).await;
    world.assert_no_second_signature();
    drop(load);
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_keep_running_is_fenced_by_verifiers_and_clients() {
    let (world, report) = attacked_by_source("keep-running").await;
    assert_eq!(report.result, "activated", "{report:?}");
    assert_eq!(world.one_believed().await, B);
    // The source's own slots are refused by the verifiers, its answers by the clients.
    world.noted(A, "FencedGeneration").await;
    let refused = world.target.refused();
    assert!(refused.contains_key("FencedGeneration"), "{refused:?}");
    world.assert_certificates_verify(B).await;
    world.assert_no_second_signature();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_double_activate_is_refused_as_duplicate_instance() {
    let world = World::start(Setup::default().with("host-b", "double-activate")).await;
    let report = world.migrate_under_load().await;
    assert_eq!((report.result.as_str(), report.generation), ("activated", Generation(1)), "{report:?}");
    world.noted(B, "DuplicateInstance").await;
    let outcome = attack_outcome(&world, "host-b").await;
    assert!(outcome["votes"].as_u64() < outcome["need"].as_u64(), "{outcome}");
    let refusals = outcome["refusals"].as_array().unwrap();
    assert!(
        refusals.len() >= 3 && refusals.iter().all(|by| by["error_kind"] == "DuplicateInstance"),
        "{outcome}"
    );
    assert_eq!(world.one_active().await, B);
    world.assert_no_second_signature();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn attack_early_activate_gets_no_vote_and_no_client_believes_it() {
    let world = World::start(Setup::default().with("host-b", "early-activate")).await;
    let load = world.load();
    world.served(&load, 40).await;
    let report = world.migrate(A, B).await.expect("the source reports");
    let outcome = attack_outcome(&world, "host-b").await;
    assert_eq!(outcome["votes"], 0, "{outcome}");
    let refusals = outcome["refusals"].as_array().unwrap();
    let kind = "NoActivationCertificate";
    assert!(refusals.len() >= 3 && refusals.iter().all(|by| by["error_kind"] == kind), "{outcome}");
    if report.result == "aborted" {
        world.served(&load, 20).await;
        let load = load.finish().await.expect("sockets");
        assert_eq!(load.lost, 0, "acknowledged writes lost: {load:?}");
    }
    assert_never_both(&world, &report).await;
    world.stop().await;
}

/// The source may hand over in time, and what was not allowed becomes so. The destination may have spoiled its own copy by what
/// it ran before: then nobody is believed until an operator orders a recovery, and never both.
async fn assert_never_both(world: &World, report: &Report) {
    if report.result == "activated" {
        assert!(world.serves(A).await.is_err(), "the source is believed after the destination was activated");
    } else {
        assert_eq!(world.one_believed().await, A);
    }
    world.assert_no_second_signature();
}

#[tokio::test(flavor = "multi_thread")]
async fn early_activated_destination_answers_and_is_not_believed() {
    // Long enough for a client to ask the destination while it runs what is not its own.
    let setup = Setup { migration_timeout_ms: 10_000, ..Setup::default() };
    let world = World::start(setup.with("host-b", "early-activate")).await;
    let migration = world.migrate(A, B);
    let asking = async {
        let look = async || {
            let _ = world.serves(B).await;
            world
                .target
                .refused()
                .get("NoActivationCertificate")
                .copied()
                .ok_or_else(|| world.target.refused())
        };
        until("a client refuses the early answer", Duration::from_secs(60), look).await
    };
    let (report, _) = tokio::join!(migration, asking);
    assert_never_both(&world, &report.unwrap()).await;
    world.stop().await;
}

/// What a Byzantine host found out about its own attack.
async fn attack_outcome(world: &World, host: &str) -> serde_json::Value {
    let folder = world.cluster.data_dir(host);
    let look = async || report::read(&folder).pop().ok_or("nothing yet");
    until("the attacker's report", Duration::from_secs(60), look).await
}

#[tokio::test(flavor = "multi_thread")]
async fn migration_that_the_orchestrators_did_not_order_is_refused_by_the_source() {
    let world = World::start(Setup::default()).await;
    let order = world.begin(B).await;
    let mut few = order.clone();
    few.signatures.truncate(2);
    let mut redirected = order.clone();
    let keys = world.target.hosts();
    redirected.decision.action = Action::Migrate { source: keys[A].key, destination: keys[A].key };
    for (forged, kind) in [(few, "QuorumNotReached"), (redirected, "BadSignature")] {
        let refused = world.follow(A, forged).await.unwrap().unwrap_err();
        assert_eq!(refused.kind(), kind, "{refused}");
    }
    let report = world.follow(A, order.clone()).await.unwrap().unwrap();
    assert_eq!((report.result.as_str(), report.generation), ("activated", Generation(1)), "{report:?}");
    let again = world.follow(B, order).await.unwrap().unwrap_err();
    assert_eq!(again.kind(), "FencedGeneration", "an order is used once: {again}");
    assert_eq!(world.one_active().await, B);
    world.assert_no_second_signature();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f_silent_verifiers_do_not_stop_a_migration() {
    let world = World::start(Setup::default().with("verifier-3", "silent")).await;
    let report = world.migrate_under_load().await;
    assert_eq!(report.result, "activated", "{report:?}");
    assert_eq!(world.one_active().await, B);
    let records = world.assert_certificates_verify(B).await;
    let votes = records.certificates.iter().flat_map(|certificate| &certificate.attestations);
    assert!(votes.into_iter().all(|vote| vote.verifier != 3), "the silent one signed");
    world.assert_no_second_signature();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f_lying_verifiers_do_not_stop_a_migration_and_are_named() {
    let world = World::start(Setup::default().with("verifier-1", "lying")).await;
    let report = world.migrate_under_load().await;
    assert_eq!(report.result, "activated", "{report:?}");
    let said = world.noted(B, "BadSignature").await;
    assert!(said.starts_with("verifier-1"), "{said}");
    assert_eq!(world.one_active().await, B);
    world.assert_certificates_verify(B).await;
    world.assert_no_second_signature();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f_plus_one_silent_verifiers_stop_everything_and_activate_nothing() {
    let mut world = World::start(Setup { migration_timeout_ms: 2000, ..Setup::default() }).await;
    for name in ["verifier-2", "verifier-3"] {
        world.cluster.restart(name, Some("silent")).await.unwrap();
    }
    let moving = world.begin_migration(A, B);
    // The source gave the VM away, the destination gave up waiting, and the source cannot take it back either: the last slot
    // has no certificate, and too few could vote.
    world.noted(A, "PeerTimeout").await;
    let statuses = [world.status(A).await.unwrap(), world.status(B).await.unwrap()];
    assert!(statuses.iter().all(|status| status.active_instances == 0), "{statuses:?}");
    assert!(!moving.is_finished(), "the migration ended without a quorum");
    // One of them comes back: the VM is served again, by one host.
    world.cluster.restart("verifier-2", None).await.unwrap();
    let active = world.one_active().await;
    let report = moving.await.unwrap().unwrap();
    assert_eq!(active == B, report.result == "activated", "{report:?}");
    world.assert_no_second_signature();
    world.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_f_liars_certify_two_histories_which_anyone_can_prove() {
    let setup = Setup::default()
        .with("host-a", "too-many-liars")
        .with("verifier-2", "signs-anything")
        .with("verifier-3", "signs-anything");
    let world = World::start(setup).await;
    let load = world.load();
    let path = world.cluster.data_dir("host-a").join(CONFLICT_FILE);
    let look = async || std::fs::read(&path).map_err(|error| error.to_string());
    let bytes = until("two certificates", Duration::from_secs(60), look).await;
    let pair: ConflictingCertificates = from_bytes(&bytes, 1 << 20).unwrap();
    let group = world.cluster.group();
    let liars = pair.verify(group, &group.expected(world.vm(), Kind::SLOT_SAMPLED)).unwrap();
    assert_eq!(liars, [2, 3]);
    assert_ne!(pair.first.statement, pair.second.statement);
    // Nobody who followed the protocol contradicted himself.
    world.assert_no_second_signature();
    drop(load);
    world.stop().await;
}
