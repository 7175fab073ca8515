//! HTTP: service discovery, DNS records, users and health.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use quorate_gateway::backend::Shared;
use quorate_gateway::http::{Sources, routes};
use quorate_gateway::listen::{Listener, Protocol};
use quorate_gateway::proofs::{Proofs, Recorded};
use quorate_registry::Registry;
use quorate_registry::endpoint::{Endpoint, Endpoints};
use quorate_services::AnswerProof;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use crate::fixture::{InMemory, key, operate, register, registry};
use crate::nss::users;

struct Server {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    async fn new(sources: Sources) -> Self {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), Protocol::Http).await.unwrap();
        let address = listener.address();
        let task = tokio::spawn(async move {
            listener.serve(routes(sources)).await;
        });
        Self { address, task }
    }

    /// Status, head and body.
    async fn get(&self, path: &str) -> (u16, String, Vec<u8>) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).await.unwrap();
        let end = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(answer[..end].to_vec()).unwrap().to_lowercase();
        (head[9..12].parse().unwrap(), head, answer[end + 4..].to_vec())
    }

    async fn text(&self, path: &str) -> String {
        let (status, _, body) = self.get(path).await;
        assert_eq!(status, 200, "{path}");
        String::from_utf8(body).unwrap()
    }
}

fn endpoint(host: &str, port: u16, labels: &[(&str, &str)]) -> Endpoint {
    let labels: BTreeMap<String, String> =
        labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
    Endpoint::new(host.to_owned(), port, labels).unwrap()
}

fn discovered() -> Arc<InMemory<Registry>> {
    let registry = registry();
    let lists = [
        ("eu/web", vec![endpoint("10.0.0.7", 80, &[("weight", "5")]), endpoint("10.0.0.8", 80, &[])]),
        ("eu/db", vec![endpoint("db.example", 5432, &[]), endpoint("db2.example", 5432, &[])]),
        ("us/dns", vec![endpoint("2001:db8::7", 53, &[("proto", "udp"), ("priority", "1")])]),
        ("Upper", vec![endpoint("10.0.0.9", 1, &[])]),
    ];
    for (name, endpoints) in lists {
        let value = Endpoints::new(endpoints).unwrap().to_value();
        assert_eq!(operate(&registry, &key(1), &register(name.as_bytes(), &value)), 0);
    }
    for (name, value) in [(&b"eu/note"[..], &b"no endpoints"[..]), (b"eu/\xff", b"[]")] {
        assert_eq!(operate(&registry, &key(1), &register(name, value)), 0);
    }
    registry
}

fn over(registry: Arc<InMemory<Registry>>) -> Sources {
    Sources { registry: Some(registry as Shared), ..Sources::default() }
}

#[tokio::test]
async fn prometheus_is_told_targets_with_their_labels() {
    let server = Server::new(over(discovered())).await;
    let (status, head, body) = server.get("/prometheus/sd?prefix=eu/").await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: application/json"), "{head}");
    let groups: Value = serde_json::from_slice(&body).unwrap();
    let expected = json!([
        {"targets": ["db.example:5432", "db2.example:5432"], "labels": {"__meta_quorate_name": "eu/db"}},
        {"targets": ["10.0.0.8:80"], "labels": {"__meta_quorate_name": "eu/web"}},
        {"targets": ["10.0.0.7:80"], "labels": {"__meta_quorate_name": "eu/web", "weight": "5"}},
    ]);
    assert_eq!(groups, expected);
    let all: Value = serde_json::from_str(&server.text("/prometheus/sd").await).unwrap();
    assert_eq!(all.as_array().unwrap().len(), 5);
    assert_eq!(all[4]["targets"], json!(["[2001:db8::7]:53"]));
    assert_eq!(server.text("/prometheus/sd?prefix=nothing").await, "[]");
}

