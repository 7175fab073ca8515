//! Messages between honest nodes.

use super::*;
use crate::TransportError;

#[tokio::test]
async fn test_both_sides_know_key_role_and_version_of_the_other() {
    let pair = pair(limits()).await;
    assert_eq!((pair.dialled.peer(), pair.dialled.role()), (&key(3).public(), Role::Verifier));
    assert_eq!((pair.accepted.peer(), pair.accepted.role()), (&key(1).public(), Role::Host));
    assert_eq!((pair.dialled.version(), pair.accepted.version()), (1, 1));
    assert_eq!(pair.host.counters().handshake.get("ok"), 1);
    assert_eq!(pair.verifier.counters().handshake.get("ok"), 1);
}

#[tokio::test]
async fn test_messages_of_every_size_arrive_whole_and_in_order() {
    let pair = pair(limits()).await;
    let sizes = [0, 1, 7, 1200, 65_536, BLOB_LIMIT - 4];
    let send = async {
        let mut exchange = pair.dialled.open().await.unwrap();
        for size in sizes {
            exchange.send(&Talk::from(Blob { bytes: vec![size as u8; size] })).await.unwrap();
        }
        exchange.finish().unwrap();
        let answer: Option<Talk> = exchange.recv().await.unwrap();
        assert_eq!(answer, Some(Ask { number: 6 }.into()));
        assert_eq!(exchange.recv::<Talk>().await.unwrap(), None);
    };
    let recv = async {
        let mut exchange = pair.accepted.accept().await.unwrap();
        let mut count = 0;
        while let Some(message) = exchange.recv::<Talk>().await.unwrap() {
            let size = sizes[count];
            assert_eq!(message, Talk::Blob(Blob { bytes: vec![size as u8; size] }));
            count += 1;
        }
        exchange.send(&Talk::from(Ask { number: count as u64 })).await.unwrap();
    };
    tokio::join!(send, recv);
}

/// What the verifier makes of raw bytes on a stream, and what the sender is told.
async fn verdict_on(bytes: &[u8]) -> (TransportError, Pair) {
    let pair = pair(limits()).await;
    let (mut send, _recv) = pair.dialled.quic().open_bi().await.unwrap();
    send.write_all(bytes).await.unwrap();
    send.finish().unwrap();
    let mut exchange = pair.accepted.accept().await.unwrap();
    let error = exchange.recv::<Talk>().await.unwrap_err();
    assert!(exchange.recv::<Talk>().await.is_err(), "the stream is dead after the first error");
    (error, pair)
}

#[tokio::test]
async fn test_oversize_length_prefix_is_refused_before_the_body_arrives() {
    for length in [u32::MAX, u32::MAX - 1, BLOB_LIMIT as u32 + 1] {
        let [a, b, c, d] = length.to_le_bytes();
        let (error, pair) = verdict_on(&[2, a, b, c, d]).await;
        let expected = (BLOB_LIMIT, length as usize);
        assert!(
            matches!(error, TransportError::MessageTooLarge { tag: 2, limit, got } if (limit, got) == expected)
        );
        assert_eq!(pair.verifier.counters().message_rejected.get("MessageTooLarge"), 1);
    }
}

#[tokio::test]
async fn test_trailing_bytes_unknown_tag_and_truncation_are_refused() {
    let trailing = [1, 9, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9];
    assert_eq!(verdict_on(&trailing).await.0.kind(), "MessageTooLarge");
    let trailing_in_body = [2, 6, 0, 0, 0, 1, 0, 0, 0, 7, 7];
    assert_eq!(verdict_on(&trailing_in_body).await.0.kind(), "DecodeError");
    assert!(matches!(verdict_on(&[3, 0, 0, 0, 0]).await.0, TransportError::UnknownTag { tag: 3 }));
    assert!(matches!(verdict_on(&[1, 8]).await.0, TransportError::Truncated { done: 2 }));
    assert!(matches!(verdict_on(&[1, 8, 0, 0, 0, 1]).await.0, TransportError::Truncated { done: 6 }));
}

#[tokio::test]
async fn test_message_over_its_own_limit_is_not_sent() {
    let pair = pair(limits()).await;
    let mut exchange = pair.dialled.open().await.unwrap();
    let error = exchange.send(&Talk::from(Blob { bytes: vec![0; BLOB_LIMIT - 3] })).await.unwrap_err();
    assert_eq!(error.kind(), "MessageTooLarge");
    exchange.send(&Talk::from(Ask { number: 1 })).await.unwrap();
    let mut other = pair.accepted.accept().await.unwrap();
    assert_eq!(other.recv().await.unwrap(), Some(Talk::from(Ask { number: 1 })));
}

