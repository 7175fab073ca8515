//! Peers and strangers that want more than their share.

use tokio::net::UdpSocket;

use super::*;
use crate::CloseReason;

/// Forwards datagrams both ways for one client and keeps what the client sent.
async fn recording(to: SocketAddr) -> (SocketAddr, Arc<std::sync::Mutex<Vec<Vec<u8>>>>) {
    let tap = UdpSocket::bind(LOCAL).await.unwrap();
    let (addr, record) = (tap.local_addr().unwrap(), Arc::new(std::sync::Mutex::new(Vec::new())));
    let recorded = Arc::clone(&record);
    tokio::spawn(async move {
        let (mut datagram, mut client) = (vec![0; 65_536], to);
        while let Ok((length, from)) = tap.recv_from(&mut datagram).await {
            let bytes = &datagram[..length];
            let onward = if from == to { client } else { to };
            if from != to {
                client = from;
                record.lock().unwrap().push(bytes.to_vec());
            }
            if tap.send_to(bytes, onward).await.is_err() {
                break;
            }
        }
    });
    (addr, recorded)
}

#[tokio::test]
async fn test_replayed_datagrams_of_a_whole_session_make_no_second_one() {
    let (host, verifier) = (node(1, limits()), node(3, limits()));
    let (tap, recorded) = recording(verifier.local_addr().unwrap()).await;
    let (dialled, accepted) = tokio::join!(host.connect(tap, verifier.public()), verifier.accept());
    let (dialled, accepted) = (dialled.unwrap(), accepted.unwrap());
    let mut exchange = dialled.open().await.unwrap();
    exchange.send(&Talk::from(Ask { number: 1 })).await.unwrap();
    let mut other = accepted.accept().await.unwrap();
    assert!(other.recv::<Talk>().await.unwrap().is_some());
    let replayer = UdpSocket::bind(LOCAL).await.unwrap();
    let datagrams = recorded.lock().unwrap().clone();
    assert!(datagrams.len() >= 3);
    for datagram in &datagrams {
        replayer.send_to(datagram, verifier.local_addr().unwrap()).await.unwrap();
    }
    let honest = node(2, limits());
    let dial = honest.connect(verifier.local_addr().unwrap(), verifier.public());
    let (dialled, next) = tokio::join!(dial, verifier.accept());
    dialled.unwrap();
    assert_eq!(next.unwrap().peer(), honest.public(), "the replay opened a connection");
    assert_eq!(verifier.counters().handshake.get("ok"), 2);
    assert!(tokio::time::timeout(Duration::ZERO, accepted.accept()).await.is_err(), "no second exchange");
}

/// Forwards datagrams to `to` and drops whatever comes back: the sender looks like many forged addresses.
async fn one_way(to: SocketAddr) -> SocketAddr {
    let tap = UdpSocket::bind(LOCAL).await.unwrap();
    let addr = tap.local_addr().unwrap();
    tokio::spawn(async move {
        let mut datagram = vec![0; 2048];
        while let Ok((length, from)) = tap.recv_from(&mut datagram).await {
            if from != to && tap.send_to(&datagram[..length], to).await.is_err() {
                break;
            }
        }
    });
    addr
}

#[tokio::test]
async fn test_half_open_handshakes_do_not_keep_honest_peers_out() {
    let tight = Limits { max_pending_handshakes: 32, retry_threshold: 8, ..limits() };
    let verifier = node(3, tight);
    let addr = verifier.local_addr().unwrap();
    let tap = one_way(addr).await;
    let flooder = node(2, Limits { handshake: Duration::from_secs(60), ..limits() });
    let mut attempts = tokio::task::JoinSet::new();
    for _ in 0..1000 {
        let (flooder, target) = (flooder.clone(), *verifier.public());
        attempts.spawn(async move { flooder.connect(tap, &target).await.map(drop) });
    }
    eventually(|| verifier.pending_handshakes() == 8).await;
    let host = node(1, limits());
    for _ in 0..20 {
        let (dialled, accepted) = tokio::join!(host.connect(addr, verifier.public()), verifier.accept());
        dialled.unwrap();
        assert!(accepted.is_some());
        assert!(verifier.pending_handshakes() <= 9, "forged attempts went beyond the retry threshold");
    }
    assert!(verifier.counters().incoming_retried.load(std::sync::atomic::Ordering::Relaxed) > 0);
    attempts.abort_all();
}

