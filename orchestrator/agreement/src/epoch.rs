//! Epochs: the engine of the present one, those that are over and still serve their blocks, and the step from one to the next.
//!
//! An epoch ends with the block whose last operation ends it; what its engine orders after that is empty. The genesis of the
//! next commits to its configuration, to that block and to the next index, so nobody can begin an epoch elsewhere.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use quorate_agreement_engine::application::Shared;
use quorate_agreement_engine::block::Header;
use quorate_agreement_engine::committee::{Committee, EngineKey};
use quorate_agreement_engine::counters::Counters;
use quorate_agreement_engine::mempool::Origin;
use quorate_agreement_engine::network::Carrier;
use quorate_agreement_engine::node::{Engine, EngineError, EpochSetup, Reader};
use quorate_attest::group::GroupConfig;
use quorate_attest::key::PublicKey;
use tokio::sync::watch;

use crate::config::{Config, committee};
use crate::entries::Progress;
use crate::error::LogError;
use crate::index::{Index, Position};
use crate::links::{Links, Member, Names};
use crate::writer::{Writer, queue};

/// How a node takes part in an epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// As a member that votes.
    Votes,
    /// Fetches blocks of an epoch that others have finished.
    Follows,
    /// Keeps the blocks of an epoch that is over.
    Serves,
}

/// An epoch's engine and what hangs on it.
pub(crate) struct Running {
    pub(crate) epoch: u64,
    pub(crate) part: Part,
    pub(crate) members: usize,
    pub(crate) peers: Vec<EngineKey>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) reader: Reader,
    pub(crate) tip: Arc<AtomicU64>,
    pub(crate) writer: Mutex<Option<JoinHandle<()>>>,
}

/// What all epochs of a log share.
pub(crate) struct Base {
    pub(crate) index: Index,
    pub(crate) links: Arc<Links>,
    pub(crate) position: Arc<Mutex<Position>>,
    pub(crate) progress: Arc<watch::Sender<Progress>>,
    pub(crate) engine: Mutex<Option<Arc<Engine>>>,
    pub(crate) counters: Arc<Counters>,
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn engine_error(error: EngineError) -> LogError {
    match error {
        EngineError::NotMember => LogError::BadConfig { reason: error.to_string() },
        EngineError::Archive(_) | EngineError::Thread(_) => LogError::Storage { reason: error.to_string() },
        EngineError::Stopped => LogError::Closed { reason: error.to_string() },
    }
}

/// Engine keys by transport key: the members of the epoch, and later members, who may ask for its blocks.
fn names(group: &GroupConfig, later: &GroupConfig) -> Result<Names, LogError> {
    let mut names = BTreeMap::new();
    for config in [later, group] {
        let keys = committee(config)?;
        let members = config.members.iter().zip(keys.keys());
        names.extend(members.map(|(member, key)| (member.transport_key, key.clone())));
    }
    Ok(names)
}

impl Base {
    pub(crate) fn engine(&self) -> Result<Arc<Engine>, LogError> {
        let engine = lock(&self.engine).clone();
        engine.ok_or_else(|| LogError::Closed { reason: "shut down".to_owned() })
    }

    /// Starts the engine of an epoch. `config.group` is the newest configuration known.
    pub(crate) async fn start(
        &self,
        config: &Config,
        group: &GroupConfig,
        genesis: Header,
        part: Part,
    ) -> Result<Running, LogError> {
        let committee = Arc::new(committee(group)?);
        let names = names(group, &config.group)?;
        let me = our_key(config, group, &names)?;
        let position = *lock(&self.position);
        let present = position.header.epoch == committee.epoch;
        let applied = if present { position.header.height } else { u64::MAX };
        let shared = Shared::new(
            config.operations.rules(),
            config.timing.heartbeat,
            config.mempool,
            Arc::new(self.index.clone()),
            (applied, !present || position.ended.is_some()),
            Arc::clone(&self.counters),
        );
        let (sink, jobs, tip) = queue();
        let peers: Vec<_> = names.values().cloned().collect();
        let setup = EpochSetup {
            committee: Arc::clone(&committee),
            seed: (part == Part::Votes).then(|| config.vote_key.to_seed()),
            me,
            peers: peers.clone(),
            genesis,
            timing: config.timing,
            shared: Arc::clone(&shared),
            sink,
            votes: part == Part::Votes,
        };
        let carrier: Arc<dyn Carrier> = Arc::clone(&self.links) as Arc<dyn Carrier>;
        let started = self.engine()?.start(setup, carrier).await.map_err(engine_error)?;
        let writer = Writer {
            index: self.index.clone(),
            epoch: committee.epoch,
            shared: Arc::clone(&shared),
            progress: Arc::clone(&self.progress),
            position: Arc::clone(&self.position),
        };
        if present {
            rebuild(&writer, &started.reader, started.delivered).await?;
        }
        let thread = std::thread::Builder::new().name("log-index".into()).spawn(move || writer.run(&jobs));
        let thread = thread.map_err(|error| LogError::Storage { reason: error.to_string() })?;
        self.links.open(committee.epoch, started.inboxes, names);
        Ok(Running {
            epoch: committee.epoch,
            part,
            members: committee.keys().len(),
            peers,
            shared,
            reader: started.reader,
            tip,
            writer: Mutex::new(Some(thread)),
        })
    }

