//! What the engine asks of us: blocks to propose, a verdict on the blocks of others, and to take what is final.
//!
//! A block is valid when its header continues its parent's, each operation passes the node's rules, and none is in the log,
//! in an ancestor, or twice in the block. The verdict depends on block and ancestors only. How far the ledger has come does
//! not matter: operations above it are found in the ancestors.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use commonware_actor::Feedback;
use commonware_consensus::marshal::Update;
use commonware_consensus::marshal::ancestry::Ancestry;
use commonware_consensus::simplex::types::{Activity, Context};
use commonware_consensus::{Application, Reporter};
use commonware_cryptography::sha256::Digest;
use commonware_cryptography::{Digested, Digestible};
use commonware_runtime::{Clock, Metrics, Spawner};
use commonware_utils::acknowledgement::Exact;
use futures::StreamExt;
use futures::future::{Either, pending, select};
use tokio::sync::Notify;

use crate::block::Block;
use crate::committee::{EngineKey, Scheme};
use crate::counters::Counters;
use crate::limits::{BLOCK_BYTES, BLOCK_OPERATIONS, MempoolLimits};
use crate::mempool::{Inserted, Mempool, OperationId, Origin};

/// A cheap check of an operation's form.
pub type Predicate = Arc<dyn Fn(&[u8]) -> bool + Send + Sync>;

/// The identifier of an operation; `None` if it is malformed.
pub type Identify = Arc<dyn Fn(&[u8]) -> Option<OperationId> + Send + Sync>;

/// What the node knows about operations and the log does not.
#[derive(Clone)]
pub struct Rules {
    /// Whether an operation may enter a block at all.
    pub validate: Predicate,
    /// The identifier of an operation; `None` if it is malformed.
    pub operation_id: Identify,
    /// Whether an operation ends the epoch: it is the last of its block, and only empty blocks may follow.
    pub ends_epoch: Predicate,
}

/// The ledger failed; its node must stop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the ledger failed: {0}")]
pub struct LedgerFailed(pub String);

/// The durable log, as far as validity needs it.
pub trait Ledger: Send + Sync + 'static {
    /// Whether an operation is in the log.
    fn contains(&self, id: &OperationId) -> Result<bool, LedgerFailed>;
}

/// Takes finalized blocks in order, at least once each.
pub trait Sink: Send + Sync + 'static {
    /// Persists the block, calls [`Shared::applied`], and acknowledges, in this order. Blocks of heights that are applied
    /// already are only acknowledged.
    fn deliver(&self, block: Digested<Block>, acknowledgement: Exact);

    /// A block of this height is final somewhere; it may not be here yet.
    fn tip(&self, height: u64);
}

/// How far ancestors are searched for operations before waiting for the ledger.
const SEARCH: u64 = 512;

/// What is remembered of a block that is not applied yet.
#[derive(Debug)]
struct Facts {
    height: u64,
    ids: HashSet<OperationId>,
    ends_epoch: bool,
}

/// The state of one validator in one epoch.
pub struct Shared {
    rules: Rules,
    heartbeat: Duration,
    mempool: Mutex<Mempool>,
    facts: Mutex<HashMap<Digest, Arc<Facts>>>,
    ledger: Arc<dyn Ledger>,
    applied_height: AtomicU64,
    ended: AtomicBool,
    view: AtomicU64,
    /// Counters of this validator.
    pub counters: Arc<Counters>,
    pub(crate) arrived: Notify,
    pub(crate) outgoing: Notify,
    outbox: Mutex<Vec<Bytes>>,
    progressed: Notify,
    failed: Mutex<Option<LedgerFailed>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// The state at the start of an epoch, or after a restart in it; `applied_height` is what the ledger holds of this epoch.
    pub fn new(
        rules: Rules,
        heartbeat: Duration,
        limits: MempoolLimits,
        ledger: Arc<dyn Ledger>,
        (applied_height, ended): (u64, bool),
        counters: Arc<Counters>,
    ) -> Arc<Self> {
        Arc::new(Self {
            rules,
            heartbeat,
            mempool: Mutex::new(Mempool::new(limits)),
            facts: Mutex::default(),
            ledger,
            applied_height: AtomicU64::new(applied_height),
            ended: AtomicBool::new(ended),
            view: AtomicU64::new(0),
            counters,
            arrived: Notify::new(),
            outgoing: Notify::new(),
            outbox: Mutex::default(),
            progressed: Notify::new(),
            failed: Mutex::default(),
        })
    }