#[tokio::test]
async fn service_records_are_lines_of_a_zone() {
    let server = Server::new(over(discovered())).await;
    let lines = server.text("/dns/srv?zone=example.org.").await;
    let expected = "\
        _db._tcp.eu.example.org. 30 IN SRV 0 0 5432 db.example.\n\
        _db._tcp.eu.example.org. 30 IN SRV 0 0 5432 db2.example.\n\
        _web._tcp.eu.example.org. 30 IN SRV 0 5 80 ip-10-0-0-7.example.org.\n\
        _web._tcp.eu.example.org. 30 IN SRV 0 0 80 ip-10-0-0-8.example.org.\n\
        _dns._udp.us.example.org. 30 IN SRV 1 0 53 ip-2001-db8-0-0-0-0-0-7.example.org.\n\
        ip-10-0-0-7.example.org. 30 IN A 10.0.0.7\n\
        ip-10-0-0-8.example.org. 30 IN A 10.0.0.8\n\
        ip-2001-db8-0-0-0-0-0-7.example.org. 30 IN AAAA 2001:db8::7\n\
        ; 3 names or endpoints have no place in the DNS\n";
    assert_eq!(lines, expected);
    let some = server.text("/dns/srv?zone=example.org&prefix=us/&ttl=5").await;
    assert!(some.starts_with("_dns._udp.example.org. 5 IN SRV 1 0 53 "), "{some}");
}

#[tokio::test]
async fn question_that_makes_no_sense_is_refused() {
    let server = Server::new(over(discovered())).await;
    let long = format!("/prometheus/sd?prefix={}", "p".repeat(4_087));
    for path in [
        "/dns/srv",
        "/dns/srv?zone=",
        "/dns/srv?zone=a..b",
        "/dns/srv?zone=example.org%0aevil",
        "/dns/srv?zone=EXAMPLE.org",
        "/dns/srv?zone=a&ttl=4294967295",
        "/dns/srv?zone=a&ttl=-1",
        "/prometheus/sd?prefx=a",
        &long,
    ] {
        let (status, _, body) = server.get(path).await;
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((status, &body["error_kind"]), (400, &json!("BadRequest")), "{path}");
    }
    for path in ["/", "/passwd", "/group", "/proofs/newest", "/prometheus"] {
        assert_eq!(server.get(path).await.0, 404, "{path}");
    }
}

#[tokio::test]
async fn without_a_quorum_lists_are_unavailable_and_never_empty() {
    let (registry, uids) = (discovered(), users());
    let sources = Sources {
        registry: Some(registry.clone() as Shared),
        uids: Some(uids.clone() as Shared),
        proofs: None,
    };
    let server = Server::new(sources).await;
    let paths = ["/healthz", "/prometheus/sd", "/dns/srv?zone=a", "/passwd", "/group"];
    for path in paths {
        assert_eq!(server.get(path).await.0, 200, "{path}");
    }
    registry.silence(2);
    uids.silence(2);
    for path in paths {
        let (status, _, body) = server.get(path).await;
        let body: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((status, &body["error_kind"]), (503, &json!("QuorumUnreachable")), "{path}");
    }
}

#[tokio::test]
async fn proof_of_the_newest_answer_can_be_had_from_the_gateway() {
    let folder = tempfile::tempdir().unwrap();
    let proofs = Arc::new(Proofs::open(folder.path(), 8).unwrap());
    let recorded = Recorded::new("registry", discovered() as Shared, Arc::clone(&proofs));
    let sources =
        Sources { registry: Some(Arc::new(recorded)), uids: None, proofs: Some(Arc::clone(&proofs)) };
    let server = Server::new(sources).await;
    assert_eq!(server.get("/proofs/newest").await.0, 404, "nothing was answered yet");
    server.text("/prometheus/sd?prefix=eu/").await;
    let (status, head, body) = server.get("/proofs/newest").await;
    assert_eq!(status, 200);
    assert!(head.contains("content-type: application/octet-stream"), "{head}");
    assert_eq!(body, *proofs.newest().unwrap());
    assert!(body.starts_with(&AnswerProof::MAGIC));
}

#[tokio::test]
async fn users_are_exported_as_lines_of_passwd_and_group() {
    let server = Server::new(Sources { uids: Some(users() as Shared), ..Sources::default() }).await;
    let expected = "alice:x:1000:1000:Alice:/home/alice:/bin/bash\nbob:x:1001:1001::/home/bob:/bin/sh\n";
    assert_eq!(server.text("/passwd").await, expected);
    assert_eq!(server.text("/group").await, "alice:x:1000:\nbob:x:1001:\n");
}
