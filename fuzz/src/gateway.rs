//! Requests of etcd's protocol, as the gateway takes them, against a registry in process.
//!
//! Whatever a client sends is answered or refused. What is answered agrees with the registry's state: a put is read back, a read
//! of everything shows exactly the records there are, and a refused request changes no record.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use futures::executor::block_on;
use futures::future::BoxFuture;
use prost::Message;
use quorate_attest::id::{Epoch, OperationId};
use quorate_attest::service::{Answer, Input, Output, Query, ServiceReceipt, ServiceReceiptCertificate};
use quorate_attest::state_tree::StateCommitment;
use quorate_gateway::backend::{Backend, Called, Freshness, Page, Read, ServiceError, Shared};
use quorate_gateway::etcd::pb::kv_server::Kv;
use quorate_gateway::etcd::pb::lease_server::Lease;
use quorate_gateway::etcd::pb::{
    CompactionRequest, DeleteRangeRequest, LeaseGrantRequest, LeaseRevokeRequest, LeaseTimeToLiveRequest,
    PutRequest, RangeRequest, TxnRequest,
};
use quorate_gateway::etcd::{Etcd, Identity};
use quorate_kit::{Replica, wire};
use quorate_registry::StateKey;
use quorate_services::{AnswerProof, Claim};
use tonic::Request;

use crate::cut::Cut;
use crate::must;
use crate::subject::Registry;
use crate::world::{Subject, World};

/// Requests of one input.
const REQUESTS_MAX: usize = 24;
/// How many kinds of requests a first byte chooses from.
pub const KINDS: usize = 8;
/// Names that requests share, so that they meet.
const NAMES: [&[u8]; 6] = [b"a", b"b", b"b/1", b"b/2", b"c", b"\0"];

/// A registry with one replica, whose proofs hold and whose certificates are empty: signatures are another target's.
struct Local {
    world: World<Registry>,
    state: Mutex<(Replica<quorate_registry::Registry>, u64)>,
}

impl fmt::Debug for Local {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Local")
    }
}

impl Local {
    fn proof(&self, number: u64, state: StateCommitment, claim: Claim) -> Arc<AnswerProof> {
        let spec = &self.world.genesis.spec;
        let receipt = ServiceReceipt {
            group: spec.replicas,
            epoch: Epoch(0),
            service: spec.id(),
            number,
            log_index: number,
            operation: OperationId::ZERO,
            result: [0; 32],
            log_root: [0; 32],
            log_size: number + 1,
            state,
        };
        Arc::new(AnswerProof::new(ServiceReceiptCertificate { receipt, signatures: Vec::new() }, claim))
    }

    fn query(&self, query: Query) -> Read<Answer> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let asked = self.world.wrapped(&Input::Query(query.clone()));
        let Some(Output::Answered { size, state, answer }) = self.world.feed(&mut state.0, &asked) else {
            panic!("not answered: {query:?}")
        };
        must(answer.verify(&query, &state));
        let claim = Claim::State { query, answer: (*answer).clone() };
        Read { value: *answer, number: size - 1, proof: self.proof(size - 1, state, claim) }
    }

    /// The registry's records, by name: value and number of the last change.
    fn records(&self) -> BTreeMap<Vec<u8>, (Vec<u8>, u64)> {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let tree = must(state.0.state().ok_or("no state"));
        let record = |(key, value): (&[u8], &[u8])| match StateKey::parse(key) {
            Some(StateKey::Record { name }) => {
                let record: quorate_registry::Record =
                    must(quorate_attest::encoding::Bounded::decoded(value));
                Some((name.to_vec(), (record.value, record.modified)))
            }
            _ => None,
        };
        tree.from(&[1]).filter_map(record).collect()
    }
}

impl Backend for Local {
    fn call(&self, op: u16, body: Vec<u8>) -> BoxFuture<'_, Result<Called, ServiceError>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let (replica, sequence) = &mut *state;
        *sequence += 1;
        let (number, service) = (replica.next(), self.world.genesis.spec.id());
        let nonce = quorate_attest::id::Nonce::ZERO;
        let request = wire::call(&Registry::key(0), service, *sequence, nonce, op, body);
        let reply = self.world.execute(replica, quorate_attest::encoding::Bounded::encoded(&request));
        let reply = must(reply.ok_or("the gateway ordered what is no request"));
        let commitment = must(replica.state().ok_or("no state")).commitment();
        let claim = Claim::State { query: Query::Head, answer: Answer::Head };
        let proof = self.proof(number, commitment, claim);
        Box::pin(async move { Ok(Called { number, status: reply.status, body: reply.body, proof }) })
    }

    fn get<'a>(
        &'a self,
        key: &'a [u8],
        _: Freshness,
    ) -> BoxFuture<'a, Result<Read<Option<Vec<u8>>>, ServiceError>> {
        let Read { value, number, proof } = self.query(Query::Get { key: key.to_vec() });
        let value = match value {
            Answer::Present(entry) => Some(entry.value),
            _ => None,
        };
        Box::pin(async move { Ok(Read { value, number, proof }) })
    }

    fn range<'a>(
        &'a self,
        low: &'a [u8],
        high: &'a [u8],
        limit: u16,
        _: Freshness,
    ) -> BoxFuture<'a, Result<Read<Page>, ServiceError>> {
        let Read { value, number, proof } =
            self.query(Query::Range { low: low.to_vec(), high: high.to_vec(), limit });
        let Answer::Range { proof: range, more } = value else { panic!("no range") };
        let entries = range.entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
        Box::pin(async move { Ok(Read { value: Page { entries, more }, number, proof }) })
    }
}

