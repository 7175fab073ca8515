//! The service host: this node's replicas of ordered services.
//!
//! ```text
//! executed log ─▶ walk: which entries have which numbers ─▶ services.redb
//!                                                             │ by number
//!                     guests, in VMs ◀── Input ── task ◀──────┘
//!                                    ── Output ─▶  │ Core (pure)
//!            quorate-signer ◀── receipts ──────────┤
//!                           ── signatures ────────▶│ results, nodes and position in one transaction
//! other orchestrators ── receipts ─▶ compared ────▶│ evidence, stop, and service again
//!                                                  ▼
//!                     who waits: ServiceAnswer
//! ```
//!
//! * [`core`]: one replica of one service, without clock, files or sockets.
//! * [`store`]: `services.redb`. [`guest`], [`signer`]: what it feeds and what signs.
//! * `walk`, `task`, `peers`, `heads`, `ticks`, `answers`: the shell.
//!
//! # Not promised
//!
//! * A guest that hangs holds up its own service on this node, nothing else. Its replies come from the other replicas then.
//! * A replica that contradicts `f + 1` others serves nothing until its guest, taken back to its newest slot, comes to the same results as
//!   they do. If that slot is wrong already, no verifier certifies it and the host refuses to rebuild it: the VM has to be recovered.

pub mod core;
pub mod guest;
pub mod signer;
pub mod store;

pub(crate) mod answers;
mod heads;
pub(crate) mod peers;
mod task;
#[cfg(test)]
pub(crate) mod tests;
mod ticks;
mod walk;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use quorate_attest::group::GroupConfig;
use quorate_attest::id::ServiceId;
use quorate_attest::quorum::QuorumRule;
use quorate_ordering::protocol::Refused;
use quorate_ordering::services::SignedReceipt;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

use crate::node::Shared;
use crate::store::StoreError;
use guest::Guests;
use signer::ReceiptSigner;
use store::ServiceStore;

/// Time between two syncs of the file.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// What a service host is made of.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The group of all services' replicas.
    pub group: Arc<GroupConfig>,
    /// This node in it.
    pub replica: u16,
    /// The guests.
    pub guests: Arc<dyn Guests>,
    /// The signer.
    pub signer: Arc<dyn ReceiptSigner>,
    /// Names of services that are told the time also when nobody calls them.
    pub timed: Vec<String>,
}

/// The replicas of one node.
#[derive(Debug)]
pub(crate) struct ServiceHost {
    pub(crate) parts: Parts,
    rule: QuorumRule,
    pub(crate) store: ServiceStore,
    /// Entries of the orchestrators' log that were looked at.
    walked: watch::Sender<u64>,
    running: Mutex<BTreeMap<ServiceId, Arc<Running>>>,
}

/// One replica while it runs.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) service: ServiceId,
    /// Entries executed.
    pub(crate) executed: watch::Sender<u64>,
    stopped: Mutex<Option<Refused>>,
    /// What others say about the entry with a number.
    compared: mpsc::Sender<(u64, Vec<SignedReceipt>)>,
    /// Somebody's question found the guest before entries that are executed.
    behind: Notify,
    /// Entries of the log that `f + 1` others were found to have, too, since this process runs.
    agreed: AtomicU64,
    /// When somebody called last who was not telling the time.
    called: Mutex<Option<Instant>>,
    /// Why the guest does not go on, if it does not.
    stuck: Mutex<Option<Refused>>,
}

impl Running {
    /// Entries from this number on are not executed any more.
    fn forget(&self, number: u64) {
        self.agreed.fetch_min(number, Ordering::Relaxed);
        self.executed.send_replace(number);
    }

    pub(crate) fn stopped(&self) -> Option<Refused> {
        lock(&self.stopped).clone()
    }

    pub(crate) fn stuck(&self) -> Option<Refused> {
        lock(&self.stuck).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ServiceHost {
    pub(crate) fn new(parts: Parts, store: ServiceStore) -> Result<Self, StoreError> {
        let rule = parts.group.rule().map_err(|error| StoreError::damaged(error.to_string()))?;
        let walked = store.read()?.walked()?;
        Ok(Self { parts, rule, store, walked: watch::Sender::new(walked), running: Mutex::default() })
    }

    pub(crate) fn running(&self, service: &ServiceId) -> Option<Arc<Running>> {
        lock(&self.running).get(service).cloned()
    }

    pub(crate) fn all(&self) -> Vec<Arc<Running>> {
        lock(&self.running).values().cloned().collect()
    }

    /// Starts everything that runs in the background.
    pub(crate) fn start(self: &Arc<Self>, shared: &Arc<Shared>, tasks: &mut JoinSet<()>) {
        tasks.spawn(walk::run(Arc::clone(self), Arc::clone(shared)));
        tasks.spawn(peers::run(Arc::clone(self), Arc::clone(shared)));
        tasks.spawn(heads::run(Arc::clone(self), Arc::clone(shared)));
        tasks.spawn(ticks::run(Arc::clone(self), Arc::clone(shared)));
        tasks.spawn(sync(Arc::clone(self), Arc::clone(shared)));
    }
}

async fn sync(host: Arc<ServiceHost>, shared: Arc<Shared>) {
    loop {
        tokio::time::sleep(SYNC_INTERVAL).await;
        let (syncing, began) = (Arc::clone(&host), Instant::now());
        let synced = tokio::task::spawn_blocking(move || syncing.store.sync()).await;
        match synced {
            Ok(Ok(())) => shared.metrics.synced("services", began.elapsed()),
            Ok(Err(error)) => return shared.storage_failed(error),
            Err(_) => return,
        }
    }
}
