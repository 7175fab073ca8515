//! One process that keeps a cluster's nodes running on one machine: a laptop's stand-in for systemd.
//!
//! A node that ends is started again after a pause that doubles while it keeps ending soon. One that ended with a code
//! after which a restart would be wrong (70: it must not sign any more; 78: its configuration) stays down, as
//! `RestartPreventExitStatus` says in the units for servers.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Cluster, ClusterError, Folder, Programs};

const LOOK_EVERY: Duration = Duration::from_millis(100);
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);
/// A node that ran for so long starts again without delay.
const STEADY: Duration = Duration::from_secs(30);
/// Exit codes after which a node stays down.
const STAY_DOWN: [i32; 2] = [70, 78];

/// What the supervisor writes down about its nodes: `run.json`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// The supervisor.
    pub pid: u32,
    /// Whether all nodes were started.
    pub ready: bool,
    /// Process of each node that runs.
    pub nodes: BTreeMap<String, u32>,
    /// Nodes that stay down, with how they ended.
    pub down: BTreeMap<String, String>,
    /// How often each node was started again.
    pub restarts: BTreeMap<String, u32>,
}

/// File of [`Running`].
pub fn running_file(root: &Path) -> PathBuf {
    root.join("run.json")
}

/// What a supervisor of this folder wrote; none if none runs.
pub fn running(root: &Path) -> Option<Running> {
    let lock = File::open(lock_file(root)).ok()?;
    // The lock ends with the process, however that ended. Who gets it knows that nobody supervises.
    if flock(&lock, FlockOperation::NonBlockingLockShared).is_ok() {
        return None;
    }
    serde_json::from_slice(&fs::read(running_file(root)).ok()?).ok()
}

fn lock_file(root: &Path) -> PathBuf {
    root.join("supervisor.lock")
}

/// Starts the nodes of a folder and keeps them running until `stop` resolves.
///
/// # Errors
/// Another supervisor runs, or a node does not start.
pub async fn supervise(
    root: &Path,
    programs: Programs,
    stop: impl Future<Output = ()>,
) -> Result<(), ClusterError> {
    let lock = File::create(lock_file(root)).map_err(ClusterError::io("create the supervisor's lock"))?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)
        .map_err(|_| ClusterError::AlreadySupervised { folder: root.to_owned() })?;
    let mut notes = Notes {
        path: running_file(root),
        running: Running { pid: std::process::id(), ..Running::default() },
    };
    notes.write()?;
    let mut cluster = Cluster::start_folder(Folder::open(root)?, programs, BTreeMap::new()).await?;
    notes.running.nodes = pids(&mut cluster);
    notes.running.ready = true;
    notes.write()?;
    let mut stop = std::pin::pin!(stop);
    let mut pauses = Pauses::default();
    loop {
        tokio::select! {
            () = &mut stop => break,
            () = tokio::time::sleep(LOOK_EVERY) => {}
        }
        look(&mut cluster, &mut pauses, &mut notes).await?;
    }
    cluster.stop().await;
    // The file says what runs, and nothing does.
    let _ = fs::remove_file(running_file(root));
    Ok(())
}

async fn look(cluster: &mut Cluster, pauses: &mut Pauses, notes: &mut Notes) -> Result<(), ClusterError> {
    let now = Instant::now();
    for name in cluster.node_names() {
        let Some(status) = cluster.node(&name)?.exit() else { continue };
        if notes.running.down.contains_key(&name) || !pauses.is_over(&name, now) {
            continue;
        }
        if stays_down(status) {
            tracing::error!(node = name, %status, "the node must not be started again");
            notes.running.nodes.remove(&name);
            notes.running.down.insert(name, status.to_string());
            notes.write()?;
            continue;
        }
        tracing::warn!(node = name, %status, "the node ended and is started again");
        pauses.restarted(&name, now);
        if let Err(error) = cluster.restart(&name, None).await {
            tracing::error!(node = name, error_kind = error.kind(), %error, "the node does not start");
        }
        *notes.running.restarts.entry(name).or_default() += 1;
        notes.running.nodes = pids(cluster);
        notes.write()?;
    }
    Ok(())
}

fn stays_down(status: ExitStatus) -> bool {
    status.code().is_some_and(|code| STAY_DOWN.contains(&code))
}

fn pids(cluster: &mut Cluster) -> BTreeMap<String, u32> {
    let names = cluster.node_names();
    names.into_iter().filter_map(|name| Some((name.clone(), cluster.node(&name).ok()?.pid()?))).collect()
}

struct Notes {
    path: PathBuf,
    running: Running,
}

impl Notes {
    /// Replaces the file in one step, so that a reader never sees half of it.
    fn write(&self) -> Result<(), ClusterError> {
        let write = || -> io::Result<()> {
            let new = self.path.with_extension("new");
            fs::write(&new, serde_json::to_vec(&self.running)?)?;
            fs::rename(new, &self.path)
        };
        write().map_err(ClusterError::io(format!("write {}", self.path.display())))
    }
}

/// When each node may be started again.
#[derive(Debug, Default)]
struct Pauses {
    nodes: BTreeMap<String, (Instant, Duration)>,
}

impl Pauses {
    fn is_over(&self, name: &str, now: Instant) -> bool {
        self.nodes.get(name).is_none_or(|(started, pause)| now >= *started + *pause)
    }

    fn restarted(&mut self, name: &str, now: Instant) {
        let pause = match self.nodes.get(name) {
            Some((started, pause)) if now < *started + STEADY => (*pause * 2).min(PAUSE_MAX),
            _ => PAUSE_FIRST,
        };
        self.nodes.insert(name.to_owned(), (now, pause));
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;

    use super::*;

    #[test]
    fn a_node_that_may_not_sign_or_is_misconfigured_stays_down_and_a_killed_one_does_not() {
        let ended = |code: i32| ExitStatus::from_raw(code << 8);
        assert!(stays_down(ended(70)) && stays_down(ended(78)));
        assert!(!stays_down(ended(0)) && !stays_down(ended(74)) && !stays_down(ExitStatus::from_raw(9)));
    }

    #[test]
    fn pauses_double_while_a_node_keeps_ending_and_shrink_once_it_ran_steadily() {
        let (start, mut pauses) = (Instant::now(), Pauses::default());
        assert!(pauses.is_over("a", start));
        pauses.restarted("a", start);
        assert!(!pauses.is_over("a", start + PAUSE_FIRST / 2));
        assert!(pauses.is_over("a", start + PAUSE_FIRST));
        pauses.restarted("a", start + PAUSE_FIRST);
        assert!(!pauses.is_over("a", start + PAUSE_FIRST * 2));
        let later = start + STEADY * 2;
        pauses.restarted("a", later);
        assert!(pauses.is_over("a", later + PAUSE_FIRST));
        assert!(pauses.is_over("b", start));
    }

    #[test]
    fn a_folder_without_supervisor_shows_none_even_when_its_file_was_left_behind() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(running(folder.path()), None);
        fs::write(
            running_file(folder.path()),
            b"{\"pid\":1,\"ready\":true,\"nodes\":{},\"down\":{},\"restarts\":{}}",
        )
        .unwrap();
        fs::write(lock_file(folder.path()), b"").unwrap();
        assert_eq!(running(folder.path()), None);
    }
}
