//! Members, their network, and what happens to them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use commonware_codec::DecodeExt;
use commonware_cryptography::Signer;
use commonware_cryptography::ed25519::PrivateKey;
use commonware_p2p::simulated::{self, Link};
use commonware_runtime::{Clock, Handle, Quota, Runner, Spawner, Supervisor, deterministic};
use commonware_utils::{NZU32, NZUsize, Probability, probability};
use futures::FutureExt;
use futures::future::BoxFuture;
use quorate_agreement_engine::application::{Rules, Shared};
use quorate_agreement_engine::block::Header;
use quorate_agreement_engine::committee::{Committee, EngineKey};
use quorate_agreement_engine::counters::{Counters, Counts};
use quorate_agreement_engine::limits::{MempoolLimits, Timing};
use quorate_agreement_engine::mempool::{Inserted, Origin};
use quorate_agreement_engine::network::Channel;
use quorate_agreement_engine::validator::{self, Channels, Setup};

use crate::byzantine::{self, Behaviour};
use crate::disk::{Disk, Entry, Writer};

pub(crate) type Context = deterministic::Context;
pub(crate) type Oracle = simulated::Oracle<EngineKey, Context>;
pub(crate) type Sender = simulated::Sender<EngineKey, Context>;
pub(crate) type Receiver = simulated::Receiver<EngineKey>;

/// What every member is made of.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) oracle: Oracle,
    pub(crate) committee: Arc<Committee>,
    pub(crate) seeds: Vec<[u8; 32]>,
    pub(crate) genesis: Header,
    pub(crate) timing: Timing,
}

impl World {
    pub(crate) fn key(&self, member: u16) -> EngineKey {
        self.committee.keys()[usize::from(member)].clone()
    }

    pub(crate) async fn channels(&self, member: u16) -> Channels<Sender, Receiver> {
        let control = self.oracle.control(self.key(member));
        // The engine allocates its mailboxes for a second of the quota at once.
        let quota = || Quota::per_second(NZU32!(1_000));
        let open = async |channel: Channel| {
            let opened = control.register(channel as u64, quota()).await;
            opened.unwrap_or_else(|error| panic!("the simulated network refuses a channel: {error:?}"))
        };
        Channels {
            votes: open(Channel::Votes).await,
            certificates: open(Channel::Certificates).await,
            resolver: open(Channel::Resolver).await,
            gossip: open(Channel::Gossip).await,
            blocks: open(Channel::Blocks).await,
            backfill: open(Channel::Backfill).await,
        }
    }
}

/// A member's tasks.
type Body = Box<dyn FnOnce(Context) -> BoxFuture<'static, ()> + Send>;

struct Running {
    shared: Option<Arc<Shared>>,
    task: Handle<()>,
}

/// The members of one group in one simulation.
pub struct Cluster {
    context: Context,
    world: World,
    running: BTreeMap<u16, Running>,
    starts: u64,
}

/// Runs `body` with a group of `n` members that are not started yet. The same seed and body give the same result and the same
/// text, which stands for everything that happened.
pub fn run<T, F>(seed: u64, n: u16, body: F) -> (T, String)
where
    F: AsyncFnOnce(Cluster) -> T,
{
    deterministic::Runner::seeded(seed).start(|context| async move {
        let cluster = Cluster::new(context.child("cluster"), n).await;
        let result = body(cluster).await;
        (result, context.auditor().state())
    })
}

fn link(latency: Duration, jitter: Duration, loss_percent: u64) -> Link {
    let success = Probability::new(100 - loss_percent.min(100), 100);
    Link { latency, jitter, success_rate: success.unwrap_or(probability!(1.0)) }
}

impl Cluster {
    async fn new(context: Context, n: u16) -> Self {
        let seeds: Vec<[u8; 32]> = (0..n).map(|member| [member as u8 + 1; 32]).collect();
        let keys: Vec<[u8; 32]> = seeds.iter().map(public).collect();
        let committee = Committee::new(&[7; 32], 0, [8; 32], &keys);
        let committee = Arc::new(committee.unwrap_or_else(|error| panic!("test keys: {error}")));
        let config = simulated::Config {
            max_size: 4 << 20,
            max_peers_per_set: NZUsize!(64),
            disconnect_on_block: true,
            tracked_peer_sets: NZUsize!(1),
        };
        let members = committee.keys().to_vec();
        let (network, oracle) =
            simulated::Network::new_with_peers(context.child("network"), config, members).await;
        network.start();
        let genesis = Header::genesis(0, &committee.config, &[0; 32], 0);
        let timing = Timing {
            heartbeat: Duration::from_millis(500),
            patience: Duration::from_millis(500),
            resend: Duration::from_millis(500),
        };
        let world = World { oracle, committee, seeds, genesis, timing };
        let mut cluster = Self { context, world, running: BTreeMap::new(), starts: 0 };
        cluster.connect(Duration::from_millis(10), Duration::from_millis(5), 0).await;
        cluster
    }

    fn pairs(&self) -> Vec<(u16, u16)> {
        let n = self.world.seeds.len() as u16;
        (0..n).flat_map(|from| (0..n).map(move |to| (from, to))).filter(|(from, to)| from != to).collect()
    }