    /// The node's rules.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Adds an operation that has passed the rules, and wakes the leader if that is us. One that is submitted here is
    /// also put out for all other members, whichever of them leads.
    pub fn insert(
        &self,
        id: OperationId,
        operation: Bytes,
        origin: Origin,
    ) -> Result<Inserted, LedgerFailed> {
        let inserted = {
            // Under the lock, so that an operation that becomes final now is either found or removed again.
            let mut mempool = lock(&self.mempool);
            if self.ledger.contains(&id)? {
                Inserted::Known
            } else {
                mempool.insert(id, operation.clone(), origin)
            }
        };
        match inserted {
            Inserted::New => {
                if origin == Origin::Own {
                    lock(&self.outbox).push(operation);
                    self.outgoing.notify_one();
                }
                self.arrived.notify_waiters();
            }
            Inserted::Known => Counters::add(&self.counters.duplicates),
            Inserted::Full => Counters::add(&self.counters.mempool_full),
        }
        Ok(inserted)
    }

    /// Operations to send to all members now.
    pub(crate) fn take_outbox(&self) -> Vec<Bytes> {
        std::mem::take(&mut *lock(&self.outbox))
    }

    /// Own operations that have waited for long.
    pub(crate) fn aged(&self, bytes: usize) -> Vec<Bytes> {
        lock(&self.mempool).aged(bytes)
    }

    /// What is pending, in order, for the validator of the next epoch.
    pub fn drain(&self) -> Vec<(OperationId, Bytes)> {
        lock(&self.mempool).take(usize::MAX, usize::MAX, |_| false)
    }

