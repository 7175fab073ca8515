//! Keys and values: what etcd's clients rely on.

use quorate_gateway::etcd::pb::range_request::{SortOrder, SortTarget};
use quorate_gateway::etcd::pb::{CompactionRequest, DeleteRangeRequest, PutRequest, RangeRequest};
use quorate_registry::op;
use tonic::Code;

use crate::fixture::{Gateway, ends, key, keys, operate, prefix, register, registry};

#[tokio::test]
async fn what_was_put_is_read_with_its_revisions() {
    let gateway = Gateway::new().await;
    let first = gateway.put("a", "1").await;
    let second = gateway.put("a", "2").await;
    assert!(second > first);
    let found = gateway.get(RangeRequest { key: "a".into(), ..Default::default() }).await;
    let header = found.header.unwrap();
    assert_eq!((header.cluster_id, header.member_id, header.raft_term), (7, 9, 1));
    assert!(header.revision >= second);
    assert_eq!((found.count, found.more), (1, false));
    let kv = &found.kvs[0];
    assert_eq!((kv.create_revision, kv.mod_revision, kv.version, kv.lease), (first, second, 2, 0));
    assert_eq!(kv.value, b"2");
    let absent = gateway.get(RangeRequest { key: "b".into(), ..Default::default() }).await;
    assert_eq!((absent.count, absent.kvs.len()), (0, 0));
}

#[tokio::test]
async fn ranges_end_where_etcd_ends_them() {
    let gateway = Gateway::new().await;
    for name in ["a", "a/1", "a/2", "a0", "b", "\u{ff}"] {
        gateway.put(name, name).await;
    }
    let range = |key: &[u8], end: &[u8]| RangeRequest {
        key: key.to_vec(),
        range_end: end.to_vec(),
        ..Default::default()
    };
    assert_eq!(keys(&gateway.get(prefix("a/")).await), ["a/1", "a/2"]);
    assert_eq!(keys(&gateway.get(prefix("a")).await), ["a", "a/1", "a/2", "a0"]);
    assert_eq!(keys(&gateway.get(range(b"a", b"b")).await), ["a", "a/1", "a/2", "a0"]);
    assert_eq!(keys(&gateway.get(range(b"a/2", b"\0")).await), ["a/2", "a0", "b", "\u{ff}"]);
    assert_eq!(gateway.get(prefix("")).await.count, 6);
    // The end before the beginning: nothing, and no error.
    let empty = gateway.get(range(b"b", b"a")).await;
    assert_eq!((empty.count, empty.kvs.len()), (0, 0));
    assert!(empty.header.unwrap().revision > 0);
}

#[tokio::test]
async fn limit_cuts_after_sorting_and_count_tells_all() {
    let gateway = Gateway::new().await;
    for (name, value) in [("k1", "c"), ("k2", "b"), ("k3", "a"), ("k1", "d")] {
        gateway.put(name, value).await;
    }
    let limited = gateway.get(RangeRequest { limit: 2, ..prefix("k") }).await;
    assert_eq!((keys(&limited), limited.more, limited.count), (vec!["k1".into(), "k2".into()], true, 3));
    let whole = gateway.get(RangeRequest { limit: 3, ..prefix("k") }).await;
    assert!(!whole.more);
    let sorted = |target: SortTarget, order: SortOrder| RangeRequest {
        sort_target: target.into(),
        sort_order: order.into(),
        limit: 2,
        ..prefix("k")
    };
    let cases = [
        (SortTarget::Key, SortOrder::Descend, ["k3", "k2"]),
        (SortTarget::Value, SortOrder::Ascend, ["k3", "k2"]),
        (SortTarget::Mod, SortOrder::Descend, ["k1", "k3"]),
        (SortTarget::Create, SortOrder::Ascend, ["k1", "k2"]),
        (SortTarget::Version, SortOrder::Descend, ["k1", "k3"]),
    ];
    for (target, order, expected) in cases {
        assert_eq!(keys(&gateway.get(sorted(target, order)).await), expected, "{target:?} {order:?}");
    }
    let counted = gateway.get(RangeRequest { count_only: true, ..prefix("k") }).await;
    assert_eq!((counted.count, counted.kvs.len()), (3, 0));
    let bare = gateway.get(RangeRequest { keys_only: true, ..prefix("k") }).await;
    assert!(bare.kvs.len() == 3 && bare.kvs.iter().all(|kv| kv.value.is_empty()));
    let changed = whole.kvs[0].mod_revision;
    let new = gateway.get(RangeRequest { min_mod_revision: changed, ..prefix("k") }).await;
    assert_eq!(keys(&new), ["k1"]);
    let old =
        gateway.get(RangeRequest { max_create_revision: whole.kvs[1].create_revision, ..prefix("k") }).await;
    assert_eq!(keys(&old), ["k1", "k2"]);
}

