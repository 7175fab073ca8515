//! Nodes in this process whose replicas of services are in process too, with signers that keep their promises.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use quorate_attest::checkpoint::Checkpoint;
use quorate_attest::cosignature::cosign;
use quorate_attest::encoding::{Bounded, to_bytes};
use quorate_attest::group::GroupConfig;
use quorate_attest::id::{ImageDigest, Nonce, OperationId, ServiceId};
use quorate_attest::key::Signature;
use quorate_attest::operation::Operation;
use quorate_attest::request::{Call, Reply, Request};
use quorate_attest::service::{Input, ServiceReceipt, ServiceReceiptTally, ServiceSpec};
use quorate_attest::statement::Kind;
use quorate_control::{Answer as Outcome, Command, decode_outcome};
use quorate_counter::ADD;
use quorate_orchestrator::config::{Config, Overrides};
use quorate_orchestrator::node::Node;
use quorate_orchestrator::services::Parts;
use quorate_orchestrator::services::guest::{Answering, GuestError, Guests};
use quorate_orchestrator::services::signer::{ReceiptSigner, Signing};
use quorate_ordering::orderer::Orderer;
use quorate_ordering::services::{AskService, ExecutedEntry, ServiceAnswer, ServiceInfo, ServiceQuestion};
use quorate_signer::protocol::CosignRequest;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use super::client;
use super::machine::Machine;
use crate::cluster::{Cluster, key, operator};
use crate::survival::LIMIT;

pub(super) const MEMORY: u64 = 32 << 20;
pub(super) const N: u8 = 4;

/// The VMs of one node, by name.
#[derive(Debug, Default)]
pub(super) struct Machines {
    pub(super) running: Mutex<BTreeMap<String, Machine>>,
    /// What their hosts take them back to.
    pub(super) slots: Mutex<BTreeMap<String, Machine>>,
    /// Whether their hosts do not answer.
    pub(super) silent: AtomicBool,
}

impl Guests for Machines {
    fn feed<'a>(&'a self, vm: &'a str, input: &'a Input) -> Answering<'a> {
        if self.silent.load(Ordering::Relaxed) {
            return Box::pin(async move { Err(GuestError::new("QuorumUnreachable", vm)) });
        }
        let mut machines = self.running.lock().unwrap();
        let machine = machines.entry(vm.to_owned()).or_insert_with(|| Machine::new(MEMORY));
        let output = machine.feed(input);
        Box::pin(async move { Ok(output) })
    }

    fn query<'a>(&'a self, vm: &'a str, input: &'a Input) -> Answering<'a> {
        let output = match (self.running.lock().unwrap().get(vm), input) {
            (Some(machine), Input::Query(query)) => Ok(machine.query(query)),
            _ => Err(GuestError::new("NotFound", vm)),
        };
        Box::pin(async move { output })
    }

    fn rewind<'a>(&'a self, vm: &'a str) -> Answering<'a, ()> {
        let slot = self.slots.lock().unwrap().get(vm).cloned();
        let rewound = slot.map(|slot| drop(self.running.lock().unwrap().insert(vm.to_owned(), slot)));
        Box::pin(async move { rewound.ok_or_else(|| GuestError::new("QuorumUnreachable", vm)) })
    }
}

/// A signer that keeps its promises as long as the test runs, which is longer than any node.
#[derive(Debug)]
pub(super) struct Keys {
    replica: u8,
    signed: Mutex<BTreeMap<(ServiceId, u64), ServiceReceipt>>,
    heads: Mutex<BTreeMap<String, u64>>,
}

impl ReceiptSigner for Keys {
    fn sign<'a>(&'a self, receipts: &'a [ServiceReceipt]) -> Signing<'a, Vec<Option<Signature>>> {
        let mut signed = self.signed.lock().unwrap();
        let mut sign = |receipt: &ServiceReceipt| {
            let first = *signed.entry((receipt.service, receipt.number)).or_insert(*receipt);
            (first == *receipt).then(|| receipt.sign(&key(130 + self.replica)))
        };
        let signatures = receipts.iter().map(&mut sign).collect();
        Box::pin(async move { Ok(signatures) })
    }

