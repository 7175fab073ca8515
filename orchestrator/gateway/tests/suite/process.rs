//! The program itself, over a cluster that is not there.

use std::fs;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use quorate_attest::group::{GroupConfig, HASH_SHA256, Member};
use quorate_attest::id::Epoch;
use quorate_verifier::config::group_file;
use quorate_verifier::key_file;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};

use crate::fixture::key;

fn group(name: &str, first: u8) -> GroupConfig {
    let member = |number: u8| Member {
        name: format!("{name}-{number}"),
        vote_key: key(first + 3 * number).public(),
        cosigner_key: key(first + 3 * number + 1).public(),
        transport_key: key(first + 3 * number + 2).public(),
    };
    GroupConfig {
        name: name.to_owned(),
        hash_algorithm: HASH_SHA256,
        epoch: Epoch(0),
        genesis: None,
        f: 1,
        members: (0..4).map(member).collect(),
        operators: vec![key(200).public()],
        hosts: Vec::new(),
    }
}

/// Files of a cluster whose orchestrators nobody started.
fn files(folder: &Path) {
    group_file::write(&folder.join("orchestrators.toml"), &group("orchestrator", 1)).unwrap();
    group_file::write(&folder.join("services.toml"), &group("replica", 50)).unwrap();
    let nodes: String = (0..4)
        .map(|number| {
            format!(
                "[[nodes]]\nname = \"orchestrator-{number}\"\nrole = \"orchestrator\"\n\
                 messages = \"127.0.0.1:9\"\nservice = \"127.0.0.1:9\"\n"
            )
        })
        .collect();
    fs::write(folder.join("cluster.toml"), nodes).unwrap();
    key_file::write(&folder.join("gateway.client"), &key(201)).unwrap();
    fs::write(
        folder.join("gateway.toml"),
        "cluster = \".\"\nkey_file = \"gateway.client\"\nstate_dir = \"state\"\nproofs_dir = \"proofs\"\n\
         registry = \"registry\"\nuid = \"uid\"\netcd_listen = \"127.0.0.1:0\"\nhttp_listen = \"127.0.0.1:0\"\n\
         nss_socket = \"state/nss.socket\"\ntimeout_ms = 200\n",
    )
    .unwrap();
}

fn gateway(folder: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate-gateway"));
    command.arg("--config").arg(folder.join("gateway.toml")).args(arguments);
    command
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

#[test]
fn exit_codes_tell_what_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    files(folder.path());
    let check = || gateway(folder.path(), &["--check-config"]).output().unwrap();
    let output = check();
    assert_eq!(code(&output), Some(0), "{output:?}");
    assert_eq!(
        String::from_utf8(output.stdout).unwrap(),
        "configuration is valid: gateway to group orchestrator, replicas replica\n"
    );
    let remote = gateway(folder.path(), &["--etcd-listen", "0.0.0.0:0", "run"]).output().unwrap();
    assert_eq!(code(&remote), Some(78));
    assert!(String::from_utf8(remote.stderr).unwrap().contains("not a loopback address"));
    assert_eq!(code(&gateway(folder.path(), &["--no-such-flag"]).output().unwrap()), Some(2));
    assert_eq!(code(&gateway(folder.path(), &["--version"]).output().unwrap()), Some(0));
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let output = gateway(folder.path(), &["--http-listen", &address]).output().unwrap();
    assert_eq!(code(&output), Some(78));
    assert!(String::from_utf8(output.stderr).unwrap().contains("SocketError"));
    fs::write(folder.path().join("blocked"), "a file").unwrap();
    let text = fs::read_to_string(folder.path().join("gateway.toml")).unwrap();
    fs::write(folder.path().join("gateway.toml"), text.replace("\"state\"", "\"blocked/state\"")).unwrap();
    assert_eq!(code(&gateway(folder.path(), &[]).output().unwrap()), Some(74));
    fs::remove_file(folder.path().join("services.toml")).unwrap();
    assert_eq!(code(&check()), Some(78));
    let none = Command::new(env!("CARGO_BIN_EXE_quorate-gateway")).output().unwrap();
    assert_eq!(code(&none), Some(78));
}

#[tokio::test]
async fn gateway_without_a_cluster_is_ready_says_unavailable_and_ends_when_asked() {
    let folder = tempfile::tempdir().unwrap();
    files(folder.path());
    let mut command = tokio::process::Command::from(gateway(folder.path(), &["run"]));
    let notify = folder.path().join("notify");
    let manager = std::os::unix::net::UnixDatagram::bind(&notify).unwrap();
    manager.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    command.env("NOTIFY_SOCKET", &notify).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).await.unwrap();
    // listening http ADDRESS etcd ADDRESS nss PATH
    let words: Vec<&str> = line.split_whitespace().collect();
    let ["listening", "http", http, "etcd", etcd, "nss", nss] = words[..] else { panic!("{line:?}") };
    let mut ready = [0; 16];
    let length = manager.recv(&mut ready).unwrap();
    assert_eq!(&ready[..length], b"READY=1");

    let mut stream = tokio::net::TcpStream::connect(http).await.unwrap();
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("QuorumUnreachable"), "{answer}");

    let mut stream = tokio::net::UnixStream::connect(nss).await.unwrap();
    stream.write_all(b"quorate-nss/1 passwd name alice\n").await.unwrap();
    let mut answer = [0; 64];
    let length = stream.read(&mut answer).await.unwrap();
    assert!(answer[..length].starts_with(b"unavailable QuorumUnreachable"));

    let mut kv = quorate_gateway::etcd::pb::kv_client::KvClient::new(
        tonic::transport::Channel::from_shared(format!("http://{etcd}")).unwrap().connect().await.unwrap(),
    );
    let request = quorate_gateway::etcd::pb::RangeRequest { key: b"a".to_vec(), ..Default::default() };
    assert_eq!(kv.range(request).await.unwrap_err().code(), tonic::Code::Unavailable);

    let pid = rustix::process::Pid::from_raw(child.id().unwrap() as i32).unwrap();
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert!(child.wait().await.unwrap().success());
    assert!(!Path::new(nss).exists());
}
