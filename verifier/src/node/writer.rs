//! The thread that owns the sign-log. Records that wait at the same time share one sync.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::Instant;

use quorate_attest::id::VmId;
use tokio::sync::mpsc::UnboundedSender;

use super::Fatal;
use super::conduct::{Conduct, Step};
use super::counters::Counters;
use super::journal::{Change, Journal};
use crate::core::Record;
use crate::sign_log::{SignLogError, Storage};

/// Most records in one sync.
const BATCH_MAX: usize = 32;

struct Ticket {
    change: Change,
    durable: SyncSender<()>,
}

/// The sign-log is closed; its failure has been reported, and the process is about to end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Closed;

/// Hands records to the thread.
#[derive(Clone)]
pub(super) struct Writer {
    queue: SyncSender<Ticket>,
}

impl Writer {
    /// Returns when the record is durable.
    pub(super) fn persist(&self, vm: VmId, record: Record) -> Result<(), Closed> {
        let (durable, wait) = sync_channel(1);
        self.queue.send(Ticket { change: (vm, record), durable }).map_err(|_| Closed)?;
        wait.recv().map_err(|_| Closed)
    }
}

/// Starts the thread. It ends when all writers are dropped, or at the first storage error.
pub(super) fn start<S: Storage + 'static, C: Conduct>(
    journal: Journal<S>,
    conduct: Arc<C>,
    counters: Arc<Counters>,
    fatal: UnboundedSender<Fatal>,
) -> std::io::Result<(Writer, JoinHandle<()>)> {
    let (queue, tickets) = sync_channel(256);
    let thread = std::thread::Builder::new().name("sign-log".to_owned()).spawn(move || {
        if let Err(error) = write_all(journal, &*conduct, &counters, &tickets) {
            // Nobody listens only if the process is ending already.
            let _ = fatal.send(Fatal::of_storage(&error));
        }
    })?;
    Ok((Writer { queue }, thread))
}

fn write_all<S: Storage, C: Conduct>(
    mut journal: Journal<S>,
    conduct: &C,
    counters: &Counters,
    tickets: &Receiver<Ticket>,
) -> Result<(), SignLogError> {
    while let Ok(first) = tickets.recv() {
        let mut batch = vec![first.change];
        let mut waiting = vec![first.durable];
        while let Some(ticket) = (batch.len() < BATCH_MAX).then(|| tickets.try_recv().ok()).flatten() {
            batch.push(ticket.change);
            waiting.push(ticket.durable);
        }
        conduct.step(Step::BeforePersist);
        let started = Instant::now();
        journal.append(&batch, || conduct.step(Step::BetweenWriteAndSync))?;
        counters.persisted.add(started.elapsed());
        for durable in waiting {
            // A VM's thread that has ended needs no answer.
            let _ = durable.send(());
        }
        if journal.wants_compaction() {
            conduct.step(Step::BeforeCompaction);
            journal.compact()?;
        }
    }
    Ok(())
}