    fn cosigned<'a>(&'a self, origin: &'a str) -> Signing<'a, u64> {
        let size = self.heads.lock().unwrap().get(origin).copied().unwrap_or(0);
        Box::pin(async move { Ok(size) })
    }

    fn cosign(&self, request: CosignRequest) -> Signing<'_, String> {
        let CosignRequest { head, .. } = request;
        let checkpoint = Checkpoint::new(&head.origin, head.size, head.root).unwrap();
        let name = format!("services/orchestrator-{}", self.replica);
        let line = cosign(&name, &key(140 + self.replica), 1_700_000_000, &checkpoint).unwrap();
        self.heads.lock().unwrap().insert(head.origin, head.size);
        Box::pin(async move { Ok(line.to_string()) })
    }
}

pub(super) struct Services {
    pub(super) cluster: Cluster,
    pub(super) group: Arc<GroupConfig>,
    pub(super) machines: Vec<Arc<Machines>>,
    keys: Vec<Arc<Keys>>,
    nodes: Vec<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
    /// HTTP address of the node that was started last.
    pub(super) api: String,
    pub(super) orderer: Orderer,
    nonce: u64,
    sequence: u64,
}

impl Services {
    pub(super) async fn running() -> Self {
        let cluster = Cluster::new(N);
        let mut group = GroupConfig { name: "services".into(), ..(*cluster.group).clone() };
        for (index, member) in (0u8..).zip(&mut group.members) {
            member.vote_key = key(130 + index).public();
            member.cosigner_key = key(140 + index).public();
        }
        let keys = |replica| Arc::new(Keys { replica, signed: Mutex::default(), heads: Mutex::default() });
        let orderer = cluster.orderer();
        let mut services = Self {
            cluster,
            group: Arc::new(group),
            machines: (0..N).map(|_| Arc::default()).collect(),
            keys: (0..N).map(keys).collect(),
            nodes: (0..N).map(|_| None).collect(),
            orderer,
            api: String::new(),
            nonce: 0,
            sequence: 0,
        };
        for index in 0..N {
            services.start(index).await;
        }
        services
    }