#[tokio::test]
async fn test_ten_thousand_streams_are_bounded_and_others_are_served() {
    let patient = Limits { strikes: u32::MAX, ..limits() };
    let pair = pair(patient.clone()).await;
    let quic = pair.dialled.quic();
    let flood = tokio::spawn(async move {
        for _ in 0..10_000 {
            let (mut send, _) = quic.open_bi().await.unwrap();
            // The stream may be refused before the byte is written.
            let _ = send.write_all(&[1]).await;
        }
    });
    let dropped = || pair.verifier.counters().queue_dropped.get("exchanges");
    eventually(|| dropped() >= 100).await;
    let honest = node(2, limits());
    let dial = honest.connect(pair.verifier.local_addr().unwrap(), pair.verifier.public());
    let (dialled, accepted) = tokio::join!(dial, pair.verifier.accept());
    let (dialled, accepted) = (dialled.unwrap(), accepted.unwrap());
    let mut question = dialled.open().await.unwrap();
    question.send(&Talk::from(Ask { number: 1 })).await.unwrap();
    let mut answer = accepted.accept().await.unwrap();
    assert_eq!(answer.recv().await.unwrap(), Some(Talk::from(Ask { number: 1 })));
    flood.await.unwrap();
    eventually(|| dropped() >= 10_000 - patient.stream_queue as u64 - u64::from(patient.max_streams)).await;
    let mut held = Vec::new();
    while let Ok(exchange) = tokio::time::timeout(Duration::ZERO, pair.accepted.accept()).await {
        held.push(exchange.unwrap());
    }
    assert!(held.len() <= patient.max_streams as usize, "{} streams at once", held.len());
}

#[tokio::test]
async fn test_flooding_connection_is_blocked_and_allowed_again_later() {
    let short = Limits { block_period: Duration::from_millis(400), ..limits() };
    let pair = pair(short).await;
    let quic = pair.dialled.quic();
    while let Ok((mut send, _)) = quic.open_bi().await {
        let _ = send.write_all(&[1]).await;
    }
    let reason = pair.dialled.closed().await;
    assert_eq!(reason.kind(), "PeerBlocked", "{reason}");
    assert_eq!(pair.verifier.counters().peer_blocked.get("QueueFull"), 1);
    let addr = pair.verifier.local_addr().unwrap();
    let refused = pair.host.connect(addr, pair.verifier.public()).await.unwrap_err();
    assert_eq!(refused.kind(), "PeerBlocked");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while pair.host.connect(addr, pair.verifier.public()).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline, "still blocked");
    }
}

#[tokio::test]
async fn test_stream_beyond_a_full_queue_is_refused_and_older_ones_are_served() {
    let small = Limits { stream_queue: 4, ..limits() };
    let pair = pair(small).await;
    let mut exchanges = Vec::new();
    for number in 0..6 {
        let mut exchange = pair.dialled.open().await.unwrap();
        exchange.send(&Talk::from(Ask { number })).await.unwrap();
        exchanges.push(exchange);
        let arrived = |at_least| pair.verifier.counters().queue_dropped.get("exchanges") >= at_least;
        eventually(|| arrived((number + 1).saturating_sub(4))).await;
    }
    for number in 0..4 {
        let mut exchange = pair.accepted.accept().await.unwrap();
        assert_eq!(exchange.recv().await.unwrap(), Some(Talk::from(Ask { number })));
    }
    let refused = exchanges[5].recv::<Talk>().await.unwrap_err();
    assert_eq!(refused.kind(), "QueueFull");
}

#[tokio::test]
async fn test_connections_of_one_key_are_bounded() {
    let two = Limits { max_connections_per_peer: 2, ..limits() };
    let verifier = node(3, two);
    let host = node(1, limits());
    let addr = verifier.local_addr().unwrap();
    let mut held = Vec::new();
    for _ in 0..2 {
        let (dialled, accepted) = tokio::join!(host.connect(addr, verifier.public()), verifier.accept());
        held.push((dialled.unwrap(), accepted.unwrap()));
    }
    let third = host.connect(addr, verifier.public()).await;
    let refused = match third {
        Ok(connection) => connection.closed().await,
        Err(error) => error,
    };
    assert_eq!(refused.kind(), "QueueFull");
    held.pop();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let connection = host.connect(addr, verifier.public()).await;
        if let Ok(Ok(_)) =
            tokio::time::timeout(Duration::from_millis(50), async { connection?.open().await }).await
        {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "the place was not given back");
    }
}

#[tokio::test]
async fn test_connections_nobody_accepts_are_bounded() {
    let small = Limits { connection_queue: 1, ..limits() };
    let verifier = node(3, small);
    let addr = verifier.local_addr().unwrap();
    let hosts = [node(1, limits()), node(2, limits())];
    let first = hosts[0].connect(addr, verifier.public()).await.unwrap();
    eventually(|| verifier.counters().handshake.get("ok") == 1).await;
    let second = hosts[1].connect(addr, verifier.public()).await.unwrap();
    let refused = second.closed().await;
    assert!(matches!(refused, crate::TransportError::ClosedByPeer { reason: CloseReason::QueueFull }));
    assert!(!first.is_closed());
    assert_eq!(verifier.counters().queue_dropped.get("connections"), 1);
}
