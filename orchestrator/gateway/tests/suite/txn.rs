//! Transactions.

use std::cmp::Ordering;

use quorate_gateway::etcd::pb::compare::{CompareResult, CompareTarget, TargetUnion};
use quorate_gateway::etcd::pb::request_op::Request;
use quorate_gateway::etcd::pb::response_op::Response;
use quorate_gateway::etcd::pb::{
    Compare, DeleteRangeRequest, LeaseGrantRequest, PutRequest, RangeRequest, RequestOp, TxnRequest,
    TxnResponse,
};
use tonic::{Code, Status};

use crate::fixture::{Gateway, ends, keys, prefix};

fn op(request: Request) -> RequestOp {
    RequestOp { request: Some(request) }
}

fn put(key: &str, value: &str) -> RequestOp {
    op(Request::RequestPut(PutRequest {
        key: key.into(),
        value: value.into(),
        prev_kv: true,
        ..Default::default()
    }))
}

async fn txn(gateway: &Gateway, request: TxnRequest) -> Result<TxnResponse, Status> {
    gateway.kv().txn(request).await.map(tonic::Response::into_inner)
}

fn holds(result: CompareResult, order: Ordering) -> bool {
    match result {
        CompareResult::Equal => order.is_eq(),
        CompareResult::NotEqual => order.is_ne(),
        CompareResult::Greater => order.is_gt(),
        CompareResult::Less => order.is_lt(),
    }
}

const RESULTS: [CompareResult; 4] =
    [CompareResult::Equal, CompareResult::NotEqual, CompareResult::Greater, CompareResult::Less];

#[tokio::test]
async fn every_comparison_holds_exactly_when_etcd_says_so() {
    let gateway = Gateway::new().await;
    let grant = LeaseGrantRequest { ttl: 100, id: 5 };
    gateway.lease().lease_grant(grant).await.unwrap();
    gateway.put("k", "m").await;
    let leased = PutRequest { key: "k".into(), value: "m".into(), lease: 5, ..Default::default() };
    gateway.kv().put(leased).await.unwrap();
    let kv = gateway.get(RangeRequest { key: "k".into(), ..Default::default() }).await.kvs[0].clone();
    type Target = (CompareTarget, fn(i64) -> TargetUnion);
    let numbers: [(Target, i64); 4] = [
        ((CompareTarget::Version, TargetUnion::Version), kv.version),
        ((CompareTarget::Create, TargetUnion::CreateRevision), kv.create_revision),
        ((CompareTarget::Mod, TargetUnion::ModRevision), kv.mod_revision),
        ((CompareTarget::Lease, TargetUnion::Lease), kv.lease),
    ];
    let mut cases: Vec<(Compare, bool)> = Vec::new();
    for result in RESULTS {
        let base = Compare { result: result.into(), key: "k".into(), ..Default::default() };
        for ((target, union), there) in numbers {
            for given in [i64::MIN, -1, 0, there - 1, there, there + 1, i64::MAX] {
                let compare =
                    Compare { target: target.into(), target_union: Some(union(given)), ..base.clone() };
                cases.push((compare, holds(result, there.cmp(&given))));
                // What is not there counts as 0.
                let absent = Compare {
                    key: "absent".into(),
                    target: target.into(),
                    target_union: Some(union(given)),
                    ..base.clone()
                };
                cases.push((absent, holds(result, 0.cmp(&given))));
            }
            let unsaid = Compare { target: target.into(), ..base.clone() };
            cases.push((unsaid, holds(result, there.cmp(&0))));
        }
        for given in ["", "l", "m", "n", "mm"] {
            let target_union = Some(TargetUnion::Value(given.into()));
            let target = CompareTarget::Value.into();
            let compare = Compare { target, target_union, ..base.clone() };
            cases.push((compare.clone(), holds(result, "m".cmp(given))));
            // The value of what is not there equals and differs from nothing.
            cases.push((Compare { key: "absent".into(), ..compare }, false));
        }
    }
    for (compare, expected) in cases {
        let done =
            txn(&gateway, TxnRequest { compare: vec![compare.clone()], ..Default::default() }).await.unwrap();
        assert_eq!(done.succeeded, expected, "{compare:?}");
    }
}

