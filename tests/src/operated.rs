//! A cluster as an operator has it: started and asked with the command line, kept running by its supervisor.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::Duration;

use quorate_cli::cluster::{Folder, Programs};
use quorate_cli::control_client::ControlClient;
use serde_json::Value;

use crate::programs::programs;
use crate::until;

const PATIENCE: Duration = Duration::from_secs(60);

/// A cluster under `quorate cluster up`, stopped when the test ends.
pub struct Operated {
    folder: tempfile::TempDir,
    programs: Programs,
}

impl Operated {
    /// Starts the usual cluster.
    pub fn up() -> Self {
        Self::with(&[])
    }

    /// Starts a cluster, with further words for `quorate cluster up`.
    pub fn with(further: &[&str]) -> Self {
        let folder = tempfile::Builder::new().prefix("quorate-operate-").tempdir().expect("a folder");
        let operated = Self { folder, programs: programs() };
        let words = [&["cluster", "up", operated.cluster()], further].concat();
        let shown = operated.run(&words);
        assert_eq!(shown["result"], "ok", "{shown}");
        operated
    }

    /// Its folder, as a word of a command line.
    pub fn cluster(&self) -> &str {
        self.folder.path().to_str().expect("a temporary folder has a readable name")
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// A command of `quorate` about this cluster, which prints JSON.
    pub fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(quorate(&self.programs));
        command.arg("--json").args(words).env("QUORATE_CLUSTER", self.cluster());
        command
    }

    /// Runs a command.
    pub fn output(&self, words: &[&str]) -> Output {
        self.command(words).output().expect("quorate runs")
    }

    /// Runs a command that must succeed; answers with its last line.
    pub fn run(&self, words: &[&str]) -> Value {
        let output = self.output(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        last_line(&output.stdout)
    }

    /// An operator of the cluster.
    pub fn client(&self) -> ControlClient {
        let folder = Folder::open(self.folder.path()).expect("the cluster's files");
        ControlClient::of_folder(&folder).expect("a socket")
    }

    /// Process of a node now.
    pub fn pid(&self, name: &str) -> i64 {
        let status = self.run(&["cluster", "status"]);
        let nodes = status["nodes"].as_array().expect("a list of nodes").clone();
        let node =
            nodes.iter().find(|node| node["name"] == name).unwrap_or_else(|| panic!("no {name}: {status}"));
        node["pid"].as_i64().unwrap_or_else(|| panic!("{name} does not run: {status}"))
    }

    /// Ends a node as a power failure would.
    pub fn kill(&self, name: &str) {
        let pid = self.pid(name).to_string();
        assert!(Command::new("kill").args(["-9", &pid]).status().expect("kill runs").success());
    }

    /// Waits until every node answers; answers with how often a node was started again.
    pub async fn all_answer(&self) -> Value {
        until("every node answers", PATIENCE, async || {
            let output = self.output(&["cluster", "status"]);
            let status = last_line(&output.stdout);
            let nodes = status["nodes"].as_array().cloned().unwrap_or_default();
            let all = !nodes.is_empty() && nodes.iter().all(|node| node["answers"] == true);
            if all { Ok(status) } else { Err(status) }
        })
        .await
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

/// The last line of an output, as JSON.
pub fn last_line(bytes: &[u8]) -> Value {
    let text = String::from_utf8_lossy(bytes);
    text.lines().last().and_then(|line| serde_json::from_str(line).ok()).unwrap_or(Value::Null)
}
