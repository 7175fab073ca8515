//! The bulk transport, between threads.

use std::io::{IoSlice, Read, Write};
use std::net::TcpStream;
use std::thread;
use std::time::Instant;

use super::*;
use crate::TransportError;
use crate::bulk::{Bulk, BulkListener, BulkStream, Purpose};

fn bulk(n: u8, limits: Limits) -> Bulk {
    Bulk::new(&key(n), Arc::new(members()), limits)
}

fn purpose(n: u8) -> Purpose {
    Purpose::new([n; 32]).unwrap()
}

/// Host 2 listens; what host 1 or whoever dials gets.
fn listener(limits: Limits) -> (Bulk, BulkListener, SocketAddr) {
    let destination = bulk(2, limits);
    let listener = destination.listen(LOCAL).unwrap();
    let addr = listener.local_addr().unwrap();
    (destination, listener, addr)
}

fn connected(limits: Limits) -> (BulkStream, BulkStream) {
    let (_destination, listener, addr) = listener(limits.clone());
    let expected = listener.announce(&key(1).public(), purpose(7)).unwrap();
    let source = bulk(1, limits).connect(addr, &key(2).public(), purpose(7)).unwrap();
    (source, expected.accept(PATIENCE).unwrap())
}

#[test]
fn test_bulk_pages_arrive_whole_between_the_announced_ends() {
    let (mut source, mut destination) = connected(limits());
    assert_eq!((source.peer(), destination.peer()), (Some(&key(2).public()), Some(&key(1).public())));
    assert_eq!((source.purpose(), destination.purpose()), (Some(purpose(7)), Some(purpose(7))));
    assert_eq!(destination.role(), Some(Role::Host));
    let pages: Vec<Vec<u8>> = (0..2000u32).map(|n| vec![n as u8; 4096]).collect();
    let sender = thread::spawn(move || {
        for (index, page) in pages.iter().enumerate() {
            let head = (index as u32).to_le_bytes();
            source.transmit_vectored(&[IoSlice::new(&head), IoSlice::new(page)]).unwrap();
        }
        let mut thanks = [0; 6];
        source.read_exact(&mut thanks).unwrap();
        source.finish().unwrap();
        thanks
    });
    for index in 0..2000u32 {
        let mut frame = [0; 4100];
        destination.read_exact(&mut frame).unwrap();
        assert_eq!(frame[..4], index.to_le_bytes());
        assert!(frame[4..].iter().all(|byte| *byte == index as u8));
    }
    destination.write_all(b"thanks").unwrap();
    assert_eq!(&sender.join().unwrap(), b"thanks");
    assert_eq!(destination.read(&mut [0; 10]).unwrap(), 0, "an orderly end");
}

#[test]
fn test_bulk_wrong_key_is_refused_both_ways() {
    let (destination, listener, addr) = listener(limits());
    let _expected = listener.announce(&key(1).public(), purpose(7)).unwrap();
    let refused = |bulk: Bulk, expected: u8| {
        bulk.connect(addr, &key(expected).public(), purpose(7)).unwrap_err().kind()
    };
    assert_eq!(refused(bulk(1, limits()), 3), "PeerUnknown", "a node with another key answers");
    let open = Arc::new(members().with_any_client());
    let stranger = Bulk::new(&key(9), open, limits());
    assert_eq!(refused(stranger, 2), "PeerUnknown", "the listener does not know the dialler");
    assert_eq!(refused(bulk(1, limits()), 9), "PeerUnknown", "the dialler does not know whom it asks for");
    let deadline = Instant::now() + PATIENCE;
    while destination.counters().handshake.get("PeerUnknown") < 2 {
        assert!(Instant::now() < deadline, "{:?}", destination.counters().samples());
        thread::yield_now();
    }
}

#[test]
fn test_bulk_connection_belongs_to_one_purpose_and_one_peer_once() {
    let (_destination, listener, addr) = listener(limits());
    let expected = listener.announce(&key(1).public(), purpose(7)).unwrap();
    assert_eq!(listener.announce(&key(1).public(), purpose(7)).unwrap_err().kind(), "SessionBindingMismatch");
    let dial = |n, about| bulk(n, limits()).connect(addr, &key(2).public(), about);
    assert_eq!(dial(1, purpose(8)).unwrap_err().kind(), "SessionBindingMismatch", "not announced");
    assert_eq!(dial(3, purpose(7)).unwrap_err().kind(), "SessionBindingMismatch", "announced for another");
    let first = dial(1, purpose(7)).unwrap();
    assert_eq!(dial(1, purpose(7)).unwrap_err().kind(), "SessionBindingMismatch", "used up");
    let accepted = expected.accept(PATIENCE).unwrap();
    assert_eq!(accepted.peer(), Some(&key(1).public()));
    drop((first, expected));
    let withdrawn = listener.announce(&key(1).public(), purpose(9)).unwrap();
    drop(withdrawn);
    assert_eq!(dial(1, purpose(9)).unwrap_err().kind(), "SessionBindingMismatch", "withdrawn");
    assert!(Purpose::new([0; 32]).is_err(), "zero is the purpose of message connections");
}