#[tokio::test]
async fn listing_longer_than_an_answer_holds_at_one_revision_while_others_write() {
    let registry = registry();
    for number in 0..700 {
        assert_eq!(operate(&registry, &key(1), &register(format!("n/{number:04}").as_bytes(), b"old")), 0);
    }
    let gateway = Gateway::over(registry).await;
    // Behind the first page somebody changes a name of the first page, adds one to it, and removes one of the last.
    let changes = [
        register(b"n/0001", b"new"),
        register(b"n/0001x", b"new"),
        quorate_registry::Operation::Deregister { name: b"n/0699".to_vec(), expected: None, previous: false },
    ];
    for change in changes {
        gateway.registry.meanwhile(change.op(), change.body());
    }
    let found = gateway.get(prefix("n/")).await;
    // Both further pages were overtaken once, so the removal is from after the listing.
    let revision = found.header.unwrap().revision;
    let newest = found.kvs.iter().map(|kv| kv.mod_revision).max().unwrap();
    assert!(newest <= revision);
    let value = |key: &str| found.kvs.iter().find(|kv| kv.key == key.as_bytes()).map(|kv| kv.value.clone());
    assert_eq!(value("n/0001"), Some(b"new".to_vec()), "changed before the revision that is told");
    assert_eq!(value("n/0001x"), Some(b"new".to_vec()), "added before the revision that is told");
    assert_eq!(found.count, 701);
    let later = gateway.get(prefix("n/")).await;
    assert_eq!(later.count, 700);
}

#[tokio::test]
async fn earlier_revision_is_answered_exactly_or_not_at_all() {
    let gateway = Gateway::new().await;
    let first = gateway.put("a", "1").await;
    let other = gateway.put("b", "1").await;
    let at = |revision: i64| RangeRequest { key: "a".into(), revision, ..Default::default() };
    let found = gateway.get(at(first)).await;
    assert_eq!((found.kvs[0].value.as_slice(), found.header.unwrap().revision), (&b"1"[..], first));
    gateway.put("a", "2").await;
    let refused = gateway.kv().range(at(other)).await.unwrap_err();
    assert_eq!(refused.code(), Code::OutOfRange);
    assert_eq!(refused.message(), "etcdserver: mvcc: required revision has been compacted");
    let refused = gateway.kv().range(at(1_000_000)).await.unwrap_err();
    assert_eq!(refused.message(), "etcdserver: mvcc: required revision is a future revision");
}

#[tokio::test]
async fn put_tells_and_keeps_what_was_before() {
    let gateway = Gateway::new().await;
    let put = |request: PutRequest| {
        let mut kv = gateway.kv();
        async move { kv.put(request).await.map(|response| response.into_inner().prev_kv) }
    };
    let with_prev = PutRequest { key: "a".into(), value: "1".into(), prev_kv: true, ..Default::default() };
    assert_eq!(put(with_prev.clone()).await.unwrap(), None);
    let before = put(PutRequest { value: "2".into(), ..with_prev.clone() }).await.unwrap().unwrap();
    assert_eq!((before.value, before.version), (b"1".to_vec(), 1));
    // A long value does not fit into an ordered reply and is told all the same.
    let long = vec![b'x'; 30_000];
    put(PutRequest { value: long.clone(), ..with_prev.clone() }).await.unwrap();
    assert_eq!(put(with_prev).await.unwrap().unwrap().value, long);
    let id = gateway
        .lease()
        .lease_grant(quorate_gateway::etcd::pb::LeaseGrantRequest { ttl: 100, id: 77 })
        .await
        .unwrap()
        .into_inner()
        .id;
    put(PutRequest { key: "a".into(), lease: id, ignore_value: true, ..Default::default() }).await.unwrap();
    put(PutRequest { key: "a".into(), value: "3".into(), ignore_lease: true, ..Default::default() })
        .await
        .unwrap();
    let found = gateway.get(RangeRequest { key: "a".into(), ..Default::default() }).await;
    assert_eq!((found.kvs[0].value.as_slice(), found.kvs[0].lease), (&b"3"[..], 77));
    let refusals = [
        (
            PutRequest { key: "z".into(), ignore_value: true, ..Default::default() },
            "etcdserver: key not found",
        ),
        (
            PutRequest { key: "z".into(), ignore_lease: true, ..Default::default() },
            "etcdserver: key not found",
        ),
        (
            PutRequest { key: "a".into(), value: "v".into(), ignore_value: true, ..Default::default() },
            "etcdserver: value is provided",
        ),
        (
            PutRequest { key: "a".into(), lease: 1, ignore_lease: true, ..Default::default() },
            "etcdserver: lease is provided",
        ),
        (PutRequest { value: "v".into(), ..Default::default() }, "etcdserver: key is not provided"),
        (
            PutRequest { key: "a".into(), lease: 12_345, ..Default::default() },
            "etcdserver: requested lease not found",
        ),
    ];
    for (request, text) in refusals {
        assert_eq!(put(request.clone()).await.unwrap_err().message(), text, "{request:?}");
    }
}

