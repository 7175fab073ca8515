//! The socket between the NSS module and the gateway.

use quorate_nss_protocol::{Answer, Database, Found, LINES_LIMIT, Query, Request};

use crate::cut::Cut;
use crate::must;

/// How many requests a first byte chooses from to read an answer to; above, the bytes are a request.
pub const REQUESTS: usize = 8;

/// The request with this number.
pub fn request(number: usize) -> Request {
    let database = if number.is_multiple_of(2) { Database::Passwd } else { Database::Group };
    let query = match number / 2 {
        0 => Query::Name("alice".into()),
        1 => Query::Id(1000),
        2 => Query::List(0),
        _ => Query::List(u32::MAX),
    };
    Request { database, query }
}

/// Reads the bytes as a request or as an answer.
pub fn check(bytes: &[u8]) {
    let mut cut = Cut::new(bytes);
    match cut.below(REQUESTS + 2) {
        number @ 0..REQUESTS => answer(&request(number), cut.rest()),
        _ => question(cut.rest()),
    }
}

fn question(bytes: &[u8]) {
    if let Ok(request) = Request::decode(bytes) {
        assert_eq!(must(request.encode()).as_bytes(), bytes);
    }
}

fn answer(request: &Request, bytes: &[u8]) {
    // What a reader waits for never shrinks as more bytes arrive.
    if let Ok(Some(length)) = Answer::length(bytes) {
        assert!(length <= bytes.len());
        assert_eq!(Answer::length(&bytes[..length]), Ok(Some(length)));
    }
    let Ok(answer) = Answer::decode(request, bytes) else { return };
    assert_eq!(must(answer.encode(request)).as_bytes(), bytes);
    let ids: Vec<u32> = match &answer {
        Answer::Found(Found::Passwd(lines)) => lines.iter().map(|line| line.uid).collect(),
        Answer::Found(Found::Group(lines)) => lines.iter().map(|line| line.gid).collect(),
        _ => return,
    };
    assert!((1..=LINES_LIMIT).contains(&ids.len()) && ids.is_sorted_by(|a, b| a < b));
    match request.query {
        Query::Name(_) => assert_eq!(ids.len(), 1),
        Query::Id(id) => assert_eq!(ids, [id]),
        Query::List(from) => assert!(ids.iter().all(|id| *id >= from)),
    }
}