#[tokio::test]
async fn test_dribbling_stream_is_cut() {
    let pair = pair(limits()).await;
    let (mut send, _recv) = pair.dialled.quic().open_bi().await.unwrap();
    let dribble = tokio::spawn(async move {
        let mut byte = tokio::time::interval(Duration::from_millis(40));
        let mut bytes = [2, 0, 16, 0, 0].into_iter().chain(std::iter::repeat(0));
        loop {
            byte.tick().await;
            if send.write_all(&[bytes.next().unwrap_or(0)]).await.is_err() {
                return;
            }
        }
    });
    let mut exchange = pair.accepted.accept().await.unwrap();
    let error = exchange.recv::<Talk>().await.unwrap_err();
    assert!(matches!(error, TransportError::StreamStalled { total: 4101, done, .. } if done > 5), "{error}");
    dribble.await.unwrap();
    assert_eq!(pair.verifier.counters().message_rejected.get("StreamStalled"), 1);
    assert!(!pair.accepted.is_closed(), "slow is not proof of malice");
}

#[tokio::test]
async fn test_header_that_stops_half_way_is_cut() {
    let pair = pair(limits()).await;
    let (mut send, _recv) = pair.dialled.quic().open_bi().await.unwrap();
    send.write_all(&[2, 0]).await.unwrap();
    let mut exchange = pair.accepted.accept().await.unwrap();
    let error = exchange.recv::<Talk>().await.unwrap_err();
    assert!(matches!(error, TransportError::StreamStalled { done: 2, total: 5, .. }), "{error}");
}

#[tokio::test]
async fn test_sender_is_bounded_when_the_receiver_stops_reading() {
    let narrow = Limits { stream_window: 64 * 1024, min_rate: 4 << 20, ..limits() };
    let pair = pair(narrow).await;
    let mut exchange = pair.dialled.open().await.unwrap();
    let error = exchange.send(&Talk::from(Blob { bytes: vec![0; 1 << 20] })).await.unwrap_err();
    assert!(matches!(error, TransportError::StreamStalled { done, .. } if done < 200_000), "{error}");
    assert!(exchange.send(&Talk::from(Ask { number: 1 })).await.is_err(), "half a frame is out");
    drop(exchange);
    let mut other = pair.accepted.accept().await.unwrap();
    let reset = other.recv::<Talk>().await.unwrap_err();
    assert_eq!(reset.kind(), "StreamStalled", "the receiver must not take it for an orderly end");
}

#[tokio::test]
async fn test_bodies_of_one_peer_share_a_budget() {
    let small = Limits { bytes_in_flight: 1 << 20, stream_window: 1 << 20, ..limits() };
    let pair = pair(small).await;
    let (mut send, _recv) = pair.dialled.quic().open_bi().await.unwrap();
    let [a, b, c, d] = (BLOB_LIMIT as u32).to_le_bytes();
    send.write_all(&[2, a, b, c, d, 0]).await.unwrap();
    let mut hog = pair.accepted.accept().await.unwrap();
    let hog = tokio::spawn(async move { hog.recv::<Talk>().await });
    eventually(|| pair.accepted.available_budget() == 0).await;
    let mut second = pair.dialled.open().await.unwrap();
    second.send(&Talk::from(Ask { number: 1 })).await.unwrap();
    let mut other = pair.accepted.accept().await.unwrap();
    assert_eq!(other.recv::<Talk>().await.unwrap_err().kind(), "StreamStalled");
    hog.abort();
    eventually(|| pair.accepted.available_budget() == 1 << 20).await;
}

#[tokio::test]
async fn test_client_may_have_fewer_bytes_on_the_way_than_a_member() {
    let open = Arc::new(members().with_any_client());
    let verifier = Endpoint::bind(LOCAL, &key(3), open, limits()).unwrap();
    let client = node(77, Limits { min_rate: 4 << 20, ..limits() });
    let dial = client.connect(verifier.local_addr().unwrap(), verifier.public());
    let (dialled, accepted) = tokio::join!(dial, verifier.accept());
    let (dialled, accepted) = (dialled.unwrap(), accepted.unwrap());
    assert_eq!(accepted.available_budget(), 512 << 10);
    let mut exchange = dialled.open().await.unwrap();
    let big = Talk::from(Blob { bytes: vec![0; 1 << 20] });
    let error = exchange.send(&big).await.unwrap_err();
    assert!(matches!(error, TransportError::StreamStalled { done, .. } if done <= 530 << 10), "{error}");
    let mut next = dialled.open().await.unwrap();
    drop((exchange, accepted.accept().await.unwrap()));
    next.send(&Talk::from(Ask { number: 1 })).await.unwrap();
    let mut other = accepted.accept().await.unwrap();
    assert_eq!(other.recv().await.unwrap(), Some(Talk::from(Ask { number: 1 })));
}

