//! The log: engine, index and links put together.

use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use bytes::Bytes;
use quorate_agreement_engine::application::Shared;
use quorate_agreement_engine::block::Header;
use quorate_agreement_engine::committee::{Committee, EngineKey};
use quorate_agreement_engine::counters::Counters;
use quorate_agreement_engine::limits::OPERATION_LIMIT;
use quorate_agreement_engine::mempool::{Inserted, Origin};
use quorate_agreement_engine::network::Carrier;
use quorate_agreement_engine::node::{Engine, EngineError, EpochSetup, Reader};
use quorate_attest::encoding::Bounded;
use quorate_attest::id::{Epoch, OperationId};
use quorate_transport::{Connection, Endpoint};
use tokio::sync::watch;

use crate::config::{Config, committee};
use crate::entries::Entries;
use crate::error::{LogError, SubmitError};
use crate::index::{Index, Position};
use crate::links::{Links, Member};
use crate::proof::{CHAIN, OrderProof};
use crate::status::Status;
use crate::writer::{Writer, queue};

/// An operation with its place in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Place in the log, over all epochs, without gaps.
    pub index: u64,
    /// The operation's identifier.
    pub id: OperationId,
    /// The operation.
    pub operation: Vec<u8>,
    /// Epoch in which it was ordered.
    pub epoch: Epoch,
    /// Height of its block in the epoch.
    pub height: u64,
}

/// A log of operations that is the same at all members.
pub trait OrderedLog: Clone + Send + Sync + 'static {
    /// Offers an operation for ordering, here and at all members. Repeating it is safe.
    ///
    /// # Errors
    /// `MessageTooLarge`, `DecodeError`, `QueueFull`, `Closed`.
    fn submit(&self, operation: Vec<u8>) -> impl Future<Output = Result<OperationId, SubmitError>> + Send;

    /// Entries from an index on, which may be ahead of the log.
    ///
    /// # Errors
    /// `Closed`.
    fn subscribe(&self, from: u64) -> impl Future<Output = Result<Entries, LogError>> + Send;

    /// The encoding of an [`OrderProof`] of an entry.
    ///
    /// # Errors
    /// `NoEntry`; `QuorumNotReached` if the certificate is not here yet; `Closed`.
    fn proof(&self, index: u64) -> impl Future<Output = Result<Vec<u8>, LogError>> + Send;

    /// The state of the log now.
    fn status(&self) -> Status;
}

/// The log of a member of an orchestrator group.
#[derive(Clone)]
pub struct ConsensusLog(Arc<Inner>);

