//! Logs in one process over real QUIC on the loopback interface.

#![allow(dead_code)]

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use quorate_agreement::{Config, ConsensusLog, Entry, LogError, Operations, OrderedLog, Timing, start};
use quorate_attest::group::{GroupConfig, HASH_SHA256, Member};
use quorate_attest::id::{Epoch, OperationId};
use quorate_attest::key::SecretKey;
use quorate_transport::{Connection, Endpoint, Limits, Members, Role};
use tokio::task::JoinHandle;

/// How long a test waits for something that must happen.
pub const PATIENCE: Duration = Duration::from_secs(120);

pub fn vote_key(member: u16) -> SecretKey {
    SecretKey::from_seed([member as u8 + 1; 32])
}

pub fn transport_key(member: u16) -> SecretKey {
    SecretKey::from_seed([member as u8 + 101; 32])
}

/// A group of `n` with the largest `f`.
pub fn group(n: u16) -> GroupConfig {
    let members = (0..n).map(|index| Member {
        name: format!("o{index}"),
        vote_key: vote_key(index).public(),
        cosigner_key: SecretKey::from_seed([index as u8 + 201; 32]).public(),
        transport_key: transport_key(index).public(),
    });
    GroupConfig {
        name: "log".into(),
        hash_algorithm: HASH_SHA256,
        epoch: Epoch(0),
        genesis: None,
        f: u64::from(n - 1) / 3,
        members: members.collect(),
        operators: Vec::new(),
        hosts: Vec::new(),
    }
}

/// Operations of the tests: sixteen bytes of identifier, then not the letter `x`; the letter `e` ends the epoch.
pub fn operations() -> Operations {
    let mut operations =
        Operations::new(Arc::new(|bytes| bytes.len() >= 16 && bytes.get(16) != Some(&b'x')), operation_id);
    operations.ends_epoch = Arc::new(|bytes| bytes.get(16) == Some(&b'e'));
    operations
}

pub fn operation_id(bytes: &[u8]) -> Option<OperationId> {
    let mut id = [0; 32];
    id[..16].copy_from_slice(bytes.get(..16)?);
    Some(OperationId::from_bytes(id))
}

pub fn operation(number: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0xab; length.max(16)];
    bytes[..16].copy_from_slice(&u128::from(number).to_be_bytes());
    bytes
}

pub fn number(entry: &Entry) -> u64 {
    u128::from_be_bytes(entry.operation[..16].try_into().unwrap()) as u64
}

/// Times short enough that a missing leader does not make a test slow.
pub fn timing() -> Timing {
    Timing {
        heartbeat: Duration::from_millis(1000),
        patience: Duration::from_millis(400),
        resend: Duration::from_millis(400),
    }
}

/// Members of any group of the tests.
pub const ALL: u16 = 8;

