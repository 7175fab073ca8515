//! What is malformed or too large is refused, and the gateway goes on.

use proptest::prelude::*;
use quorate_gateway::etcd::pb::{PutRequest, RangeRequest};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;

use crate::fixture::Gateway;

#[tokio::test]
async fn request_over_the_limit_is_refused_before_it_is_read() {
    let gateway = Gateway::new().await;
    let put = |key: usize, value: usize| PutRequest {
        key: vec![b'k'; key],
        value: vec![b'v'; value],
        ..PutRequest::default()
    };
    let refused = gateway.kv().put(put(1, 1 << 20)).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
    for request in [put(1, 32_769), put(4_087, 1)] {
        let refused = gateway.kv().put(request).await.unwrap_err();
        assert_eq!(
            (refused.code(), refused.message()),
            (Code::InvalidArgument, "etcdserver: request is too large")
        );
    }
    gateway.kv().put(put(4_086, 32_768)).await.unwrap();
    let range = RangeRequest { key: vec![b'k'; 4_087], ..RangeRequest::default() };
    assert_eq!(gateway.kv().range(range).await.unwrap_err().code(), Code::InvalidArgument);
    let range = RangeRequest { key: b"k".to_vec(), range_end: vec![0xff; 4_088], ..RangeRequest::default() };
    assert_eq!(gateway.kv().range(range).await.unwrap_err().code(), Code::InvalidArgument);
}

/// Frames of HTTP/2: a type, flags, a stream and a payload.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend([kind, flags]);
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

#[tokio::test]
async fn bytes_that_are_no_protocol_end_the_connection_and_nothing_else() {
    let gateway = Gateway::new().await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    let starts = [
        b"GET / HTTP/1.1\r\n\r\n".to_vec(),
        vec![0xff; 4096],
        [preface.clone(), frame(4, 0, 0, &[1; 5])].concat(),
        [preface.clone(), frame(4, 0, 0, &[]), frame(1, 4, 1, &[0xff; 64])].concat(),
        [preface, frame(4, 0, 0, &[]), frame(0, 0, 0, &[0; 16])].concat(),
    ];
    for start in starts {
        let mut stream = TcpStream::connect(gateway.address).await.unwrap();
        stream.write_all(&start).await.unwrap();
        let mut answer = Vec::new();
        // It ends by itself: what it says before does not matter, and a reset is an end.
        let _ = stream.read_to_end(&mut answer).await;
    }
    gateway.put("a", "1").await;
    assert_eq!(gateway.value("a").await.as_deref(), Some("1"));
}

#[test]
fn any_range_and_any_message_is_answered_or_refused() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let gateway = runtime.block_on(Gateway::new());
    runtime.block_on(async {
        for name in ["", "a", "b/c", "\u{ff}"] {
            gateway.put(&format!("x{name}"), name).await;
        }
    });
    let bytes = || proptest::collection::vec(any::<u8>(), 0..6);
    let config = ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() };
    proptest!(config, |(
        key in bytes(), range_end in bytes(), numbers in proptest::array::uniform8(any::<i64>()),
        order in any::<[i32; 2]>(), flags in any::<[bool; 3]>(),
    )| {
        let [limit, revision, min_mod_revision, max_mod_revision, min_create_revision, max_create_revision, ..] = numbers;
        let [serializable, keys_only, count_only] = flags;
        let request = RangeRequest {
            key, range_end, limit, revision, serializable, keys_only, count_only,
            sort_order: order[0], sort_target: order[1],
            min_mod_revision, max_mod_revision, min_create_revision, max_create_revision,
        };
        match runtime.block_on(async { gateway.kv().range(request).await }) {
            Ok(response) => prop_assert!(response.into_inner().count <= 4),
            Err(refused) => {
                prop_assert!(matches!(refused.code(), Code::InvalidArgument | Code::OutOfRange), "{refused}");
            }
        }
    });
}