    /// Moves the log from an epoch that has ended to the next one; the genesis it begins with. Moving again to the epoch it
    /// is in changes nothing.
    pub(crate) fn begin(&self, next: &GroupConfig) -> Result<Header, LogError> {
        let mut position = lock(&self.position);
        let epoch = position.header.epoch;
        if next.epoch.get() == epoch && next.id().to_bytes() == position.group {
            let began = self.index.began(epoch)?.filter(|began| began.config == next.digest().to_bytes());
            return Ok(began.ok_or_else(|| other_config(next))?.genesis);
        }
        let last = position
            .ended
            .ok_or_else(|| LogError::BadConfig { reason: format!("no operation has ended epoch {epoch}") })?;
        if Some(next.epoch.get()) != epoch.checked_add(1) || next.id().to_bytes() != position.group {
            let reason = format!("epoch {} of {} does not follow epoch {epoch}", next.epoch, next.id());
            return Err(LogError::BadConfig { reason });
        }
        let digest = next.digest().to_bytes();
        let genesis = Header::genesis(next.epoch.get(), &digest, &last, position.entries);
        let begun =
            Position { group: position.group, header: genesis, entries: position.entries, ended: None };
        self.index.begin(&begun, &digest)?;
        *position = begun;
        Ok(genesis)
    }

    /// Stops an epoch's engine and waits for its writer.
    pub(crate) async fn stop(&self, running: &Running) -> Result<(), LogError> {
        self.links.shut(running.epoch);
        self.engine()?.stop(running.epoch).await.map_err(engine_error)?;
        running.join().await;
        Ok(())
    }
}

impl Running {
    /// Waits for the writer, which ends because the engine that feeds it has.
    pub(crate) async fn join(&self) {
        let writer = lock(&self.writer).take();
        if let Some(writer) = writer {
            // A writer that panicked has ended as well.
            let _ = tokio::task::spawn_blocking(move || writer.join()).await;
        }
    }

    /// Hands what is pending to the next epoch.
    pub(crate) fn hand_over(&self, next: &Shared) -> Result<(), LogError> {
        for (id, operation) in self.shared.drain() {
            let inserted = next.insert(id, operation, Origin::Own);
            inserted.map_err(|failed| LogError::Storage { reason: failed.to_string() })?;
        }
        Ok(())
    }
}

fn other_config(next: &GroupConfig) -> LogError {
    LogError::WrongCluster { reason: format!("epoch {} began with another configuration", next.epoch) }
}

/// Our name among the peers of an epoch.
fn our_key(config: &Config, group: &GroupConfig, names: &Names) -> Result<EngineKey, LogError> {
    let us = |group: &GroupConfig| -> Option<PublicKey> {
        let key = config.vote_key.public();
        group.members.iter().find(|member| member.vote_key == key).map(|member| member.transport_key)
    };
    let transport = us(group).or_else(|| us(&config.group)).ok_or(LogError::NotMember)?;
    names.get(&transport).cloned().ok_or(LogError::NotMember)
}

/// Members with their addresses.
pub(crate) fn members(config: &Config, committee: &Committee) -> Vec<Member> {
    let keys = committee.keys().iter().zip(&config.group.members);
    let placed = keys.zip(&config.addresses);
    let placed = placed.map(|((key, member), address)| (key.clone(), member.transport_key, *address));
    placed.map(|(key, transport, address)| Member { key, transport, address }).collect()
}

/// Reads from the archive what the engine has delivered and the index lacks: the file was lost.
async fn rebuild(writer: &Writer, reader: &Reader, delivered: u64) -> Result<(), LogError> {
    let first = lock(&writer.position).header.height + 1;
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
