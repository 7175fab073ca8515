//! The unmodified `etcdctl` as a client.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use crate::fixture::Gateway;

fn command(gateway: &Gateway, arguments: &[&str]) -> Command {
    let mut command = Command::new("etcdctl");
    command.env("ETCDCTL_API", "3").arg(format!("--endpoints={}", gateway.address)).args(arguments);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

fn start(mut command: Command) -> Child {
    command.spawn().unwrap_or_else(|error| {
        panic!("etcdctl does not start ({error}). Install it: apt-get install etcd-client (Debian, Ubuntu)")
    })
}

/// Exit code and both outputs.
async fn run(gateway: &Gateway, arguments: &[&str]) -> (i32, String, String) {
    run_with(gateway, arguments, "").await
}

async fn run_with(gateway: &Gateway, arguments: &[&str], input: &str) -> (i32, String, String) {
    let mut command = command(gateway, arguments);
    command.stdin(Stdio::piped());
    let mut child = start(command);
    child.stdin.take().unwrap().write_all(input.as_bytes()).await.unwrap();
    let output = timeout(Duration::from_secs(60), child.wait_with_output()).await.expect("a minute").unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap_or(-1), text(output.stdout), text(output.stderr))
}

/// Output of a command that must succeed.
async fn ok(gateway: &Gateway, arguments: &[&str]) -> String {
    let (code, out, error) = run(gateway, arguments).await;
    assert_eq!(code, 0, "{arguments:?}: {out}{error}");
    out
}

#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_puts_gets_and_deletes() {
    let gateway = Gateway::new().await;
    assert_eq!(ok(&gateway, &["put", "/web/1", "10.0.0.7:80"]).await, "OK\n");
    ok(&gateway, &["put", "/web/2", "10.0.0.8:80"]).await;
    ok(&gateway, &["put", "/db", "10.0.0.9:5432"]).await;
    assert_eq!(ok(&gateway, &["get", "/web/1"]).await, "/web/1\n10.0.0.7:80\n");
    assert_eq!(ok(&gateway, &["get", "--prefix", "--keys-only", "/web/"]).await, "/web/1\n\n/web/2\n\n");
    assert_eq!(
        ok(&gateway, &["get", "--prefix", "--print-value-only", "--limit=1", "/web"]).await,
        "10.0.0.7:80\n"
    );
    assert_eq!(ok(&gateway, &["get", "--from-key", "--keys-only", "/web/2"]).await, "/web/2\n\n");
    assert_eq!(ok(&gateway, &["get", "--consistency=s", "/db"]).await, "/db\n10.0.0.9:5432\n");
    let fields = ok(&gateway, &["get", "--prefix", "--keys-only", "--write-out=fields", ""]).await;
    assert!(fields.contains("\"Count\" : 3"), "{fields}");
    assert_eq!(ok(&gateway, &["put", "--prev-kv", "/db", "new"]).await, "OK\n/db\n10.0.0.9:5432\n");
    assert_eq!(ok(&gateway, &["del", "--prev-kv", "/db"]).await, "1\n/db\nnew\n");
    assert_eq!(ok(&gateway, &["del", "--prefix", "/web/"]).await, "2\n");
    assert_eq!(ok(&gateway, &["get", "--prefix", ""]).await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_compares_and_swaps() {
    let gateway = Gateway::new().await;
    ok(&gateway, &["put", "leader", "a"]).await;
    let swap = "value(\"leader\") = \"a\"\nversion(\"leader\") = \"1\"\n\nput leader b\nget leader\n\nget leader\n\n";
    let (code, out, error) = run_with(&gateway, &["txn"], swap).await;
    assert_eq!((code, out.as_str()), (0, "SUCCESS\n\nOK\n\nleader\nb\n"), "{error}");
    let (code, out, error) = run_with(&gateway, &["txn"], swap).await;
    assert_eq!((code, out.as_str()), (0, "FAILURE\n\nleader\nb\n"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_grants_keeps_and_revokes_leases() {
    let gateway = Gateway::new().await;
    let granted = ok(&gateway, &["lease", "grant", "30"]).await;
    // "lease 0000000000000001 granted with TTL(30s)"
    let id = granted.split_whitespace().nth(1).unwrap().to_owned();
    assert!(granted.ends_with("granted with TTL(30s)\n"), "{granted}");
    ok(&gateway, &["put", &format!("--lease={id}"), "leased", "1"]).await;
    let told = ok(&gateway, &["lease", "timetolive", "--keys", &id]).await;
    assert!(told.contains("granted with TTL(30s), remaining(30s), attached keys([leased])"), "{told}");
    assert!(ok(&gateway, &["lease", "list"]).await.contains(&id));
    let kept = ok(&gateway, &["lease", "keep-alive", "--once", &id]).await;
    assert_eq!(kept, format!("lease {id} keepalived with TTL(30)\n"));
    assert_eq!(ok(&gateway, &["lease", "revoke", &id]).await, format!("lease {id} revoked\n"));
    assert_eq!(ok(&gateway, &["get", "leased"]).await, "");
    let (code, _, error) = run(&gateway, &["lease", "revoke", &id]).await;
    assert!(code != 0 && error.contains("requested lease not found"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_watches_from_a_revision() {
    let gateway = Gateway::new().await;
    let first = gateway.put("w/a", "1").await;
    gateway.put("w/b", "2").await;
    let arguments = ["watch", "--prefix", "--prev-kv", &format!("--rev={first}"), "w/"];
    let mut watching = start(command(&gateway, &arguments));
    let mut lines = BufReader::new(watching.stdout.take().unwrap()).lines();
    let mut next = async |count: usize| {
        let mut told = Vec::new();
        while told.len() < count {
            let line =
                timeout(Duration::from_secs(60), lines.next_line()).await.expect("a line within a minute");
            told.push(line.unwrap().expect("etcdctl goes on"));
        }
        told
    };
    assert_eq!(next(6).await, ["PUT", "w/a", "1", "PUT", "w/b", "2"]);
    ok(&gateway, &["put", "w/a", "3"]).await;
    assert_eq!(next(5).await, ["PUT", "w/a", "1", "w/a", "3"]);
    ok(&gateway, &["del", "w/a"]).await;
    assert_eq!(next(5).await, ["DELETE", "w/a", "3", "w/a", ""]);
}

#[tokio::test(flavor = "multi_thread")]
async fn etcdctl_finds_the_endpoint_healthy_while_a_quorum_answers() {
    let gateway = Gateway::new().await;
    let (address, url) = (gateway.address.to_string(), format!("http://{}", gateway.address));
    for endpoint in [&address, &url] {
        let (code, out, error) = run(&gateway, &["endpoint", "health", "--endpoints", endpoint]).await;
        assert!(
            code == 0 && format!("{out}{error}").contains(&format!("{endpoint} is healthy")),
            "{out}{error}"
        );
    }
    let status = ok(&gateway, &["endpoint", "status"]).await;
    assert!(status.starts_with(&format!("{address}, 9, 3.4.0,")), "{status}");
    let members = ok(&gateway, &["member", "list"]).await;
    assert_eq!(members, format!("9, started, quorate-gateway, , {url}, false\n"));
    gateway.registry.silence(2);
    let (code, out, error) = run(&gateway, &["--command-timeout=1s", "endpoint", "health"]).await;
    assert!(code != 0 && format!("{out}{error}").contains("is unhealthy"), "{out}{error}");
    let (code, out, _) = run(&gateway, &["--command-timeout=1s", "get", "a"]).await;
    assert!(code != 0 && out.is_empty(), "silence is not absence");
}
