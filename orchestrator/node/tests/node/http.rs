//! A few lines of HTTP/1.1, and what the API answers.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use base64ct::{Base64, Encoding};
use quorate_attest::encoding::Bounded;
use quorate_attest::merkle::{Sha256Tree, TreeHash, verify_inclusion};
use quorate_attest::receipt::LogLeaf;
use serde_json::{Value, json};

use crate::cluster::{Cluster, key};
use crate::openapi;

pub fn request(api: &str, head: &str, body: &str) -> (u16, String) {
    let request = format!(
        "{head} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    send(api, request.as_bytes())
}

fn send(api: &str, request: &[u8]) -> (u16, String) {
    let mut answer = Vec::new();
    match api.strip_prefix("unix:") {
        Some(path) => {
            let mut stream = UnixStream::connect(path).unwrap();
            stream.write_all(request).unwrap();
            stream.read_to_end(&mut answer).unwrap();
        }
        None => {
            let mut stream = TcpStream::connect(api).unwrap();
            stream.write_all(request).unwrap();
            stream.read_to_end(&mut answer).unwrap();
        }
    }
    let text = String::from_utf8(answer).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
}

pub fn get(api: &str, path: &str) -> (u16, Value) {
    let (status, body) = request(api, &format!("GET {path}"), "");
    (status, serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}: {body}")))
}

fn submit(api: &str, bytes: &[u8]) -> (u16, Value) {
    let body = json!({"operation": Base64::encode_string(bytes)}).to_string();
    let head =
        "POST /v1/operations HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json";
    let request = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let (status, body) = send(api, request.as_bytes());
    (status, serde_json::from_str(&body).unwrap())
}

/// Waits until a path answers 200.
pub fn wait_for(api: &str, path: &str) -> Value {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let (status, value) = get(api, path);
        if status == 200 {
            return value;
        }
        assert!(Instant::now() < deadline, "{path} still answers {status}: {value}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn every_answer_is_what_the_document_says() {
    let cluster = Cluster::running(1);
    let api = &cluster.node(0).api;
    wait_for(api, "/readyz");
    let (_, document) = get(api, "/openapi.json");
    let operation = cluster.operation(0);
    let (status, receipt) = submit(api, &operation.encoded());
    assert_eq!((status, &receipt["index"]), (200, &json!(0)), "{receipt}");
    assert_eq!(receipt["operation"], operation.id().to_string());
    openapi::check(&document, "post", "/v1/operations", status, &receipt);
    assert_eq!(
        submit(api, &operation.encoded()),
        (200, receipt.clone()),
        "the same operation is executed once"
    );
    let missing = "0".repeat(64);
    let asked = [
        ("/v1/vms", "/v1/vms".to_owned(), 200),
        ("/v1/vms/{id}", format!("/v1/vms/{missing}"), 404),
        ("/v1/vms/{id}", "/v1/vms/nonsense".to_owned(), 400),
        ("/v1/migrations", "/v1/migrations".to_owned(), 200),
        ("/v1/groups", "/v1/groups".to_owned(), 200),
        ("/v1/services", "/v1/services".to_owned(), 200),
        ("/v1/services/{name}", "/v1/services/none".to_owned(), 404),
        ("/v1/log", "/v1/log?from=0&count=5".to_owned(), 200),
        ("/v1/log", "/v1/log?form=0".to_owned(), 400),
        ("/v1/log/{index}/proof", "/v1/log/0/proof".to_owned(), 200),
        ("/v1/log/{index}/proof", "/v1/log/0/proof?size=1".to_owned(), 200),
        ("/v1/log/{index}/proof", "/v1/log/9/proof".to_owned(), 404),
        ("/v1/log/{index}/proof", "/v1/log/x/proof".to_owned(), 400),
        ("/v1/status", "/v1/status".to_owned(), 200),
        ("/livez", "/livez?verbose".to_owned(), 200),
        ("/readyz", "/readyz?verbose".to_owned(), 200),
    ];
    for (path, target, expected) in asked {
        let (status, value) = get(api, &target);
        assert_eq!(status, expected, "{target}: {value}");
        openapi::check(&document, "get", path, status, &value);
    }
    assert_eq!(get(api, "/v1/nothing").0, 404);
    assert_eq!(request(api, "DELETE /v1/vms", "").0, 405);
}

#[test]
fn a_proof_over_http_leads_from_the_entry_to_the_head() {
    let cluster = Cluster::running(1);
    let api = &cluster.node(0).api;
    for number in 0..5 {
        assert_eq!(submit(api, &cluster.operation(number).encoded()).0, 200);
    }
    let digest = |value: &Value| -> [u8; 32] {
        quorate_attest::id::from_hex("digest", value.as_str().unwrap()).unwrap()
    };
    for index in 0..5u64 {
        let (_, proof) = get(api, &format!("/v1/log/{index}/proof"));
        let receipt = &proof["receipt"];
        let leaf = LogLeaf {
            operation: receipt["operation"].as_str().unwrap().parse().unwrap(),
            result: digest(&receipt["result"]),
            state_root: digest(&receipt["state_root"]),
            state_size: receipt["state_size"].as_u64().unwrap(),
        };
        let path: Vec<_> = proof["path"].as_array().unwrap().iter().map(digest).collect();
        let size = proof["size"].as_u64().unwrap();
        assert_eq!(size, 5);
        let leaf = Sha256Tree::leaf(&leaf.encoded());
        verify_inclusion::<Sha256Tree>(&leaf, index, size, &path, &digest(&proof["root"])).unwrap();
    }
}

#[test]
fn operations_that_nobody_signed_and_bodies_over_the_limit_are_refused_with_their_kind() {
    let cluster = Cluster::running(1);
    let api = &cluster.node(0).api;
    let mut spoilt = cluster.operation(0);
    spoilt.signature = quorate_attest::key::Signature::NONE;
    let stranger = cluster.operation(1).signed(&key(77));
    let foreign = {
        let mut operation = cluster.operation(2);
        operation.author = key(77).public();
        operation.signed(&key(77))
    };
    for (bytes, status, kind) in [
        (vec![1, 2, 3], 403, "DecodeError"),
        (spoilt.encoded(), 403, "SignatureNonCanonical"),
        (stranger.encoded(), 403, "BadSignature"),
        (foreign.encoded(), 403, "NotAuthorized"),
    ] {
        let (got, value) = submit(api, &bytes);
        assert!(got == status || (kind == "DecodeError" && got == 400), "{value}");
        assert_eq!(value["error_kind"], kind, "{value}");
        assert!(value["next"].as_str().is_some_and(|next| !next.is_empty()));
    }
    assert_eq!(get(api, "/v1/status").1["applied"], 0, "nothing of it is in the log");
    assert_eq!(submit(api, &vec![0; 200_000]).0, 413);
    let headers: String = (0..100).map(|number| format!("x-{number}: y\r\n")).collect();
    let flood = format!("GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}\r\n");
    assert_eq!(send(api, flood.as_bytes()).0, 431, "too many headers");
    let long = format!("GET /livez?{} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n", "x".repeat(60_000));
    assert!([414, 431].contains(&send(api, long.as_bytes()).0), "too long a head");
}

#[test]
fn metrics_have_the_documented_names() {
    let cluster = Cluster::running(1);
    let api = &cluster.node(0).api;
    wait_for(api, "/readyz");
    assert_eq!(submit(api, &cluster.operation(0).encoded()).0, 200);
    let names = [
        "quorate_build_info{",
        "quorate_quorum_reachable 1",
        "quorate_epoch 0",
        "quorate_log_applied 1",
        "quorate_operations_total{result=\"ok\"} 1",
        "quorate_order_seconds_bucket{",
        "quorate_wal_fsync_seconds_bucket{",
        "quorate_sign_state_index 1",
        "quorate_peers 0",
        "quorate_queue_depth{queue=\"waiters\"}",
        "quorate_vm_count 0",
        "quorate_incoming_refused_total 0",
    ];
    // Some are gathered now and then.
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let (status, text) = request(api, "GET /metrics", "");
        assert_eq!(status, 200);
        let Some(missing) = names.iter().find(|name| !text.contains(**name)) else { return };
        assert!(Instant::now() < deadline, "{missing} is missing in\n{text}");
        std::thread::sleep(Duration::from_millis(50));
    }
}
