//! Members with a valid key that do not follow the protocol.

mod support;

use quorate_agreement::OrderedLog;
use quorate_transport::encoding::DecodeError;
use quorate_transport::{Limits, Wire};
use support::{Cluster, dial, endpoint, eventually, operation};

/// Any frame.
struct Raw {
    tag: u8,
    body: Vec<u8>,
}

impl Wire for Raw {
    fn tag(&self) -> u8 {
        self.tag
    }

    fn limit(_: u8) -> Option<usize> {
        Some(64 << 20)
    }

    fn encode_body(&self) -> Vec<u8> {
        self.body.clone()
    }

    fn decode_body(tag: u8, body: &[u8]) -> Result<Self, DecodeError> {
        Ok(Self { tag, body: body.to_vec() })
    }
}

const VOTES: u8 = 1;
const GOSSIP: u8 = 4;

/// A body of epoch 0.
fn body(bytes: &[u8]) -> Vec<u8> {
    [&[0; 8], bytes].concat()
}

/// Three members run; frames are sent to member 0 with the key of the fourth until it is blocked.
async fn blocked_after(frames: impl Fn(u64) -> Raw) {
    let cluster = Cluster::start(4, &[3]).await;
    let attacker = endpoint(3, std::net::SocketAddr::from(([127, 0, 0, 1], 0)), Limits::default());
    let connection = dial(&attacker, cluster.addresses[0], 0).await;
    let log = &cluster.node(0).log;
    for number in 0.. {
        let Ok(mut exchange) = connection.open().await else { break };
        // The member may have closed the stream or the connection already.
        let _ = exchange.send(&frames(number)).await;
        if connection.is_closed() || number > 10_000 {
            break;
        }
        tokio::task::yield_now().await;
    }
    eventually("blocked", || log.status().blocked == 1).await;
    assert!(attacker.connect(cluster.addresses[0], cluster.node(0).endpoint.public()).await.is_err());
    // The others do not care.
    log.submit(operation(1, 100)).await.unwrap();
    cluster.node(1).entries(1).await;
    attacker.close().await;
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_votes_that_are_garbage_block_their_sender() {
    blocked_after(|_| Raw { tag: VOTES, body: body(&[0xff; 100]) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_operations_that_break_the_rules_block_their_sender() {
    let bad = [&[7; 16][..], b"x"].concat();
    let batch = [&(bad.len() as u32).to_le_bytes(), &bad[..]].concat();
    blocked_after(move |_| Raw { tag: GOSSIP, body: body(&batch) }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_oversize_and_unknown_frames_block_their_sender() {
    blocked_after(|number| {
        if number % 2 == 0 {
            Raw { tag: VOTES, body: vec![0; 1 << 20] }
        } else {
            Raw { tag: 77, body: body(&[1]) }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_whoever_is_no_member_is_not_attached() {
    let cluster = Cluster::start(1, &[]).await;
    let stranger = endpoint(5, std::net::SocketAddr::from(([127, 0, 0, 1], 0)), Limits::default());
    let connection = dial(&stranger, cluster.addresses[0], 0).await;
    connection.closed().await;
    assert_eq!(cluster.node(0).log.status().connected, 0);
    cluster.stop_all().await;
}
