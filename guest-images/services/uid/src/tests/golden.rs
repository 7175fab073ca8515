//! Encodings that must never change: a changed byte is another kind, another domain or another service.

use quorate_attest::encoding::{Bounded, to_bytes};
use quorate_attest::id::{VmId, to_hex};
use quorate_attest::statement::Statement;

use super::attacks::proposal;
use super::world::{add, group, name, profile, uid};
use crate::testing::{config, key};
use crate::{
    Bind, Change, Entry, Holder, NameRecord, Operation, Request, Subject, UID_BIND, UidRecord, history_key,
    name_key, uid_key,
};

const WHY: &str = "the encoding changed: it needs a new kind or operation number, not a new golden value";

fn bind() -> Bind {
    let expected = group(4, 1).0.expected(VmId::ZERO, UID_BIND);
    Bind::decoded(&proposal(&expected, 1000, "alice").body).unwrap()
}

#[test]
fn test_binding_has_the_fields_of_the_specification_in_its_order() {
    let bytes = [
        "e8030000",                       // uid
        "05000000616c696365",             // name
        "0100000000000000",               // counter
        "00",                             // action: add
        "e8030000",                       // gid
        "00000000",                       // gecos
        "0b0000002f686f6d652f616c696365", // home
        "070000002f62696e2f7368",         // shell
        "0000000000000000000000000000000000000000000000000000000000000000",
    ];
    assert_eq!(to_hex(&bind().encoded()), bytes.concat(), "{WHY}");
    assert_eq!(UID_BIND.0, 0x0201);
}

#[test]
fn test_keys_sort_by_uid_and_by_counter() {
    assert_eq!(to_hex(&uid_key(1000)), "0275000003e8", "{WHY}");
    assert_eq!(to_hex(&name_key("al")), "026e616c", "{WHY}");
    assert_eq!(to_hex(&history_key(1000, 258)), "0268000003e80000000000000102", "{WHY}");
    assert!(uid_key(255) < uid_key(256) && history_key(1, 255) < history_key(1, 256));
}

#[test]
fn test_operations_have_golden_bodies() {
    let profile = "05000000616c696365000000000b0000002f686f6d652f616c696365070000002f62696e2f7368";
    let alice = [profile].concat();
    let head = "e80300000100000000000000";
    let cases = [
        (add(1000, 1, "alice"), 1, [head, &alice].concat()),
        (
            Operation::AddSystemUser { uid: uid(5), counter: 1, profile: self::profile("alice") },
            2,
            ["050000000100000000000000", &alice, "00"].concat(),
        ),
        (Operation::DelUser { uid: uid(1000), counter: 1 }, 3, head.into()),
        (
            Operation::Rename { uid: uid(1000), counter: 1, name: name("al") },
            4,
            [head, "02000000616c", "00"].concat(),
        ),
        (
            Operation::SetAttr { uid: uid(1000), counter: 1, attributes: Default::default() },
            5,
            [head, "000000", "00"].concat(),
        ),
        (Operation::AllocUid { profile: self::profile("alice") }, 6, alice.clone()),
        (
            Operation::Reissue {
                uid: uid(1000),
                counter: 1,
                previous: [0xab; 32],
                profile: self::profile("alice"),
            },
            7,
            [head, &"ab".repeat(32), &alice, "00"].concat(),
        ),
        (Operation::Lookup { subject: Subject::Uid(1000) }, 8, "00e8030000".into()),
        (Operation::Lookup { subject: Subject::Name(name("al")) }, 8, "0102000000616c".into()),
        (Operation::List { from: 7, limit: 256 }, 9, "070000000001".into()),
        (Operation::History { uid: 1000, from: 2, limit: 3 }, 10, "e803000002000000000000000300".into()),
    ];
    for (operation, number, body) in cases {
        assert_eq!(operation.op(), number, "{WHY}");
        assert_eq!(to_hex(&operation.body(None)), body, "{operation:?}: {WHY}");
        assert_eq!(Operation::decode(number, &operation.body(None)), Ok((operation, None)));
    }
}

#[test]
fn test_approval_message_is_the_domain_and_the_digest_of_the_request() {
    let operation = Operation::AddSystemUser { uid: uid(5), counter: 1, profile: profile("daemon") };
    let instance = VmId::from_bytes([0x22; 32]);
    let (first, second) = (key(0).public(), key(1));
    let request = Request { instance: &instance, client: &first, sequence: 7, operation: &operation };
    let message = request.message();
    assert_eq!(&message[..16], b"quorate-uid-ok-1", "{WHY}");
    assert_eq!(message[16..], request.digest());
    let approval = request.approve(&second);
    let body = operation.body(Some(&approval));
    assert_eq!(Operation::decode(2, &body), Ok((operation.clone(), Some(approval.clone()))));
    let unapproved = operation.body(None);
    assert_eq!(body[..unapproved.len() - 1], unapproved[..unapproved.len() - 1]);
    assert_eq!(body[unapproved.len() - 1], 1);
    assert_eq!(
        body[unapproved.len()..],
        [&second.public().to_bytes()[..], &to_bytes(&approval.signature)].concat()
    );
}

#[test]
fn test_records_have_golden_encodings() {
    let record = UidRecord { counter: 2, number: 9, digest: [0xcd; 32], holder: Holder::Deleted(name("al")) };
    let hex = ["02000000000000000900000000000000", &"cd".repeat(32), "0102000000616c"].concat();
    assert_eq!(to_hex(&record.encoded()), hex, "{WHY}");
    let entry = Entry { uid: uid(1000), record };
    assert_eq!(to_hex(&entry.encoded()), ["e8030000", &hex].concat(), "{WHY}");
    assert_eq!(to_hex(&NameRecord::Bound(uid(1000)).encoded()), "00e8030000", "{WHY}");
    let freed = NameRecord::Freed { uid: uid(1000), number: 9 };
    assert_eq!(to_hex(&freed.encoded()), "01e80300000900000000000000", "{WHY}");
    let change = Change { bind: bind(), number: 9, author: key(0).public(), approver: Some(key(1).public()) };
    let tail =
        ["0900000000000000", &to_hex(key(0).public().as_bytes()), "01", &to_hex(key(1).public().as_bytes())];
    assert_eq!(to_hex(&change.encoded()), [&to_hex(&bind().encoded()), &tail.concat()[..]].concat(), "{WHY}");
    let rules = to_hex(&config().rules.quarantine.to_le_bytes());
    assert!(to_hex(&config().encoded()).ends_with(&[&rules, "1e000000204e0000"].concat()), "{WHY}");
}

#[test]
fn test_longest_values_are_within_their_limits() {
    let mut longest = bind();
    longest.name = name(&"n".repeat(32));
    longest.gecos = crate::Gecos::new(&"g".repeat(128)).unwrap();
    longest.home = super::world::path(&std::format!("/{}", "h".repeat(254)));
    longest.shell = longest.home.clone();
    assert_eq!(longest.encoded().len(), Bind::LIMIT);
    let record =
        UidRecord { counter: 1, number: 1, digest: [0; 32], holder: Holder::Bound(longest.profile()) };
    assert_eq!(record.encoded().len(), UidRecord::LIMIT);
    let statement = Statement {
        kind: UID_BIND,
        group: group(4, 1).0.id(),
        epoch: Default::default(),
        instance: VmId::ZERO,
        seq: 1,
        body: longest.encoded(),
    };
    assert_eq!(Statement::decode(&statement.encode()), Ok(statement));
    let change =
        Change { bind: longest, number: 1, author: key(0).public(), approver: Some(key(1).public()) };
    assert_eq!(change.encoded().len(), Change::LIMIT);
}
