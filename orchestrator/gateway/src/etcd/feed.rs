//! One reader of the registry's events for all watches of the gateway.
//!
//! It reads only while somebody watches: at once after a write of this gateway, otherwise at intervals that grow while nothing
//! happens. What it has read it keeps for a while, so that watches at different places are served without asking again.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use quorate_registry::{EVENTS_MAX, NumberedEvent};
use tokio::sync::{Notify, watch};

use crate::backend::{Freshness, Shared};
use crate::registry::{History, ReadError, history};

/// Shortest and longest time between two reads.
const INTERVALS: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));
/// Most bytes of events that are kept here.
const BYTES_MAX: usize = 16 << 20;

/// The reader and what it has read.
#[derive(Debug)]
pub(super) struct Feed {
    backend: Shared,
    /// Asked whether there is anything new; proofs that there is not are of no interest to anybody later.
    silent: Shared,
    kept: Mutex<Kept>,
    /// Newest entry of the log up to which all events were read.
    done: watch::Sender<u64>,
    followers: AtomicUsize,
    wake: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    /// Lowest number from which all events are here.
    from: u64,
    /// Highest number up to which they are.
    done: u64,
    events: VecDeque<NumberedEvent>,
    bytes: usize,
}

/// Somebody who watches; as long as there is one, the feed reads.
pub(super) struct Follower {
    etcd: super::Etcd,
    done: watch::Receiver<u64>,
}

impl Follower {
    /// Joins.
    pub(super) fn new(etcd: super::Etcd) -> Self {
        let feed = etcd.feed();
        feed.followers.fetch_add(1, Ordering::Relaxed);
        let done = feed.done.subscribe();
        feed.wake.notify_one();
        Self { etcd, done }
    }

    /// Waits until more was read.
    pub(super) async fn changed(&mut self) {
        if self.done.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.etcd.feed().followers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Feed {
    pub(super) fn new(backend: Shared, silent: Shared) -> Self {
        Self {
            backend,
            silent,
            kept: Mutex::default(),
            done: watch::Sender::new(0),
            followers: AtomicUsize::new(0),
            wake: Notify::new(),
        }
    }

    /// Something was written here, or is about to be read.
    pub(super) fn nudge(&self) {
        self.wake.notify_one();
    }

    /// Everything from entry `from` of the log on, as far as was read.
    pub(super) async fn since(&self, from: u64) -> Result<History, ReadError> {
        let done = {
            let kept = self.kept();
            if kept.from <= from {
                let start = kept.events.partition_point(|event| event.number < from);
                let events = kept.events.range(start..).cloned().collect();
                return Ok(History::Complete { events, number: kept.done });
            }
            kept.done
        };
        history(self.backend.as_ref(), from, Freshness::AtLeast(done + 1)).await
    }

    /// Entries up to `number` need not be read for whoever watches from behind it. Others read them themselves.
    pub(super) fn skip_to(&self, number: u64) {
        {
            let mut kept = self.kept();
            if kept.done >= number || self.followers() > 1 {
                return;
            }
            *kept = Kept { from: number + 1, done: number, ..Kept::default() };
        }
        self.done.send_replace(number);
    }

    /// How many follow.
    pub(super) fn followers(&self) -> usize {
        self.followers.load(Ordering::Relaxed)
    }

    /// Newest entry up to which all events were read.
    pub(super) fn done(&self) -> u64 {
        *self.done.borrow()
    }

    /// Reads as long as somebody follows; never ends.
    pub(super) async fn run(&self) {
        let (shortest, longest) = INTERVALS;
        let mut interval = shortest;
        loop {
            let nudged = self.wake.notified();
            if self.followers() == 0 {
                nudged.await;
                interval = shortest;
                continue;
            }
            tokio::select! {
                () = nudged => interval = shortest,
                () = tokio::time::sleep(interval) => {}
            }
            interval = match self.read().await {
                Ok(true) => shortest,
                Ok(false) => (interval * 3 / 2).min(longest),
                Err(error) => {
                    tracing::warn!(error_kind = error.kind(), "events not read: {error}");
                    longest
                }
            };
        }
    }

    /// Reads what is new and tells whether there was anything.
    async fn read(&self) -> Result<bool, ReadError> {
        let from = self.kept().done + 1;
        let seen = history(self.silent.as_ref(), from, Freshness::Linearizable).await?;
        let seen = match seen {
            History::Complete { ref events, number } if !events.is_empty() => {
                history(self.backend.as_ref(), from, Freshness::AtLeast(number + 1)).await?
            }
            seen => seen,
        };
        let active = {
            let mut kept = self.kept();
            match seen {
                // Whoever is behind reads for itself, and learns that something is gone.
                History::Compacted { lowest } => {
                    *kept = Kept { from: lowest, done: lowest.saturating_sub(1), ..Kept::default() };
                    true
                }
                History::Complete { events, number } => {
                    let active = !events.is_empty();
                    kept.extend(events, number);
                    active
                }
            }
        };
        let done = self.kept().done;
        self.done.send_if_modified(|known| std::mem::replace(known, done) != done);
        Ok(active)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    fn extend(&mut self, events: Vec<NumberedEvent>, number: u64) {
        self.done = self.done.max(number);
        for event in events {
            self.bytes += size(&event);
            self.events.push_back(event);
        }
        while self.bytes > BYTES_MAX || self.events.len() as u64 > EVENTS_MAX {
            let Some(dropped) = self.events.pop_front() else { break };
            self.bytes -= size(&dropped);
            self.from = dropped.number + 1;
            // A number is here with all of its events or not at all.
            while self.events.front().is_some_and(|event| event.number == dropped.number) {
                self.bytes -= self.events.pop_front().map_or(0, |event| size(&event));
            }
        }
    }
}

fn size(event: &NumberedEvent) -> usize {
    event.event.name.len() + event.event.record.value.len() + size_of::<NumberedEvent>()
}

impl super::Etcd {
    /// Joins those who watch.
    pub(super) fn following(&self) -> Follower {
        Follower::new(self.clone())
    }
}
