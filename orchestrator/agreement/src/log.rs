//! The log: engine, index and links put together.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use quorate_agreement_engine::block::Header;
use quorate_agreement_engine::counters::Counters;
use quorate_agreement_engine::limits::OPERATION_LIMIT;
use quorate_agreement_engine::mempool::{Inserted, Origin};
use quorate_agreement_engine::node::{Engine, Reader};
use quorate_attest::encoding::Bounded;
use quorate_attest::group::GroupConfig;
use quorate_attest::id::{Epoch, OperationId};
use quorate_transport::{Connection, Endpoint};
use tokio::sync::watch;

use crate::config::{Config, EpochConfig, committee};
use crate::entries::{Entries, Progress};
use crate::epoch::{Base, Part, Running, engine_error, lock, members};
use crate::error::{LogError, SubmitError};
use crate::index::{Index, Position};
use crate::links::Links;
use crate::proof::{CHAIN, OrderProof};
use crate::status::Status;

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
    base: Base,
    epochs: Mutex<Epochs>,
    /// One change of epochs at a time; the configuration is that of the newest.
    lifecycle: tokio::sync::Mutex<Config>,
}

#[derive(Default)]
struct Epochs {
    present: Option<Arc<Running>>,
    past: BTreeMap<u64, Arc<Running>>,
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
    check(&config, &endpoint)?;
    let folder = &config.data_dir;
    std::fs::create_dir_all(folder)
        .map_err(|error| LogError::Storage { reason: format!("{}: {error}", folder.display()) })?;
    let index = Index::open(&folder.join("index.redb"))?;
    let position = resume(&index, &config)?;
    let links = Links::new(endpoint, config.reconnect);
    let engine = Engine::spawn(folder.join("engine")).map_err(engine_error)?;
    let base = Base {
        index,
        links,
        position: Arc::new(Mutex::new(position)),
        progress: Arc::new(watch::Sender::new(Progress { entries: position.entries, closed: false })),
        engine: Mutex::new(Some(Arc::new(engine))),
        counters: Arc::new(Counters::default()),
    };
    let committee = committee(&config.group)?;
    let members = members(&config, &committee);
    let inner =
        Arc::new(Inner { base, epochs: Mutex::default(), lifecycle: tokio::sync::Mutex::new(config) });
    let log = ConsensusLog(inner);
    {
        let config = log.0.lifecycle.lock().await;
        log.serve_past(&config).await?;
        log.advance(&config).await?;
    }
    log.0.base.links.add(members);
    if log.present().is_some_and(|present| present.part == Part::Follows) {
        tokio::spawn(follow(Arc::downgrade(&log.0)));
    }
    Ok(log)
}

/// Checks what the types cannot.
fn check(config: &Config, endpoint: &Endpoint) -> Result<(), LogError> {
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
    let chain = config.history.iter().chain([&config.group]);
    for (epoch, group) in chain.enumerate() {
        committee(group)?;
        if group.epoch.get() != epoch as u64 || group.id() != config.group.id() {
            return Err(bad(format!("the configuration of epoch {epoch} is missing or of another group")));
        }
    }
    Ok(())
}

/// The configuration of an epoch, if it is known.
fn config_of(config: &Config, epoch: u64) -> Option<&Arc<GroupConfig>> {
    config.history.iter().chain([&config.group]).nth(usize::try_from(epoch).ok()?)
}

/// The position in the index, or the genesis of epoch 0 in a new one.
fn resume(index: &Index, config: &Config) -> Result<Position, LogError> {
    let group = config.group.id().to_bytes();
    if let Some(position) = index.position()? {
        if position.group != group {
            let reason = "the index belongs to another group".to_owned();
            return Err(LogError::WrongCluster { reason });
        }
        return Ok(position);
    }
    let first = config_of(config, 0).ok_or(LogError::NotMember)?;
    let digest = first.digest().to_bytes();
    let genesis = Header::genesis(0, &digest, &[0; 32], 0);
    let position = Position { group, header: genesis, entries: 0, ended: None };
    index.begin(&position, &digest)?;
    Ok(position)
}

/// Goes through epochs that others have finished, one by one, up to the newest.
async fn follow(log: std::sync::Weak<Inner>) {
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let Some(inner) = log.upgrade() else { return };
        let log = ConsensusLog(inner);
        let Some(present) = log.present().filter(|present| present.part == Part::Follows) else { return };
        if lock(&log.0.base.position).ended.is_some() {
            let config = log.0.lifecycle.lock().await;
            if let Err(error) = log.advance(&config).await {
                tracing::error!(error_kind = error.kind(), %error, "the next epoch does not start");
                return;
            }
            continue;
        }
        let next = present.shared.applied_height() + 1;
        for height in next..next + 16 {
            present.reader.fetch(height, &present.peers);
        }
    }
}

