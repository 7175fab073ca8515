//! Bytes: golden vectors, keys and their inverse, and what is refused.

use std::collections::BTreeMap;
use std::string::{String, ToString};
use std::vec::Vec;

use proptest::prelude::*;
use quorate_attest::encoding::Bounded;
use quorate_attest::id::Nonce;
use quorate_attest::key::{PublicKey, SecretKey};
use quorate_attest::request::Reply;
use quorate_kit::status;

use crate::endpoint::{Endpoint, EndpointError, Endpoints};
use crate::*;

fn owner() -> PublicKey {
    SecretKey::from_seed([1; 32]).public()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| std::format!("{byte:02x}")).collect()
}

fn record() -> Record {
    Record { value: b"v".into(), owner: owner(), lease: 2, created: 3, modified: 4, version: 5 }
}

/// A failure here means that recorded states and requests no longer mean what they did.
#[test]
fn golden_records_of_version_1() {
    let owner = hex(owner().as_bytes());
    let numbers = "0200000000000000030000000000000004000000000000000500000000000000";
    let record_text = std::format!("0100000076{owner}{numbers}");
    assert_eq!(hex(&record().encoded()), record_text);
    let event = Event { put: true, name: b"web".into(), record: record() };
    assert_eq!(hex(&event.encoded()), std::format!("0103000000776562{record_text}"));
    let lease = Lease { owner: self::owner(), ttl_ms: 1, expires_ms: 2 };
    assert_eq!(hex(&lease.encoded()), std::format!("{owner}01000000000000000200000000000000"));
    let totals = Totals { services: 1, leases: 2, events: 3, event_bytes: 4 };
    assert_eq!(hex(&totals.encoded()), "0100000000000000020000000000000003000000000000000400000000000000");
    let config = Config { admins: Vec::from([self::owner()]), event_bytes_max: 1 << 20 };
    assert_eq!(hex(&config.encoded()), std::format!("01000000{owner}0000100000000000"));
}

#[test]
fn golden_keys_of_version_1() {
    assert_eq!(hex(&record_key(b"web")), "0172776562");
    assert_eq!(hex(&lease_key(258)), "016c0000000000000102");
    assert_eq!(hex(&lease_name_key(1, b"web")), "016d0000000000000001776562");
    assert_eq!(hex(&expiry_key(3, 1)), "017800000000000000030000000000000001");
    assert_eq!(hex(&event_key(7, 2)), "0165000000000000000700000002");
    assert_eq!(hex(&lowest_event_key()), "0163");
    assert_eq!(hex(&config_key()), "0167");
    assert_eq!(hex(&totals_key()), "016e");
}

fn range() -> NameRange {
    NameRange::one(b"a")
}

#[test]
fn golden_operations_of_version_1() {
    let register =
        Register { name: b"web".into(), value: b"v".into(), lease: 1, expected: Some(2), previous: true };
    let put = TxnOp::Put { name: b"a".into(), value: b"v".into(), lease: 0, previous: true };
    let compare =
        Compare { name: b"a".into(), relation: Relation::NotEqual, target: Target::Value(b"v".into()) };
    let txn = Txn {
        compare: Vec::from([compare]),
        success: Vec::from([put]),
        failure: Vec::from([
            TxnOp::DeleteRange(DeregisterRange { range: range(), previous: false }),
            TxnOp::Get { range: NameRange { low: Vec::new(), high: None }, limit: 256 },
        ]),
    };
    let cases = [
        (
            Operation::Register(register),
            "030000007765620100000076010000000000000001".to_string() + "020000000000000001",
        ),
        (
            Operation::Deregister { name: b"a".into(), expected: None, previous: false },
            "01000000610000".into(),
        ),
        (
            Operation::DeregisterRange(DeregisterRange { range: range(), previous: true }),
            "010000006101020000006100".to_string() + "01",
        ),
        (
            Operation::Txn(txn),
            "0100000001000000610303010000007601000000000100000061010000007600000000000000000102000000"
                .to_string()
                + "01010000006101020000006100000200000000000001",
        ),
        (Operation::LeaseGrant(LeaseGrant { id: 1, ttl_ms: 2 }), "01000000000000000200000000000000".into()),
        (Operation::LeaseRenew { id: 1 }, "0100000000000000".into()),
        (Operation::LeaseRevoke { id: 1 }, "0100000000000000".into()),
        (Operation::Lookup { name: b"a".into() }, "0100000061".into()),
        (
            Operation::List(List { prefix: b"a".into(), from: Vec::new(), limit: 1 }),
            "0100000061000000000100".into(),
        ),
        (Operation::Derive { n: 4, f: 1 }, "04000000000000000100000000000000".into()),
        (Operation::Watch(Watch { number: 1, sub: 2, limit: 3 }), "0100000000000000020000000300".into()),
    ];
    for (place, (operation, golden)) in cases.into_iter().enumerate() {
        assert_eq!(usize::from(operation.op()), place + 1);
        assert_eq!(hex(&operation.body()), golden, "{operation:?}");
        assert_eq!(Operation::decode(operation.op(), &operation.body()), Ok(operation));
    }
    assert_eq!(Operation::decode(0, &[]), Err(status::UNKNOWN_KIND));
    assert_eq!(Operation::decode(12, &[]), Err(status::UNKNOWN_KIND));
}

