//! Names, leases and events in the state, as one entry of the log changes them.

use alloc::vec::Vec;

use quorate_attest::encoding::{Bounded, from_bytes, to_bytes};
use quorate_attest::key::PublicKey;
use quorate_kit::{State, status};

use crate::{
    CHANGES_MAX, Config, EVENTS_MAX, Event, LEASE_NAMES_MAX, Lease, NameRange, Record, SERVICES_MAX,
    StateKey, Totals, config_key, event_key, expiry_key, lease_key, lease_name_key, lowest_event_key,
    record_key, totals_key,
};

/// Who asks.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Author<'a> {
    pub(crate) client: &'a PublicKey,
    pub(crate) admin: bool,
}

impl Author<'_> {
    /// Whether the author may change what `owner` owns.
    pub(crate) fn check(&self, owner: &PublicKey) -> Result<(), u16> {
        if self.admin || self.client == owner { Ok(()) } else { Err(status::NOT_AUTHORIZED) }
    }
}

/// The state while one entry is executed.
pub(crate) struct Store<'s, 'a> {
    state: &'s mut State<'a>,
    /// Number of the entry.
    pub(crate) number: u64,
    time_ms: u64,
    pub(crate) totals: Totals,
    event_bytes_max: u64,
    /// Names changed.
    changes: usize,
    /// Place of the next event.
    sub: u32,
    /// The events of this entry did not fit, so that none of them is kept.
    events_lost: bool,
    /// No older event stands before this key.
    oldest: Vec<u8>,
    /// Roughly what the changes so far hold until they are made, in bytes.
    cost: usize,
}

/// What a change costs beside its bytes; at least what the kit counts.
const CHANGE_COST: usize = 192;

/// Writes what an empty registry consists of.
pub(crate) fn create(state: &mut State<'_>, config: &Config) -> Result<(), u16> {
    state.put(config_key(), config.encoded())?;
    state.put(lowest_event_key(), to_bytes(&1u64))?;
    state.put(totals_key(), Totals::default().encoded())
}

/// The configuration.
pub(crate) fn config(state: &State<'_>) -> Result<Config, u16> {
    state.get(&config_key()).and_then(|bytes| Config::decoded(bytes).ok()).ok_or(status::BAD_CONFIG)
}

impl<'s, 'a> Store<'s, 'a> {
    pub(crate) fn open(
        state: &'s mut State<'a>,
        number: u64,
        time_ms: u64,
        event_bytes_max: u64,
    ) -> Result<Self, u16> {
        let totals = state.get(&totals_key()).and_then(|bytes| Totals::decoded(bytes).ok());
        let totals = totals.ok_or(status::BAD_CONFIG)?;
        let (changes, sub, events_lost, oldest, cost) = (0, 0, false, event_key(0, 0), 0);
        Ok(Self { state, number, time_ms, totals, event_bytes_max, changes, sub, events_lost, oldest, cost })
    }

    /// Writes the totals, if anything changed.
    pub(crate) fn finish(mut self) -> Result<(), u16> {
        match self.cost {
            0 => Ok(()),
            _ => self.write(totals_key(), self.totals.encoded()),
        }
    }

    pub(crate) fn time_ms(&self) -> u64 {
        self.time_ms
    }

    pub(crate) fn cost(&self) -> usize {
        self.cost
    }

    fn write(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), u16> {
        self.cost += CHANGE_COST + key.len() + value.len();
        self.state.put(key, value)
    }

