//! A member in a process of its own is killed with SIGKILL again and again while it works.

mod support;

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use quorate_agreement::{Config, OrderedLog};
use quorate_transport::Limits;
use support::{Node, endpoint, group, operation, operations, timing, vote_key};

const FOLDER: &str = "QUORATE_TEST_LOG_FOLDER";
const ADDRESSES: &str = "QUORATE_TEST_LOG_ADDRESSES";
const KILLED: u16 = 3;

fn config(member: u16, addresses: &[SocketAddr], folder: &std::path::Path) -> Config {
    let folder = folder.join(format!("o{member}"));
    let group = Arc::new(group(4));
    let mut config = Config::new(group, member, vote_key(member), folder, addresses.to_vec(), operations());
    config.timing = timing();
    config
}

/// Not a test of its own: the process that is killed. Prints every entry as soon as it is delivered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn child() {
    let (Ok(folder), Ok(addresses)) = (std::env::var(FOLDER), std::env::var(ADDRESSES)) else { return };
    let addresses: Vec<SocketAddr> = addresses.split(',').map(|text| text.parse().unwrap()).collect();
    let endpoint = Arc::new(endpoint(KILLED, addresses[usize::from(KILLED)], Limits::default()));
    let node = Node::start(config(KILLED, &addresses, folder.as_ref()), endpoint).await.unwrap();
    let mut entries = node.log.subscribe(0).await.unwrap();
    while let Some(entry) = entries.next().await {
        let mut out = std::io::stdout().lock();
        writeln!(out, "entry {} {}", entry.index, entry.id).unwrap();
        out.flush().unwrap();
    }
}

fn spawn(
    addresses: &[SocketAddr],
    folder: &std::path::Path,
) -> (Child, impl Iterator<Item = String> + use<>) {
    let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(FOLDER, folder)
        .env(ADDRESSES, addresses.join(","))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    // The test harness may print on the same line before the first entry.
    let entries = lines.map_while(Result::ok).filter_map(|line| {
        line.find("entry ").map(|start| line[start..].to_owned()).filter(|entry| entry.len() > 64)
    });
    (child, entries)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_kill_9_during_load_loses_and_reorders_nothing_that_was_delivered() {
    let folder = tempfile::tempdir().unwrap();
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    let endpoints: Vec<_> =
        (0..3).map(|member| Arc::new(endpoint(member, local, Limits::default()))).collect();
    let mut addresses: Vec<_> = endpoints.iter().map(|endpoint| endpoint.local_addr().unwrap()).collect();
    addresses.push(UdpSocket::bind(local).unwrap().local_addr().unwrap());
    let mut nodes = Vec::new();
    for (member, endpoint) in endpoints.into_iter().enumerate() {
        let config = config(member as u16, &addresses, folder.path());
        nodes.push(Node::start(config, endpoint).await.unwrap());
    }
    let (rounds, each) = (4u64, 60u64);
    let mut delivered: Vec<String> = Vec::new();
    for round in 0..rounds {
        let (mut child, lines) = spawn(&addresses, folder.path());
        for number in round * each..(round + 1) * each {
            nodes[(number % 3) as usize].log.submit(operation(number, 1000)).await.unwrap();
        }
        // Killed in the middle of this round's operations, wherever it is then.
        let wanted = (round * each + each / 2) as usize;
        let seen = tokio::task::spawn_blocking(move || {
            let seen: Vec<_> = lines.take(wanted).collect();
            child.kill().unwrap();
            child.wait().unwrap();
            seen
        });
        let seen = tokio::time::timeout(support::PATIENCE, seen).await.unwrap().unwrap();
        assert_eq!(seen.len(), wanted, "round {round}: the child ended by itself");
        let common = delivered.len().min(seen.len());
        assert_eq!(delivered[..common], seen[..common], "round {round}");
        delivered = seen;
    }
    let entries = nodes[0].entries(rounds * each).await;
    let all: Vec<_> = entries.iter().map(|entry| format!("entry {} {}", entry.index, entry.id)).collect();
    assert_eq!(all[..delivered.len()], delivered);
    // Once more, undisturbed: all of it.
    let (mut child, lines) = spawn(&addresses, folder.path());
    let last = tokio::task::spawn_blocking(move || {
        let last: Vec<_> = lines.take((rounds * each) as usize).collect();
        child.kill().unwrap();
        child.wait().unwrap();
        last
    });
    assert_eq!(tokio::time::timeout(support::PATIENCE, last).await.unwrap().unwrap(), all);
    for node in nodes {
        node.stop().await;
    }
}
