//! What an operator does, with the command line and real processes: a cluster that one command starts, VMs, migrations while
//! nodes are killed, two operators at once, the log and its proofs.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use quorate_attest::id::VmId;
use quorate_cli::cluster::Folder;
use quorate_cli::control_client::{ControlClient, ControlError};
use quorate_cli::load::{Load, Plan as LoadPlan};
use quorate_control::Vm;
use quorate_host::client::Target;
use quorate_tests::{Operated, last_line, until};
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

async fn load(operated: &Operated, client: &ControlClient, name: &str) -> Load {
    let (_, vm) = named(client, name).await;
    let folder = Folder::open(operated.folder()).expect("the cluster's files");
    let mut hosts = folder.hosts();
    hosts.sort_by_key(|host| host.key != vm.host);
    let target = Target::new(Arc::new(folder.group), vm.spec, hosts);
    let plan = LoadPlan { clients: 4, rate: 80.0, count: None, value_bytes: 64 };
    Load::start(Arc::new(target), plan).expect("sockets")
}

async fn named(client: &ControlClient, name: &str) -> (VmId, Vm) {
    let vms = client.vms().await.expect("the registry answers");
    vms.into_iter().find(|(_, vm)| vm.spec.name == name).expect("the VM is registered")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_while_an_orchestrator_and_a_verifier_are_killed_loses_nothing_acknowledged() {
    let operated = Operated::up();
    let created = operated.run(&["vm", "create", "web", "--image", "kv", "--memory", "16"]);
    assert_eq!(created["host"], "host-a", "{created}");
    operated.run(&["vm", "call", "web", "put", "greeting", "hello"]);
    let client = operated.client();
    let load = load(&operated, &client, "web").await;
    until("answers before the migration", PATIENCE, async || at_least(&load, 40)).await;

    let mut migration = operated.command(&["vm", "migrate", "web", "--to", "host-b"]);
    let migration = migration.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let migration = migration.spawn().expect("quorate runs");
    operated.kill("orchestrator-1");
    operated.kill("verifier-2");
    let moved = tokio::task::spawn_blocking(move || migration.wait_with_output())
        .await
        .expect("no panic")
        .expect("it ends");
    assert!(moved.status.success(), "{moved:?}");
    assert_eq!(last_line(&moved.stdout)["result"], "activated", "{moved:?}");

    let served = load.served();
    until("answers after the migration", PATIENCE, async || at_least(&load, served + 40)).await;
    let status = operated.all_answer().await;
    for name in ["orchestrator-1", "verifier-2"] {
        let nodes = status["nodes"].as_array().expect("a list").clone();
        let node = nodes.iter().find(|node| node["name"] == name).expect("it is listed");
        assert_eq!(node["restarts"], 1, "{status}");
    }
    let report = load.finish().await.expect("sockets");
    assert_eq!((report.lost, report.unanswered), (0, 0), "{report:?}");
    assert_eq!(operated.run(&["vm", "call", "web", "get", "greeting"])["answer"], "hello");
    until("the registry knows the new host", PATIENCE, async || {
        let shown = operated.run(&["vm", "show", "web"]);
        if shown["vm"]["host"] == "host-b" && shown["vm"]["generation"] == 1 { Ok(()) } else { Err(shown) }
    })
    .await;
    // And back again, with everybody there.
    assert_eq!(operated.run(&["vm", "migrate", "web", "--to", "host-a"])["result"], "activated");
}

fn at_least(load: &Load, count: u64) -> Result<(), u64> {
    if load.served() >= count { Ok(()) } else { Err(load.served()) }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_operators_who_move_one_vm_the_first_wins_and_the_other_is_told_so() {
    let operated = Operated::up();
    operated.run(&["vm", "create", "web", "--memory", "16"]);
    let (first, second) = (operated.client(), operated.client());
    let (vm, record) = named(&first, "web").await;
    let folder = Folder::open(operated.folder()).expect("the cluster's files");
    let destination = folder.group.hosts[1].key;
    let begin = |client: ControlClient| async move {
        let began = client.begin(vm, record.next_generation, destination).await;
        client.close().await;
        began
    };
    let (one, two) = tokio::join!(begin(first), begin(second));
    let (won, lost) = match (one, two) {
        (Ok(won), Err(lost)) | (Err(lost), Ok(won)) => (won, lost),
        other => panic!("one wins and one loses: {other:?}"),
    };
    let ControlError::Refused(refusal) = &lost else { panic!("a conflict: {lost}") };
    assert_eq!(refusal.kind(), "Conflict", "{refusal}");
    assert!(refusal.text.contains(&won.decision.index.to_string()), "it names the entry that won: {refusal}");

    // The one that began and did not go on is in the way until somebody ends it.
    let blocked = operated.output(&["vm", "migrate", "web", "--to", "host-b"]);
    assert_eq!(blocked.status.code(), Some(1), "{blocked:?}");
    let error: Value = serde_json::from_slice(&blocked.stderr).expect("an error object");
    assert_eq!(error["error_kind"], "Conflict", "{error}");
    assert_eq!(operated.run(&["vm", "abort", "web"])["result"], "aborted");
    assert_eq!(operated.run(&["vm", "migrate", "web", "--to", "host-b"])["result"], "activated");
    prove_and_change(&operated);
}

/// The log shows what happened, its proofs hold offline, and a group changes its keys.
fn prove_and_change(operated: &Operated) {
    let tail = operated.run(&["log", "tail", "--from", "0", "--count", "100"]);
    let entries = tail["entries"].as_array().expect("entries").clone();
    let count = |name: &str, outcome: &str| {
        entries.iter().filter(|entry| entry["command"] == name && entry["outcome"] == outcome).count()
    };
    assert_eq!(count("Begin", "ok"), 2, "{tail}");
    assert!(count("Begin", "Conflict") >= 1 && count("Handover", "ok") == 1, "{tail}");
    assert!(entries.iter().all(|entry| entry["receipt_signed"] == true), "{tail}");

    let proofs = operated.folder().join("proofs");
    operated.run(&["log", "proof", "0", "--out", text(&proofs)]);
    let (policy, statement) = (proofs.join("policy.txt"), proofs.join("entry-0.statement"));
    let proof = proofs.join("entry-0.tlog-proof");
    let words = ["verify", "--policy", text(&policy), "--statement", text(&statement), text(&proof)];
    operated.run(&words);
    let mut bytes = std::fs::read(&statement).expect("the statement");
    *bytes.last_mut().expect("it is not empty") ^= 1;
    std::fs::write(&statement, bytes).expect("the statement");
    assert_eq!(operated.output(&words).status.code(), Some(1), "a changed statement is proved");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a temporary folder has a readable name")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_whose_host_is_gone_goes_on_elsewhere_with_everything_that_was_acknowledged() {
    let operated = Operated::up();
    operated.run(&["vm", "create", "web", "--memory", "16"]);
    let client = operated.client();
    let load = load(&operated, &client, "web").await;
    until("answers before the loss", PATIENCE, async || at_least(&load, 60)).await;
    // The supervisor would start the host again: without its configuration it ends with 78 and stays down.
    let config = operated.folder().join("host-a.toml");
    std::fs::rename(&config, config.with_extension("away")).expect("the configuration");
    operated.kill("host-a");
    let recovered = operated.run(&["vm", "recover", "web", "--host", "host-b"]);
    assert_eq!(
        (recovered["result"].as_str(), recovered["generation"].as_u64()),
        (Some("recovered"), Some(1)),
        "{recovered}"
    );
    let served = load.served();
    until("answers after the recovery", PATIENCE, async || at_least(&load, served + 40)).await;
    let report = load.finish().await.expect("sockets");
    assert_eq!((report.lost, report.unanswered), (0, 0), "{report:?}");
    let operator = client.operator();
    assert_eq!(operator.status(1).await.expect("host-b answers").active_instances, 1);
}