#[test]
fn golden_outcomes_of_version_1() {
    let number = 7;
    let entry = || Entry { name: b"a".into(), record: record() };
    let page = || Page { entries: Vec::from([entry()]), more: true };
    let event = Event { put: false, name: b"a".into(), record: record() };
    let events = Vec::from([NumberedEvent { number, sub: 1, event }]);
    let results = Vec::from([
        TxnResult::Put { previous: None },
        TxnResult::Deleted { deleted: 1, previous: Vec::from([entry()]) },
        TxnResult::Got(page()),
    ]);
    let seven = "0700000000000000";
    let one = "0100000000000000";
    let r = hex(&record().encoded());
    let e = std::format!("0100000061{r}");
    let cases = [
        (
            Outcome::Registered { number, version: 1, previous: Some(record()) },
            std::format!("{seven}{one}01{r}"),
        ),
        (Outcome::Deregistered { number, previous: Some(record()) }, std::format!("{seven}01{r}")),
        (
            Outcome::RangeDeregistered { number, deleted: 1, previous: Vec::new() },
            std::format!("{seven}{one}00000000"),
        ),
        (
            Outcome::Txn { number, succeeded: true, results },
            std::format!("{seven}0103000000000001{one}01000000{e}0201000000{e}01"),
        ),
        (Outcome::LeaseGranted { number, id: 7, ttl_ms: 1 }, std::format!("{seven}{seven}{one}")),
        (Outcome::LeaseRenewed { number, ttl_ms: 1, expires_ms: 7 }, std::format!("{seven}{one}{seven}")),
        (Outcome::LeaseRevoked { number, deleted: 1 }, std::format!("{seven}{one}")),
        (Outcome::Found { number, record: None }, std::format!("{seven}00")),
        (Outcome::Listed { number, page: page() }, std::format!("{seven}01000000{e}01")),
        (Outcome::Derived { quorum: Some(QuorumRange { min: 1, max: 7 }) }, std::format!("01{one}{seven}")),
        (
            Outcome::Watched { number, watched: Watched::Events { events, more: false } },
            std::format!("{seven}0001000000{seven}01000000000100000061{r}00"),
        ),
    ];
    for (place, (outcome, golden)) in cases.into_iter().enumerate() {
        assert_eq!(usize::from(outcome.op()), place + 1);
        assert_eq!(hex(&outcome.encoded()), std::format!("{place:02x}{golden}"), "{outcome:?}");
        assert_eq!(Outcome::decoded(&outcome.encoded()), Ok(outcome));
    }
}

#[test]
fn a_prefix_is_the_range_that_etcd_means_by_it() {
    let high = |prefix: &[u8]| NameRange::prefix(prefix).high;
    assert_eq!(high(b"a"), Some(b"b".into()));
    assert_eq!(high(&[b'a', 0xff]), Some(b"b".into()));
    assert_eq!(high(&[0xff, 0xff]), None);
    assert_eq!(high(b""), None);
    assert!(NameRange::one(b"a").contains(b"a"));
    assert!(!NameRange::one(b"a").contains(b"a\0"));
}

