//! Reading in order: answers that end where they would become too long.

use alloc::vec::Vec;

use borsh::BorshSerialize;
use quorate_attest::encoding::{Bounded, to_bytes};
use quorate_kit::status;

use crate::store::Store;
use crate::{Entry, Event, NameRange, NumberedEvent, OUTCOME_BYTES_MAX, Page, Record, Watch, Watched};

/// Bytes of an outcome beside the entries of its lists: tags, numbers, lengths.
const FIXED_BYTES: usize = 64;

/// Bytes of the result of one operation of a transaction beside its entries.
const RESULT_BYTES: usize = 16;

/// What is left of an answer.
pub(crate) struct Room(usize);

impl Room {
    pub(crate) fn for_outcome() -> Self {
        Self(OUTCOME_BYTES_MAX - FIXED_BYTES)
    }

    fn fits(&mut self, bytes: usize) -> bool {
        match self.0.checked_sub(bytes) {
            Some(left) => {
                self.0 = left;
                true
            }
            None => false,
        }
    }

    /// Counts something that the answer must contain.
    pub(crate) fn take<T: BorshSerialize>(&mut self, part: &T) -> Result<(), u16> {
        if self.fits(to_bytes(part).len()) { Ok(()) } else { Err(status::LIMIT) }
    }

    /// Counts the result of an operation of a transaction.
    pub(crate) fn take_result(&mut self) -> Result<(), u16> {
        if self.fits(RESULT_BYTES) { Ok(()) } else { Err(status::LIMIT) }
    }
}

impl Store<'_, '_> {
    /// Names of a range with their records: as many as were asked for and fit.
    pub(crate) fn page(&self, range: &NameRange, limit: u16, room: &mut Room) -> Result<Page, u16> {
        let mut page = Page::default();
        for (name, value) in self.range(range, usize::from(limit) + 1) {
            let full = page.entries.len() == usize::from(limit);
            if full || !room.fits(4 + name.len() + value.len()) {
                page.more = true;
                break;
            }
            // The store writes nothing else.
            let record = Record::decoded(value).map_err(|_| status::CONFLICT)?;
            page.entries.push(Entry { name: name.to_vec(), record });
        }
        // An empty page that goes on would not let its reader go on.
        if page.more && page.entries.is_empty() { Err(status::LIMIT) } else { Ok(page) }
    }

    /// Events from a place on: as many as were asked for and fit.
    pub(crate) fn watched(&self, watch: &Watch) -> Result<Watched, u16> {
        let lowest = self.lowest_event();
        if watch.number < lowest {
            return Ok(Watched::Compacted { lowest });
        }
        let mut room = Room::for_outcome();
        let (mut events, mut more) = (Vec::new(), false);
        for (number, sub, value) in self.events(watch.number, watch.sub, usize::from(watch.limit) + 1) {
            if events.len() == usize::from(watch.limit) || !room.fits(12 + value.len()) {
                more = true;
                break;
            }
            let event = Event::decoded(value).map_err(|_| status::CONFLICT)?;
            events.push(NumberedEvent { number, sub, event });
        }
        if more && events.is_empty() { Err(status::LIMIT) } else { Ok(Watched::Events { events, more }) }
    }
}