struct Inner {
    index: Index,
    links: Arc<Links>,
    members: usize,
    epoch: u64,
    shared: Arc<Shared>,
    reader: Reader,
    position: Arc<Mutex<Position>>,
    tip: Arc<AtomicU64>,
    entries: watch::Receiver<u64>,
    engine: Mutex<Option<Engine>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn engine_error(error: EngineError) -> LogError {
    match error {
        EngineError::NotMember => LogError::BadConfig { reason: error.to_string() },
        EngineError::Archive(_) | EngineError::Thread(_) => LogError::Storage { reason: error.to_string() },
        EngineError::Stopped => LogError::Closed { reason: error.to_string() },
    }
}

fn bad(reason: String) -> LogError {
    LogError::BadConfig { reason }
}

/// Starts the log of a member: opens its folder, takes up where it stopped, dials the others. Must be called inside a tokio
/// runtime. Connections that others dial are given to [`ConsensusLog::attach`].
///
/// # Errors
/// `BadConfig`, `DataDirLocked`, `WrongCluster`, `WalCorrupt`, `StorageSyncFailed`, `ConflictingCertificates`.
pub async fn start(config: Config, endpoint: Arc<Endpoint>) -> Result<ConsensusLog, LogError> {
    let committee = Arc::new(committee(&config.group)?);
    let me = check(&config, &committee, &endpoint)?;
    std::fs::create_dir_all(&config.data_dir)
        .map_err(|error| LogError::Storage { reason: format!("{}: {error}", config.data_dir.display()) })?;
    let index = Index::open(&config.data_dir.join("index.redb"))?;
    let genesis = Header::genesis(committee.epoch, &committee.config, &[0; 32], 0);
    let position = resume(&index, &config, genesis)?;
    let links = Links::new(endpoint, config.reconnect);
    let shared = Shared::new(
        config.operations.rules(),
        config.timing.heartbeat,
        config.mempool,
        Arc::new(index.clone()),
        (position.header.height, position.ended),
        Arc::new(Counters::default()),
    );
    let engine = Engine::spawn(config.data_dir.join("engine")).map_err(engine_error)?;
    let (sink, jobs, tip) = queue();
    let setup = EpochSetup {
        committee: Arc::clone(&committee),
        seed: Some(config.vote_key.to_seed()),
        me,
        peers: committee.keys().to_vec(),
        genesis,
        timing: config.timing,
        shared: Arc::clone(&shared),
        sink,
        votes: true,
    };
    let carrier: Arc<dyn Carrier> = Arc::clone(&links) as Arc<dyn Carrier>;
    let running = engine.start(setup, carrier).await.map_err(engine_error)?;
    links.open(committee.epoch, running.inboxes);
    let (sender, entries) = watch::channel(position.entries);
    let current = Arc::new(Mutex::new(position));
    let mut writer = Writer {
        index: index.clone(),
        position,
        shared: Arc::clone(&shared),
        entries: Arc::new(sender),
        current: Arc::clone(&current),
    };
    rebuild(&mut writer, &running.reader, running.delivered).await?;
    let thread = std::thread::Builder::new().name("log-index".into()).spawn(move || writer.run(&jobs));
    let thread = thread.map_err(|error| LogError::Storage { reason: error.to_string() })?;
    links.add(members(&config, &committee));
    Ok(ConsensusLog(Arc::new(Inner {
        index,
        links,
        members: committee.keys().len(),
        epoch: committee.epoch,
        shared,
        reader: running.reader,
        position: current,
        tip,
        entries,
        engine: Mutex::new(Some(engine)),
        writer: Mutex::new(Some(thread)),
    })))
}

/// Checks what the types cannot; our key in the engine's form.
fn check(config: &Config, committee: &Committee, endpoint: &Endpoint) -> Result<EngineKey, LogError> {
    let member = config.group.member(config.me)?;
    if member.vote_key != config.vote_key.public() {
        return Err(bad(format!("the vote key is not that of member {}", config.me)));
    }
    if member.transport_key != *endpoint.public() {
        return Err(bad(format!("the endpoint has not the transport key of member {}", config.me)));
    }
    let (members, addresses) = (config.group.members.len(), config.addresses.len());
    if members != addresses {
        return Err(bad(format!("{addresses} addresses for {members} members")));
    }
    let timing = &config.timing;
    if timing.heartbeat.is_zero() || timing.patience.is_zero() || timing.resend.is_zero() {
        return Err(bad("heartbeat, patience and resend must not be zero".to_owned()));
    }
    committee.keys().get(usize::from(config.me)).cloned().ok_or(LogError::NotMember)
}

fn members(config: &Config, committee: &Committee) -> Vec<Member> {
    let keys = committee.keys().iter().zip(&config.group.members).zip(&config.addresses);
    keys.map(|((key, member), address)| Member {
        key: key.clone(),
        transport: member.transport_key,
        address: *address,
    })
    .collect()
}

/// The position in the index, or the genesis in a new one.
fn resume(index: &Index, config: &Config, genesis: Header) -> Result<Position, LogError> {
    let group = config.group.id().to_bytes();
    let Some(position) = index.position()? else {
        let position = Position { group, header: genesis, entries: genesis.first_index, ended: false };
        index.begin(&position)?;
        return Ok(position);
    };
    if position.group != group || position.header.epoch != genesis.epoch {
        let reason = format!("it is in epoch {}, the group in {}", position.header.epoch, genesis.epoch);
        return Err(LogError::WrongCluster { reason });
    }
    Ok(position)
}

/// Reads from the archive what the engine has delivered and the index lacks: the file was lost.
async fn rebuild(writer: &mut Writer, reader: &Reader, delivered: u64) -> Result<(), LogError> {
    let first = writer.position.header.height + 1;
    if first <= delivered {
        tracing::warn!(first, last = delivered, "the index is built again from the archive");
    }
    for height in first..=delivered {
        let block = reader.block(height).await;
        let block =
            block.ok_or_else(|| LogError::Storage { reason: format!("block {height} is missing") })?;
        writer.write(&[Arc::new(block)])?;
    }
    Ok(())
}

impl ConsensusLog {
    /// Takes a connection that a member dialled. The node owns the endpoint's accept loop and passes on connections of
    /// orchestrators; the log reads every exchange on it.
    ///
    /// # Errors
    /// `PeerUnknown` if the peer is not a member.
    pub fn attach(&self, connection: Connection) -> Result<(), LogError> {
        self.0.links.attach(connection)
    }