#[test]
fn every_bound_of_an_operation_is_checked() {
    let long = std::vec![b'a'; NAME_BYTES_MAX + 1];
    let lookup = |name: &[u8]| Operation::Lookup { name: name.into() };
    let list = |limit| Operation::List(List { prefix: Vec::new(), from: Vec::new(), limit });
    let watch = |limit| Operation::Watch(Watch { number: 0, sub: 0, limit });
    let grant = |id, ttl_ms| Operation::LeaseGrant(LeaseGrant { id, ttl_ms });
    let put = |name: &[u8]| TxnOp::Put { name: name.into(), value: Vec::new(), lease: 0, previous: false };
    let delete =
        |name: &[u8]| TxnOp::DeleteRange(DeregisterRange { range: NameRange::prefix(name), previous: false });
    let txn = |failure: Vec<TxnOp>| Operation::Txn(Txn { compare: Vec::new(), success: Vec::new(), failure });
    let register = |value: usize| {
        let value = std::vec![0; value];
        Operation::Register(Register { name: b"a".into(), value, lease: 0, expected: None, previous: false })
    };
    let puts = |count: u8| (0..count).map(|name| put(&[name])).collect::<Vec<_>>();
    let cases = [
        (lookup(b""), Err(status::MALFORMED)),
        (lookup(&long[1..]), Ok(())),
        (lookup(&long), Err(status::TOO_LARGE)),
        (register(VALUE_BYTES_MAX), Ok(())),
        (register(VALUE_BYTES_MAX + 1), Err(status::TOO_LARGE)),
        (list(0), Err(status::MALFORMED)),
        (list(256), Ok(())),
        (list(257), Err(status::TOO_LARGE)),
        (watch(0), Err(status::MALFORMED)),
        (watch(257), Err(status::TOO_LARGE)),
        (grant(0, 0), Err(status::MALFORMED)),
        (grant(1 << 63, 1), Err(status::MALFORMED)),
        (grant((1 << 63) - 1, TTL_MS_MAX), Ok(())),
        (grant(0, TTL_MS_MAX + 1), Err(status::TOO_LARGE)),
        (txn(puts(128)), Ok(())),
        (txn(puts(129)), Err(status::TOO_LARGE)),
        (txn(Vec::from([put(b"a"), put(b"a")])), Err(status::MALFORMED)),
        (txn(Vec::from([put(b"ab"), delete(b"a")])), Err(status::MALFORMED)),
        (txn(Vec::from([put(b"b"), delete(b"a")])), Ok(())),
    ];
    for (operation, expected) in cases {
        let decoded = Operation::decode(operation.op(), &operation.body());
        assert_eq!(decoded, expected.map(|()| operation));
    }
}

#[test]
fn endpoints_have_one_text_and_refuse_every_other() {
    let endpoint = |host: &str, port, labels: &[(&str, &str)]| {
        let labels = labels.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        Endpoint::new(host.into(), port, labels)
    };
    let web = endpoint("10.0.0.7", 9090, &[("job", "web"), ("zone", "a b")]).unwrap();
    let six = endpoint("::1", 1, &[]).unwrap();
    assert_eq!((web.address().as_str(), six.address().as_str()), ("10.0.0.7:9090", "[::1]:1"));
    let both = Endpoints::new(Vec::from([six.clone(), web.clone()])).unwrap();
    let text = r#"[{"host":"10.0.0.7","port":9090,"labels":{"job":"web","zone":"a b"}},{"host":"::1","port":1,"labels":{}}]"#;
    assert_eq!(String::from_utf8(both.to_value()).unwrap(), text);
    assert_eq!(Endpoints::from_value(text.as_bytes()), Ok(both));
    assert_eq!(Endpoints::from_value(b"[]"), Ok(Endpoints::default()));
    assert_eq!(Endpoints::new(Vec::from([six.clone(), six])), Err(EndpointError::Unsorted));
    for host in ["", "A", "a..b", "-a", "a-", "a_b", "0:0:0:0:0:0:0:1", "::1%eth0", "a\"b", &"a".repeat(64)] {
        assert_eq!(endpoint(host, 1, &[]), Err(EndpointError::BadHost { host: host.into() }));
    }
    assert_eq!(endpoint("a", 0, &[]), Err(EndpointError::BadPort));
    for (name, value) in
        [("", "a"), ("1", "a"), ("a-b", "a"), ("__address__", "a"), ("a", "\""), ("a", "\n"), ("a", "é")]
    {
        assert!(
            matches!(endpoint("a", 1, &[(name, value)]), Err(EndpointError::BadLabel { .. })),
            "{name} {value}"
        );
    }
    let error = endpoint("a", 1, &[("l", &"x".repeat(500))]).unwrap_err();
    assert_eq!(error.kind(), "MessageTooLarge");
    for bad in [
        "",
        "[",
        "[] ",
        " []",
        "{}",
        "[,]",
        r#"[{"host":"a","port":1}]"#,
        r#"[{"host":"a","port":01,"labels":{}}]"#,
        r#"[{"host":"a","port":65536,"labels":{}}]"#,
        r#"[{"host":"a","port":1,"labels":{}},]"#,
        r#"[{"port":1,"host":"a","labels":{}}]"#,
        r#"[{"host":"b","port":1,"labels":{}},{"host":"a","port":1,"labels":{}}]"#,
        r#"[{"host":"a","port":1,"labels":{"b":"","a":""}}]"#,
        r#"[{"host":"a","port":1,"labels":{"a":"","a":""}}]"#,
        r#"[{"host":"a","port":1,"labels":{"a":"\u0041"}}]"#,
    ] {
        assert_eq!(Endpoints::from_value(bad.as_bytes()).unwrap_err().kind(), "DecodeError", "{bad}");
    }
    let many = (1..=65).map(|port| endpoint("a", port, &[]).unwrap());
    let error = Endpoints::new(many.collect()).unwrap_err();
    assert_eq!(error, EndpointError::TooLarge { what: "endpoints", limit: 64, got: 65 });
}