/// Sends the requests that the bytes say, one after the other.
pub fn check(bytes: &[u8]) {
    let world = World::new(false);
    let state = Mutex::new((world.begun.clone(), 0));
    let local = Arc::new(Local { world, state });
    let identity = Identity { cluster: 1, member: 2, term: 0, f: 1, urls: Vec::new() };
    let shared: Shared = local.clone();
    let etcd = Etcd::new(Arc::clone(&shared), shared, identity);
    let mut cut = Cut::new(bytes);
    for _ in 0..REQUESTS_MAX {
        if cut.is_empty() {
            break;
        }
        let before = local.records();
        if block_on(ask(&etcd, &local, &mut cut)) == Refused::Yes {
            assert!(local.records() == before, "a refused request changed a record");
        }
        block_on(read_all(&etcd, &local));
    }
}

#[derive(PartialEq)]
enum Refused {
    Yes,
    No,
}

async fn ask(etcd: &Etcd, local: &Local, cut: &mut Cut<'_>) -> Refused {
    macro_rules! refused {
        ($answer:expr) => {
            if $answer.is_err() { Refused::Yes } else { Refused::No }
        };
    }
    // A message of arbitrary bytes, or one whose fields are likely to meet others.
    match cut.below(KINDS) {
        0 => {
            put(
                etcd,
                local,
                PutRequest {
                    key: name(cut),
                    value: value(cut),
                    lease: cut.byte().into(),
                    prev_kv: cut.flag(),
                    ignore_value: cut.byte() > 200,
                    ignore_lease: cut.byte() > 200,
                },
            )
            .await
        }
        1 => {
            let request = DeleteRangeRequest { key: name(cut), range_end: end(cut), prev_kv: cut.flag() };
            refused!(etcd.delete_range(Request::new(request)).await)
        }
        2 => {
            let request = LeaseGrantRequest { ttl: cut.byte().into(), id: cut.byte().into() };
            refused!(etcd.lease_grant(Request::new(request)).await)
        }
        3 => {
            let id = cut.byte().into();
            let asked = LeaseTimeToLiveRequest { id, keys: cut.flag() };
            drop(etcd.lease_time_to_live(Request::new(asked)).await);
            refused!(etcd.lease_revoke(Request::new(LeaseRevokeRequest { id })).await)
        }
        4 => match message::<TxnRequest>(cut) {
            Some(request) => refused!(etcd.txn(Request::new(request)).await),
            None => Refused::Yes,
        },
        5 => match message::<PutRequest>(cut) {
            Some(request) => put(etcd, local, request).await,
            None => Refused::Yes,
        },
        6 => match message::<RangeRequest>(cut) {
            Some(request) => range(etcd, request).await,
            None => Refused::Yes,
        },
        _ => match message::<CompactionRequest>(cut) {
            Some(request) => refused!(etcd.compact(Request::new(request)).await),
            None => Refused::Yes,
        },
    }
}

fn name(cut: &mut Cut<'_>) -> Vec<u8> {
    cut.one(&NAMES).to_vec()
}

fn end(cut: &mut Cut<'_>) -> Vec<u8> {
    if cut.flag() { Vec::new() } else { name(cut) }
}

fn value(cut: &mut Cut<'_>) -> Vec<u8> {
    vec![cut.byte(); usize::from(cut.byte())]
}

/// The next bytes, if they are a message.
fn message<M: Message + Default>(cut: &mut Cut<'_>) -> Option<M> {
    M::decode(cut.take(4096)).ok()
}

async fn put(etcd: &Etcd, local: &Local, request: PutRequest) -> Refused {
    let (key, value) = (request.key.clone(), request.value.clone());
    let kept = request.ignore_value;
    let Ok(answer) = etcd.put(Request::new(request)).await else { return Refused::Yes };
    let revision = answer.into_inner().header.map(|header| header.revision);
    // With a lease that ends at once it may be gone already, but nothing tells the time here.
    let records = local.records();
    let (stored, modified) = must(records.get(&key).ok_or("a put that was answered is not there"));
    assert!(kept || *stored == value);
    assert_eq!(revision, i64::try_from(*modified).ok());
    Refused::No
}

async fn range(etcd: &Etcd, request: RangeRequest) -> Refused {
    let (limit, counted) = (request.limit, request.count_only);
    let Ok(answer) = etcd.range(Request::new(request)).await else { return Refused::Yes };
    let answer = answer.into_inner();
    assert!(answer.kvs.len() as i64 <= answer.count);
    assert!(limit <= 0 || answer.kvs.len() as i64 <= limit);
    assert!(!counted || answer.kvs.is_empty());
    Refused::No
}

/// Everything there is, as a client reads it.
async fn read_all(etcd: &Etcd, local: &Local) {
    let all = RangeRequest { key: vec![0], range_end: vec![0], ..RangeRequest::default() };
    let answer = must(etcd.range(Request::new(all)).await).into_inner();
    let shown: BTreeMap<_, _> = answer
        .kvs
        .into_iter()
        .map(|kv| (kv.key, (kv.value, u64::try_from(kv.mod_revision).unwrap_or_default())))
        .collect();
    assert!(shown == local.records() && answer.count == shown.len() as i64, "a read shows other records");
}
