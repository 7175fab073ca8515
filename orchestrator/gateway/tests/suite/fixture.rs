//! A service in memory behind the seam, and a gateway in front of it.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use futures::future::BoxFuture;
use quorate_attest::encoding::Bounded;
use quorate_attest::id::{Epoch, GroupId, ImageDigest, Nonce, OperationId};
use quorate_attest::key::SecretKey;
use quorate_attest::request::Reply;
use quorate_attest::service::{
    Answer, Genesis, Input, Ordered, Output, Query, ServiceReceipt, ServiceReceiptCertificate, ServiceSpec,
};
use quorate_attest::state_tree::StateCommitment;
use quorate_attest::vm::{InputPolicy, OutputPolicy, VmSpec};
use quorate_gateway::backend::{Backend, Called, Freshness, Page, Read, ServiceError, Shared};
use quorate_gateway::etcd::{Etcd, Identity, pb};
use quorate_gateway::listen::{Listener, Protocol};
use quorate_kit::{Limits, Replica, wire};
use quorate_registry::{Operation, Registry};
use quorate_services::{AnswerProof, Claim};
use tokio::task::JoinHandle;
use tonic::transport::Channel;

pub const N: u64 = 4;
pub const F: u64 = 1;
const Q: u64 = 3;
const MEMORY: u64 = 64 << 20;
const LIMITS: Limits =
    Limits { memory_bytes: MEMORY, state_bytes: 48 << 20, session_bytes: 6 << 20, change_bytes: 6 << 20 };

pub fn key(number: u8) -> SecretKey {
    SecretKey::from_seed([number; 32])
}

fn voter(number: u64) -> SecretKey {
    key(100 + number as u8)
}

/// A service of kind `S` with one replica in memory. Silent nodes count: with more than `f` of them nothing is answered.
pub struct InMemory<S> {
    replica: Mutex<Running<S>>,
    silent: AtomicU64,
    /// Done before the answers to further ranges, as others would write meanwhile.
    meanwhile: Mutex<VecDeque<(u16, Vec<u8>)>>,
    client: SecretKey,
}

struct Running<S> {
    replica: Replica<S>,
    genesis: Genesis,
    vm: VmSpec,
    inputs: u64,
    sequence: u64,
}

impl<S> fmt::Debug for InMemory<S> {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("InMemory")
    }
}

impl<S: quorate_kit::Service + 'static> InMemory<S> {
    pub fn new(config: Vec<u8>) -> Arc<Self> {
        let (image, nonce) = (ImageDigest::from_bytes([7; 32]), Nonce::from_bytes([1; 16]));
        let (memory_bytes, replicas) = (MEMORY, GroupId::from_bytes([8; 32]));
        let spec = ServiceSpec { name: "names".into(), image, memory_bytes, replicas, nonce, config };
        let vm = VmSpec {
            name: spec.vm_name(0),
            image,
            machine_version: 1,
            memory_bytes,
            input_policy: InputPolicy::ClientSigned,
            output_policy: OutputPolicy::Immediate,
            host: key(99).public(),
            nonce,
        };
        let voters = (0..N).map(|number| voter(number).public()).collect();
        let genesis = Genesis { spec, voters, f: F };
        let mut replica = Replica::new(LIMITS);
        assert!(replica.handle(&wire::vm_input(&vm)).is_empty());
        let mut running = Running { replica, genesis: genesis.clone(), vm, inputs: 0, sequence: 0 };
        let output = running.feed(&Input::Genesis(genesis));
        assert!(matches!(output, Output::Applied(_)), "{output:?}");
        Arc::new(Self {
            replica: Mutex::new(running),
            silent: AtomicU64::new(0),
            meanwhile: Mutex::default(),
            client: key(1),
        })
    }

    /// So many of the nodes say nothing from now on.
    pub fn silence(&self, nodes: u64) {
        self.silent.store(nodes, Ordering::SeqCst);
    }

    /// Every voter tells this time.
    pub fn tick(&self, time_ms: u64) {
        let mut running = self.replica.lock().unwrap();
        for number in 0..N {
            let service = running.genesis.spec.id();
            running.order(wire::tick(&voter(number), service, time_ms).encoded());
        }
    }

    /// An operation of another client.
    pub fn by_other(&self, client: &SecretKey, op: u16, body: Vec<u8>) -> u16 {
        let mut running = self.replica.lock().unwrap();
        running.call(client, op, body).1.status
    }

    /// What others do, one before each further range that is answered.
    pub fn meanwhile(&self, op: u16, body: Vec<u8>) {
        self.meanwhile.lock().unwrap().push_back((op, body));
    }

    fn reachable(&self) -> Result<(), ServiceError> {
        let got = N - self.silent.load(Ordering::SeqCst).min(N);
        match got < Q {
            true => {
                Err(ServiceError::QuorumUnreachable { parties: "orchestrators", got, need: Q, because: None })
            }
            false => Ok(()),
        }
    }

    fn query(&self, query: Query) -> Result<Read<Answer>, ServiceError> {
        self.reachable()?;
        let mut running = self.replica.lock().unwrap();
        let Output::Answered { size, state, answer } = running.feed(&Input::Query(query.clone())) else {
            panic!("{query:?} is not answered");
        };
        answer.verify(&query, &state).expect("a proof that holds");
        let claim = Claim::State { query, answer: (*answer).clone() };
        let proof = running.proof(size - 1, state, claim);
        Ok(Read { value: *answer, number: size - 1, proof })
    }
}

