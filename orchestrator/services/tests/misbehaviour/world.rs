//! A cluster in one process: real endpoints, real guests, and clients with real memories.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use quorate_attest::encoding::Bounded;
use quorate_attest::id::{ImageDigest, Nonce, ServiceId};
use quorate_attest::key::{PublicKey, SecretKey};
use quorate_attest::request::{Call, Request};
use quorate_attest::service::ServiceSpec;
use quorate_control::Command;
use quorate_ordering::orderer::{OrchestratorPeer, Orderer};
use quorate_services::{Service, Settings, Trust};
use quorate_transport::{Endpoint, Limits, Members, Role};
use tempfile::TempDir;
use tokio::sync::watch;

use crate::conduct::Conduct;
use crate::keys::{Groups, key, member_key};
use crate::library::{Change, Library, MEMORY};
use crate::log::Log;
use crate::node::Node;
use crate::scenario::Setting;

/// Time in which everything succeeds that can, however busy the machine is.
pub const PLENTY: Duration = Duration::from_secs(40);
/// Time that no test waits for.
pub const FOREVER: Duration = Duration::from_secs(3600);
/// Time after which what cannot succeed is given up.
pub const SHORT: Duration = Duration::from_millis(800);

/// How long a node keeps its answers to itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hold {
    /// Whatever is asked: until it is released.
    All,
    /// What replicas say, but not how much is ordered nor the order itself: until it is released.
    Results,
    /// That one log extends another: until it is released.
    Consistency,
    /// What replicas say about a question: until as many others have answered it.
    Until(usize),
    /// Answers of forks: until somebody was asked about a single entry, so that the client has taken note of an answer before.
    UntilAt,
}

/// What nodes and tests have in common.
pub struct Shared {
    pub groups: Groups,
    pub library: Library,
    pub service: ServiceSpec,
    /// The log, and another one for replicas that are driven elsewhere.
    pub logs: Mutex<[Log; 2]>,
    pub holds: watch::Sender<BTreeMap<u16, Hold>>,
    /// How many of the faulty answered which question, and whether anybody was asked about single entries.
    pub asked: watch::Sender<(BTreeMap<Vec<u8>, usize>, bool)>,
    /// Clients to whom equivocators lie.
    pub deceived: Mutex<BTreeSet<PublicKey>>,
}

pub struct World {
    pub shared: Arc<Shared>,
    /// The next key that nothing was bound to.
    fresh: AtomicU32,
    nodes: Vec<Arc<Node>>,
    addresses: Vec<SocketAddr>,
}

/// A client with its memory.
pub struct Client {
    pub library: Library,
    pub service: Service,
    pub orderer: Orderer,
    pub memory: TempDir,
}

impl World {
    /// `n` nodes of which the first `faulty` behave like this.
    pub fn start(Setting { library, n, f }: Setting, faulty: u16, conduct: &Conduct) -> Self {
        let groups = Groups::new(n, f.into());
        let service = ServiceSpec {
            name: "under-attack".into(),
            image: ImageDigest::from_bytes([7; 32]),
            memory_bytes: MEMORY,
            replicas: groups.replicas.id(),
            nonce: Nonce::ZERO,
            config: library.config(),
        };
        let logs = Mutex::new([0, 1].map(|_| Log::new(&groups, &service)));
        let (holds, asked) = (watch::Sender::default(), watch::Sender::default());
        let deceived = Mutex::default();
        let shared = Arc::new(Shared { groups, library, service, logs, holds, asked, deceived });
        let (mut nodes, mut addresses) = (Vec::new(), Vec::new());
        for index in 0..n {
            let key = member_key("orchestrators", "transport", index);
            let members = Arc::new(Members::new().with(key.public(), Role::Orchestrator).with_any_client());
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            let endpoint = Endpoint::bind(any, &key, members, Limits::default()).expect("a socket");
            addresses.push(endpoint.local_addr().expect("its address"));
            let conduct = if index < faulty { conduct.clone() } else { Conduct::Honest };
            let node = Arc::new(Node::new(Arc::clone(&shared), index, conduct));
            tokio::spawn(Arc::clone(&node).serve(endpoint));
            nodes.push(node);
        }
        Self { shared, fresh: AtomicU32::new(1100), nodes, addresses }
    }