    pub(super) async fn start(&mut self, index: u8) {
        let place = usize::from(index);
        let deadline = Instant::now() + LIMIT;
        let node = loop {
            let loaded =
                Config::read(&self.cluster.config(index), &Overrides::default()).unwrap().open().unwrap();
            let parts = Parts {
                group: Arc::clone(&self.group),
                replica: index.into(),
                guests: Arc::clone(&self.machines[place]) as Arc<dyn Guests>,
                signer: Arc::clone(&self.keys[place]) as Arc<dyn ReceiptSigner>,
                timed: Vec::new(),
            };
            match Node::start_with(loaded, parts).await {
                Ok(node) => break node,
                // What ran in this process before may still be letting go of its sockets and files.
                Err(error) => assert!(Instant::now() < deadline, "node {index}: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        self.api = node.api().unwrap().to_string();
        let (stop, stopped) = oneshot::channel::<()>();
        let running = tokio::spawn(async move { node.run(async { drop(stopped.await) }).await.unwrap() });
        self.nodes[place] = Some((stop, running));
    }

    pub(super) async fn stop(&mut self, index: u8) {
        let (stop, running) = self.nodes[usize::from(index)].take().unwrap();
        stop.send(()).unwrap();
        running.await.unwrap();
    }

    pub(super) async fn order(&mut self, command: Command) -> Outcome {
        self.try_order(command).await.unwrap()
    }

    pub(super) async fn try_order(&mut self, command: Command) -> Result<Outcome, String> {
        let operation = self.operation(&command);
        let ordered = self.orderer.order(&operation, LIMIT).await.map_err(|error| error.to_string())?;
        decode_outcome(&ordered.outcome).unwrap().map_err(|error| format!("{error:?}"))
    }

    fn operation(&mut self, command: &Command) -> Operation {
        self.nonce += 1;
        let nonce = Nonce::from_bytes(u128::from(self.nonce).to_le_bytes());
        command.to_operation(&operator(), self.cluster.group.id(), nonce)
    }

    fn addition(&mut self, service: ServiceId, amount: u64) -> Command {
        self.sequence += 1;
        let call =
            Call { op: ADD, sequence: self.sequence, nonce: Nonce::ZERO, epoch: 0, body: to_bytes(&amount) };
        let request = Request::sign(&client(), service.instance(), call).encoded();
        Command::CallService { service, request }
    }

    /// Adds to the total; answers the number that the request got.
    pub(super) async fn add(&mut self, service: ServiceId, amount: u64) -> u64 {
        let addition = self.addition(service, amount);
        match self.order(addition).await {
            Outcome::Numbered { number, .. } => number,
            other => panic!("{other:?}"),
        }
    }

    /// Begins to add to the total. Nobody waits for it here.
    pub(super) fn begin_to_add(
        &mut self,
        service: ServiceId,
        amount: u64,
    ) -> (OperationId, JoinHandle<bool>) {
        let addition = self.addition(service, amount);
        let (operation, orderer) = (self.operation(&addition), self.orderer.clone());
        let id = operation.id();
        (id, tokio::spawn(async move { orderer.order(&operation, LIMIT).await.is_ok() }))
    }

    pub(super) async fn ask(
        &self,
        replica: u8,
        service: ServiceId,
        question: ServiceQuestion,
    ) -> Option<ServiceAnswer> {
        let ask = AskService { service, question };
        self.orderer.ask_service(replica.into(), &ask, LIMIT).await.ok().flatten()
    }

    pub(super) async fn entry(&self, replica: u8, service: ServiceId, number: u64) -> ExecutedEntry {
        match self.ask(replica, service, ServiceQuestion::At { number }).await {
            Some(ServiceAnswer::Executed(entry)) => entry,
            other => panic!("replica {replica}, entry {number}: {other:?}"),
        }
    }

    /// The reply that `f + 1` of these replicas sign alike.
    pub(super) async fn reply(&self, service: ServiceId, number: u64, replicas: &[u8]) -> Reply {
        let mut tally = None;
        let mut replies = Vec::new();
        for replica in replicas {
            let entry = self.entry(*replica, service, number).await;
            let tally =
                tally.get_or_insert_with(|| ServiceReceiptTally::new(&self.group, entry.receipt).unwrap());
            tally.add(entry.replica, entry.signature).unwrap();
            replies.push(entry);
        }
        let certificate = tally.and_then(|tally| tally.certificate().ok()).expect("f + 1 equal receipts");
        let expected = self.group.expected(service.instance(), Kind::SERVICE_RECEIPT);
        certificate.verify(&self.group, &expected).unwrap();
        assert!(
            replies
                .iter()
                .all(|entry| entry.receipt == certificate.receipt && entry.reply == replies[0].reply)
        );
        Reply::decoded(&replies[0].reply).unwrap()
    }

    pub(super) async fn info(&self, replica: u8, service: ServiceId) -> Option<ServiceInfo> {
        match self.ask(replica, service, ServiceQuestion::Info).await {
            Some(ServiceAnswer::Info(info)) => Some(info),
            _ => None,
        }
    }

    /// How many entries a node says are ordered, as soon as it says so.
    pub(super) async fn head(&self, replica: u8, service: ServiceId) -> u64 {
        let deadline = Instant::now() + LIMIT;
        loop {
            match self.ask(replica, service, ServiceQuestion::Head).await {
                Some(ServiceAnswer::Head(head)) => return head.ordered,
                other => assert!(Instant::now() < deadline, "replica {replica}: {other:?}"),
            }
        }
    }

    /// Waits until a replica's state fits.
    pub(super) async fn wait(
        &self,
        what: &str,
        replica: u8,
        service: ServiceId,
        fits: impl Fn(&ServiceInfo) -> bool,
    ) {
        let deadline = Instant::now() + LIMIT;
        loop {
            let info = self.info(replica, service).await;
            if info.as_ref().is_some_and(&fits) {
                return;
            }
            assert!(Instant::now() < deadline, "replica {replica}: {what}: {info:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub(super) async fn create(&mut self, name: &str) -> ServiceId {
        let spec = ServiceSpec {
            name: name.into(),
            image: ImageDigest::from_bytes([1; 32]),
            memory_bytes: MEMORY,
            replicas: self.group.id(),
            nonce: Nonce::ZERO,
            config: to_bytes(&0u64),
        };
        match self.order(Command::CreateService { spec }).await {
            Outcome::ServiceCreated { service } => service,
            other => panic!("{other:?}"),
        }
    }
}