impl<S: quorate_kit::Service> Running<S> {
    fn feed(&mut self, input: &Input) -> Output {
        self.inputs += 1;
        let wrapper = wire::wrap(self.vm.id(), key(99).public(), self.inputs, input);
        wire::unwrap(&wrapper, &self.replica.handle(&wrapper.encoded())).expect("an output")
    }

    fn order(&mut self, request: Vec<u8>) -> (u64, Reply, StateCommitment) {
        let first = self.replica.next();
        let requests = vec![Ordered { log_index: first, request }];
        let Output::Applied(applied) = self.feed(&Input::Apply { first, requests }) else {
            panic!("not applied")
        };
        let reply = Reply::decoded(&applied.executed[0].reply).expect("a reply");
        (first, reply, applied.executed[0].state)
    }

    fn call(&mut self, client: &SecretKey, op: u16, body: Vec<u8>) -> (u64, Reply, StateCommitment) {
        self.sequence += 1;
        let (service, nonce) = (self.genesis.spec.id(), Nonce::from_bytes([2; 16]));
        self.order(wire::call(client, service, self.sequence, nonce, op, body).encoded())
    }

    /// A proof in form; the signatures are the business of the client library's tests.
    fn proof(&self, number: u64, state: StateCommitment, claim: Claim) -> Arc<AnswerProof> {
        let receipt = ServiceReceipt {
            group: self.genesis.spec.replicas,
            epoch: Epoch(0),
            service: self.genesis.spec.id(),
            number,
            log_index: number,
            operation: OperationId::from_bytes([0; 32]),
            result: [0; 32],
            log_root: [0; 32],
            log_size: number + 1,
            state,
        };
        Arc::new(AnswerProof::new(ServiceReceiptCertificate { receipt, signatures: Vec::new() }, claim))
    }
}

impl<S: quorate_kit::Service + 'static> Backend for InMemory<S> {
    fn call(&self, op: u16, body: Vec<u8>) -> BoxFuture<'_, Result<Called, ServiceError>> {
        Box::pin(async move {
            self.reachable()?;
            let mut running = self.replica.lock().unwrap();
            let (number, reply, state) = running.call(&self.client, op, body);
            let claim = Claim::State { query: Query::Head, answer: Answer::Head };
            let proof = running.proof(number, state, claim);
            Ok(Called { number, status: reply.status, body: reply.body, proof })
        })
    }

    fn get<'a>(
        &'a self,
        key: &'a [u8],
        _: Freshness,
    ) -> BoxFuture<'a, Result<Read<Option<Vec<u8>>>, ServiceError>> {
        Box::pin(async move {
            let Read { value, number, proof } = self.query(Query::Get { key: key.to_vec() })?;
            let value = match value {
                Answer::Present(entry) => Some(entry.value),
                _ => None,
            };
            Ok(Read { value, number, proof })
        })
    }

    fn range<'a>(
        &'a self,
        low: &'a [u8],
        high: &'a [u8],
        limit: u16,
        freshness: Freshness,
    ) -> BoxFuture<'a, Result<Read<Page>, ServiceError>> {
        Box::pin(async move {
            let others = match freshness {
                Freshness::AtLeast(_) => self.meanwhile.lock().unwrap().pop_front(),
                _ => None,
            };
            if let Some((op, body)) = others {
                assert_eq!(self.by_other(&self.client, op, body), 0, "what others do is done");
            }
            let query = Query::Range { low: low.to_vec(), high: high.to_vec(), limit };
            let Read { value, number, proof } = self.query(query)?;
            let Answer::Range { proof: range, more } = value else { panic!("no range") };
            let entries = range.entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
            Ok(Read { value: Page { entries, more }, number, proof })
        })
    }
}