#[tokio::test]
async fn one_list_is_done_whole_and_its_results_come_in_order() {
    let gateway = Gateway::new().await;
    gateway.put("t/old", "1").await;
    let absent = Compare {
        result: CompareResult::Equal.into(),
        target: CompareTarget::Create.into(),
        key: "t/new".into(),
        target_union: Some(TargetUnion::CreateRevision(0)),
        ..Default::default()
    };
    let delete = op(Request::RequestDeleteRange(DeleteRangeRequest {
        key: "t/old".into(),
        prev_kv: true,
        ..Default::default()
    }));
    let request = TxnRequest {
        compare: vec![absent],
        success: vec![put("t/new", "2"), delete, op(Request::RequestRange(prefix("t/")))],
        failure: vec![op(Request::RequestRange(prefix("t/")))],
    };
    let done = txn(&gateway, request.clone()).await.unwrap();
    assert!(done.succeeded);
    let revision = done.header.unwrap().revision;
    let responses: Vec<Response> =
        done.responses.into_iter().map(|response| response.response.unwrap()).collect();
    let [Response::ResponsePut(put), Response::ResponseDeleteRange(deleted), Response::ResponseRange(range)] =
        &responses[..]
    else {
        panic!("{responses:?}");
    };
    assert_eq!(put.prev_kv, None);
    assert_eq!((deleted.deleted, deleted.prev_kvs[0].value.as_slice()), (1, &b"1"[..]));
    assert_eq!((keys(range), range.kvs[0].mod_revision), (vec!["t/new".to_owned()], revision));
    let again = txn(&gateway, request).await.unwrap();
    assert!(!again.succeeded);
    assert_eq!(again.responses.len(), 1);
    assert_eq!(gateway.value("t/new").await.as_deref(), Some("2"));
}

#[tokio::test]
async fn transaction_that_cannot_be_is_refused_and_changes_nothing() {
    let gateway = Gateway::new().await;
    let get = |key: &str| op(Request::RequestRange(RangeRequest { key: key.into(), ..Default::default() }));
    let ignoring = PutRequest { key: "x".into(), ignore_value: true, ..Default::default() };
    let (low, high) = ends("x");
    let cases = [
        (
            vec![put("x", "1"), put("x", "2")],
            Code::InvalidArgument,
            "etcdserver: duplicate key given in txn request",
        ),
        (
            vec![
                put("x", "1"),
                op(Request::RequestDeleteRange(DeleteRangeRequest {
                    key: low,
                    range_end: high,
                    prev_kv: false,
                })),
            ],
            Code::InvalidArgument,
            "etcdserver: duplicate key given in txn request",
        ),
        (vec![put("", "1")], Code::InvalidArgument, "etcdserver: key is not provided"),
        (vec![get(""), put("x", "1")], Code::InvalidArgument, "etcdserver: key is not provided"),
        (
            (0..129).map(|number| put(&format!("x{number}"), "1")).collect(),
            Code::InvalidArgument,
            "etcdserver: too many operations in txn request",
        ),
        (vec![put("x", &"v".repeat(40_000))], Code::InvalidArgument, "etcdserver: request is too large"),
        (
            vec![put("x", "1"), op(Request::RequestTxn(TxnRequest::default()))],
            Code::Unimplemented,
            "quorate: a transaction in a transaction is not supported",
        ),
        (
            vec![op(Request::RequestPut(ignoring))],
            Code::Unimplemented,
            "quorate: ignore_value or ignore_lease in a transaction is not supported",
        ),
        (vec![RequestOp::default()], Code::InvalidArgument, "etcdserver: key is not provided"),
    ];
    for (success, code, text) in cases {
        let refused = txn(&gateway, TxnRequest { success, ..Default::default() }).await.unwrap_err();
        assert_eq!((refused.code(), refused.message()), (code, text));
    }
    let over_range = Compare { key: "x".into(), range_end: "y".into(), ..Default::default() };
    let refused =
        txn(&gateway, TxnRequest { compare: vec![over_range], ..Default::default() }).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);
    for strange in [Compare { result: 9, ..Default::default() }, Compare { target: 9, ..Default::default() }]
    {
        let compare = vec![Compare { key: "x".into(), ..strange }];
        let refused = txn(&gateway, TxnRequest { compare, ..Default::default() }).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
    }
    assert_eq!(gateway.get(prefix("")).await.count, 0);
}

#[tokio::test]
async fn results_too_long_for_a_reply_undo_the_transaction() {
    let gateway = Gateway::new().await;
    gateway.put("long", &"v".repeat(30_000)).await;
    let get = op(Request::RequestRange(RangeRequest { key: "long".into(), ..Default::default() }));
    let refused = txn(&gateway, TxnRequest { success: vec![put("x", "1"), get], ..Default::default() })
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert_eq!(gateway.value("x").await, None);
}