/// After a while members of an epoch that is over need only its blocks.
async fn linger(log: std::sync::Weak<Inner>, epoch: u64, pause: Duration) {
    tokio::time::sleep(pause).await;
    let Some(inner) = log.upgrade() else { return };
    let log = ConsensusLog(inner);
    let config = log.0.lifecycle.lock().await;
    if let Err(error) = log.retire(&config, epoch).await {
        tracing::warn!(error_kind = error.kind(), %error, epoch, "blocks of an epoch are not served any more");
    }
}

impl ConsensusLog {
    fn present(&self) -> Option<Arc<Running>> {
        lock(&self.0.epochs).present.clone()
    }

    fn running(&self, epoch: u64) -> Option<Arc<Running>> {
        let epochs = lock(&self.0.epochs);
        let present = epochs.present.iter().find(|running| running.epoch == epoch);
        present.or_else(|| epochs.past.get(&epoch)).cloned()
    }

    /// Starts serving the blocks of epochs that are over.
    async fn serve_past(&self, config: &Config) -> Result<(), LogError> {
        let now = lock(&self.0.base.position).header.epoch;
        for epoch in 0..now {
            let began = self.0.base.index.began(epoch)?;
            let (Some(began), Some(group)) = (began, config_of(config, epoch)) else { continue };
            let running = self.0.base.start(config, group, began.genesis, Part::Serves).await?;
            lock(&self.0.epochs).past.insert(epoch, Arc::new(running));
        }
        Ok(())
    }

    /// Starts the engine of the epoch in which the log is, after moving it on if that has ended and the next is known.
    async fn advance(&self, config: &Config) -> Result<(), LogError> {
        loop {
            let position = *lock(&self.0.base.position);
            let epoch = position.header.epoch;
            let newest = config.group.epoch.get();
            if self.present().is_none_or(|present| present.epoch != epoch) {
                // Without its configuration the epoch waits for the node to name it.
                let Some(group) = config_of(config, epoch) else { return Ok(()) };
                let began = self.0.base.index.began(epoch)?.ok_or(LogError::NotMember)?;
                let part = if epoch == newest { Part::Votes } else { Part::Follows };
                let running = Arc::new(self.0.base.start(config, group, began.genesis, part).await?);
                self.install(running)?;
            }
            let ended = lock(&self.0.base.position).ended.is_some();
            let Some(next) = epoch.checked_add(1).filter(|_| ended) else { return Ok(()) };
            let Some(group) = config_of(config, next) else { return Ok(()) };
            self.0.base.begin(group)?;
        }
    }

    /// Makes an epoch the present one.
    fn install(&self, running: Arc<Running>) -> Result<(), LogError> {
        let before = lock(&self.0.epochs).present.replace(Arc::clone(&running));
        let Some(before) = before else { return Ok(()) };
        before.hand_over(&running.shared)?;
        lock(&self.0.epochs).past.insert(before.epoch, before);
        Ok(())
    }

    /// Restarts the engine of an epoch that is over without votes.
    async fn retire(&self, config: &Config, epoch: u64) -> Result<(), LogError> {
        let past = lock(&self.0.epochs).past.remove(&epoch);
        let Some(past) = past.filter(|past| past.part == Part::Votes) else { return Ok(()) };
        self.0.base.stop(&past).await?;
        let began = self.0.base.index.began(epoch)?;
        let (Some(began), Some(group)) = (began, config_of(config, epoch)) else { return Ok(()) };
        let running = self.0.base.start(config, group, began.genesis, Part::Serves).await?;
        lock(&self.0.epochs).past.insert(epoch, Arc::new(running));
        Ok(())
    }

    /// Moves to the next epoch, after an ordered operation has ended this one: starts an engine with the new members, which
    /// gets what is pending. The old one goes on for [`Config::linger`] for members that have not seen its end, and its blocks
    /// are served for ever. Calling it again, also after a restart, is safe.
    ///
    /// # Errors
    /// `BadConfig` if no operation has ended the epoch or the configuration does not follow; `WrongCluster` if the epoch began
    /// with another configuration; `Closed`.
    pub async fn end_epoch(&self, next: EpochConfig) -> Result<(), LogError> {
        let mut config = self.0.lifecycle.lock().await;
        if let Some(present) = self.present().filter(|present| present.epoch == next.group.epoch.get()) {
            tracing::debug!(epoch = present.epoch, "the epoch runs already");
            self.0.base.begin(&next.group)?;
            return Ok(());
        }
        self.0.base.begin(&next.group)?;
        let epoch = config.group.epoch.get();
        if next.group.epoch.get() > epoch {
            let before = Arc::clone(&config.group);
            config.history.push(before);
            config.group = Arc::clone(&next.group);
        }
        tokio::spawn(linger(Arc::downgrade(&self.0), epoch, config.linger));
        let Some(me) = next.me else {
            let before = lock(&self.0.epochs).present.take();
            lock(&self.0.epochs).past.extend(before.map(|before| (before.epoch, before)));
            return Ok(());
        };
        (config.me, config.vote_key, config.addresses) = (me, next.vote_key, next.addresses);
        let committee = committee(&config.group)?;
        self.0.base.links.add(members(&config, &committee));
        self.advance(&config).await
    }

