//! Reads of the service registry that need more than one proven answer, put together so that they hold at one number.
//!
//! An answer has room for a bounded number of entries, and others write meanwhile. Every page is proved at its own number;
//! the proven events in between bring all of them to the newest of these numbers.

use std::collections::BTreeMap;

use quorate_attest::encoding::{Bounded, DecodeError};
use quorate_registry::{
    Event, NameRange, NumberedEvent, PAGE_ENTRIES_MAX, Record, StateKey, event_key, lowest_event_key,
    record_key,
};

use crate::backend::{Backend, Freshness, Page, Read, ServiceError};

/// Most bytes of names and values that one read holds.
const SNAPSHOT_BYTES_MAX: usize = 32 << 20;
/// How often a read begins again that was overtaken by more writes than the registry keeps events of.
const ATTEMPTS: usize = 3;

/// Why a read has no result.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// There is no answer that can be believed.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// A proven entry is none of a registry's: the service is another one.
    #[error("a proven entry is none of a service registry: {0}")]
    Decode(#[from] DecodeError),
    /// Names and values are over the limit.
    #[error("the names and values are more than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// While it was read, more was written than the registry keeps.
    #[error("more was written meanwhile than the registry keeps events of")]
    Overtaken,
}

impl ReadError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &str {
        match self {
            Self::Service(error) => error.kind(),
            Self::Decode(_) => "DecodeError",
            Self::TooLarge { .. } => "MessageTooLarge",
            Self::Overtaken => "Busy",
        }
    }
}

/// All names of a range, as they were at one number.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// Newest entry of the log that is taken into account.
    pub number: u64,
    /// The records by name.
    pub records: BTreeMap<Vec<u8>, Record>,
}

/// What happened from some number on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum History {
    /// Everything, up to and including `number`.
    Complete {
        /// Ascending by number and place.
        events: Vec<NumberedEvent>,
        /// Newest entry of the log that is taken into account.
        number: u64,
    },
    /// Not everything is kept any more.
    Compacted {
        /// Lowest number from which it is.
        lowest: u64,
    },
}

/// The record of one name.
///
/// # Errors
/// There is no answer that can be believed.
pub async fn record(
    backend: &dyn Backend,
    name: &[u8],
    freshness: Freshness,
) -> Result<Read<Option<Record>>, ReadError> {
    let Read { value, number, proof } = backend.get(&record_key(name), freshness).await?;
    let value = value.map(|value| Record::decoded(&value)).transpose()?;
    Ok(Read { value, number, proof })
}

/// All names of a range.
///
/// # Errors
/// There is no answer that can be believed; there is too much.
pub async fn snapshot(
    backend: &dyn Backend,
    range: &NameRange,
    freshness: Freshness,
) -> Result<Snapshot, ReadError> {
    let mut freshness = freshness;
    for _ in 0..ATTEMPTS {
        let (mut snapshot, first) = pages(backend, range, freshness).await?;
        if first == snapshot.number {
            return Ok(snapshot);
        }
        let History::Complete { events, .. } =
            history(backend, first + 1, Freshness::AtLeast(snapshot.number + 1)).await?
        else {
            freshness = Freshness::AtLeast(snapshot.number + 1);
            continue;
        };
        let until = snapshot.number;
        for NumberedEvent { event: Event { put, name, record }, .. } in
            events.into_iter().filter(|event| event.number <= until && range.contains(&event.event.name))
        {
            match put {
                true => snapshot.records.insert(name, record),
                false => snapshot.records.remove(&name),
            };
        }
        return Ok(snapshot);
    }
    Err(ReadError::Overtaken)
}

