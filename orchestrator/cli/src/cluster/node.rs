//! One process of a cluster.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use super::ClusterError;

/// Time until a process says where it listens.
const READY_LIMIT: Duration = Duration::from_secs(30);
/// Bytes of a failed node's log that are shown.
const TAIL_BYTES: usize = 2048;

/// How to start a node.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Name of the node.
    pub name: String,
    /// Program.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<OsString>,
    /// Where its standard error goes; a restarted node appends.
    pub log: PathBuf,
}

/// Whether a line of a node's standard output says that it is ready: `listening ADDRESS …`, or the path of its socket.
fn is_ready(line: &str) -> bool {
    let mut words = line.split_whitespace();
    words.next() == Some("listening") && words.next().is_some()
}

/// A process that said where it listens. Dropping it kills it.
#[derive(Debug)]
pub struct Node {
    launch: Launch,
    child: Child,
    early: Option<ExitStatus>,
}

impl Node {
    /// Starts the process and waits until it listens.
    pub(super) async fn spawn(launch: Launch) -> Result<Self, ClusterError> {
        let mut child = command(&launch)?.spawn().map_err(|source| spawn_error(&launch.program, source))?;
        let stdout = child.stdout.take();
        let Some(stdout) = stdout else {
            let source = io::Error::other("no standard output");
            return Err(ClusterError::Io { what: launch.name, source });
        };
        let mut lines = BufReader::new(stdout).lines();
        match timeout(READY_LIMIT, ready(&mut lines)).await {
            Ok(true) => {
                // Nobody reads what else it says, but the pipe must not fill up.
                tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
                Ok(Self { launch, child, early: None })
            }
            Ok(false) => {
                let status =
                    child.wait().await.map_err(ClusterError::io(format!("wait for {}", launch.name)))?;
                let tail = tail(&launch.log);
                Err(ClusterError::NodeFailed { name: launch.name, status, tail })
            }
            Err(_) => {
                let _ = child.kill().await;
                Err(ClusterError::NotReady { name: launch.name, limit: READY_LIMIT, log: launch.log })
            }
        }
    }

    /// Name of the node.
    pub fn name(&self) -> &str {
        &self.launch.name
    }

    /// Its process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// How it ended, if it did.
    pub fn exit(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// How it ended, if it did before it was asked to.
    pub fn ended_early(&self) -> Option<String> {
        self.early.map(|status| format!("{} with {status}", self.launch.name))
    }

    /// Asks the process to end.
    pub fn terminate(&mut self) {
        self.early = self.early.or(self.exit());
        let pid = self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
        if let Some(pid) = pid {
            // It may have ended by itself in the meantime.
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    /// Waits for the end of the process and kills it when it takes longer than `grace`.
    pub async fn ended(&mut self, grace: Duration) -> Option<ExitStatus> {
        match timeout(grace, self.child.wait()).await {
            Ok(status) => status.ok(),
            Err(_) => {
                self.kill().await;
                None
            }
        }
    }

    /// Ends the process at once, as a power failure would.
    pub async fn kill(&mut self) {
        // Fails only for a process that has ended.
        let _ = self.child.kill().await;
    }
}

/// Creates the sign-log of a new verifier. One that exists is left alone.
pub(super) async fn initialise(program: &Path, config: &Path, name: &str) -> Result<(), ClusterError> {
    let mut command = Command::new(program);
    command.arg("--config").arg(config).arg("init").stdin(Stdio::null());
    let output = command.output().await.map_err(|source| spawn_error(program, source))?;
    let tail = String::from_utf8_lossy(&output.stderr).into_owned();
    if output.status.success() || tail.contains("AlreadyInitialised") {
        return Ok(());
    }
    Err(ClusterError::NodeFailed { name: name.to_owned(), status: output.status, tail })
}

fn command(launch: &Launch) -> Result<Command, ClusterError> {
    let log: File = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&launch.log)
        .map_err(ClusterError::io(format!("open {}", launch.log.display())))?;
    let mut command = Command::new(&launch.program);
    command
        .args(&launch.arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .kill_on_drop(true);
    // What nodes refuse is read from their logs, whatever filter the user has set for other programs.
    command.env("RUST_LOG", "info");
    Ok(command)
}

fn spawn_error(program: &Path, source: io::Error) -> ClusterError {
    match source.kind() {
        io::ErrorKind::NotFound => ClusterError::ProgramMissing { path: program.to_owned() },
        _ => ClusterError::Io { what: format!("start {}", program.display()), source },
    }
}

async fn ready(lines: &mut Lines<BufReader<ChildStdout>>) -> bool {
    while let Ok(Some(line)) = lines.next_line().await {
        if is_ready(&line) {
            return true;
        }
    }
    false
}

fn tail(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let start = text.len().saturating_sub(TAIL_BYTES);
    String::from_utf8_lossy(&text[start..]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn launch(script: &str, folder: &Path) -> Launch {
        Launch {
            name: "node".into(),
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            log: folder.join("node.log"),
        }
    }

    #[test]
    fn only_a_whole_listening_line_says_that_a_node_is_ready() {
        for text in
            ["listening 127.0.0.1:5", "listening 127.0.0.1:5 bulk 127.0.0.1:6", "listening /run/signer.sock"]
        {
            assert!(is_ready(text), "{text}");
        }
        for text in ["", "listening", "is listening 127.0.0.1:5", "listening:"] {
            assert!(!is_ready(text), "{text}");
        }
    }

    #[tokio::test]
    async fn node_that_ends_early_is_reported_with_its_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let error = Node::spawn(launch("echo sorry >&2; exit 78", folder.path())).await.unwrap_err();
        let ClusterError::NodeFailed { status, tail, .. } = &error else { panic!("{error}") };
        assert_eq!((status.code(), tail.as_str()), (Some(78), "sorry\n"));
    }

    #[tokio::test]
    async fn missing_program_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let launch = Launch { program: "/nowhere/quorate-host".into(), ..launch("", folder.path()) };
        let error = Node::spawn(launch).await.unwrap_err();
        assert_eq!(error.kind(), "ProgramMissing");
        assert!(error.to_string().contains("/nowhere/quorate-host"), "{error}");
    }

    #[tokio::test]
    async fn node_that_ignores_the_request_to_end_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let script = "trap '' TERM; echo listening 127.0.0.1:5; while :; do sleep 0.05; done";
        let mut node = Node::spawn(launch(script, folder.path())).await.unwrap();
        let pid = node.pid().unwrap();
        node.terminate();
        assert_eq!(node.ended(Duration::from_millis(200)).await, None);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }

    #[tokio::test]
    async fn node_that_obeys_ends_in_good_order() {
        let folder = tempfile::tempdir().unwrap();
        let script = "trap 'exit 0' TERM; echo listening 127.0.0.1:5; while :; do sleep 0.05; done";
        let mut node = Node::spawn(launch(script, folder.path())).await.unwrap();
        node.terminate();
        let status = node.ended(Duration::from_secs(20)).await.unwrap();
        assert!(status.success(), "{status}");
    }
}
