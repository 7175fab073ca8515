//! Four nodes in this process with services in process: their answers, their proofs, a replica that errs, and restarts.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use quorate_attest::encoding::{Bounded, to_bytes};
use quorate_attest::id::ImageDigest;
use quorate_attest::key::SecretKey;
use quorate_attest::merkle::{Sha256Tree, TreeHash, verify_inclusion};
use quorate_attest::request::{Reply, status};
use quorate_attest::service::{Answer, Query, service_origin};
use quorate_control::Command;
use quorate_counter::TOTAL;
use quorate_ordering::services::{AskService, ServiceAnswer, ServiceQuestion};
use tokio::time::timeout;

use crate::cluster::key;
use crate::http::get;
use crate::openapi;
use crate::survival::{LIMIT, runtime};
use hosted::{N, Services};

mod hosted;
#[path = "../../src/services/tests/fixture.rs"]
mod machine;

fn client() -> SecretKey {
    key(250)
}

fn total(reply: &Reply) -> u64 {
    assert_eq!(reply.status, status::OK);
    u64::from_le_bytes(reply.body.clone().try_into().unwrap())
}

#[test]
fn requests_are_answered_by_f_plus_1_equal_receipts_and_queries_by_proofs() {
    runtime().block_on(async {
        let mut services = Services::running().await;
        let service = services.create("counter").await;
        let mut last = 0;
        for amount in 1..=20 {
            last = services.add(service, amount).await;
        }
        assert_eq!(total(&services.reply(service, last, &[0, 1, 2, 3]).await), 210);
        let (document, shown) =
            (get(&services.api, "/openapi.json").1, get(&services.api, "/v1/services/counter"));
        openapi::check(&document, "get", "/v1/services/{name}", shown.0, &shown.1);
        assert_eq!((shown.1["replica"].as_u64(), shown.1["stopped"].is_null()), (Some(3), true));
        assert!(shown.1["executed"].as_u64().unwrap() > last);
        let (_, all) = get(&services.api, "/v1/services");
        openapi::check(&document, "get", "/v1/services", 200, &all);
        assert_eq!(all["services"][0]["name"], "counter");
        let query = Query::Get { key: TOTAL.to_vec() };
        for replica in 0..N {
            let question = ServiceQuestion::Query { query: query.clone(), at_least: last + 1 };
            let Some(ServiceAnswer::Answered(answered)) = services.ask(replica, service, question).await
            else {
                panic!("replica {replica} answers no query");
            };
            let receipt = answered.newest.receipt;
            receipt.verify_vote(&services.group, replica.into(), &answered.newest.signature).unwrap();
            answered.answer.verify(&query, &receipt.state).unwrap();
            assert!(matches!(&answered.answer, Answer::Present(entry) if entry.value == to_bytes(&210u64)));
        }
        let deadline = Instant::now() + LIMIT;
        let proof = loop {
            let question = ServiceQuestion::Prove { number: 3, size: 0 };
            match services.ask(0, service, question).await {
                Some(ServiceAnswer::Proved(proof)) => break proof,
                _ => assert!(Instant::now() < deadline, "no cosigned head"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let Some(ServiceAnswer::Heads(heads)) = services.ask(0, service, ServiceQuestion::Heads).await else {
            panic!("no heads");
        };
        assert!(heads.iter().any(|head| (head.size, head.root) == (proof.size, proof.root)));
        assert!(service_origin(&services.group.name, "counter").ends_with("/counter"));
        let leaf = Sha256Tree::leaf(&proof.leaf.encoded());
        verify_inclusion::<Sha256Tree>(&leaf, 3, proof.size, &proof.path, &proof.root).unwrap();
        assert_eq!(proof.leaf, services.entry(1, service, 3).await.receipt.leaf());
    });
}

#[test]
fn a_replica_that_f_plus_1_contradict_stops_keeps_evidence_and_serves_again_once_its_guest_was_taken_back() {
    runtime().block_on(async {
        let mut services = Services::running().await;
        let service = services.create("counter").await;
        let before = services.add(service, 5).await;
        services.reply(service, before, &[0, 1, 2, 3]).await;
        let slot = services.machines[3].running.lock().unwrap()["counter-3"].clone();
        services.machines[3].slots.lock().unwrap().insert("counter-3".into(), slot);
        services.machines[3].running.lock().unwrap().get_mut("counter-3").unwrap().corrupt();
        let wrong = services.add(service, 6).await;
        services.wait("stopped", 3, service, |info| info.stopped.is_some()).await;
        assert!(services.ask(3, service, ServiceQuestion::At { number: wrong }).await.is_none());
        assert_eq!(total(&services.reply(service, wrong, &[0, 1, 2]).await), 11);
        let evidence = services.cluster.folder.path().join("data-3/evidence");
        let kept = std::fs::read_dir(evidence).unwrap().filter(|file| {
            file.as_ref().unwrap().file_name().to_string_lossy().starts_with("service-counter-")
        });
        assert!(kept.count() > 0);
        // Others lost nothing by it.
        for replica in 0..3 {
            assert_eq!(services.info(replica, service).await.unwrap().stopped, None);
        }
        let after = services.add(service, 7).await;
        services.wait("serves", 3, service, |info| info.stopped.is_none() && info.executed > after).await;
        let next = services.add(service, 8).await;
        assert_eq!(total(&services.reply(service, next, &[0, 1, 2, 3]).await), 26);
    });
}

#[test]
fn a_node_that_was_away_catches_up_and_one_whose_guest_lost_everything_leads_it_on() {
    runtime().block_on(async {
        let mut services = Services::running().await;
        let service = services.create("counter").await;
        services.add(service, 1).await;
        services.stop(2).await;
        let away = services.add(service, 2).await;
        assert_eq!(total(&services.reply(service, away, &[0, 1, 3]).await), 3);
        services.machines[2].running.lock().unwrap().clear();
        services.start(2).await;
        let last = services.add(service, 3).await;
        assert_eq!(total(&services.reply(service, last, &[0, 1, 2, 3]).await), 6);
        let image = ImageDigest::from_bytes([2; 32]);
        // Some ahead: the time is told by requests too.
        let number = services.info(2, service).await.unwrap().ordered + 12;
        services.order(Command::UpgradeService { service, image, number }).await;
        for amount in 4..8 {
            let last = services.add(service, amount).await;
            services.reply(service, last, &[0, 1, 2, 3]).await;
        }
        services.wait("upgraded", 2, service, |info| info.executed > number).await;
        let last = services.add(service, 8).await;
        assert_eq!(total(&services.reply(service, last, &[0, 1, 2, 3]).await), 36);
        assert_eq!(services.info(2, service).await.unwrap().image, image);
        assert!(services.machines[2].running.lock().unwrap()["counter-2-v1"].next() > number);
        assert_eq!(services.machines[2].running.lock().unwrap()["counter-2"].next(), number);
    });
}

/// As after a crash: the file of the services is durable with every batch, the executed log once a while.
#[test]
fn a_node_whose_executed_log_ends_before_what_its_services_know_executes_it_again_first() {
    runtime().block_on(async {
        let mut services = Services::running().await;
        let service = services.create("counter").await;
        let first = services.add(service, 1).await;
        assert_eq!(total(&services.reply(service, first, &[0, 1, 2, 3]).await), 1);
        services.stop(2).await;
        let log = services.cluster.folder.path().join("data-2/executed.redb");
        let older = std::fs::read(&log).unwrap();

        services.start(2).await;
        services.machines[2].silent.store(true, Ordering::Relaxed);
        let last = services.add(service, 2).await;
        services.wait("waits for its guest", 2, service, |info| info.stopped.is_some()).await;
        services.stop(2).await;
        let again = log.with_extension("older");
        std::fs::write(&again, older).unwrap();
        std::fs::rename(&again, &log).unwrap();
        services.machines[2].silent.store(false, Ordering::Relaxed);
        services.start(2).await;
        assert_eq!(total(&services.reply(service, last, &[0, 1, 2, 3]).await), 3);
        services.stop(2).await;
    });
}

/// A backup that is put back brings an old log, never an old sign-log: what was said before is not taken back.
#[test]
fn a_node_with_an_older_log_names_no_head_before_it_has_what_it_signed() {
    runtime().block_on(async {
        let mut services = Services::running().await;
        let service = services.create("counter").await;
        services.add(service, 1).await;
        services.stop(2).await;
        let folder = services.cluster.folder.path().join("data-2");
        let backup = tempfile::tempdir().unwrap();
        let kept = ["executed.redb", "services.redb", "log"].map(|name| folder.join(name));
        copy(&kept, backup.path());

        services.start(2).await;
        let last = services.add(service, 2).await;
        services.reply(service, last, &[0, 1, 2, 3]).await;
        for replica in 0..N {
            services.stop(replica).await;
        }
        let old = ["executed.redb", "services.redb", "log"].map(|name| backup.path().join(name));
        copy(&old, &folder);
        services.start(2).await;
        for _ in 0..20 {
            let head = services.ask(2, service, ServiceQuestion::Head).await;
            assert!(head.is_none(), "alone it cannot know what is ordered, and says {head:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert!(services.info(2, service).await.is_some(), "it does not answer at all");
        for replica in [0, 1, 3] {
            services.start(replica).await;
        }
        let ordered = services.head(2, service).await;
        assert!(ordered > last, "it has signed entry {last} and says that there are {ordered}");
        assert_eq!(total(&services.reply(service, last, &[0, 1, 2, 3]).await), 3);
    });
}

fn copy(from: &[PathBuf], to: &Path) {
    let done = std::process::Command::new("cp").arg("-rf").args(from).arg(to).status().unwrap();
    assert!(done.success());
}

/// Between the order of an upgrade and the next entry nothing has reached the next image yet.
#[test]
fn what_an_upgrade_is_to_continue_is_read_from_the_former_image_until_it_does() {
    runtime().block_on(async {
        let mut services = Services::running().await;
        let service = services.create("counter").await;
        let last = services.add(service, 5).await;
        services.reply(service, last, &[0, 1, 2, 3]).await;
        let image = ImageDigest::from_bytes([2; 32]);
        // The time is told by entries too, so the next number may be taken by then.
        let deadline = Instant::now() + LIMIT;
        let number = loop {
            let number = services.info(0, service).await.unwrap().ordered;
            match services.try_order(Command::UpgradeService { service, image, number }).await {
                Ok(_) => break number,
                Err(outcome) => assert!(Instant::now() < deadline, "{outcome}"),
            }
        };
        let question = ServiceQuestion::Query { query: Query::Get { key: TOTAL.to_vec() }, at_least: number };
        for replica in 0..N {
            let answer = services.ask(replica, service, question.clone()).await;
            let Some(ServiceAnswer::Answered(answered)) = answer else {
                panic!("replica {replica}: {answer:?}");
            };
            assert!(matches!(&answered.answer, Answer::Present(entry) if entry.value == to_bytes(&5u64)));
        }
    });
}

/// Whoever asks too early would have to ask again and again, and learn the result later than it is there.
#[test]
fn a_result_is_waited_for_while_somebody_waits_for_its_operation() {
    runtime().block_on(async {
        let mut services = Services::running().await;
        let service = services.create("counter").await;
        services.add(service, 1).await;
        services.stop(2).await;
        services.stop(3).await;
        let (operation, added) = services.begin_to_add(service, 2);
        let question = ServiceQuestion::Result { operation };
        let (orderer, ask) = (services.orderer.clone(), AskService { service, question });
        let deadline = Instant::now() + LIMIT;
        let mut stands_still = true;
        loop {
            let mut asked = pin!(orderer.ask_service(0, &ask, LIMIT));
            let early = timeout(Duration::from_millis(300), &mut asked).await;
            assert!(Instant::now() < deadline, "it does not wait: {early:?}");
            if stands_still && early.is_err() {
                services.start(2).await;
                stands_still = false;
            }
            let answer = match early {
                Ok(answer) => answer,
                Err(_) => asked.await,
            };
            if let Ok(Some(ServiceAnswer::Executed(entry))) = answer {
                assert_eq!((entry.receipt.operation, stands_still), (operation, false));
                break;
            }
        }
        assert!(added.await.unwrap());
    });
}
