//! The engine alone: mempools fed directly, frames handed over in memory, blocks acknowledged and forgotten.

use std::collections::HashMap;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use quorate_agreement::{MempoolLimits, Timing};
use quorate_agreement_engine::application::{Ledger, LedgerFailed, Rules, Shared, Sink};
use quorate_agreement_engine::block::{Block, Header};
use quorate_agreement_engine::committee::{Committee, EngineKey};
use quorate_agreement_engine::counters::Counters;
use quorate_agreement_engine::mempool::Origin;
use quorate_agreement_engine::network::{Carrier, Channel, Delivered, Inbox};
use quorate_agreement_engine::node::{Engine, EpochSetup};
use quorate_agreement_engine::{Acknowledgement, Digested, Exact};

use crate::support::{operation, operation_id, vote_key};
use crate::{BYTES, Figures, WINDOW};

/// Holds nothing: every operation of this measurement is new.
struct Empty;

impl Ledger for Empty {
    fn contains(&self, _: &[u8; 32]) -> Result<bool, LedgerFailed> {
        Ok(false)
    }
}

struct Acknowledge {
    shared: OnceLock<Arc<Shared>>,
    delivered: Option<Mutex<Sender<u64>>>,
}

impl Sink for Acknowledge {
    fn deliver(&self, block: Digested<Block>, acknowledgement: Exact) {
        let shared = self.shared.get().unwrap();
        let operations = block.inner().operations();
        let ids: Vec<_> = operations.iter().map(|bytes| operation_id(bytes).unwrap().to_bytes()).collect();
        shared.applied(block.inner().header().height, &ids, false);
        acknowledgement.acknowledge();
        if let Some(delivered) = &self.delivered {
            for id in &ids {
                let number = u128::from_be_bytes(id[..16].try_into().unwrap()) as u64;
                let _ = delivered.lock().unwrap().send(number);
            }
        }
    }

    fn tip(&self, _: u64) {}
}

/// Hands frames to the inboxes of the others.
struct Memory {
    me: EngineKey,
    inboxes: Arc<Mutex<HashMap<(EngineKey, Channel), Inbox>>>,
}

impl Carrier for Memory {
    fn send(&self, to: &EngineKey, _: u64, channel: Channel, frame: Bytes) -> bool {
        let inbox = self.inboxes.lock().unwrap().get(&(to.clone(), channel)).cloned();
        let delivered = Delivered { from: self.me.clone(), frame, slot: Box::new(()) };
        inbox.is_some_and(|inbox| inbox.try_send(delivered).is_ok())
    }

    fn block(&self, _: &EngineKey) {}
}

struct Member {
    shared: Arc<Shared>,
    _engine: Engine,
}

async fn start(n: u16, folder: &std::path::Path) -> (Vec<Member>, Receiver<u64>) {
    let keys: Vec<_> = (0..n).map(|member| *vote_key(member).public().as_bytes()).collect();
    let committee = Arc::new(Committee::new(&[1; 32], 0, [2; 32], &keys).unwrap());
    let inboxes = Arc::new(Mutex::new(HashMap::new()));
    let (sender, delivered) = channel();
    let mut members = Vec::new();
    for member in 0..n {
        let rules = Rules {
            validate: Arc::new(|_| true),
            operation_id: Arc::new(|bytes| operation_id(bytes).map(|id| id.to_bytes())),
            ends_epoch: Arc::new(|_| false),
        };
        let (timing, limits) = (Timing::default(), MempoolLimits::default());
        let counters = Arc::new(Counters::default());
        let shared = Shared::new(rules, timing.heartbeat, limits, Arc::new(Empty), (0, false), counters);
        let delivered = (member == 0).then(|| Mutex::new(sender.clone()));
        let sink = Arc::new(Acknowledge { shared: OnceLock::from(Arc::clone(&shared)), delivered });
        let engine = Engine::spawn(folder.join(format!("o{member}"))).unwrap();
        let me = committee.keys()[usize::from(member)].clone();
        let setup = EpochSetup {
            committee: Arc::clone(&committee),
            seed: Some(vote_key(member).to_seed()),
            me: me.clone(),
            peers: committee.keys().to_vec(),
            genesis: Header::genesis(0, &committee.config, &[0; 32], 0),
            timing,
            shared: Arc::clone(&shared),
            sink,
            votes: true,
        };
        let carrier = Arc::new(Memory { me: me.clone(), inboxes: Arc::clone(&inboxes) });
        let epoch = engine.start(setup, carrier).await.unwrap();
        let named = epoch.inboxes.into_iter().map(|(channel, inbox)| ((me.clone(), channel), inbox));
        inboxes.lock().unwrap().extend(named);
        members.push(Member { shared, _engine: engine });
    }
    (members, delivered)
}

fn submit(member: &Member, number: u64) {
    let operation = operation(number, BYTES);
    let id = operation_id(&operation).unwrap().to_bytes();
    member.shared.insert(id, Bytes::from(operation), Origin::Own).unwrap();
}

/// Latency at idle and throughput of `n` validators.
pub fn measure(n: u16, samples: u64, time: Duration) -> Figures {
    let folder = tempfile::tempdir().unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (members, delivered) = runtime.block_on(start(n, folder.path()));
    let member = |number: u64| &members[(number % u64::from(n)) as usize];
    let mut latencies_us = Vec::new();
    for number in 0..samples + 5 {
        let started = Instant::now();
        submit(member(number), number);
        while delivered.recv().unwrap() != number {}
        if number >= 5 {
            latencies_us.push(started.elapsed().as_micros() as u64);
        }
    }
    let started = Instant::now();
    let (mut sent, mut done) = (0u64, 0u64);
    while started.elapsed() < time {
        while sent - done < WINDOW * u64::from(n) {
            submit(member(sent), (1 << 32) + sent);
            sent += 1;
        }
        delivered.recv().unwrap();
        done += 1;
    }
    Figures { latencies_us, operations: done, seconds: started.elapsed().as_secs_f64() }
}
