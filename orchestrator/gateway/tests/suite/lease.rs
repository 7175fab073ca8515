//! Leases, which end by ordered time and not by a clock.

use quorate_gateway::etcd::pb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseLeasesRequest, LeaseRevokeRequest,
    LeaseTimeToLiveRequest, LeaseTimeToLiveResponse, PutRequest,
};
use tonic::{Code, Status};

use crate::fixture::{Gateway, prefix};

const NOON: u64 = 1_700_000_000_000;

async fn grant(gateway: &Gateway, ttl: i64, id: i64) -> Result<LeaseGrantResponse, Status> {
    gateway.lease().lease_grant(LeaseGrantRequest { ttl, id }).await.map(tonic::Response::into_inner)
}

async fn left(gateway: &Gateway, id: i64) -> LeaseTimeToLiveResponse {
    let request = LeaseTimeToLiveRequest { id, keys: true };
    gateway.lease().lease_time_to_live(request).await.unwrap().into_inner()
}

async fn attach(gateway: &Gateway, key: &str, lease: i64) {
    let request = PutRequest { key: key.into(), lease, ..Default::default() };
    gateway.kv().put(request).await.unwrap();
}

async fn keep_alive(gateway: &Gateway, ids: Vec<i64>) -> Vec<(i64, i64)> {
    let requests = ids.into_iter().map(|id| LeaseKeepAliveRequest { id });
    let stream = gateway.lease().lease_keep_alive(tokio_stream::iter(requests.collect::<Vec<_>>())).await;
    let mut stream = stream.unwrap().into_inner();
    let mut answers = Vec::new();
    while let Some(answer) = stream.message().await.unwrap() {
        answers.push((answer.id, answer.ttl));
    }
    answers
}

#[tokio::test]
async fn keys_of_a_lease_end_with_it_by_service_time() {
    let gateway = Gateway::new().await;
    let id = grant(&gateway, 10, 0).await.unwrap().id;
    assert!(id > 0);
    attach(&gateway, "l/1", id).await;
    attach(&gateway, "l/2", id).await;
    gateway.put("l/3", "stays").await;
    // Nobody has told the time: the lease has not begun to run.
    assert_eq!(left(&gateway, id).await.ttl, 10);
    gateway.registry.tick(NOON);
    gateway.registry.tick(NOON + 4_000);
    let now = left(&gateway, id).await;
    assert_eq!((now.ttl, now.granted_ttl), (6, 10));
    assert_eq!(now.keys, [b"l/1".to_vec(), b"l/2".to_vec()]);
    assert_eq!(keep_alive(&gateway, vec![id]).await, [(id, 10)]);
    gateway.registry.tick(NOON + 12_000);
    assert_eq!(gateway.get(prefix("l/")).await.count, 3, "it was renewed");
    gateway.registry.tick(NOON + 15_000);
    gateway.registry.tick(NOON + 16_000);
    assert_eq!(gateway.get(prefix("l/")).await.count, 1);
    assert_eq!(left(&gateway, id).await.ttl, -1);
}

#[tokio::test]
async fn revoked_lease_takes_its_keys_with_it() {
    let gateway = Gateway::new().await;
    for id in [41, 42] {
        assert_eq!(grant(&gateway, 60, id).await.unwrap().id, id);
    }
    attach(&gateway, "r", 41).await;
    let leases = gateway.lease().lease_leases(LeaseLeasesRequest {}).await.unwrap().into_inner();
    assert_eq!(leases.leases.iter().map(|lease| lease.id).collect::<Vec<_>>(), [41, 42]);
    gateway.lease().lease_revoke(LeaseRevokeRequest { id: 41 }).await.unwrap();
    assert_eq!(gateway.value("r").await, None);
    let refused = gateway.lease().lease_revoke(LeaseRevokeRequest { id: 41 }).await.unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::NotFound, "etcdserver: requested lease not found")
    );
    // As in etcd: a stream that keeps several alive goes on when one is gone.
    assert_eq!(keep_alive(&gateway, vec![41, 42]).await, [(41, 0), (42, 60)]);
}

#[tokio::test]
async fn lease_that_cannot_be_is_refused_in_etcds_words() {
    let gateway = Gateway::new().await;
    assert_eq!(grant(&gateway, 0, 1).await.unwrap().ttl, 1, "there is a shortest time to live");
    assert_eq!(grant(&gateway, -5, 2).await.unwrap().ttl, 1);
    let cases = [
        (grant(&gateway, 10, 1).await, Code::FailedPrecondition, "etcdserver: lease already exists"),
        (grant(&gateway, i64::MAX, 3).await, Code::OutOfRange, "etcdserver: too large lease TTL"),
        (grant(&gateway, 9_000_000_001, 3).await, Code::OutOfRange, "etcdserver: too large lease TTL"),
        (grant(&gateway, 10, -1).await, Code::NotFound, "etcdserver: requested lease not found"),
    ];
    for (result, code, text) in cases {
        let refused = result.unwrap_err();
        assert_eq!((refused.code(), refused.message()), (code, text));
    }
    assert_eq!(left(&gateway, 99).await.ttl, -1);
}

#[tokio::test]
async fn without_a_quorum_no_lease_is_said_to_be_gone() {
    let gateway = Gateway::new().await;
    grant(&gateway, 10, 1).await.unwrap();
    gateway.registry.silence(2);
    let request = LeaseTimeToLiveRequest { id: 1, keys: false };
    assert_eq!(gateway.lease().lease_time_to_live(request).await.unwrap_err().code(), Code::Unavailable);
    let requests = tokio_stream::iter([LeaseKeepAliveRequest { id: 1 }]);
    let mut stream = gateway.lease().lease_keep_alive(requests).await.unwrap().into_inner();
    assert_eq!(stream.message().await.unwrap_err().code(), Code::Unavailable);
}
