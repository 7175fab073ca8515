//! The one instantiation of the engine that production uses, on a runtime and threads of its own.
//!
//! The engine wants its own runtime: storage, timers and tasks hang on its context, and its tokio runner builds the runtime
//! itself. So it lives on one thread inside the process, and everything crosses to the node's runtime through channels.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::Arc;

use commonware_codec::Encode;
use commonware_consensus::marshal::Identifier;
use commonware_consensus::types::Height;
use commonware_runtime::{Handle, Runner, Supervisor, tokio as engine_tokio};
use tokio::sync::{mpsc, oneshot};
use zeroize::Zeroizing;

use crate::application::{Shared, Sink};
use crate::block::{Block, Header};
use crate::committee::{Committee, EngineKey};
use crate::limits::Timing;
use crate::network::{Carrier, Channel, Inbox, Incoming, Peers, Sender};
use crate::validator::{self, Archive, Channels, Setup};

/// What starts one epoch.
pub struct EpochSetup {
    /// The members.
    pub committee: Arc<Committee>,
    /// Seed of our vote key; `None` follows without voting.
    pub seed: Option<Zeroizing<[u8; 32]>>,
    /// Our key in this epoch or, if we are no member, any key of ours.
    pub me: EngineKey,
    /// Members of this and, for blocks of an epoch that is over, of later epochs.
    pub peers: Vec<EngineKey>,
    /// Header of block 0.
    pub genesis: Header,
    /// How long things wait.
    pub timing: Timing,
    /// The validator's state.
    pub shared: Arc<Shared>,
    /// Takes finalized blocks.
    pub sink: Arc<dyn Sink>,
    /// Whether to vote, or only to keep and serve blocks.
    pub votes: bool,
}

/// The engine could not start an epoch.
#[derive(Debug, Clone, thiserror::Error)]
pub enum EngineError {
    /// The engine's thread ended.
    #[error("the consensus engine has stopped")]
    Stopped,
    /// Our key is not a member's.
    #[error("the vote key is not a member's")]
    NotMember,
    /// The engine's files.
    #[error(transparent)]
    Archive(#[from] validator::ArchiveFailed),
    /// The engine's thread could not be started.
    #[error("thread of the consensus engine: {0}")]
    Thread(String),
}

/// A running epoch.
pub struct Epoch {
    /// Where frames of its channels go.
    pub inboxes: HashMap<Channel, Inbox>,
    /// Finalized blocks.
    pub reader: Reader,
    /// Height up to which blocks were delivered and acknowledged in an earlier run.
    pub delivered: u64,
}

/// Reads finalized blocks.
#[derive(Clone)]
pub struct Reader(Archive);

impl Reader {
    /// The finalized block of a height.
    pub async fn block(&self, height: u64) -> Option<Block> {
        let block = self.0.get_block(Identifier::Height(Height::new(height))).await?;
        Some(block.inner().clone())
    }

    /// The certificate that finalized exactly this height, if the archive has one.
    pub async fn finalization(&self, height: u64) -> Option<Vec<u8>> {
        Some(self.0.get_finalization(Height::new(height)).await?.encode().to_vec())
    }

    /// Asks members for the certificate and block of a height. What they send is delivered like everything else.
    pub fn fetch(&self, height: u64, from: &[EngineKey]) {
        if let Ok(targets) = from.to_vec().try_into() {
            self.0.hint_finalized(Height::new(height), targets);
        }
    }
}

enum Command {
    Start(Box<EpochSetup>, Arc<dyn Carrier>, oneshot::Sender<Result<Epoch, EngineError>>),
    Stop(u64, oneshot::Sender<()>),
}

/// The engine's thread. Dropping it stops the engine.
pub struct Engine {
    commands: mpsc::UnboundedSender<Command>,
    ended: oneshot::Receiver<()>,
}

impl Engine {
    /// Starts the thread. It keeps its files in `folder`.
    ///
    /// # Errors
    /// `Thread` if the system gives none.
    pub fn spawn(folder: PathBuf) -> Result<Self, EngineError> {
        let (commands, queue) = mpsc::unbounded_channel();
        let (alive, ended) = oneshot::channel();
        let thread = std::thread::Builder::new().name("agreement".into());
        let body = move || {
            let config = engine_tokio::Config::new()
                .with_storage_directory(folder)
                .with_worker_threads(2)
                .with_max_blocking_threads(16);
            engine_tokio::Runner::new(config).start(|context| serve(context, queue));
            drop(alive);
        };
        thread.spawn(body).map_err(|error| EngineError::Thread(error.to_string()))?;
        Ok(Self { commands, ended })
    }

