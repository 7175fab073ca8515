use proptest::prelude::*;

use super::*;

fn request(database: Database, query: Query) -> Request {
    Request { database, query }
}

fn alice() -> Passwd {
    Passwd {
        name: "alice".into(),
        uid: 1000,
        gid: 1000,
        gecos: "Alice".into(),
        home: "/home/alice".into(),
        shell: "/bin/sh".into(),
    }
}

fn by_name() -> Request {
    request(Database::Passwd, Query::Name("alice".into()))
}

#[test]
fn test_requests_and_answers_have_golden_bytes() {
    let cases = [
        (by_name(), "quorate-nss/1 passwd name alice\n"),
        (request(Database::Passwd, Query::Id(0)), "quorate-nss/1 passwd id 0\n"),
        (request(Database::Group, Query::List(1000)), "quorate-nss/1 group list 1000\n"),
        (request(Database::Group, Query::Name("a b".into())), "quorate-nss/1 group name a b\n"),
    ];
    for (request, bytes) in cases {
        assert_eq!(request.encode().as_deref(), Ok(bytes));
        assert_eq!(Request::decode(bytes.as_bytes()), Ok(request));
    }
    let found = Answer::Found(Found::Passwd(vec![alice()]));
    let bytes = "found 1\nalice:x:1000:1000:Alice:/home/alice:/bin/sh\n";
    assert_eq!(found.encode(&by_name()).as_deref(), Ok(bytes));
    assert_eq!(Answer::decode(&by_name(), bytes.as_bytes()), Ok(found));
    assert_eq!(Answer::Absent.encode(&by_name()).as_deref(), Ok("absent\n"));
    let reason = Answer::Unavailable { reason: "no\nquorum".into() };
    assert_eq!(reason.encode(&by_name()).as_deref(), Ok("unavailable no quorum\n"));
    let groups = request(Database::Group, Query::List(7));
    let bytes = "found 2\na:x:7:\nb:x:9:\n";
    let answer = Answer::decode(&groups, bytes.as_bytes()).unwrap();
    assert_eq!(answer.encode(&groups).as_deref(), Ok(bytes));
}

#[test]
fn test_malformed_request_is_refused() {
    let long = format!("quorate-nss/1 passwd name {}\n", "n".repeat(256));
    let longer = format!("quorate-nss/1 passwd name {}\n", "n".repeat(600));
    for bad in [
        "",
        "\n",
        "quorate-nss/1 passwd name alice",
        "quorate-nss/2 passwd name alice\n",
        "quorate-nss/1 shadow name alice\n",
        "quorate-nss/1 passwd name \n",
        "quorate-nss/1 passwd name a\tb\n",
        "quorate-nss/1 passwd name a\nb\n",
        "quorate-nss/1 passwd id 01\n",
        "quorate-nss/1 passwd id +1\n",
        "quorate-nss/1 passwd id 4294967296\n",
        "quorate-nss/1 passwd id\n",
        "quorate-nss/1  passwd id 1\n",
        "quorate-nss/1 passwd id 1 \n",
        "quorate-nss/1 passwd id \n",
        &long,
        &longer,
    ] {
        assert!(Request::decode(bad.as_bytes()).is_err(), "{bad:?}");
    }
    for name in ["", "a\nb", &"n".repeat(256)] {
        assert!(request(Database::Passwd, Query::Name(name.into())).encode().is_err());
    }
}

#[test]
fn test_malformed_answer_is_refused() {
    let line = "alice:x:1000:1000:Alice:/home/alice:/bin/sh\n";
    let long = format!("found 1\nalice:x:1000:1000:{}:/h:/s\n", "g".repeat(1024));
    let endless = "found ".repeat(100);
    for bad in [
        "",
        "absent",
        "absent\n\n",
        "absent \n",
        "Absent\n",
        "found\n",
        "found 0\n",
        "found 1\n",
        "found 257\n",
        "found 1\n\n",
        "unavailable\n",
        "found 1\nalice:x:1000:1000:Alice:/home/alice\n",
        "found 1\nalice:x:1000:1000:Alice:/home/alice:/bin/sh:\n",
        "found 1\nalice::1000:1000::/home/alice:/bin/sh\n",
        "found 1\nalice:x:01000:1000::/h:/s\n",
        "found 1\nalice:x:-1:1000::/h:/s\n",
        "found 1\nalice:x:1000:1000::h:/s\n",
        "found 1\nalice:x:1000:1000::/h:\n",
        "found 1\n+:x:1000:1000::/h:/s\n",
        "found 1\nalice:x:1000:1000:a\0b:/h:/s\n",
        &format!("found 2\n{line}"),
        &format!("found 1\n{line}{line}"),
        &format!("found 1\n{line}absent\n"),
        &long,
        &endless,
    ] {
        let error = Answer::decode(&by_name(), bad.as_bytes()).unwrap_err();
        assert!(["DecodeError", "MessageTooLarge"].contains(&error.kind()), "{bad:?}: {error}");
    }
    assert!(Answer::decode(&by_name(), b"found 1\nalice:x:1000:1000:\xff:/h:/s\n").is_err());
}