    /// Connects all members with all; of a hundred messages `loss_percent` are lost.
    pub async fn connect(&mut self, latency: Duration, jitter: Duration, loss_percent: u64) {
        for (from, to) in self.pairs() {
            self.cut(from, to).await;
            let (from, to) = (self.world.key(from), self.world.key(to));
            let added = self.world.oracle.add_link(from, to, link(latency, jitter, loss_percent)).await;
            added.unwrap_or_else(|error| panic!("the simulated network refuses a link: {error:?}"));
        }
    }

    /// Cuts every link between members of `one` and all others, in both directions.
    pub async fn partition(&mut self, one: &[u16]) {
        for (from, to) in self.pairs() {
            if one.contains(&from) != one.contains(&to) {
                self.cut(from, to).await;
            }
        }
    }

    async fn cut(&self, from: u16, to: u16) {
        // Fails if there is no such link, which is what we want.
        let _ = self.world.oracle.remove_link(self.world.key(from), self.world.key(to)).await;
    }

    /// Starts a member, or starts it again after a crash; `on_entry` is called with each entry that is new on its disk.
    pub async fn start(
        &mut self,
        member: u16,
        disk: &Disk,
        rules: Rules,
        on_entry: impl FnMut(&Entry) + Send + 'static,
    ) {
        self.crash(member).await;
        let writer = Arc::new(Writer {
            disk: disk.clone(),
            genesis: self.world.genesis,
            shared: OnceLock::new(),
            on_entry: Mutex::new(Box::new(on_entry)),
        });
        let counters = Arc::new(Counters::default());
        let ledger = Arc::new(disk.clone());
        let from = (disk.height(), false);
        let heartbeat = self.world.timing.heartbeat;
        let shared = Shared::new(rules, heartbeat, MempoolLimits::default(), ledger, from, counters);
        let shared = Arc::clone(writer.shared.get_or_init(|| shared));
        let (world, state) = (self.world.clone(), Arc::clone(&shared));
        let body = Box::new(move |context| honest_task(context, world, member, state, writer));
        let task = self.spawn(member, body);
        self.running.insert(member, Running { shared: Some(shared), task });
    }

    /// Starts a member that does not follow the protocol.
    pub async fn start_byzantine(&mut self, member: u16, behaviour: Behaviour) {
        self.crash(member).await;
        let world = self.world.clone();
        let body = Box::new(move |context| byzantine::task(context, world, member, behaviour));
        let task = self.spawn(member, body);
        self.running.insert(member, Running { shared: None, task });
    }

    // Nothing generic from here to the validator, or every crate that simulates would instantiate the engine again.
    fn spawn(&mut self, member: u16, body: Body) -> Handle<()> {
        self.starts += 1;
        let context = self.context.child("member").with_attribute("start", self.starts);
        context.with_attribute("index", member).spawn(body)
    }

    /// Stops all tasks of a member between two steps. Its files and its disk stay.
    pub async fn crash(&mut self, member: u16) {
        if let Some(running) = self.running.remove(&member) {
            running.task.abort();
            // Aborted is what we want to hear.
            let _ = running.task.await;
        }
    }

    /// Submits an operation at a member; false if it runs not, or refuses.
    pub fn submit(&self, member: u16, operation: Vec<u8>) -> bool {
        let Some(shared) = self.running.get(&member).and_then(|running| running.shared.as_ref()) else {
            return false;
        };
        let rules = shared.rules();
        let Some(id) = (rules.operation_id)(&operation).filter(|_| (rules.validate)(&operation)) else {
            return false;
        };
        !matches!(shared.insert(id, Bytes::from(operation), Origin::Own), Ok(Inserted::Full) | Err(_))
    }

    /// What a running honest member counted.
    pub fn counts(&self, member: u16) -> Option<Counts> {
        Some(self.running.get(&member)?.shared.as_ref()?.counters.read())
    }

    /// Lets virtual time pass.
    pub async fn sleep(&self, time: Duration) {
        self.context.sleep(time).await;
    }

    /// Virtual time since the start of the epoch of the simulated clock.
    pub fn now(&self) -> Duration {
        self.context.current().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
    }
}

fn public(seed: &[u8; 32]) -> [u8; 32] {
    let key = PrivateKey::decode(Bytes::copy_from_slice(seed));
    let key = key.unwrap_or_else(|error| panic!("every seed is a key: {error:?}")).public_key();
    let mut bytes = [0; 32];
    bytes.copy_from_slice(key.as_ref());
    bytes
}

fn honest_task(
    context: Context,
    world: World,
    member: u16,
    shared: Arc<Shared>,
    sink: Arc<Writer>,
) -> BoxFuture<'static, ()> {
    honest(context, world, member, shared, sink).boxed()
}

async fn honest(context: Context, world: World, member: u16, shared: Arc<Shared>, sink: Arc<Writer>) {
    let me = world.key(member);
    let channels = world.channels(member).await;
    let seed = world.seeds[usize::from(member)];
    let scheme = world.committee.signer(&seed).unwrap_or_else(|| panic!("member {member} has a key"));
    let setup = Setup {
        me: me.clone(),
        committee: Arc::clone(&world.committee),
        scheme,
        genesis: world.genesis,
        timing: world.timing,
        shared,
        sink,
        prefix: format!("o{member}"),
        votes: true,
    };
    let (peers, control) = (world.oracle.manager(), world.oracle.control(me));
    let started = validator::start(context, setup, peers, control, channels).await;
    let validator = started.unwrap_or_else(|error| panic!("member {member}: {error}"));
    for task in validator.tasks {
        // The tasks end when the member is stopped.
        let _ = task.await;
    }
}