    /// Starts an epoch.
    ///
    /// # Errors
    /// `Stopped`, `NotMember`, `Archive`.
    pub async fn start(&self, setup: EpochSetup, carrier: Arc<dyn Carrier>) -> Result<Epoch, EngineError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Start(Box::new(setup), carrier, reply);
        self.commands.send(command).map_err(|_| EngineError::Stopped)?;
        answer.await.map_err(|_| EngineError::Stopped)?
    }

    /// Stops an epoch's tasks; its files stay.
    ///
    /// # Errors
    /// `Stopped`.
    pub async fn stop(&self, epoch: u64) -> Result<(), EngineError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(Command::Stop(epoch, reply)).map_err(|_| EngineError::Stopped)?;
        answer.await.map_err(|_| EngineError::Stopped)
    }

    /// Asks the thread to end and waits for it.
    pub async fn shutdown(self) {
        drop(self.commands);
        // An error is what the end of the thread looks like.
        let _ = self.ended.await;
    }

    /// Whether the thread still runs.
    pub fn is_alive(&self) -> bool {
        !self.commands.is_closed()
    }
}

async fn serve(context: engine_tokio::Context, mut queue: mpsc::UnboundedReceiver<Command>) {
    let mut running: HashMap<u64, Vec<Handle<()>>> = HashMap::new();
    let mut starts = 0u64;
    while let Some(command) = queue.recv().await {
        match command {
            Command::Start(setup, carrier, reply) => {
                let epoch = setup.committee.epoch;
                stop(running.remove(&epoch)).await;
                starts += 1;
                let child = context.child("epoch").with_attribute("start", starts);
                let started = start(child, *setup, carrier).await;
                // Nobody waits any more if the node shuts down; then the tasks end with the thread.
                let _ = reply.send(started.map(|(handle, tasks)| {
                    running.insert(epoch, tasks);
                    handle
                }));
            }
            Command::Stop(epoch, reply) => {
                stop(running.remove(&epoch)).await;
                let _ = reply.send(());
            }
        }
    }
}

async fn stop(tasks: Option<Vec<Handle<()>>>) {
    for task in tasks.unwrap_or_default() {
        task.abort();
        // Aborted is what we want to hear.
        let _ = task.await;
    }
}

async fn start(
    context: engine_tokio::Context,
    setup: EpochSetup,
    carrier: Arc<dyn Carrier>,
) -> Result<(Epoch, Vec<Handle<()>>), EngineError> {
    let EpochSetup { committee, seed, me, peers, genesis, timing, shared, sink, votes } = setup;
    let scheme = match &seed {
        Some(seed) if votes => committee.signer(seed).ok_or(EngineError::NotMember)?,
        _ => committee.verifier(),
    };
    let epoch = committee.epoch;
    let members = commonware_utils::ordered::Set::from_iter_dedup(peers.iter().cloned());
    let others: Arc<[EngineKey]> = members.iter().filter(|key| **key != me).cloned().collect();
    let mut inboxes = HashMap::new();
    let mut open = |channel: Channel| {
        let capacity = NonZeroUsize::MIN.saturating_add(channel.slots() * others.len());
        let (inbox, queue) = mpsc::channel(capacity.get());
        inboxes.insert(channel, inbox);
        let sender = Sender { carrier: Arc::clone(&carrier), epoch, channel, others: Arc::clone(&others) };
        (sender, Incoming { queue, capacity })
    };
    let channels = Channels {
        votes: open(Channel::Votes),
        certificates: open(Channel::Certificates),
        resolver: open(Channel::Resolver),
        gossip: open(Channel::Gossip),
        blocks: open(Channel::Blocks),
        backfill: open(Channel::Backfill),
    };
    let peers = Peers::new(carrier, members);
    let setup = Setup {
        me,
        committee,
        scheme,
        genesis,
        timing,
        shared,
        sink,
        prefix: format!("epoch-{epoch}"),
        votes,
    };
    let running = validator::start(context, setup, peers.clone(), peers, channels).await?;
    let handle = Epoch { inboxes, reader: Reader(running.archive), delivered: running.delivered };
    Ok((handle, running.tasks))
}