#[test]
fn test_bulk_key_blocked_for_messages_is_blocked_for_bulk() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let endpoint = node(2, limits());
    let listener = endpoint.bulk().listen(LOCAL).unwrap();
    let addr = listener.local_addr().unwrap();
    let _expected = listener.announce(&key(1).public(), purpose(7)).unwrap();
    endpoint.block(&key(1).public(), "ChunkHashMismatch");
    let error = bulk(1, limits()).connect(addr, &key(2).public(), purpose(7)).unwrap_err();
    assert_eq!(error.kind(), "PeerBlocked");
}

#[test]
fn test_bulk_half_open_handshakes_are_bounded_and_end() {
    let short = Limits { handshake: Duration::from_millis(500), ..limits() };
    let (destination, listener, addr) = listener(short);
    let held: Vec<_> = (0..40).map(|_| TcpStream::connect(addr).unwrap()).collect();
    let refused = || {
        destination.counters().samples().iter().any(|s| s.name == "incoming_refused_total" && s.value == 24)
    };
    let deadline = Instant::now() + PATIENCE;
    while !refused() || destination.counters().handshake.get("HandshakeTimeout") < 16 {
        assert!(Instant::now() < deadline, "{:?}", destination.counters().samples());
        thread::yield_now();
    }
    let expected = listener.announce(&key(1).public(), purpose(7)).unwrap();
    let _source = bulk(1, limits()).connect(addr, &key(2).public(), purpose(7)).unwrap();
    assert!(expected.accept(PATIENCE).is_ok());
    drop(held);
}

#[test]
fn test_bulk_read_that_begins_and_stops_is_cut_and_silence_is_a_timeout() {
    let (mut source, mut destination) = connected(limits());
    destination.set_patience(Duration::from_millis(50));
    assert_eq!(destination.receive(&mut [0; 8]).unwrap_err().kind(), "PeerTimeout");
    source.transmit(&[1, 2, 3]).unwrap();
    let error = destination.receive(&mut [0; 8]).unwrap_err();
    assert!(matches!(error, TransportError::StreamStalled { done: 3, total: 8, .. }), "{error}");
    let as_io = std::io::Error::from(error);
    assert_eq!(as_io.kind(), std::io::ErrorKind::TimedOut);
}

#[test]
fn test_bulk_dribble_is_cut_although_bytes_keep_coming() {
    let (mut source, mut destination) = connected(limits());
    let dribble = thread::spawn(move || {
        while source.transmit(&[0]).is_ok() {
            thread::sleep(Duration::from_millis(40))
        }
    });
    let error = destination.receive(&mut [0; 4096]).unwrap_err();
    assert!(matches!(error, TransportError::StreamStalled { total: 4096, done, .. } if done > 1), "{error}");
    drop(destination);
    dribble.join().unwrap();
}

#[test]
fn test_bulk_writer_is_bounded_when_the_reader_stops() {
    let fast = Limits { min_rate: 1 << 30, ..limits() };
    let (mut source, _destination) = connected(fast);
    let error = source.transmit(&vec![0; 64 << 20]).unwrap_err();
    assert_eq!(error.kind(), "StreamStalled");
}

#[test]
fn test_bulk_end_without_close_notify_is_an_error() {
    let (source, mut destination) = connected(limits());
    source.handle().unwrap().close();
    let error = destination.receive_some(&mut [0; 8]).unwrap_err();
    assert_eq!(error.kind(), "ConnectionFailed", "a cut connection must not look like an orderly end");
}

#[test]
fn test_bulk_handle_wakes_a_blocked_reader() {
    let (_source, mut destination) = connected(limits());
    let handle = destination.handle().unwrap();
    let reader = thread::spawn(move || destination.receive(&mut [0; 8]));
    handle.close();
    assert!(reader.join().unwrap().is_err());
}

#[test]
fn test_bulk_dropped_listener_accepts_no_more() {
    let (_destination, listener, addr) = listener(limits());
    drop(listener);
    let deadline = Instant::now() + PATIENCE;
    while TcpStream::connect(addr).is_ok() {
        assert!(Instant::now() < deadline, "the socket stays open");
        thread::yield_now();
    }
}
