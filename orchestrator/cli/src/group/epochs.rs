//! A new epoch reaches the files of a cluster and the nodes that run from them.
//!
//! ```text
//! chain of the ordered log ─▶ links/NAME-epoch-N.link ─▶ rotated keys in place ─▶ hosts end and start ─▶ verifiers, one by one
//! ```
//!
//! Hosts first: a host that ends waits for the certificates of its last slots, and only verifiers of the epoch in which they
//! were proposed can still give them. Then each verifier; the VMs go on when a quorum of them is in the new epoch.
//! Everything is done at most once and may be interrupted anywhere.

use std::fs;
use std::path::Path;
use std::time::Duration;

use quorate_attest::epoch::GroupChain;
use quorate_attest::group::Member;
use quorate_attest::key::PublicKey;
use quorate_control::Which;
use quorate_verifier::config::chain_files::write_links;
use quorate_verifier::key_file;
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep, timeout_at};

use crate::cluster::{Folder, NodeRole, supervisor};
use crate::control_client::ControlClient;
use crate::exit;
use crate::failure::Failure;
use crate::output::Output;

/// Time for a node to end and to be started again.
const RESTART_LIMIT: Duration = Duration::from_secs(40);
/// Time for the VMs to run again.
const SETTLE_LIMIT: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Brings the folder and its running nodes to the newest epoch of `chain`; answers with the nodes that were started again.
pub async fn adopt(
    folder: &Folder,
    client: &ControlClient,
    which: Which,
    chain: &GroupChain,
    output: &Output,
) -> Result<Vec<String>, Failure> {
    let links = folder.links();
    fs::create_dir_all(&links).map_err(|error| Failure::file(&links, error))?;
    write_links(&links, chain).map_err(|error| Failure::file(&links, error))?;
    for member in &chain.members {
        install_keys(folder, member, chain.epoch.get())?;
    }
    output.line(&format!("its links are in {}", links.display()));
    if supervisor::running(folder.root()).is_none() {
        output.line(
            "no supervisor runs these nodes: start hosts again first, then verifiers, with these links",
        );
        return Ok(Vec::new());
    }
    let mut restarted = Vec::new();
    // The orchestrators follow the log and start themselves again.
    for role in [NodeRole::Host, NodeRole::Verifier] {
        for entry in folder.index.nodes.iter().filter(|entry| entry.role == role) {
            restart(folder.root(), &entry.name).await?;
            output.line(&format!("{} was started again", entry.name));
            restarted.push(entry.name.clone());
        }
    }
    if which == Which::Verifiers {
        settle(folder, client, output).await?;
    }
    Ok(restarted)
}

/// Puts the keys of a member in place that were made for this epoch. The earlier ones stay beside them.
fn install_keys(folder: &Folder, member: &Member, epoch: u64) -> Result<(), Failure> {
    let wanted =
        [("vote", member.vote_key), ("cosigner", member.cosigner_key), ("transport", member.transport_key)];
    for (role, public) in wanted {
        let path = folder.key_file(&member.name, role);
        let fresh = folder.key_file(&member.name, &format!("{role}.epoch-{epoch}"));
        if !holds(&fresh, &public) || holds(&path, &public) {
            continue;
        }
        let aside = folder.key_file(&member.name, &format!("{role}.before-{epoch}"));
        if path.exists() {
            fs::rename(&path, &aside).map_err(|error| Failure::file(&path, error))?;
        }
        fs::rename(&fresh, &path).map_err(|error| Failure::file(&fresh, error))?;
    }
    Ok(())
}

fn holds(path: &Path, public: &PublicKey) -> bool {
    key_file::read(path).is_ok_and(|key| key.public() == *public)
}

/// Asks a node to end, and waits until its supervisor has started it again.
async fn restart(root: &Path, name: &str) -> Result<(), Failure> {
    let process = || supervisor::running(root).and_then(|running| running.nodes.get(name).copied());
    let Some(before) = process() else { return Ok(()) };
    let pid = i32::try_from(before).ok().and_then(Pid::from_raw);
    let pid =
        pid.ok_or_else(|| Failure::new(exit::CONFIGURATION, "BadConfig", "run.json names no process"))?;
    // It may have ended by itself in the meantime.
    let _ = kill_process(pid, Signal::TERM);
    let deadline = Instant::now() + RESTART_LIMIT;
    while process().is_none_or(|now| now == before) {
        let down = supervisor::running(root).and_then(|running| running.down.get(name).cloned());
        if let Some(status) = down {
            let text = format!("{name} does not start in the new epoch: {status}");
            return Err(Failure::new(exit::REFUSED, "NodeFailed", text).next("see its log in logs/"));
        }
        if Instant::now() > deadline {
            let text = format!("{name} was not started again within {} s", RESTART_LIMIT.as_secs());
            return Err(Failure::new(exit::RETRY, "PeerTimeout", text));
        }
        sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// Waits until the registered VMs run again, so that the next command finds them running.
async fn settle(folder: &Folder, client: &ControlClient, output: &Output) -> Result<(), Failure> {
    let (hosts, deadline) = (folder.hosts(), Instant::now() + SETTLE_LIMIT);
    for (vm, record) in client.vms().await? {
        let Some(index) = hosts.iter().position(|host| host.key == record.host) else { continue };
        let runs = async {
            loop {
                match client.operator().status(index).await {
                    Ok(status) if status.vm == Some(vm) && status.active_instances > 0 => break,
                    _ => sleep(LOOK_EVERY).await,
                }
            }
        };
        if timeout_at(deadline, runs).await.is_err() {
            let name = &record.spec.name;
            output.line(&format!(
                "{name} does not run on {} yet: see `quorate vm show {name}`",
                hosts[index].name
            ));
        }
    }
    Ok(())
}
