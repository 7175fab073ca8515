//! What happened since the start.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// Count, sum and maximum of durations.
#[derive(Debug, Default)]
pub struct Timing {
    count: AtomicU64,
    micros: AtomicU64,
    micros_max: AtomicU64,
}

impl Timing {
    pub(super) fn add(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.count.fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(micros, Ordering::Relaxed);
        self.micros_max.fetch_max(micros, Ordering::Relaxed);
    }

    /// How often.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::Relaxed)
    }

    /// On average.
    #[must_use]
    pub fn mean(&self) -> Duration {
        Duration::from_micros(self.micros.load(Ordering::Relaxed) / self.count().max(1))
    }

    /// At most.
    #[must_use]
    pub fn max(&self) -> Duration {
        Duration::from_micros(self.micros_max.load(Ordering::Relaxed))
    }
}

/// Counters of a node.
#[derive(Debug, Default)]
pub struct Counters {
    /// Batches of records made durable, with the time their sync took.
    pub persisted: Timing,
    /// Transitions executed.
    pub replayed: Timing,
    /// States pulled.
    pub pulled: Timing,
    /// Answers with an attestation, repeated ones included.
    pub attested: AtomicU64,
    refused: Mutex<BTreeMap<String, u64>>,
}

impl Counters {
    /// Writes everything to the log.
    pub(super) fn log(&self) {
        let attested = self.attested.load(Ordering::Relaxed);
        tracing::info!(attested, refused = ?self.refused(), "answers since the start");
        for (what, timing) in
            [("persist", &self.persisted), ("replay", &self.replayed), ("pull", &self.pulled)]
        {
            tracing::info!(what, count = timing.count(), mean = ?timing.mean(), max = ?timing.max(), "durations");
        }
    }

    /// Counts a refusal and answers how many of its kind there have been.
    pub(super) fn refuse(&self, kind: &str) -> u64 {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let count = refused.entry(kind.to_owned()).or_default();
        *count += 1;
        *count
    }

    /// Refusals by error kind.
    #[must_use]
    pub fn refused(&self) -> BTreeMap<String, u64> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Whether the `count`-th event of a kind is worth a line: a peer must not be able to fill the log.
pub(super) fn is_logged(count: u64) -> bool {
    count <= 10 || count.is_power_of_two()
}