    pub fn node(&self, index: u16) -> &Node {
        &self.nodes[usize::from(index)]
    }

    pub fn members(&self) -> std::ops::Range<u16> {
        0..self.nodes.len() as u16
    }

    /// A key that nothing was bound to.
    pub fn fresh_key(&self) -> u32 {
        self.fresh.fetch_add(1, Ordering::Relaxed)
    }

    pub fn trust(&self) -> Trust {
        Trust {
            orchestrators: (*self.shared.groups.orchestrators).clone(),
            replicas: (*self.shared.groups.replicas).clone(),
            service: self.shared.service.id(),
        }
    }

    pub fn logs(&self) -> MutexGuard<'_, [Log; 2]> {
        self.shared.logs.lock().expect("the logs")
    }

    /// A client that was never here before.
    pub fn client(&self, name: &str, limit: Duration) -> Client {
        self.client_in(name, limit, tempfile::tempdir().expect("a folder"))
    }

    /// A client that starts with this memory.
    pub fn client_in(&self, name: &str, limit: Duration, memory: TempDir) -> Client {
        let key = client_key(name);
        let group = &self.shared.groups.orchestrators;
        let directory = group
            .members
            .iter()
            .fold(Members::new(), |members, member| members.with(member.transport_key, Role::Orchestrator));
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let endpoint = Endpoint::bind_as(any, &key, Role::Client, Arc::new(directory), Limits::default())
            .expect("a socket");
        let peer = |(index, member): (usize, &quorate_attest::group::Member)| OrchestratorPeer {
            index: index as u16,
            member: member.clone(),
            address: self.addresses[index],
        };
        let peers = group.members.iter().enumerate().map(peer).collect();
        let orderer = Orderer::new(endpoint, Arc::clone(group), peers);
        let settings =
            Settings { limit, doubt: Duration::from_millis(100), memory: memory.path().to_owned() };
        let service = Service::new(orderer.clone(), self.trust(), key, settings).expect("a usable memory");
        Client { library: self.shared.library, service, orderer, memory }
    }

    /// From now on these nodes keep answers back.
    pub fn hold(&self, nodes: impl IntoIterator<Item = u16>, hold: &Hold) {
        self.shared.asked.send_modify(|(_, at)| *at = false);
        self.shared
            .holds
            .send_modify(|holds| holds.extend(nodes.into_iter().map(|node| (node, hold.clone()))));
    }

    /// From now on nobody keeps anything back.
    pub fn release(&self) {
        self.shared.holds.send_modify(BTreeMap::clear);
    }

    /// Has a client's change ordered in one of the logs, without anybody's being told.
    pub fn order(&self, log: usize, client: &str, sequence: u64, change: Change<'_>) {
        self.order_raw(log, &client_key(client), sequence, self.shared.library.operation(change));
    }

    /// As [`Self::order`], of any operation.
    pub fn order_raw(&self, log: usize, client: &SecretKey, sequence: u64, (op, body): (u16, Vec<u8>)) {
        let service: ServiceId = self.shared.service.id();
        let call = Call { op, sequence, nonce: Nonce::ZERO, epoch: 0, body };
        let request = Request::sign(client, service.instance(), call).encoded();
        let group = self.shared.groups.orchestrators.id();
        let operation = Command::CallService { service, request }.to_operation(client, group, Nonce::ZERO);
        self.logs()[log].order(&operation).expect("a call of the service");
    }
}

/// A client without rights.
pub const STRANGER: &str = "stranger";

/// The key of a client.
pub fn client_key(name: &str) -> SecretKey {
    key(&["client", name])
}