#[test]
fn test_answer_to_another_request_is_refused() {
    let line = "alice:x:1000:1000:Alice:/home/alice:/bin/sh\n";
    let one = format!("found 1\n{line}");
    let two = format!("found 2\n{line}{line}");
    let passwd = |query| request(Database::Passwd, query);
    for (other, bytes) in [
        (passwd(Query::Name("bob".into())), &one),
        (passwd(Query::Id(1001)), &one),
        (passwd(Query::List(1001)), &one),
        (passwd(Query::List(0)), &two),
        (passwd(Query::Id(1000)), &two),
        (by_name(), &two),
    ] {
        assert_eq!(Answer::decode(&other, bytes.as_bytes()), Err(ProtocolError::OtherRequest), "{other:?}");
    }
    let group = request(Database::Group, Query::Name("alice".into()));
    assert_eq!(Answer::decode(&group, one.as_bytes()).unwrap_err().kind(), "DecodeError");
    // A gateway cannot send one either.
    let found = Answer::Found(Found::Passwd(vec![alice()]));
    assert!(found.encode(&group).is_err());
    assert!(found.encode(&passwd(Query::Id(7))).is_err());
    let mut split = alice();
    split.gecos = "a:b".into();
    assert!(Answer::Found(Found::Passwd(vec![split])).encode(&by_name()).is_err());
}

fn query() -> impl Strategy<Value = Query> {
    prop_oneof![
        "[^\\p{Cc}]{1,60}".prop_map(Query::Name),
        any::<u32>().prop_map(Query::Id),
        any::<u32>().prop_map(Query::List),
    ]
}

fn any_request() -> impl Strategy<Value = Request> {
    (any::<bool>(), query())
        .prop_map(|(group, query)| request(if group { Database::Group } else { Database::Passwd }, query))
}

proptest! {
    #[test]
    fn test_request_reads_back(request in any_request()) {
        let bytes = request.encode().unwrap();
        prop_assert!(bytes.len() <= REQUEST_LIMIT);
        prop_assert_eq!(Request::decode(bytes.as_bytes()), Ok(request));
        for length in 0..bytes.len() {
            prop_assert!(Request::decode(&bytes.as_bytes()[..length]).is_err());
        }
    }

    #[test]
    fn test_any_bytes_are_one_request_or_none(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(request) = Request::decode(&bytes) {
            let encoded = request.encode().unwrap();
            prop_assert_eq!(encoded.as_bytes(), bytes.as_slice());
        }
    }

    #[test]
    fn test_list_reads_back_and_no_prefix_of_it_does(from in 0..1000u32, ids in prop::collection::btree_set(1000..9000u32, 1..40)) {
        let request = request(Database::Passwd, Query::List(from));
        let lines = ids.iter().map(|id| Passwd { name: format!("u{id}"), uid: *id, ..alice() }).collect();
        let answer = Answer::Found(Found::Passwd(lines));
        let text = answer.encode(&request).unwrap();
        for length in 0..text.len() {
            let part = &text.as_bytes()[..length];
            prop_assert_eq!(Answer::length(part), Ok(None), "{}", length);
            prop_assert!(Answer::decode(&request, part).is_err());
        }
        prop_assert_eq!(Answer::length(text.as_bytes()), Ok(Some(text.len())));
        prop_assert_eq!(Answer::decode(&request, text.as_bytes()), Ok(answer));
    }

    #[test]
    fn test_any_bytes_are_one_answer_or_none(
        request in any_request(),
        bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            "found [0-9]{1,3}\n([a-z:x0-9/]{0,40}\n){0,4}".prop_map(String::into_bytes),
            "(absent|unavailable [a-z ]{0,9}|found 1\na:x:[0-9]{1,2}:)\n".prop_map(String::into_bytes),
        ],
    ) {
        if let Ok(answer) = Answer::decode(&request, &bytes) {
            let encoded = answer.encode(&request).unwrap();
            prop_assert_eq!(encoded.as_bytes(), bytes.as_slice());
            prop_assert_eq!(Answer::length(&bytes), Ok(Some(bytes.len())));
        }
    }
}

#[test]
fn test_length_of_an_endless_answer_is_refused_at_its_limit() {
    assert_eq!(Answer::length(&[b'a'; 255]), Ok(None));
    assert_eq!(Answer::length(&[b'a'; 256]), Err(ProtocolError::TooLarge { limit: 256 }));
    let mut endless = b"found 1\n".to_vec();
    endless.extend([b'a'; LINE_LIMIT]);
    assert_eq!(Answer::length(&endless), Err(ProtocolError::TooLarge { limit: LINE_LIMIT }));
}