/// A registry whose admins are nobody.
pub fn registry() -> Arc<InMemory<Registry>> {
    InMemory::new(quorate_registry::Config::default().encoded())
}

pub fn operate(registry: &InMemory<Registry>, client: &SecretKey, operation: &Operation) -> u16 {
    registry.by_other(client, operation.op(), operation.body())
}

pub fn register(name: &[u8], value: &[u8]) -> Operation {
    Operation::Register(quorate_registry::Register {
        name: name.to_vec(),
        value: value.to_vec(),
        lease: 0,
        expected: None,
        previous: false,
    })
}

/// A gateway that speaks etcd, until it is dropped.
pub struct Gateway {
    pub registry: Arc<InMemory<Registry>>,
    pub address: SocketAddr,
    pub channel: Channel,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Gateway {
    pub async fn new() -> Self {
        Self::over(registry()).await
    }

    pub async fn over(registry: Arc<InMemory<Registry>>) -> Self {
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap(), Protocol::Grpc).await.unwrap();
        let address = listener.address();
        let identity =
            Identity { cluster: 7, member: 9, term: 0, f: F, urls: vec![format!("http://{address}")] };
        let shared: Shared = registry.clone();
        let etcd = Etcd::new(Arc::clone(&shared), shared, identity);
        let serving = etcd.routes();
        let tasks = vec![
            tokio::spawn(async move {
                listener.serve(serving).await;
            }),
            tokio::spawn(etcd.follow()),
        ];
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        Self { registry, address, channel, tasks }
    }

    pub fn kv(&self) -> pb::kv_client::KvClient<Channel> {
        pb::kv_client::KvClient::new(self.channel.clone())
    }

    pub fn lease(&self) -> pb::lease_client::LeaseClient<Channel> {
        pb::lease_client::LeaseClient::new(self.channel.clone())
    }

    pub async fn put(&self, key: &str, value: &str) -> i64 {
        let request = pb::PutRequest { key: key.into(), value: value.into(), ..Default::default() };
        self.kv().put(request).await.unwrap().into_inner().header.unwrap().revision
    }

    pub async fn delete(&self, key: &str) -> i64 {
        let request = pb::DeleteRangeRequest { key: key.into(), ..Default::default() };
        self.kv().delete_range(request).await.unwrap().into_inner().header.unwrap().revision
    }

    pub async fn get(&self, request: pb::RangeRequest) -> pb::RangeResponse {
        self.kv().range(request).await.unwrap().into_inner()
    }

    pub async fn value(&self, key: &str) -> Option<String> {
        let found = self.get(pb::RangeRequest { key: key.into(), ..Default::default() }).await;
        found.kvs.into_iter().next().map(|kv| String::from_utf8(kv.value).unwrap())
    }
}

/// All names with a prefix.
pub fn prefix(prefix: &str) -> pb::RangeRequest {
    let (key, range_end) = ends(prefix);
    pb::RangeRequest { key, range_end, ..Default::default() }
}

/// Key and end of a range of all names with a prefix, as etcd's clients make them.
pub fn ends(prefix: &str) -> (Vec<u8>, Vec<u8>) {
    let mut end = prefix.as_bytes().to_vec();
    match end.last_mut() {
        Some(last) => *last += 1,
        None => return (vec![0], vec![0]),
    }
    (prefix.into(), end)
}

pub fn keys(response: &pb::RangeResponse) -> Vec<String> {
    response.kvs.iter().map(|kv| String::from_utf8(kv.key.clone()).unwrap()).collect()
}
