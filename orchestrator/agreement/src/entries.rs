//! A subscription: entries from an index on, first those on disk, then each as it becomes final.

use std::collections::VecDeque;

use tokio::sync::watch;

use crate::index::Index;
use crate::log::Entry;

/// How many entries there are, and whether more can come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) entries: u64,
    pub(crate) closed: bool,
}

/// Entries read at once, and about as many bytes.
const BATCH: usize = 256;
const BATCH_BYTES: usize = 1 << 20;

/// Entries in order, without gaps. Always read from disk, so a slow reader costs nothing and loses nothing.
pub struct Entries {
    index: Index,
    progress: watch::Receiver<Progress>,
    next: u64,
    read: VecDeque<Entry>,
}

impl Entries {
    pub(crate) fn new(index: Index, progress: watch::Receiver<Progress>, from: u64) -> Self {
        Self { index, progress, next: from, read: VecDeque::new() }
    }

    /// The next entry; waits for it. `None` once the log is closed or its disk has failed. Cancel safe.
    pub async fn next(&mut self) -> Option<Entry> {
        loop {
            if let Some(entry) = self.read.pop_front() {
                return Some(entry);
            }
            let next = self.next;
            let ready = |progress: &Progress| progress.entries > next || progress.closed;
            if self.progress.wait_for(ready).await.ok()?.entries <= next {
                return None;
            }
            let index = self.index.clone();
            let read = tokio::task::spawn_blocking(move || index.read(next, BATCH, BATCH_BYTES)).await;
            match read {
                Ok(Ok(entries)) if !entries.is_empty() => {
                    self.next = next + entries.len() as u64;
                    self.read = entries.into();
                }
                Ok(Ok(_)) => return None,
                Ok(Err(error)) => {
                    tracing::error!(error_kind = error.kind(), %error, "the log cannot be read");
                    return None;
                }
                // The runtime shuts down.
                Err(_) => return None,
            }
        }
    }
}
