//! Four nodes in this process with services in process: their answers, their proofs, a replica that errs, and restarts.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use quorate_attest::checkpoint::Checkpoint;
use quorate_attest::cosignature::cosign;
use quorate_attest::encoding::{Bounded, to_bytes};
use quorate_attest::group::GroupConfig;
use quorate_attest::id::{ImageDigest, Nonce, ServiceId};
use quorate_attest::key::{SecretKey, Signature};
use quorate_attest::merkle::{Sha256Tree, TreeHash, verify_inclusion};
use quorate_attest::request::{Call, Reply, Request, status};
use quorate_attest::service::{
    Answer, Input, Query, ServiceReceipt, ServiceReceiptTally, ServiceSpec, service_origin,
};
use quorate_attest::statement::Kind;
use quorate_control::{Answer as Outcome, Command, decode_outcome};
use quorate_counter::{ADD, TOTAL};
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

use crate::cluster::{Cluster, key, operator};
use crate::http::get;
use crate::openapi;
use crate::survival::{LIMIT, runtime};
use machine::Machine;

#[path = "../../src/services/testing.rs"]
mod machine;

const MEMORY: u64 = 32 << 20;
const N: u8 = 4;

/// The VMs of one node, by name.
#[derive(Debug, Default)]
struct Machines {
    running: Mutex<BTreeMap<String, Machine>>,
    /// What their hosts take them back to.
    slots: Mutex<BTreeMap<String, Machine>>,
    /// Whether their hosts do not answer.
    silent: AtomicBool,
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
struct Keys {
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

struct Services {
    cluster: Cluster,
    group: Arc<GroupConfig>,
    machines: Vec<Arc<Machines>>,
    keys: Vec<Arc<Keys>>,
    nodes: Vec<Option<(oneshot::Sender<()>, JoinHandle<()>)>>,
    /// HTTP address of the node that was started last.
    api: String,
    orderer: Orderer,
    nonce: u64,
    sequence: u64,
}

impl Services {
    async fn running() -> Self {
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

    async fn start(&mut self, index: u8) {
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

    async fn stop(&mut self, index: u8) {
        let (stop, running) = self.nodes[usize::from(index)].take().unwrap();
        stop.send(()).unwrap();
        running.await.unwrap();
    }

    async fn order(&mut self, command: Command) -> Outcome {
        self.nonce += 1;
        let nonce = Nonce::from_bytes(u128::from(self.nonce).to_le_bytes());
        let operation = command.to_operation(&operator(), self.cluster.group.id(), nonce);
        let ordered = self.orderer.order(&operation, LIMIT).await.unwrap();
        decode_outcome(&ordered.outcome).unwrap().unwrap()
    }

    /// Adds to the total; answers the number that the request got.
    async fn add(&mut self, service: ServiceId, amount: u64) -> u64 {
        self.sequence += 1;
        let call =
            Call { op: ADD, sequence: self.sequence, nonce: Nonce::ZERO, epoch: 0, body: to_bytes(&amount) };
        let request = Request::sign(&client(), service.instance(), call).encoded();
        match self.order(Command::CallService { service, request }).await {
            Outcome::Numbered { number, .. } => number,
            other => panic!("{other:?}"),
        }
    }

    async fn ask(&self, replica: u8, service: ServiceId, question: ServiceQuestion) -> Option<ServiceAnswer> {
        let ask = AskService { service, question };
        self.orderer.ask_service(replica.into(), &ask, LIMIT).await.ok().flatten()
    }

    async fn entry(&self, replica: u8, service: ServiceId, number: u64) -> ExecutedEntry {
        match self.ask(replica, service, ServiceQuestion::At { number }).await {
            Some(ServiceAnswer::Executed(entry)) => entry,
            other => panic!("replica {replica}, entry {number}: {other:?}"),
        }
    }

    /// The reply that `f + 1` of these replicas sign alike.
    async fn reply(&self, service: ServiceId, number: u64, replicas: &[u8]) -> Reply {
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

    async fn info(&self, replica: u8, service: ServiceId) -> Option<ServiceInfo> {
        match self.ask(replica, service, ServiceQuestion::Info).await {
            Some(ServiceAnswer::Info(info)) => Some(info),
            _ => None,
        }
    }

    /// Waits until a replica's state fits.
    async fn wait(&self, what: &str, replica: u8, service: ServiceId, fits: impl Fn(&ServiceInfo) -> bool) {
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

    async fn create(&mut self, name: &str) -> ServiceId {
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

fn client() -> SecretKey {
    key(250)
}

fn total(reply: &Reply) -> u64 {
    assert_eq!(reply.status, status::OK);
    u64::from_le_bytes(reply.body.clone().try_into().unwrap())
}

#[test]
fn requests_are_answered_by_f_plus_1_equal_receipts_and_queries_by_proofs() {
    runtime().block_on(async {
        let mut services = Services::running().await;
        let service = services.create("counter").await;
        let mut last = 0;
        for amount in 1..=20 {
            last = services.add(service, amount).await;
        }
        assert_eq!(total(&services.reply(service, last, &[0, 1, 2, 3]).await), 210);
        let (document, shown) =
            (get(&services.api, "/openapi.json").1, get(&services.api, "/v1/services/counter"));
        openapi::check(&document, "get", "/v1/services/{name}", shown.0, &shown.1);
        assert_eq!((shown.1["replica"].as_u64(), shown.1["stopped"].is_null()), (Some(3), true));
        assert!(shown.1["executed"].as_u64().unwrap() > last);
        let (_, all) = get(&services.api, "/v1/services");
        openapi::check(&document, "get", "/v1/services", 200, &all);
        assert_eq!(all["services"][0]["name"], "counter");
        let query = Query::Get { key: TOTAL.to_vec() };
        for replica in 0..N {
            let question = ServiceQuestion::Query { query: query.clone(), at_least: last + 1 };
            let Some(ServiceAnswer::Answered(answered)) = services.ask(replica, service, question).await
            else {
                panic!("replica {replica} answers no query");
            };
            let receipt = answered.newest.receipt;
            receipt.verify_vote(&services.group, replica.into(), &answered.newest.signature).unwrap();
            answered.answer.verify(&query, &receipt.state).unwrap();
            assert!(matches!(&answered.answer, Answer::Present(entry) if entry.value == to_bytes(&210u64)));
        }
        let deadline = Instant::now() + LIMIT;
        let proof = loop {
            let question = ServiceQuestion::Prove { number: 3, size: 0 };
            match services.ask(0, service, question).await {
                Some(ServiceAnswer::Proved(proof)) => break proof,
                _ => assert!(Instant::now() < deadline, "no cosigned head"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        let Some(ServiceAnswer::Heads(heads)) = services.ask(0, service, ServiceQuestion::Heads).await else {
            panic!("no heads");
        };
        assert!(heads.iter().any(|head| (head.size, head.root) == (proof.size, proof.root)));
        assert!(service_origin(&services.group.name, "counter").ends_with("/counter"));
        let leaf = Sha256Tree::leaf(&proof.leaf.encoded());
        verify_inclusion::<Sha256Tree>(&leaf, 3, proof.size, &proof.path, &proof.root).unwrap();
        assert_eq!(proof.leaf, services.entry(1, service, 3).await.receipt.leaf());
    });
}

#[test]
fn a_replica_that_f_plus_1_contradict_stops_keeps_evidence_and_serves_again_once_its_guest_was_taken_back() {
    runtime().block_on(async {
        let mut services = Services::running().await;
        let service = services.create("counter").await;
        let before = services.add(service, 5).await;
        services.reply(service, before, &[0, 1, 2, 3]).await;
        let slot = services.machines[3].running.lock().unwrap()["counter-3"].clone();
        services.machines[3].slots.lock().unwrap().insert("counter-3".into(), slot);
        services.machines[3].running.lock().unwrap().get_mut("counter-3").unwrap().corrupt();
        let wrong = services.add(service, 6).await;
        services.wait("stopped", 3, service, |info| info.stopped.is_some()).await;
        assert!(services.ask(3, service, ServiceQuestion::At { number: wrong }).await.is_none());
        assert_eq!(total(&services.reply(service, wrong, &[0, 1, 2]).await), 11);
        let evidence = services.cluster.folder.path().join("data-3/evidence");
        let kept = std::fs::read_dir(evidence).unwrap().filter(|file| {
            file.as_ref().unwrap().file_name().to_string_lossy().starts_with("service-counter-")
        });
        assert!(kept.count() > 0);
        // Others lost nothing by it.
        for replica in 0..3 {
            assert_eq!(services.info(replica, service).await.unwrap().stopped, None);
        }
        let after = services.add(service, 7).await;
        services.wait("serves", 3, service, |info| info.stopped.is_none() && info.executed > after).await;
        let next = services.add(service, 8).await;
        assert_eq!(total(&services.reply(service, next, &[0, 1, 2, 3]).await), 26);
    });
}

#[test]
fn a_node_that_was_away_catches_up_and_one_whose_guest_lost_everything_leads_it_on() {
    runtime().block_on(async {
        let mut services = Services::running().await;
        let service = services.create("counter").await;
        services.add(service, 1).await;
        services.stop(2).await;
        let away = services.add(service, 2).await;
        assert_eq!(total(&services.reply(service, away, &[0, 1, 3]).await), 3);
        services.machines[2].running.lock().unwrap().clear();
        services.start(2).await;
        let last = services.add(service, 3).await;
        assert_eq!(total(&services.reply(service, last, &[0, 1, 2, 3]).await), 6);
        let image = ImageDigest::from_bytes([2; 32]);
        // Some ahead: the time is told by requests too.
        let number = services.info(2, service).await.unwrap().ordered + 12;
        services.order(Command::UpgradeService { service, image, number }).await;
        for amount in 4..8 {
            let last = services.add(service, amount).await;
            services.reply(service, last, &[0, 1, 2, 3]).await;
        }
        services.wait("upgraded", 2, service, |info| info.executed > number).await;
        let last = services.add(service, 8).await;
        assert_eq!(total(&services.reply(service, last, &[0, 1, 2, 3]).await), 36);
        assert_eq!(services.info(2, service).await.unwrap().image, image);
        assert!(services.machines[2].running.lock().unwrap()["counter-2-v1"].next() > number);
        assert_eq!(services.machines[2].running.lock().unwrap()["counter-2"].next(), number);
    });
}

/// As after a crash: the file of the services is durable with every batch, the executed log once a while.
#[test]
fn a_node_whose_executed_log_ends_before_what_its_services_know_executes_it_again_first() {
    runtime().block_on(async {
        let mut services = Services::running().await;
        let service = services.create("counter").await;
        let first = services.add(service, 1).await;
        assert_eq!(total(&services.reply(service, first, &[0, 1, 2, 3]).await), 1);
        services.stop(2).await;
        let log = services.cluster.folder.path().join("data-2/executed.redb");
        let older = std::fs::read(&log).unwrap();

        services.start(2).await;
        services.machines[2].silent.store(true, Ordering::Relaxed);
        let last = services.add(service, 2).await;
        services.wait("waits for its guest", 2, service, |info| info.stopped.is_some()).await;
        services.stop(2).await;
        let again = log.with_extension("older");
        std::fs::write(&again, older).unwrap();
        std::fs::rename(&again, &log).unwrap();
        services.machines[2].silent.store(false, Ordering::Relaxed);
        services.start(2).await;
        assert_eq!(total(&services.reply(service, last, &[0, 1, 2, 3]).await), 3);
        services.stop(2).await;
    });
}
