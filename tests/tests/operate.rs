//! What an operator does, with the command line and real processes: a cluster that one command starts, VMs, migrations while
//! nodes are killed, two operators at once, the log and its proofs.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use quorate_attest::id::VmId;
use quorate_cli::cluster::{Folder, Programs};
use quorate_cli::control_client::{ControlClient, ControlError};
use quorate_cli::load::{Load, Plan as LoadPlan};
use quorate_control::Vm;
use quorate_host::client::Target;
use quorate_tests::programs::programs;
use quorate_tests::until;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster under `quorate cluster up`, stopped when the test ends.
struct Operated {
    folder: tempfile::TempDir,
    programs: Programs,
}

impl Operated {
    fn up() -> Self {
        let folder = tempfile::Builder::new().prefix("quorate-operate-").tempdir().expect("a folder");
        let operated = Self { folder, programs: programs() };
        let shown = operated.run(&["cluster", "up", operated.cluster()]);
        assert_eq!(shown["result"], "ok", "{shown}");
        operated
    }

    fn cluster(&self) -> &str {
        self.folder.path().to_str().expect("a temporary folder has a readable name")
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(quorate(&self.programs));
        command.arg("--json").args(words).env("QUORATE_CLUSTER", self.cluster());
        command
    }

    fn output(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("quorate runs")
    }

    /// Runs a command that must succeed; answers with its last line.
    fn run(&self, words: &[&str]) -> Value {
        let output = self.output(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        last_line(&output.stdout)
    }

    fn client(&self) -> ControlClient {
        let folder = Folder::open(self.folder.path()).expect("the cluster's files");
        ControlClient::of_folder(&folder).expect("a socket")
    }

    /// Process of a node now.
    fn pid(&self, name: &str) -> i64 {
        let status = self.run(&["cluster", "status"]);
        let nodes = status["nodes"].as_array().expect("a list of nodes").clone();
        let node =
            nodes.iter().find(|node| node["name"] == name).unwrap_or_else(|| panic!("no {name}: {status}"));
        node["pid"].as_i64().unwrap_or_else(|| panic!("{name} does not run: {status}"))
    }

    fn kill(&self, name: &str) {
        let pid = self.pid(name).to_string();
        assert!(Command::new("kill").args(["-9", &pid]).status().expect("kill runs").success());
    }

    /// Waits until every node answers; answers with how often a node was started again.
    async fn all_answer(&self) -> Value {
        until("every node answers", PATIENCE, async || {
            let output = self.output(&["cluster", "status"]);
            let status = last_line(&output.stdout);
            let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
            let all = !nodes.is_empty() && nodes.iter().all(|node| node["answers"] == true);
            if all { Ok(status) } else { Err(status) }
        })
        .await
    }

    async fn load(&self, client: &ControlClient, name: &str) -> Load {
        let (_, vm) = named(client, name).await;
        let folder = Folder::open(self.folder.path()).expect("the cluster's files");
        let mut hosts = folder.hosts();
        hosts.sort_by_key(|host| host.key != vm.host);
        let target = Target::new(Arc::new(folder.group), vm.spec, hosts);
        let plan = LoadPlan { clients: 4, rate: 80.0, count: None, value_bytes: 64 };
        Load::start(Arc::new(target), plan).expect("sockets")
    }
}

impl Drop for Operated {
    fn drop(&mut self) {
        let down = self.output(&["cluster", "down", self.cluster()]);
        if std::thread::panicking() || !down.status.success() {
            let logs = self.folder.path().join("logs");
            for log in std::fs::read_dir(&logs).into_iter().flatten().flatten() {
                let text = std::fs::read_to_string(log.path()).unwrap_or_default();
                let lines: Vec<_> = text.lines().rev().take(15).collect();
                eprintln!("--- {}", log.path().display());
                lines.iter().rev().for_each(|line| eprintln!("{line}"));
            }
        }
    }
}

fn quorate(programs: &Programs) -> PathBuf {
    programs.host.with_file_name("quorate")
}

fn last_line(bytes: &[u8]) -> Value {
    let text = String::from_utf8_lossy(bytes);
    text.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or(Value::Null)
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
    let load = operated.load(&client, "web").await;
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
    let folder = Folder::open(operated.folder.path()).expect("the cluster's files");
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

    let proofs = operated.folder.path().join("proofs");
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
    let load = operated.load(&client, "web").await;
    until("answers before the loss", PATIENCE, async || at_least(&load, 60)).await;
    // The supervisor would start the host again: without its configuration it ends with 78 and stays down.
    let config = operated.folder.path().join("host-a.toml");
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
