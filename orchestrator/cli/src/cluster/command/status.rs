//! `quorate cluster status`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use quorate_ordering::protocol::Question;
use quorate_transport::Endpoint;
use serde_json::{Value, json};

use super::DEFAULT_FOLDER;
use crate::cluster::supervisor;
use crate::cluster::{Entry, Folder, NodeRole};
use crate::control_client::ControlClient;
use crate::exit;
use crate::failure::Failure;
use crate::output::{Output, Tone};

/// Time for one node to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(3);
const LOOK_EVERY: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub struct Arguments {
    /// Folder of the cluster.
    #[arg(env = "QUORATE_CLUSTER", default_value = DEFAULT_FOLDER)]
    folder: PathBuf,
    /// Wait until every node answers.
    #[arg(long)]
    wait: bool,
    /// Longest wait, seconds.
    #[arg(long, default_value_t = 60, requires = "wait")]
    wait_duration: u64,
}

/// Runs the command.
pub fn run(arguments: &Arguments, output: &Output) -> Result<u8, Failure> {
    if !arguments.wait {
        return show(&arguments.folder, output);
    }
    let deadline = Instant::now() + Duration::from_secs(arguments.wait_duration);
    loop {
        let all = look(&arguments.folder)?;
        if all.iter().all(|node| node.answer.is_some()) || Instant::now() > deadline {
            return print(&arguments.folder, &all, output);
        }
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Prints the state of every node once. Exit code 0 if both groups have a quorum, 69 if not.
pub fn show(folder: &Path, output: &Output) -> Result<u8, Failure> {
    print(folder, &look(folder)?, output)
}

struct NodeState {
    entry: Entry,
    pid: Option<u32>,
    restarts: u32,
    /// What it says of itself; none if it does not answer.
    answer: Option<Value>,
}

fn look(root: &Path) -> Result<Vec<NodeState>, Failure> {
    let folder = Folder::open(root)?;
    let running = supervisor::running(root).unwrap_or_default();
    let runtime = tokio::runtime::Runtime::new().map_err(|error| Failure::file(root, error))?;
    let mut answers = runtime.block_on(answers(&folder))?;
    let state = |entry: Entry| NodeState {
        pid: running.nodes.get(&entry.name).copied(),
        restarts: running.restarts.get(&entry.name).copied().unwrap_or(0),
        answer: answers.remove(&entry.name),
        entry,
    };
    Ok(folder.index.nodes.iter().cloned().map(state).collect())
}

async fn answers(folder: &Folder) -> Result<BTreeMap<String, Value>, Failure> {
    let client = ControlClient::of_folder(folder)?;
    let mut answers = BTreeMap::new();
    let orderer = client.orderer();
    for (index, text) in orderer.ask_each(&Question::Status, ANSWER_LIMIT).await {
        let value = serde_json::from_slice(&text).unwrap_or(Value::Null);
        answers.insert(orderer.name(index).to_owned(), value);
    }
    for (index, member) in folder.group.members.iter().enumerate() {
        let Some(entry) = folder.entry(&member.name) else { continue };
        let reached = reach(client.endpoint(), entry, &folder.group.members[index].transport_key).await;
        if reached {
            answers.insert(member.name.clone(), json!({}));
        }
    }
    for entry in &folder.index.nodes {
        if is_listening(folder, entry).await {
            answers.insert(entry.name.clone(), json!({}));
        }
    }
    for (index, host) in folder.hosts().iter().enumerate() {
        if let Ok(Ok(status)) = tokio::time::timeout(ANSWER_LIMIT, client.operator().status(index)).await {
            let certified = status.certified.map(|slot| slot.get());
            let value = json!({
                "role": status.role,
                "vm": status.vm.map(|vm| vm.to_string()),
                "generation": status.generation.get(),
                "certified_slot": certified,
                "active_instances": status.active_instances,
            });
            answers.insert(host.name.clone(), value);
        }
    }
    client.close().await;
    Ok(answers)
}

/// Whether a signer's socket or a gateway's port takes connections.
async fn is_listening(folder: &Folder, entry: &Entry) -> bool {
    match entry.role {
        NodeRole::Signer => {
            let connect = tokio::net::UnixStream::connect(folder.socket(&entry.name));
            matches!(tokio::time::timeout(ANSWER_LIMIT, connect).await, Ok(Ok(_)))
        }
        NodeRole::Gateway => {
            let connect = tokio::net::TcpStream::connect(entry.place.service);
            matches!(tokio::time::timeout(ANSWER_LIMIT, connect).await, Ok(Ok(_)))
        }
        NodeRole::Orchestrator | NodeRole::Verifier | NodeRole::Host => false,
    }
}

async fn reach(endpoint: &Endpoint, entry: &Entry, key: &quorate_attest::key::PublicKey) -> bool {
    let dial = endpoint.connect(entry.place.messages, key);
    matches!(tokio::time::timeout(ANSWER_LIMIT, dial).await, Ok(Ok(_)))
}

fn print(root: &Path, nodes: &[NodeState], output: &Output) -> Result<u8, Failure> {
    let folder = Folder::open(root)?;
    let answering =
        |role| nodes.iter().filter(|node| node.entry.role == role && node.answer.is_some()).count() as u64;
    let quorum =
        |group: &quorate_attest::group::GroupConfig| group.rule().map_or(u64::MAX, |rule| rule.quorum());
    let sound = answering(NodeRole::Orchestrator) >= quorum(&folder.orchestrators)
        && answering(NodeRole::Verifier) >= quorum(&folder.group);
    let row = |node: &NodeState| {
        let state = match (&node.answer, node.pid) {
            (Some(_), _) => "answers",
            (None, Some(_)) => "silent",
            (None, None) => "down",
        };
        vec![
            node.entry.name.clone(),
            node.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string()),
            node.entry.place.messages.to_string(),
            state.to_owned(),
            node.restarts.to_string(),
            node.answer.as_ref().map(detail).unwrap_or_default(),
        ]
    };
    let rows: Vec<_> = nodes.iter().map(row).collect();
    output.table(&["node", "pid", "address", "state", "restarts", ""], &rows, &[1, 4]);
    let verdict = if sound { ("both groups have a quorum", Tone::Good) } else { ("NO QUORUM", Tone::Bad) };
    output.line(&format!("\n  {}", output.tint(verdict.1, verdict.0)));
    let list: Vec<Value> = nodes
        .iter()
        .map(|node| {
            json!({
                "name": node.entry.name, "role": node.entry.role, "pid": node.pid, "address": node.entry.place.messages,
                "service": node.entry.place.service, "restarts": node.restarts, "answers": node.answer.is_some(),
                "status": node.answer,
            })
        })
        .collect();
    output.object(&json!({"result": if sound { "ok" } else { "no quorum" }, "folder": root, "nodes": list}));
    Ok(if sound { exit::OK } else { exit::NO_QUORUM })
}

/// What a node says of itself in a few words.
fn detail(answer: &Value) -> String {
    let text = |name: &str| {
        answer.get(name).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    };
    let mut words = Vec::new();
    for name in ["role", "generation", "certified_slot", "epoch", "applied", "view"] {
        match text(name) {
            Some(value) if name == "role" => words.push(value),
            Some(value) => words.push(format!("{} {value}", name.replace('_', " "))),
            None => {}
        }
    }
    words.join(", ")
}
