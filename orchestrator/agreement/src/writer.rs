//! The thread that writes final blocks into the index and only then lets the engine and the subscribers know.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use quorate_agreement_engine::application::{LedgerFailed, Rules, Shared, Sink};
use quorate_agreement_engine::block::Block;
use quorate_agreement_engine::{Acknowledgement, Digested, Exact};
use tokio::sync::watch;

use crate::entries::Progress;
use crate::error::LogError;
use crate::index::{Applied, Index, Position};

/// Blocks written in one transaction at most; the engine has no more on their way.
const GROUP: usize = 16;

/// A final block on its way into the index.
pub(crate) struct Job {
    block: Arc<Block>,
    acknowledgement: Exact,
}

/// The engine's end of the way.
pub(crate) struct Queue {
    jobs: Mutex<Sender<Job>>,
    tip: Arc<AtomicU64>,
}

/// The queue and what the writer takes from it.
pub(crate) fn queue() -> (Arc<Queue>, Receiver<Job>, Arc<AtomicU64>) {
    let (jobs, receiver) = channel();
    let tip = Arc::new(AtomicU64::new(0));
    (Arc::new(Queue { jobs: Mutex::new(jobs), tip: Arc::clone(&tip) }), receiver, tip)
}

impl Sink for Queue {
    // Unbounded, but the engine delivers few blocks before it wants acknowledgements.
    fn deliver(&self, block: Digested<Block>, acknowledgement: Exact) {
        let job = Job { block: block.inner_shared(), acknowledgement };
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        // The writer is gone when the log failed or was shut down; the dropped acknowledgement stops the engine.
        let _ = jobs.send(job);
    }

    fn tip(&self, height: u64) {
        self.tip.fetch_max(height, Ordering::Relaxed);
    }
}

/// Writes blocks of one epoch.
pub(crate) struct Writer {
    pub(crate) index: Index,
    pub(crate) epoch: u64,
    pub(crate) shared: Arc<Shared>,
    pub(crate) progress: Arc<watch::Sender<Progress>>,
    /// Where the log is. Held while writing, so that an epoch does not begin in the middle.
    pub(crate) position: Arc<Mutex<Position>>,
}

impl Writer {
    /// Runs until the engine is gone or the index fails.
    pub(crate) fn run(self, jobs: &Receiver<Job>) {
        while let Ok(first) = jobs.recv() {
            let mut group = vec![first];
            while group.len() < GROUP {
                let Ok(next) = jobs.try_recv() else { break };
                group.push(next);
            }
            let blocks: Vec<_> = group.iter().map(|job| Arc::clone(&job.block)).collect();
            if let Err(error) = self.write(&blocks) {
                tracing::error!(error_kind = error.kind(), %error, "the ordered log stops");
                self.shared.fail(LedgerFailed(error.to_string()));
                self.progress.send_modify(|progress| progress.closed = true);
                return;
            }
            for job in group {
                job.acknowledgement.acknowledge();
            }
        }
    }

    /// Writes blocks that are not in the index yet, then makes them known. After the epoch has ended only empty blocks come,
    /// which nobody needs.
    pub(crate) fn write(&self, blocks: &[Arc<Block>]) -> Result<(), LogError> {
        let mut position = self.position.lock().unwrap_or_else(PoisonError::into_inner);
        if position.header.epoch != self.epoch {
            return Ok(());
        }
        let known = position.header.height;
        let blocks: Vec<_> = blocks.iter().filter(|block| block.header().height > known).collect();
        if blocks.is_empty() {
            return Ok(());
        }
        let rules = self.shared.rules();
        let ids: Vec<_> = blocks.iter().map(|block| ids(rules, block)).collect();
        let applied = blocks.iter().zip(&ids).map(|(block, ids)| {
            let last = block.operations().last();
            Applied { block, ids, ends_epoch: last.is_some_and(|last| (rules.ends_epoch)(last)) }
        });
        let applied: Vec<_> = applied.collect();
        *position = self.index.append(&position, &applied)?;
        for applied in &applied {
            self.shared.applied(applied.block.header().height, applied.ids, applied.ends_epoch);
        }
        let entries = position.entries;
        drop(position);
        self.progress.send_modify(|progress| progress.entries = entries);
        Ok(())
    }
}

/// Ids of a block's operations; fewer than operations if one is malformed, which no quorum votes for.
fn ids(rules: &Rules, block: &Block) -> Vec<[u8; 32]> {
    block.operations().iter().map_while(|operation| (rules.operation_id)(operation)).collect()
}