pub fn endpoint(member: u16, address: SocketAddr, limits: Limits) -> Endpoint {
    let members = (0..ALL).fold(Members::new(), |members, index| {
        members.with(transport_key(index).public(), Role::Orchestrator)
    });
    let members = Arc::new(members);
    // The address of a member that was just stopped is free a moment later.
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        match Endpoint::bind(address, &transport_key(member), members.clone(), limits.clone()) {
            Ok(endpoint) => return endpoint,
            Err(error) => assert!(std::time::Instant::now() < deadline, "{address}: {error}"),
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A running member.
pub struct Node {
    pub log: ConsensusLog,
    pub endpoint: Arc<Endpoint>,
    accept: JoinHandle<()>,
}

impl Node {
    pub async fn start(config: Config, endpoint: Arc<Endpoint>) -> Result<Self, LogError> {
        let log = start(config, Arc::clone(&endpoint)).await?;
        let (acceptor, attached) = (Arc::clone(&endpoint), log.clone());
        let accept = tokio::spawn(async move {
            while let Some(connection) = acceptor.accept().await {
                // Strangers do not come so far.
                let _ = attached.attach(connection);
            }
        });
        Ok(Self { log, endpoint, accept })
    }

    pub async fn stop(self) {
        self.accept.abort();
        // Its handle of the log goes with it.
        let _ = self.accept.await;
        self.log.shutdown().await;
        self.endpoint.close().await;
    }

    /// Entries up to `count`, checked to be contiguous.
    pub async fn entries(&self, count: u64) -> Vec<Entry> {
        let mut entries = self.log.subscribe(0).await.unwrap();
        let mut all = Vec::new();
        while (all.len() as u64) < count {
            let next = tokio::time::timeout(PATIENCE, entries.next()).await;
            let entry = next.unwrap_or_else(|_| panic!("{} of {count}: {:?}", all.len(), self.log.status()));
            all.push(entry.unwrap());
        }
        for (index, entry) in all.iter().enumerate() {
            assert_eq!(entry.index, index as u64, "a gap");
        }
        all
    }
}

/// A cluster whose folders vanish with it.
pub struct Cluster {
    pub n: u16,
    pub addresses: Vec<SocketAddr>,
    pub nodes: Vec<Option<Node>>,
    pub folder: tempfile::TempDir,
    pub limits: Limits,
    pub timing: Timing,
}

impl Cluster {
    /// Starts all members but those in `absent`.
    pub async fn start(n: u16, absent: &[u16]) -> Self {
        Self::start_with(n, absent, Limits::default(), timing()).await
    }

    pub async fn start_with(n: u16, absent: &[u16], limits: Limits, timing: Timing) -> Self {
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        let endpoints: Vec<_> =
            (0..n).map(|member| Arc::new(endpoint(member, local, limits.clone()))).collect();
        let addresses = endpoints.iter().map(|endpoint| endpoint.local_addr().unwrap()).collect();
        let folder = tempfile::tempdir().unwrap();
        let mut cluster = Self { n, addresses, nodes: Vec::new(), folder, limits, timing };
        for (member, endpoint) in endpoints.into_iter().enumerate() {
            let member = member as u16;
            let node = if absent.contains(&member) {
                endpoint.close().await;
                None
            } else {
                Some(Node::start(cluster.config(member), endpoint).await.unwrap())
            };
            cluster.nodes.push(node);
        }
        cluster
    }

    pub fn data_dir(&self, member: u16) -> PathBuf {
        self.folder.path().join(format!("o{member}"))
    }

    pub fn config(&self, member: u16) -> Config {
        let (group, key) = (Arc::new(group(self.n)), vote_key(member));
        let addresses = self.addresses.clone();
        let mut config = Config::new(group, member, key, self.data_dir(member), addresses, operations());
        config.timing = self.timing;
        config
    }

    pub fn node(&self, member: u16) -> &Node {
        self.nodes[usize::from(member)].as_ref().unwrap()
    }

    pub async fn stop(&mut self, member: u16) {
        self.nodes[usize::from(member)].take().unwrap().stop().await;
    }

    /// Starts a member again at its address.
    pub async fn restart(&mut self, member: u16) {
        let address = self.addresses[usize::from(member)];
        let endpoint = Arc::new(endpoint(member, address, self.limits.clone()));
        let node = Node::start(self.config(member), endpoint).await.unwrap();
        self.nodes[usize::from(member)] = Some(node);
    }

    pub async fn stop_all(mut self) {
        for member in 0..self.n {
            if self.nodes[usize::from(member)].is_some() {
                self.stop(member).await;
            }
        }
    }
}

/// Polls until `condition` holds.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(tokio::time::Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// The operations' numbers in log order.
pub fn numbers(entries: &[Entry]) -> Vec<u64> {
    entries.iter().map(number).collect()
}

/// A connection as a member would dial it.
pub async fn dial(from: &Endpoint, to: SocketAddr, member: u16) -> Connection {
    from.connect(to, &transport_key(member).public()).await.unwrap()
}