    /// Stops engine, writer and links, and waits until the folder is free. What was final stays.
    pub async fn shutdown(&self) {
        self.0.links.close();
        let engine = lock(&self.0.engine).take();
        if let Some(engine) = engine {
            // An engine that has stopped already has stopped.
            let _ = engine.stop(self.0.epoch).await;
            engine.shutdown().await;
        }
        let writer = lock(&self.0.writer).take();
        if let Some(writer) = writer {
            // It ends because the engine, which feeds it, has.
            let _ = tokio::task::spawn_blocking(move || writer.join()).await;
        }
    }

    fn failure(&self) -> Option<String> {
        let failed = self.0.shared.failure().map(|failure| failure.to_string());
        failed.or_else(|| match &*lock(&self.0.engine) {
            Some(engine) if engine.is_alive() => None,
            Some(_) => Some("the consensus engine has stopped".to_owned()),
            None => Some("shut down".to_owned()),
        })
    }

    /// Headers after `height` up to one with a certificate of its own, and that certificate.
    async fn certificate(&self, height: u64) -> Option<(Vec<Header>, Vec<u8>)> {
        let mut chain = Vec::new();
        loop {
            let at = height + chain.len() as u64;
            if let Some(finalization) = self.0.reader.finalization(at).await {
                return Some((chain, finalization));
            }
            if chain.len() == CHAIN {
                return None;
            }
            chain.push(*self.0.reader.block(at + 1).await?.header());
        }
    }
}

impl OrderedLog for ConsensusLog {
    async fn submit(&self, operation: Vec<u8>) -> Result<OperationId, SubmitError> {
        let shared = &self.0.shared;
        let (limit, got) = (OPERATION_LIMIT, operation.len());
        if got > limit {
            return Err(SubmitError::MessageTooLarge { limit, got });
        }
        if let Some(reason) = self.failure() {
            return Err(SubmitError::Closed { reason });
        }
        let id = (shared.rules().operation_id)(&operation).ok_or(SubmitError::Malformed)?;
        if operation.is_empty() || !(shared.rules().validate)(&operation) {
            return Err(SubmitError::Malformed);
        }
        match shared.insert(id, Bytes::from(operation), Origin::Own) {
            Ok(Inserted::New | Inserted::Known) => Ok(OperationId::from_bytes(id)),
            Ok(Inserted::Full) => Err(SubmitError::QueueFull { pending: shared.pending() }),
            Err(failure) => Err(SubmitError::Closed { reason: failure.to_string() }),
        }
    }

    async fn subscribe(&self, from: u64) -> Result<Entries, LogError> {
        match self.failure() {
            Some(reason) => Err(LogError::Closed { reason }),
            None => Ok(Entries::new(self.0.index.clone(), self.0.entries.clone(), from)),
        }
    }

    async fn proof(&self, index: u64) -> Result<Vec<u8>, LogError> {
        if let Some(reason) = self.failure() {
            return Err(LogError::Closed { reason });
        }
        let entries = lock(&self.0.position).entries;
        let read = self.0.index.clone();
        let found = tokio::task::spawn_blocking(move || read.read(index, 1, 1)).await;
        let found = found.map_err(|error| LogError::Closed { reason: error.to_string() })??;
        let entry = found.first().ok_or(LogError::NoEntry { index, entries })?;
        let missing = LogError::NotCertified { index };
        let block = self.0.reader.block(entry.height).await.ok_or(missing.clone())?;
        let (chain, finalization) = self.certificate(entry.height).await.ok_or(missing.clone())?;
        let proof = OrderProof::new(&block, index, chain, finalization).ok_or(missing)?;
        Ok(proof.encoded())
    }

    fn status(&self) -> Status {
        let inner = &self.0;
        let position = *lock(&inner.position);
        let counts = inner.shared.counters.read();
        let links = &inner.links.counters;
        let connected = inner.links.connected();
        let quorum = inner.members - (inner.members - 1) / 3;
        let height = position.header.height;
        Status {
            epoch: Epoch(position.header.epoch),
            height,
            view: inner.shared.view(),
            entries: position.entries,
            pending: inner.shared.pending(),
            connected,
            blocked: inner.links.blocked(),
            synced: height >= inner.tip.load(Ordering::Relaxed) && connected + 1 >= quorum,
            failed: self.failure(),
            duplicates: counts.duplicates,
            evidence: counts.evidence,
            blocks_refused: counts.blocks_refused,
            gossip_refused: counts.gossip_refused,
            mempool_full: counts.mempool_full,
            dropped_out: links.dropped_out.load(Ordering::Relaxed),
            dropped_in: links.dropped_in.load(Ordering::Relaxed),
            blocks_of_peers: links.blocks.load(Ordering::Relaxed),
            blocks: counts.blocks,
            proposed: counts.proposed,
        }
    }
}