/// Every page at its own number: the snapshot has the newest of them, the other one is the oldest.
async fn pages(
    backend: &dyn Backend,
    range: &NameRange,
    freshness: Freshness,
) -> Result<(Snapshot, u64), ReadError> {
    let (mut snapshot, mut bytes) = (Snapshot::default(), 0);
    let Some((low, high)) = range.keys() else {
        snapshot.number = lowest(backend, freshness).await?.number;
        let number = snapshot.number;
        return Ok((snapshot, number));
    };
    let mut all = Pages::new(low, high, freshness);
    while let Some(entries) = all.next(backend).await? {
        for (key, value) in entries {
            let Some(StateKey::Record { name }) = StateKey::parse(&key) else { continue };
            bytes += name.len() + value.len();
            if bytes > SNAPSHOT_BYTES_MAX {
                return Err(ReadError::TooLarge { limit: SNAPSHOT_BYTES_MAX });
            }
            snapshot.records.insert(name, Record::decoded(&value)?);
        }
    }
    snapshot.number = all.newest;
    Ok((snapshot, all.oldest.unwrap_or_default()))
}

/// Everything that happened from entry `from` of the log on.
///
/// # Errors
/// There is no answer that can be believed.
pub async fn history(backend: &dyn Backend, from: u64, freshness: Freshness) -> Result<History, ReadError> {
    let mut all = Pages::new(event_key(from, 0), event_key(u64::MAX, u32::MAX), freshness);
    let mut events = Vec::new();
    while let Some(entries) = all.next(backend).await? {
        for (key, value) in entries {
            let Some(StateKey::Event { number, sub }) = StateKey::parse(&key) else { continue };
            events.push(NumberedEvent { number, sub, event: Event::decoded(&value)? });
        }
    }
    if all.newest < from {
        return Ok(History::Complete { events, number: all.newest });
    }
    // Events are dropped in order: if none from here on is missing after the last page, none was missing before.
    let lowest = lowest(backend, Freshness::AtLeast(all.newest + 1)).await?.value;
    match lowest > from {
        true => Ok(History::Compacted { lowest }),
        false => Ok(History::Complete { events, number: all.newest }),
    }
}

/// The lowest number from which all events are kept.
///
/// # Errors
/// There is no answer that can be believed.
pub async fn lowest(backend: &dyn Backend, freshness: Freshness) -> Result<Read<u64>, ReadError> {
    let Read { value, number, proof } = backend.get(&lowest_event_key(), freshness).await?;
    // Nothing has been dropped while it is not written.
    let value = value.map(|value| quorate_attest::encoding::from_bytes(&value, 8)).transpose()?;
    Ok(Read { value: value.unwrap_or_default(), number, proof })
}

/// Keys from `low` to `high`, a page at a time, each at least as new as the first.
pub struct Pages {
    low: Option<Vec<u8>>,
    high: Vec<u8>,
    freshness: Freshness,
    /// Lowest number that a page was proved at.
    oldest: Option<u64>,
    /// Highest number that a page was proved at.
    pub newest: u64,
}

impl Pages {
    /// Begins at `low`; `high` is included.
    pub fn new(low: Vec<u8>, high: Vec<u8>, freshness: Freshness) -> Self {
        let low = (low <= high).then_some(low);
        Self { low, high, freshness, oldest: None, newest: 0 }
    }

    /// Whether all pages were proved at the same number.
    pub fn at_one_number(&self) -> bool {
        self.oldest.is_none_or(|oldest| oldest == self.newest)
    }

    /// The next entries; none at the end.
    ///
    /// # Errors
    /// There is no answer that can be believed.
    pub async fn next(
        &mut self,
        backend: &dyn Backend,
    ) -> Result<Option<Vec<(Vec<u8>, Vec<u8>)>>, ServiceError> {
        let Some(low) = self.low.take() else { return Ok(None) };
        let read = backend.range(&low, &self.high, PAGE_ENTRIES_MAX, self.freshness).await?;
        let Read { value: Page { entries, more }, number, .. } = read;
        self.newest = self.newest.max(number);
        let oldest = *self.oldest.get_or_insert(number);
        self.freshness = Freshness::AtLeast(oldest + 1);
        if let (true, Some((last, _))) = (more, entries.last()) {
            // The least key above the last one: nothing lies between.
            self.low = Some([last.as_slice(), &[0]].concat()).filter(|low| *low <= self.high);
        }
        Ok(Some(entries))
    }
}