    /// Writes what a name or lease consists of, for which events make room.
    fn store(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<(), u16> {
        loop {
            match self.write(key.clone(), value.clone()) {
                Err(status::LIMIT) if self.forget_oldest()? => {}
                done => return done,
            }
        }
    }

    fn erase(&mut self, key: &[u8]) {
        self.cost += CHANGE_COST + key.len();
        self.state.remove(key);
    }

    /// The record of a name.
    pub(crate) fn record(&self, name: &[u8]) -> Option<Record> {
        self.state.get(&record_key(name)).and_then(|bytes| Record::decoded(bytes).ok())
    }

    /// The first entries of the state from `low` to `high`.
    fn entries(&self, low: &[u8], high: &[u8], limit: usize) -> Vec<(&[u8], &[u8])> {
        self.state.range(low, high).take(limit).collect()
    }

    /// The first names of a range with their encoded records.
    pub(crate) fn range(&self, range: &NameRange, limit: usize) -> Vec<(&[u8], &[u8])> {
        let Some((low, high)) = range.keys() else { return Vec::new() };
        let entries = self.entries(&low, &high, limit);
        entries.into_iter().map(|(key, value)| (&key[2..], value)).collect()
    }

    /// Registers a name or changes its value; returns the record before.
    pub(crate) fn put(
        &mut self,
        author: Author<'_>,
        name: &[u8],
        value: Vec<u8>,
        lease: u64,
    ) -> Result<Option<Record>, u16> {
        let before = self.record(name);
        if let Some(record) = &before {
            author.check(&record.owner)?;
        } else if self.totals.services >= SERVICES_MAX {
            return Err(status::LIMIT);
        }
        self.attach(author, name, lease, before.as_ref().map_or(0, |record| record.lease))?;
        let number = self.number;
        let record = match &before {
            Some(Record { owner, created, version, .. }) => Record {
                value,
                owner: *owner,
                lease,
                created: *created,
                modified: number,
                version: version + 1,
            },
            None => {
                Record { value, owner: *author.client, lease, created: number, modified: number, version: 1 }
            }
        };
        self.store(record_key(name), record.encoded())?;
        self.totals.services += u64::from(before.is_none());
        self.changed(true, name, record)?;
        Ok(before)
    }

    fn attach(&mut self, author: Author<'_>, name: &[u8], lease: u64, before: u64) -> Result<(), u16> {
        if lease != 0 {
            let found = self.running_lease(lease).ok_or(status::NOT_FOUND)?;
            author.check(&found.owner)?;
        }
        if lease == before {
            return Ok(());
        }
        if before != 0 {
            self.erase(&lease_name_key(before, name));
        }
        if lease != 0 {
            if self.lease_names(lease, LEASE_NAMES_MAX).len() >= LEASE_NAMES_MAX {
                return Err(status::LIMIT);
            }
            self.store(lease_name_key(lease, name), Vec::new())?;
        }
        Ok(())
    }

    /// Deregisters a name whose record is `record`.
    pub(crate) fn remove(&mut self, name: &[u8], record: Record) -> Result<(), u16> {
        self.erase(&record_key(name));
        if record.lease != 0 {
            self.erase(&lease_name_key(record.lease, name));
        }
        self.totals.services -= 1;
        self.changed(false, name, record)
    }

    fn changed(&mut self, put: bool, name: &[u8], record: Record) -> Result<(), u16> {
        self.changes += 1;
        if self.changes > CHANGES_MAX {
            return Err(status::LIMIT);
        }
        self.keep(&Event { put, name: name.to_vec(), record })
    }

    /// Keeps an event, in the place of older ones if need be.
    ///
    /// A full state must not keep a name from being deregistered. If there is no room even then, the events of this entry
    /// are lost and the window begins behind it, which watchers see.
    fn keep(&mut self, event: &Event) -> Result<(), u16> {
        if self.events_lost {
            return Ok(());
        }
        let (key, value) = (event_key(self.number, self.sub), event.encoded());
        self.sub += 1;
        let bytes = (key.len() + value.len()) as u64;
        loop {
            let full =
                self.totals.events >= EVENTS_MAX || self.totals.event_bytes + bytes > self.event_bytes_max;
            if !full && self.write(key.clone(), value.clone()).is_ok() {
                self.totals.events += 1;
                self.totals.event_bytes += bytes;
                return Ok(());
            }
            if !self.forget_oldest()? {
                return self.lose_events();
            }
        }
    }

    /// Removes the oldest event of an earlier entry; false if there is none.
    fn forget_oldest(&mut self) -> Result<bool, u16> {
        let high = event_key(self.number.saturating_sub(1), u32::MAX);
        let Some((key, bytes)) = self.first(&self.oldest, &high) else { return Ok(false) };
        let Some(StateKey::Event { number, .. }) = StateKey::parse(&key) else { return Ok(false) };
        self.forget(&key, bytes);
        self.oldest = key;
        self.write(lowest_event_key(), to_bytes(&(number + 1)))?;
        Ok(true)
    }

    fn lose_events(&mut self) -> Result<(), u16> {
        let (low, high) = (event_key(self.number, 0), event_key(self.number, u32::MAX));
        while let Some((key, bytes)) = self.first(&low, &high) {
            self.forget(&key, bytes);
        }
        self.events_lost = true;
        self.write(lowest_event_key(), to_bytes(&(self.number + 1)))
    }

    fn forget(&mut self, key: &[u8], bytes: u64) {
        self.erase(key);
        self.totals.events -= 1;
        self.totals.event_bytes -= bytes;
    }

    /// First key from `low` to `high` and the bytes of its entry.
    fn first(&self, low: &[u8], high: &[u8]) -> Option<(Vec<u8>, u64)> {
        self.state
            .range(low, high)
            .next()
            .map(|(key, value)| (key.to_vec(), (key.len() + value.len()) as u64))
    }

    /// Lowest number from which all events are kept.
    pub(crate) fn lowest_event(&self) -> u64 {
        self.state.get(&lowest_event_key()).and_then(|bytes| from_bytes(bytes, 8).ok()).unwrap_or(u64::MAX)
    }

    /// The first events from a place on, as number, place and encoding.
    pub(crate) fn events(&self, number: u64, sub: u32, limit: usize) -> Vec<(u64, u32, &[u8])> {
        let entries = self.entries(&event_key(number, sub), &event_key(u64::MAX, u32::MAX), limit);
        let place = |(key, value)| match StateKey::parse(key) {
            Some(StateKey::Event { number, sub }) => Some((number, sub, value)),
            _ => None,
        };
        entries.into_iter().filter_map(place).collect()
    }

    pub(crate) fn lease(&self, id: u64) -> Option<Lease> {
        self.state.get(&lease_key(id)).and_then(|bytes| Lease::decoded(bytes).ok())
    }

    /// A lease that has not ended, also if its names still wait to be deregistered.
    pub(crate) fn running_lease(&self, id: u64) -> Option<Lease> {
        self.lease(id).filter(|lease| lease.expires_ms == 0 || lease.expires_ms > self.time_ms)
    }

    /// The first names that a lease keeps.
    pub(crate) fn lease_names(&self, id: u64, limit: usize) -> Vec<Vec<u8>> {
        // No name is empty, so the upper key is nobody's.
        let high = lease_name_key(id.saturating_add(1), &[]);
        let entries = self.entries(&lease_name_key(id, &[]), &high, limit);
        entries.into_iter().map(|(key, _)| key[10..].to_vec()).collect()
    }

    /// Lets a lease end at `lease.expires_ms`, which is 0 while it waits for a tick.
    pub(crate) fn set_lease(&mut self, id: u64, lease: Lease) -> Result<(), u16> {
        match self.lease(id) {
            Some(before) => self.erase(&expiry_key(before.expires_ms, id)),
            None => self.totals.leases += 1,
        }
        self.store(expiry_key(lease.expires_ms, id), Vec::new())?;
        self.store(lease_key(id), lease.encoded())
    }

    /// Removes a lease that keeps no name.
    pub(crate) fn remove_lease(&mut self, id: u64, lease: &Lease) {
        self.erase(&expiry_key(lease.expires_ms, id));
        self.erase(&lease_key(id));
        self.totals.leases -= 1;
    }

    /// The first leases that end at a time from `low` to `high`.
    pub(crate) fn ending(&self, low: u64, high: u64, limit: usize) -> Vec<u64> {
        let entries = self.entries(&expiry_key(low, 0), &expiry_key(high, u64::MAX), limit);
        let lease = |(key, _)| match StateKey::parse(key) {
            Some(StateKey::Expiry { id, .. }) => Some(id),
            _ => None,
        };
        entries.into_iter().filter_map(lease).collect()
    }
}
