//! The thread that writes final blocks into the index and only then lets the engine and the subscribers know.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};

use quorate_agreement_engine::application::{LedgerFailed, Rules, Shared, Sink};
use quorate_agreement_engine::block::Block;
use quorate_agreement_engine::{Acknowledgement, Exact};
use tokio::sync::watch;

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
    fn deliver(&self, block: quorate_agreement_engine::Digested<Block>, acknowledgement: Exact) {
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
    pub(crate) position: Position,
    pub(crate) shared: Arc<Shared>,
    pub(crate) entries: Arc<watch::Sender<u64>>,
    pub(crate) current: Arc<Mutex<Position>>,
}

impl Writer {
    /// Runs until the engine is gone or the index fails.
    pub(crate) fn run(mut self, jobs: &Receiver<Job>) {
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
                return;
            }
            for job in group {
                job.acknowledgement.acknowledge();
            }
        }
    }

    /// Writes blocks that are not in the index yet, then makes them known.
    pub(crate) fn write(&mut self, blocks: &[Arc<Block>]) -> Result<(), LogError> {
        let known = self.position.header.height;
        let blocks: Vec<_> = blocks.iter().filter(|block| block.header().height > known).collect();
        let rules = self.shared.rules();
        let ids: Vec<_> = blocks.iter().map(|block| ids(rules, block)).collect();
        let applied: Vec<_> = blocks
            .iter()
            .zip(&ids)
            .map(|(block, ids)| {
                let last = block.operations().last();
                Applied { block, ids, ends_epoch: last.is_some_and(|last| (rules.ends_epoch)(last)) }
            })
            .collect();
        if applied.is_empty() {
            return Ok(());
        }
        self.position = self.index.append(&self.position, &applied)?;
        for applied in &applied {
            self.shared.applied(applied.block.header().height, applied.ids, applied.ends_epoch);
        }
        *self.current.lock().unwrap_or_else(PoisonError::into_inner) = self.position;
        self.entries.send_replace(self.position.entries);
        Ok(())
    }
}

/// Ids of a block's operations; fewer than operations if one is malformed, which no quorum votes for.
fn ids(rules: &Rules, block: &Block) -> Vec<[u8; 32]> {
    block.operations().iter().map_while(|operation| (rules.operation_id)(operation)).collect()
}
