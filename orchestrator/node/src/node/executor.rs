//! The thread that executes the log: takes what has arrived, steps the replica, performs the effects in their order.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use quorate_agreement::{Entries, OrderedLog};
use quorate_verifier::sign_log::SignLogError;
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::task::JoinSet;

use super::{Fatal, Shared};
use crate::exit;
use crate::replica::{Counted, Effect, Entry};

/// Entries of one batch: one sync of the sign-log for all of them.
const BATCH_ENTRIES: usize = 1024;
/// Entries that wait for the executor.
const ENTRIES_WAITING: usize = 2 * BATCH_ENTRIES;
/// Time after which what was executed is synced. A crash within it costs executing it again.
const SYNC_INTERVAL: Duration = Duration::from_secs(1);

/// What the executor is given.
enum Job {
    Entry(Entry),
    Sync,
}

/// Starts the thread and the task that feeds it.
///
/// # Errors
/// The system gives no thread.
pub(super) fn start(shared: &Arc<Shared>, entries: Entries, tasks: &mut JoinSet<()>) -> std::io::Result<()> {
    let (queue, jobs) = channel(ENTRIES_WAITING);
    let executor = Executor { shared: Arc::clone(shared), unsynced: false };
    std::thread::Builder::new().name("executor".into()).spawn(move || executor.run(jobs))?;
    tasks.spawn(feed(Arc::clone(shared), entries, queue.clone()));
    tasks.spawn(async move {
        while queue.send(Job::Sync).await.is_ok() {
            tokio::time::sleep(SYNC_INTERVAL).await;
        }
    });
    Ok(())
}

async fn feed(shared: Arc<Shared>, mut entries: Entries, queue: Sender<Job>) {
    while let Some(entry) = entries.next().await {
        let entry = Entry { index: entry.index, operation: entry.operation };
        if queue.send(Job::Entry(entry)).await.is_err() {
            // Why it ended is known already, unless it panicked.
            return shared.end(Fatal::new("ThreadFailed", "the executor has ended", exit::STORAGE));
        }
    }
    let status = shared.log.status();
    shared.log_stopped(&status.failed.unwrap_or_else(|| "the log cannot be read".to_owned()));
}

struct Executor {
    shared: Arc<Shared>,
    unsynced: bool,
}

impl Executor {
    fn run(mut self, mut jobs: Receiver<Job>) {
        while let Some(job) = jobs.blocking_recv() {
            let result = match job {
                Job::Sync => self.sync(),
                Job::Entry(first) => self.batch(first, &mut jobs),
            };
            if let Err(fatal) = result {
                return self.shared.end(fatal);
            }
        }
    }

    /// Executes an entry with whatever else waits.
    fn batch(&mut self, first: Entry, jobs: &mut Receiver<Job>) -> Result<(), Fatal> {
        let mut entries = vec![first];
        while entries.len() < BATCH_ENTRIES {
            match jobs.try_recv() {
                Ok(Job::Entry(entry)) => entries.push(entry),
                Ok(Job::Sync) => {}
                Err(_) => break,
            }
        }
        self.shared.metrics.waiting("executor", jobs.len());
        self.shared.metrics.batch_entries.observe(entries.len() as f64);
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let stepped = {
            let mut replica = self.shared.replica.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            replica.step(now, self.shared.journal().state(), &entries)
        };
        let effects = match stepped {
            Ok(effects) => effects,
            Err(error) => {
                let fatal = Fatal::of_replica(&error);
                self.shared.never_sign_again(&fatal);
                return Err(fatal);
            }
        };
        effects.into_iter().try_for_each(|effect| self.perform(effect))
    }

    fn perform(&mut self, effect: Effect) -> Result<(), Fatal> {
        let shared = &self.shared;
        match effect {
            Effect::Record(promises) => {
                let began = Instant::now();
                let mut journal = shared.journal();
                journal.record(&promises).map_err(|error| of_sign_log(&error))?;
                shared.metrics.synced("sign_log", began.elapsed());
                shared.metrics.sign_state_index.set(journal.state().next());
            }
            Effect::Persist(batch) => {
                shared.store.commit(&batch)?;
                self.unsynced = true;
                if let Some(last) = batch.entries.last() {
                    shared.applied.send_replace(last.receipt.log_size);
                }
                if batch.snapshot.is_some() {
                    self.sync()?;
                }
            }
            Effect::Answer(answers) => answers.into_iter().for_each(|answer| shared.waiters.answer(answer)),
            Effect::Count(counted) => self.count(&counted),
            Effect::Roles => shared.update_roles(),
            Effect::EndEpoch { index, config } => shared.end_epoch(index, *config),
        }
        Ok(())
    }

    fn count(&self, counted: &[Counted]) {
        let metrics = &self.shared.metrics;
        for counted in counted {
            match counted {
                Counted::Done { command } => {
                    metrics.executed("ok");
                    if let Some(result) = migration_result(command) {
                        metrics.migration(result);
                    }
                }
                Counted::Refused { kind } => metrics.executed(kind),
            }
        }
        let replica = self.shared.replica();
        metrics.log_applied.set(replica.applied());
        metrics.epoch.set(replica.group().epoch.get());
        metrics.vm_count.set(replica.control().vms().count() as u64);
    }

    fn sync(&mut self) -> Result<(), Fatal> {
        if std::mem::take(&mut self.unsynced) {
            let began = Instant::now();
            self.shared.store.sync()?;
            self.shared.metrics.synced("store", began.elapsed());
        }
        Ok(())
    }
}

fn migration_result(command: &str) -> Option<&'static str> {
    match command {
        "Begin" => Some("begun"),
        "Activate" => Some("activated"),
        "Abort" => Some("aborted"),
        "Recover" => Some("recovered"),
        _ => None,
    }
}

fn of_sign_log(error: &SignLogError) -> Fatal {
    Fatal::new(error.kind(), error, error.exit_code())
}