#[test]
fn a_result_of_another_operation_or_a_failure_is_no_answer() {
    let outcome = Outcome::LeaseRevoked { number: 1, deleted: 0 };
    let reply = |status, body| Reply {
        abi: 1,
        client: owner(),
        sequence: 1,
        nonce: Nonce::from_bytes([0; 16]),
        status,
        body,
    };
    let good = reply(status::OK, outcome.encoded());
    assert_eq!(client::outcome(op::LEASE_REVOKE, &good), Ok(outcome));
    let other = client::outcome(op::REGISTER, &good).unwrap_err();
    assert_eq!(other, client::AnswerError::OtherOperation { want: op::REGISTER, got: op::LEASE_REVOKE });
    let failed = client::outcome(op::REGISTER, &reply(status::STALE, Vec::new())).unwrap_err();
    assert_eq!(
        (failed.kind(), failed),
        ("OperationFailed", client::AnswerError::Failed { status: status::STALE })
    );
    assert_eq!(
        client::outcome(op::REGISTER, &reply(status::OK, Vec::new())).unwrap_err().kind(),
        "DecodeError"
    );
    for key in [&b"\x01z"[..], b"\x02ra", b"", &lease_name_key(1, b"a")] {
        assert_eq!(client::entry(key, b"v"), Err(client::AnswerError::OtherEntry));
    }
}

fn endpoint() -> impl Strategy<Value = Endpoint> {
    let labels = proptest::collection::btree_map("[a-z_][a-z0-9]{0,6}", "[ !#-\\[\\]-~]{0,8}", 0..4);
    ("[a-z0-9]{1,8}(\\.[a-z0-9]{1,8}){0,2}", 1u16.., labels).prop_map(
        |(host, port, labels): (String, u16, BTreeMap<_, _>)| Endpoint::new(host, port, labels).unwrap(),
    )
}

proptest! {
    #[test]
    fn endpoints_survive_their_text_and_no_changed_text_means_the_same(
        endpoints in proptest::collection::vec(endpoint(), 0..5), at: prop::sample::Index, byte: u8,
    ) {
        let unique: BTreeMap<_, _> = endpoints.into_iter().map(|e| ((e.host().to_string(), e.port()), e)).collect();
        let endpoints = Endpoints::new(unique.into_values().collect()).unwrap();
        let mut value = endpoints.to_value();
        prop_assert_eq!(Endpoints::from_value(&value), Ok(endpoints.clone()));
        let at = at.index(value.len());
        let before = core::mem::replace(&mut value[at], byte);
        if let Ok(other) = Endpoints::from_value(&value) {
            prop_assert_eq!(other.to_value(), value);
            prop_assert!(byte == before || other != endpoints);
        }
    }

    #[test]
    fn keys_survive_their_bytes_and_no_other_bytes_mean_them(bytes in proptest::collection::vec(any::<u8>(), 0..30), tag in prop::sample::select(b"rlmxecgn".to_vec())) {
        let mut key = Vec::from([1, tag]);
        key.extend(bytes);
        for key in [&key[..], &key[2..]] {
            if let Some(parsed) = StateKey::parse(key) {
                prop_assert_eq!(parsed.to_bytes(), key);
            }
        }
    }

    #[test]
    fn arbitrary_bodies_outcomes_and_entries_never_panic_and_decode_to_one_value(
        number in 0u16..14, bytes in proptest::collection::vec(any::<u8>(), 0..200),
    ) {
        if let Ok(operation) = Operation::decode(number, &bytes) {
            prop_assert_eq!(operation.body(), bytes.clone());
        }
        if let Ok(outcome) = Outcome::decoded(&bytes) {
            prop_assert_eq!(outcome.encoded(), bytes.clone());
        }
        let _ = (Record::decoded(&bytes), Event::decoded(&bytes), Lease::decoded(&bytes), Config::decoded(&bytes));
        let _ = (Totals::decoded(&bytes), Endpoints::from_value(&bytes));
        // Every kind of key, with and without the rest of one.
        for tag in *b"rlmxecgn" {
            for key in [&[1, tag][..], &[&[1, tag][..], &[7; 12]].concat(), &[&[1, tag][..], &[7; 16]].concat()] {
                if let Ok(client::StateEntry::Record(entry)) = client::entry(key, &bytes) {
                    prop_assert_eq!(entry.record.encoded(), bytes.clone());
                }
            }
        }
    }
}