#[tokio::test]
async fn test_cancelled_receive_goes_on_with_the_same_message() {
    let pair = pair(limits()).await;
    let (mut send, _recv) = pair.dialled.quic().open_bi().await.unwrap();
    let frame = crate::encode_frame(&Talk::from(Blob { bytes: vec![5; 3000] })).unwrap();
    let (first, second) = frame.split_at(1700);
    send.write_all(first).await.unwrap();
    let mut exchange = pair.accepted.accept().await.unwrap();
    eventually(|| pair.accepted.quic().stats().frame_rx.stream >= 2).await;
    assert!(tokio::time::timeout(Duration::from_millis(20), exchange.recv::<Talk>()).await.is_err());
    send.write_all(second).await.unwrap();
    assert_eq!(exchange.recv().await.unwrap(), Some(Talk::from(Blob { bytes: vec![5; 3000] })));
}

#[tokio::test]
async fn test_silent_peer_is_a_timeout_and_the_stream_lives_on() {
    let impatient = Limits { patience: Duration::from_millis(50), ..limits() };
    let pair = pair(impatient).await;
    let mut exchange = pair.dialled.open().await.unwrap();
    exchange.send(&Talk::from(Ask { number: 1 })).await.unwrap();
    assert_eq!(exchange.recv::<Talk>().await.unwrap_err().kind(), "PeerTimeout");
    let mut other = pair.accepted.accept().await.unwrap();
    other.send(&Talk::from(Ask { number: 2 })).await.unwrap();
    exchange.set_patience(PATIENCE);
    assert_eq!(exchange.recv().await.unwrap(), Some(Talk::from(Ask { number: 2 })));
}

#[tokio::test]
async fn test_close_wakes_everybody() {
    let pair = pair(limits()).await;
    let mut waiting = tokio::task::JoinSet::new();
    for connection in [pair.dialled.clone(), pair.accepted.clone()] {
        for _ in 0..3 {
            let connection = connection.clone();
            waiting.spawn(async move { connection.accept().await.map(drop) });
        }
        let mut exchange = connection.open().await.unwrap();
        waiting.spawn(async move { exchange.recv::<Talk>().await.map(drop) });
        waiting.spawn(async move { Err(connection.closed().await) });
    }
    tokio::task::yield_now().await;
    pair.dialled.close();
    let all = async {
        while let Some(woken) = waiting.join_next().await {
            assert_eq!(woken.unwrap().unwrap_err().kind(), "Closed");
        }
    };
    tokio::time::timeout(PATIENCE, all).await.unwrap();
}

#[tokio::test]
async fn test_endpoint_close_and_drop_end_what_they_should() {
    let first = pair(limits()).await;
    first.verifier.close().await;
    assert!(first.verifier.accept().await.is_none());
    assert_eq!(first.dialled.closed().await.kind(), "Closed");
    let Pair { host, verifier, dialled, accepted } = pair(limits()).await;
    let addr = verifier.local_addr().unwrap();
    drop(verifier);
    let mut exchange = dialled.open().await.unwrap();
    exchange.send(&Talk::from(Ask { number: 1 })).await.unwrap();
    assert!(accepted.accept().await.is_ok(), "connections outlive the endpoint's handle");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while host.connect(addr, &key(3).public()).await.is_ok() {
        assert!(tokio::time::Instant::now() < deadline, "a dropped endpoint goes on accepting");
    }
    drop((exchange, accepted));
    assert_eq!(dialled.closed().await.kind(), "Closed", "the last handle closes the connection");
}

#[tokio::test]
async fn test_delivered_message_survives_the_end_of_the_connection() {
    let Pair { dialled, accepted, .. } = pair(limits()).await;
    let send = async {
        let mut exchange = dialled.open().await.unwrap();
        exchange.send(&Talk::from(Blob { bytes: vec![1; 500_000] })).await.unwrap();
        exchange.delivered().await.unwrap();
        dialled.close();
    };
    let recv = async {
        let mut exchange = accepted.accept().await.unwrap();
        assert!(exchange.recv::<Talk>().await.unwrap().is_some());
    };
    tokio::join!(send, recv);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_many_exchanges_at_once_do_not_mix() {
    let pair = pair(limits()).await;
    let accepted = pair.accepted.clone();
    let server = tokio::spawn(async move {
        while let Ok(mut exchange) = accepted.accept().await {
            tokio::spawn(async move {
                while let Some(message) = exchange.recv::<Talk>().await.unwrap() {
                    exchange.send(&message).await.unwrap();
                }
            });
        }
    });
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..100u64 {
        let connection = pair.dialled.clone();
        clients.spawn(async move {
            let mut exchange = connection.open().await.unwrap();
            for round in 0..20 {
                let message = Talk::from(Ask { number: client << 32 | round });
                let answer: Talk = exchange.ask(&message).await.unwrap();
                assert_eq!(answer, message);
            }
        });
    }
    while let Some(client) = clients.join_next().await {
        client.unwrap();
    }
    pair.dialled.close();
    server.await.unwrap();
}