    /// Called once a block is durable in the ledger: first nobody proposes its operations again, then the height rises.
    pub fn applied<'a>(&self, height: u64, ids: impl IntoIterator<Item = &'a OperationId>, ends_epoch: bool) {
        lock(&self.mempool).remove(ids);
        if ends_epoch {
            self.ended.store(true, Ordering::Release);
        }
        self.applied_height.store(height, Ordering::Release);
        // A margin, because a verdict may be under way.
        lock(&self.facts).retain(|_, facts| facts.height + 16 > height);
        Counters::add(&self.counters.blocks);
        self.progressed.notify_waiters();
    }

    /// Height of the newest block in the ledger.
    pub fn applied_height(&self) -> u64 {
        self.applied_height.load(Ordering::Acquire)
    }

    /// The newest view this validator saw a certificate or vote of.
    pub fn view(&self) -> u64 {
        self.view.load(Ordering::Relaxed)
    }

    /// Pending operations.
    pub fn pending(&self) -> usize {
        lock(&self.mempool).len()
    }

    /// Why the ledger failed, if it did.
    pub fn failure(&self) -> Option<LedgerFailed> {
        lock(&self.failed).clone()
    }

    /// Remembers a failure. The validator votes no more: each verdict after this stays open.
    pub fn fail(&self, failure: LedgerFailed) {
        tracing::error!(error = %failure, "the ordered log stops");
        lock(&self.failed).get_or_insert(failure);
    }

    fn facts_of(&self, block: &Digested<Block>) -> Option<Arc<Facts>> {
        let digest = block.digest();
        if let Some(known) = lock(&self.facts).get(&digest) {
            return Some(Arc::clone(known));
        }
        let operations = block.inner().operations();
        let ids: HashSet<_> = operations.iter().map_while(|bytes| (self.rules.operation_id)(bytes)).collect();
        if ids.len() != operations.len() {
            return None;
        }
        let ends_epoch = operations.last().is_some_and(|last| (self.rules.ends_epoch)(last));
        let facts = Arc::new(Facts { height: block.inner().header().height, ids, ends_epoch });
        lock(&self.facts).insert(digest, Arc::clone(&facts));
        Some(facts)
    }

    /// Facts of the blocks between the ledger and `newest`, inclusive. Waits while the ledger is far behind.
    async fn above_ledger(
        &self,
        newest: Digested<Block>,
        ancestry: &mut impl Ancestry<Block>,
    ) -> Option<Vec<Arc<Facts>>> {
        loop {
            let progressed = self.progressed.notified();
            if newest.inner().header().height <= self.applied_height() + SEARCH {
                break;
            }
            progressed.await;
        }
        let mut found = Vec::new();
        let mut next = Some(newest);
        while let Some(block) = next {
            if block.inner().header().height <= self.applied_height() {
                break;
            }
            found.push(self.facts_of(&block)?);
            next = ancestry.next().await;
        }
        Some(found)
    }

    /// Whether the block obeys every rule; its parent is the next of `ancestry`.
    async fn judge(
        &self,
        block: &Digested<Block>,
        mut ancestry: impl Ancestry<Block>,
    ) -> Result<bool, LedgerFailed> {
        let Some(parent) = ancestry.next().await else { return Ok(false) };
        let (header, before) = (block.inner().header(), parent.inner().header());
        if header.epoch != before.epoch || header.first_index != before.next_index() {
            return Ok(false);
        }
        let operations = block.inner().operations();
        let last = operations.len().saturating_sub(1);
        let early_end = operations.iter().take(last).any(|operation| (self.rules.ends_epoch)(operation));
        if early_end || !operations.iter().all(|operation| (self.rules.validate)(operation)) {
            return Ok(false);
        }
        let Some(facts) = self.facts_of(block) else { return Ok(false) };
        if operations.is_empty() {
            return Ok(true);
        }
        let Some(above) = self.above_ledger(parent, &mut ancestry).await else { return Ok(false) };
        if self.ended.load(Ordering::Acquire) || above.iter().any(|ancestor| ancestor.ends_epoch) {
            return Ok(false);
        }
        for id in &facts.ids {
            if above.iter().any(|ancestor| ancestor.ids.contains(id)) || self.ledger.contains(id)? {
                Counters::add(&self.counters.duplicates);
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Operations for a block on top of `above`, or nothing.
    fn collect(&self, above: &[Arc<Facts>]) -> Vec<Bytes> {
        if self.ended.load(Ordering::Acquire) || above.iter().any(|ancestor| ancestor.ends_epoch) {
            return Vec::new();
        }
        let known = |id: &OperationId| above.iter().any(|ancestor| ancestor.ids.contains(id));
        let taken = lock(&self.mempool).take(BLOCK_OPERATIONS, BLOCK_BYTES, known);
        let mut operations: Vec<_> = taken.into_iter().map(|(_, operation)| operation).collect();
        if let Some(end) = operations.iter().position(|operation| (self.rules.ends_epoch)(operation)) {
            operations.truncate(end + 1);
        }
        operations
    }
}

/// The engine's view of [`Shared`].
#[derive(Clone)]
pub struct Validation {
    pub(crate) shared: Arc<Shared>,
    pub(crate) sink: Arc<dyn Sink>,
}

impl<E: Clock + Spawner + Metrics> Application<E> for Validation {
    type SigningScheme = Scheme;
    type Context = Context<Digest, EngineKey>;
    type Block = Block;
    type Input = ();

    /// Holds the turn until there is something to order or the heartbeat is due, so an idle log makes few blocks.
    async fn propose(
        &mut self,
        (clock, _): (E, Self::Context),
        mut ancestry: impl Ancestry<Block>,
        (): (),
    ) -> Option<Digested<Block>> {
        let shared = Arc::clone(&self.shared);
        let deadline = clock.current() + shared.heartbeat;
        let parent = ancestry.next().await?;
        let above = shared.above_ledger(parent.clone(), &mut ancestry).await?;
        loop {
            let arrived = shared.arrived.notified();
            futures::pin_mut!(arrived);
            arrived.as_mut().enable();
            let operations = shared.collect(&above);
            if !operations.is_empty() || clock.current() >= deadline {
                Counters::add(&shared.counters.proposed);
                return Some(Block::build(parent.inner().header(), operations).digested());
            }
            let due = clock.sleep_until(deadline);
            futures::pin_mut!(due);
            match select(arrived, due).await {
                Either::Left(_) | Either::Right(_) => {}
            }
        }
    }

    async fn verify(&mut self, _: (E, Self::Context), mut ancestry: impl Ancestry<Block>) -> bool {
        let Some(block) = ancestry.next().await else { return false };
        match self.shared.judge(&block, ancestry).await {
            Ok(true) => true,
            Ok(false) => {
                Counters::add(&self.shared.counters.blocks_refused);
                tracing::warn!(height = block.inner().header().height, "block refused");
                false
            }
            Err(failure) => {
                self.shared.fail(failure);
                pending().await
            }
        }
    }
}

impl Reporter for Validation {
    type Activity = Update<Block>;

    fn report(&mut self, update: Update<Block>) -> Feedback {
        match update {
            Update::Tip(_, height, _) => self.sink.tip(height.get()),
            Update::Block(block, acknowledgement) => self.sink.deliver(block, acknowledgement),
        }
        Feedback::Ok
    }
}

/// Notes contradicting votes and how far the views have come.
#[derive(Clone)]
pub(crate) struct Observer(pub(crate) Arc<Shared>);

impl Reporter for Observer {
    type Activity = Activity<Scheme, Digest>;

    fn report(&mut self, activity: Self::Activity) -> Feedback {
        use commonware_consensus::Viewable;
        match activity {
            Activity::ConflictingNotarize(_)
            | Activity::ConflictingFinalize(_)
            | Activity::NullifyFinalize(_) => {
                tracing::warn!(error_kind = "DoubleVote", "contradicting votes of one member");
                Counters::add(&self.0.counters.evidence);
            }
            Activity::Notarization(certificate) => self.seen(certificate.view().get()),
            Activity::Nullification(certificate) => self.seen(certificate.view().get()),
            Activity::Finalization(certificate) => self.seen(certificate.view().get()),
            _ => {}
        }
        Feedback::Ok
    }
}

impl Observer {
    fn seen(&self, view: u64) {
        self.0.view.fetch_max(view, Ordering::Relaxed);
    }
}