#[tokio::test]
async fn deletion_tells_what_it_removed_however_much_that_is() {
    let gateway = Gateway::new().await;
    let long = "v".repeat(20_000);
    for name in ["d/1", "d/2", "d/3", "e"] {
        gateway.put(name, &long).await;
    }
    let (key, range_end) = ends("d/");
    let request = DeleteRangeRequest { key, range_end, prev_kv: true };
    let deleted = gateway.kv().delete_range(request.clone()).await.unwrap().into_inner();
    assert_eq!((deleted.deleted, deleted.prev_kvs.len()), (3, 3));
    assert!(deleted.prev_kvs.iter().all(|kv| kv.value == long.as_bytes() && kv.version == 1));
    assert_eq!(gateway.get(prefix("")).await.count, 1);
    let nothing = gateway.kv().delete_range(request).await.unwrap().into_inner();
    assert_eq!((nothing.deleted, nothing.prev_kvs.len()), (0, 0));
}

#[tokio::test]
async fn name_of_another_owner_is_read_but_neither_changed_nor_deleted() {
    let gateway = Gateway::new().await;
    assert_eq!(operate(&gateway.registry, &key(2), &register(b"theirs", b"1")), 0);
    assert_eq!(gateway.value("theirs").await.as_deref(), Some("1"));
    let put = PutRequest { key: "theirs".into(), ..Default::default() };
    let refused = gateway.kv().put(put).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::PermissionDenied, "etcdserver: permission denied")
    );
    let delete = DeleteRangeRequest { key: "theirs".into(), ..Default::default() };
    assert_eq!(gateway.kv().delete_range(delete).await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(gateway.value("theirs").await.as_deref(), Some("1"));
}

#[tokio::test]
async fn compaction_on_demand_is_declined_in_etcds_words() {
    let gateway = Gateway::new().await;
    let revision = gateway.put("a", "1").await;
    let compact = |revision: i64| {
        let mut kv = gateway.kv();
        async move { kv.compact(CompactionRequest { revision, physical: false }).await.unwrap_err() }
    };
    assert_eq!(compact(revision).await.code(), Code::Unimplemented);
    assert_eq!(compact(revision + 1000).await.code(), Code::OutOfRange);
    assert_eq!(compact(-1).await.message(), "etcdserver: mvcc: required revision has been compacted");
}

#[tokio::test]
async fn without_a_quorum_nothing_is_answered_and_with_it_again() {
    let gateway = Gateway::new().await;
    gateway.put("a", "1").await;
    gateway.registry.silence(1);
    assert_eq!(gateway.value("a").await.as_deref(), Some("1"), "f silent nodes are borne");
    gateway.registry.silence(2);
    for serializable in [false, true] {
        let request = RangeRequest { key: "a".into(), serializable, ..Default::default() };
        let refused = gateway.kv().range(request).await.unwrap_err();
        assert_eq!((refused.code(), refused.message()), (Code::Unavailable, "etcdserver: no leader"));
    }
    let put = PutRequest { key: "a".into(), ..Default::default() };
    assert_eq!(gateway.kv().put(put).await.unwrap_err().code(), Code::Unavailable);
    gateway.registry.silence(0);
    assert_eq!(gateway.value("a").await.as_deref(), Some("1"));
    assert_eq!(
        gateway.registry.by_other(&key(3), op::LOOKUP, Vec::new()),
        1,
        "a request without a name is malformed"
    );
}
