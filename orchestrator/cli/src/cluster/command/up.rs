//! `quorate cluster up` and `down`.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use clap::Args;
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde_json::json;

use super::init::{self, Size};
use super::{DEFAULT_FOLDER, status};
use crate::cluster::supervisor::{self, Running};
use crate::cluster::{Folder, Programs};
use crate::exit;
use crate::failure::Failure;
use crate::output::Output;

/// Time for all nodes to start.
const START_LIMIT: Duration = Duration::from_secs(120);
/// Time for all nodes to end.
const STOP_LIMIT: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(50);

#[derive(Debug, Args)]
pub struct Arguments {
    /// Folder of the cluster.
    #[arg(env = "QUORATE_CLUSTER", default_value = DEFAULT_FOLDER)]
    folder: PathBuf,
    #[command(flatten)]
    size: Size,
    /// Stay in the foreground and stop the cluster on Ctrl-C.
    #[arg(long)]
    foreground: bool,
    /// Folder of the node programs; beside this program unless named.
    #[arg(long, value_name = "DIR")]
    programs: Option<PathBuf>,
}

/// Runs the command.
pub fn run(arguments: &Arguments, output: &Output) -> Result<u8, Failure> {
    let folder = &arguments.folder;
    let programs = match &arguments.programs {
        Some(programs) => Programs::in_folder(programs),
        None => Programs::beside_current().map_err(Failure::usage)?,
    };
    if let Some(running) = supervisor::running(folder) {
        output.object(&json!({"result": "running", "folder": folder, "supervisor": running.pid}));
        output.line(&format!("{} runs already (supervisor {})", folder.display(), running.pid));
        return Ok(exit::OK);
    }
    if !folder.join("cluster.toml").exists() {
        init::create(&arguments.size.plan(folder, programs.clone()))?;
    }
    if arguments.foreground { foreground(folder, programs) } else { background(arguments, output) }
}

fn foreground(folder: &Path, programs: Programs) -> Result<u8, Failure> {
    let log = tracing_subscriber::fmt().json().with_writer(std::io::stderr).try_init();
    // Only a second call in one process finds one there.
    drop(log);
    let runtime = tokio::runtime::Runtime::new().map_err(|error| Failure::file(folder, error))?;
    runtime.block_on(async {
        supervisor::supervise(folder, programs, stop_signal()).await?;
        Ok(exit::OK)
    })
}

/// Resolves when the process is asked to end.
async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    let (Ok(mut terminate), Ok(mut interrupt)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        return;
    };
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Starts this program again in the foreground of a process group of its own, and waits until all nodes are there.
fn background(arguments: &Arguments, output: &Output) -> Result<u8, Failure> {
    let folder = &arguments.folder;
    let path = folder.join("logs").join("supervisor.log");
    let log = File::create(&path).map_err(|error| Failure::file(&path, error))?;
    let own = std::env::current_exe().map_err(Failure::usage)?;
    let mut command = Command::new(own);
    command.args(["cluster", "up", "--foreground"]).arg(folder);
    if let Some(programs) = &arguments.programs {
        command.arg("--programs").arg(programs);
    }
    let errors = log.try_clone().map_err(|error| Failure::file(&path, error))?;
    command.stdin(Stdio::null()).stdout(log).stderr(errors).process_group(0);
    let mut child = command.spawn().map_err(|error| Failure::file(folder, error))?;
    let begun = Instant::now();
    loop {
        if supervisor::running(folder).is_some_and(|running| running.ready) {
            return status::show(folder, output);
        }
        if let Ok(Some(ended)) = child.try_wait() {
            let last = std::fs::read_to_string(&path).unwrap_or_default();
            let text = format!("the supervisor ended with {ended}:\n{}", last.trim_end());
            let code = ended.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(exit::REFUSED);
            return Err(Failure::new(code.max(exit::REFUSED), "NodeFailed", text));
        }
        if begun.elapsed() > START_LIMIT {
            let text = format!("not all nodes were ready within {} s", START_LIMIT.as_secs());
            let next = format!("see {} and the other logs beside it", path.display());
            return Err(Failure::new(exit::RETRY, "PeerTimeout", text).next(next));
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Runs `quorate cluster down`.
pub fn down(folder: &Path, output: &Output) -> Result<u8, Failure> {
    Folder::open(folder)?;
    let running = supervisor::running(folder);
    let result = if running.is_some() { "stopped" } else { "not running" };
    if let Some(running) = &running {
        end(running, folder)?;
    }
    output.object(&json!({"result": result, "folder": folder}));
    output.line(&format!("{}: {result}", folder.display()));
    Ok(exit::OK)
}

fn end(running: &Running, folder: &Path) -> Result<(), Failure> {
    let pid = i32::try_from(running.pid).ok().and_then(Pid::from_raw);
    let pid =
        pid.ok_or_else(|| Failure::new(exit::CONFIGURATION, "BadConfig", "run.json names no process"))?;
    kill_process(pid, Signal::TERM)
        .map_err(|error| Failure::new(exit::NOT_PERMITTED, "NotPermitted", error))?;
    let begun = Instant::now();
    while supervisor::running(folder).is_some() && test_kill_process(pid).is_ok() {
        if begun.elapsed() > STOP_LIMIT {
            let text = format!("supervisor {} did not end within {} s", running.pid, STOP_LIMIT.as_secs());
            return Err(Failure::new(exit::RETRY, "PeerTimeout", text));
        }
        std::thread::sleep(LOOK_EVERY);
    }
    Ok(())
}
