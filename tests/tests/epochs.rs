//! The verifiers' group changes while a VM runs: with the command line and real processes.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use quorate_attest::epoch::GroupChain;
use quorate_attest::id::{Epoch, Slot};
use quorate_attest::statement::Kind;
use quorate_attest::vm::{Attestation, SlotCertificate};
use quorate_cli::cluster::Folder;
use quorate_cli::control_client::ControlClient;
use quorate_host::client::hosts::SlotRecords;
use quorate_tests::programs::programs;
use quorate_tests::until;
use quorate_verifier::key_file;
use serde_json::Value;

const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster under `quorate cluster up`, stopped when the test ends.
struct Cluster {
    folder: tempfile::TempDir,
}

impl Cluster {
    fn up() -> Self {
        let folder = tempfile::Builder::new().prefix("quorate-epochs-").tempdir().expect("a folder");
        let cluster = Self { folder };
        let path = cluster.path().to_str().expect("a readable name").to_owned();
        assert_eq!(cluster.run(&["cluster", "up", &path])["result"], "ok");
        cluster
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn output(&self, words: &[&str]) -> Output {
        let quorate = programs().host.with_file_name("quorate");
        let mut command = Command::new(quorate);
        command.arg("--json").args(words).env("QUORATE_CLUSTER", self.path());
        command.output().expect("quorate runs")
    }

    /// Runs a command that must succeed; answers with its last line.
    fn run(&self, words: &[&str]) -> Value {
        let output = self.output(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or(Value::Null)
    }

    fn files(&self) -> Folder {
        Folder::open(self.path()).expect("the cluster's files")
    }

    /// Everything that a host keeps of its VM's chain.
    async fn records(&self, host: usize) -> SlotRecords {
        let client = ControlClient::of_folder(&self.files()).expect("a socket");
        let records = client.operator().export(host, Slot(0)).await.expect("the host shows its records");
        client.close().await;
        records
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let path = self.path().to_str().unwrap_or_default().to_owned();
        let down = self.output(&["cluster", "down", &path]);
        if std::thread::panicking() || !down.status.success() {
            for log in std::fs::read_dir(self.path().join("logs")).into_iter().flatten().flatten() {
                let text = std::fs::read_to_string(log.path()).unwrap_or_default();
                let lines: Vec<_> = text.lines().rev().take(15).collect();
                eprintln!("--- {}", log.path().display());
                lines.iter().rev().for_each(|line| eprintln!("{line}"));
            }
        }
    }
}

/// Checks a certificate with the members of its own epoch.
fn holds(chain: &GroupChain, certificate: &SlotCertificate) -> Result<(), &'static str> {
    let statement = &certificate.statement;
    let members = chain.past(statement.group, statement.epoch).map_err(|error| error.kind())?;
    let expected = members.expected(statement.vm, Kind::SLOT_SAMPLED);
    certificate.verify(members, &expected).map(|_| ()).map_err(|error| error.kind())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_verifier_changes_its_keys_while_a_vm_runs_and_the_vm_moves_on_in_the_new_epoch() {
    let cluster = Cluster::up();
    cluster.run(&["vm", "create", "web", "--image", "kv", "--memory", "16"]);
    cluster.run(&["vm", "call", "web", "put", "greeting", "hello"]);
    let before = cluster.records(0).await;
    let removed = key_file::read(&cluster.path().join("keys").join("verifier-0.vote")).expect("a key");

    let changed = cluster.run(&["group", "rotate", "verifiers", "verifier-0"]);
    assert_eq!((changed["result"].as_str(), changed["epoch"].as_u64()), (Some("changed"), Some(1)));
    let files = cluster.files();
    assert_eq!(files.group.epoch, Epoch(1));
    assert_ne!(files.group.members[0].vote_key, removed.public());

    // Nothing acknowledged is lost, new slots are of the new epoch, and all four verifiers attest.
    assert_eq!(cluster.run(&["vm", "call", "web", "get", "greeting"])["answer"], "hello");
    cluster.run(&["vm", "call", "web", "put", "greeting", "again"]);
    let after = until("all verifiers attest in the new epoch", PATIENCE, async || {
        cluster.run(&["vm", "call", "web", "put", "other", "value"]);
        let records = cluster.records(0).await;
        let status = cluster.run(&["cluster", "status"]);
        let new = records.certificates.iter().filter(|found| found.statement.epoch == Epoch(1)).count();
        if new > 0 { Ok(records) } else { Err(status) }
    })
    .await;
    assert_eq!(cluster.run(&["vm", "migrate", "web", "--to", "host-b"])["result"], "activated");
    assert_eq!(cluster.run(&["vm", "call", "web", "get", "greeting"])["answer"], "again");

    // Offline, each certificate holds in its own epoch and in no other.
    let chain = &files.group;
    let certificates: Vec<_> = before.certificates.iter().chain(&after.certificates).collect();
    assert!(certificates.iter().any(|found| found.statement.epoch == Epoch::ZERO));
    for certificate in &certificates {
        assert_eq!(holds(chain, certificate), Ok(()), "slot {}", certificate.statement.slot);
    }
    let new = certificates.iter().find(|found| found.statement.epoch == Epoch(1)).expect("a new slot");
    let stale = GroupChain::new(chain.genesis().clone()).expect("the genesis");
    assert_eq!(holds(&stale, new), Err("EpochUnlinked"));
    // The key that was removed signs for nobody any more.
    let mut forged = (*new).clone();
    forged.attestations.retain(|attestation| attestation.verifier != 0);
    let mode = forged.attestations[0].mode;
    forged.attestations.insert(0, Attestation::sign(&forged.statement, 0, mode, &removed));
    assert_eq!(holds(chain, &forged), Err("BadSignature"));
}