    /// Takes a connection that a member dialled. The node owns the endpoint's accept loop and passes on connections of
    /// orchestrators; the log reads every exchange on it.
    ///
    /// # Errors
    /// `PeerUnknown` if the peer is not a member.
    pub fn attach(&self, connection: Connection) -> Result<(), LogError> {
        self.0.base.links.attach(connection)
    }

    /// Stops engine, writers and links, and waits until the folder is free. What was final stays.
    pub async fn shutdown(&self) {
        let _lifecycle = self.0.lifecycle.lock().await;
        self.0.base.links.close();
        let engine = lock(&self.0.base.engine).take();
        let epochs = std::mem::take(&mut *lock(&self.0.epochs));
        let running: Vec<_> = epochs.past.into_values().chain(epochs.present).collect();
        if let Some(engine) = engine {
            for running in &running {
                // An engine that has stopped already has stopped.
                let _ = engine.stop(running.epoch).await;
            }
            if let Some(engine) = Arc::into_inner(engine) {
                engine.shutdown().await;
            }
        }
        for running in running {
            running.join().await;
        }
        self.0.base.progress.send_modify(|progress| progress.closed = true);
    }

    fn failure(&self) -> Option<String> {
        let failed = self.present().and_then(|present| present.shared.failure());
        failed.map(|failure| failure.to_string()).or_else(|| match &*lock(&self.0.base.engine) {
            Some(engine) if engine.is_alive() => None,
            Some(_) => Some("the consensus engine has stopped".to_owned()),
            None => Some("shut down".to_owned()),
        })
    }
}

/// Headers after `height` up to one with a certificate of its own, and that certificate.
async fn certificate(reader: &Reader, height: u64) -> Option<(Vec<Header>, Vec<u8>)> {
    let mut chain = Vec::new();
    loop {
        let at = height + chain.len() as u64;
        if let Some(finalization) = reader.finalization(at).await {
            return Some((chain, finalization));
        }
        if chain.len() == CHAIN {
            return None;
        }
        chain.push(*reader.block(at + 1).await?.header());
    }
}

impl OrderedLog for ConsensusLog {
    async fn submit(&self, operation: Vec<u8>) -> Result<OperationId, SubmitError> {
        let (limit, got) = (OPERATION_LIMIT, operation.len());
        if got > limit {
            return Err(SubmitError::MessageTooLarge { limit, got });
        }
        if let Some(reason) = self.failure() {
            return Err(SubmitError::Closed { reason });
        }
        let present = self.present();
        let present =
            present.ok_or_else(|| SubmitError::Closed { reason: "no epoch runs here".to_owned() })?;
        let (shared, rules) = (&present.shared, present.shared.rules());
        let id = (rules.operation_id)(&operation).ok_or(SubmitError::Malformed)?;
        if operation.is_empty() || !(rules.validate)(&operation) {
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
            None => Ok(Entries::new(self.0.base.index.clone(), self.0.base.progress.subscribe(), from)),
        }
    }

    async fn proof(&self, index: u64) -> Result<Vec<u8>, LogError> {
        if let Some(reason) = self.failure() {
            return Err(LogError::Closed { reason });
        }
        let entries = lock(&self.0.base.position).entries;
        let read = self.0.base.index.clone();
        let found = tokio::task::spawn_blocking(move || read.read(index, 1, 1)).await;
        let found = found.map_err(|error| LogError::Closed { reason: error.to_string() })??;
        let entry = found.first().ok_or(LogError::NoEntry { index, entries })?;
        let missing = || LogError::NotCertified { index };
        let running = self.running(entry.epoch.get()).ok_or_else(missing)?;
        let block = running.reader.block(entry.height).await.ok_or_else(missing)?;
        let (chain, finalization) = certificate(&running.reader, entry.height).await.ok_or_else(missing)?;
        let proof = OrderProof::new(&block, index, chain, finalization).ok_or_else(missing)?;
        Ok(proof.encoded())
    }

    fn status(&self) -> Status {
        let base = &self.0.base;
        let position = *lock(&base.position);
        let counts = base.counters.read();
        let links = &base.links.counters;
        let connected = base.links.connected();
        let height = position.header.height;
        let present = self.present();
        let synced = present.as_ref().is_some_and(|present| {
            let quorum = present.members - (present.members - 1) / 3;
            let caught_up = height >= present.tip.load(Ordering::Relaxed);
            caught_up && present.part == Part::Votes && connected + 1 >= quorum
        });
        Status {
            epoch: Epoch(position.header.epoch),
            height,
            view: present.as_ref().map_or(0, |present| present.shared.view()),
            entries: position.entries,
            pending: present.as_ref().map_or(0, |present| present.shared.pending()),
            connected,
            blocked: base.links.blocked(),
            synced,
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
