//! The map and its budget.

use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::ops::Bound;

use crate::operation::{Entry, Page};
use crate::{PAGE_BYTES_MAX, VALUE_BYTES_MAX};

/// What an entry costs beyond its bytes: its share of a half-full tree node and two allocation headers.
const ENTRY_OVERHEAD_BYTES: u64 = 192;

/// The budget does not allow the change; nothing changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OverBudget;

/// A bounded sorted map.
pub(crate) struct Store {
    entries: BTreeMap<Vec<u8>, Box<[u8]>>,
    entries_max: usize,
    used_bytes: u64,
}

fn cost(key: &[u8], value_bytes: usize) -> u64 {
    key.len() as u64 + value_bytes as u64 + ENTRY_OVERHEAD_BYTES
}

impl Store {
    pub(crate) fn new(entries_max: usize) -> Self {
        Self { entries: BTreeMap::new(), entries_max, used_bytes: 0 }
    }

    /// What all entries cost.
    pub(crate) fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.entries.get(key).map(AsRef::as_ref)
    }

    /// Writes a value; returns whether there was one. All entries together may then cost `budget_bytes`.
    pub(crate) fn put(
        &mut self,
        key: Vec<u8>,
        value: Vec<u8>,
        budget_bytes: u64,
    ) -> Result<bool, OverBudget> {
        debug_assert!(value.len() <= VALUE_BYTES_MAX);
        let before = self.get(&key).map(|old| cost(&key, old.len()));
        if before.is_none() && self.entries.len() >= self.entries_max {
            return Err(OverBudget);
        }
        let after = self.used_bytes - before.unwrap_or(0) + cost(&key, value.len());
        if after > budget_bytes && after > self.used_bytes {
            return Err(OverBudget);
        }
        self.used_bytes = after;
        let mut key = key;
        key.shrink_to_fit();
        self.entries.insert(key, value.into_boxed_slice());
        Ok(before.is_some())
    }

    /// Removes a value; returns whether there was one.
    pub(crate) fn delete(&mut self, key: &[u8]) -> bool {
        let Some(value) = self.entries.remove(key) else { return false };
        self.used_bytes -= cost(key, value.len());
        true
    }

    /// Entries whose keys start with `prefix`, behind `after`, at most `limit` of them or [`PAGE_BYTES_MAX`] of keys.
    pub(crate) fn list(&self, prefix: &[u8], after: Option<&[u8]>, limit: usize) -> Page {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut matching = self
            .entries
            .range::<[u8], _>((start, Bound::Unbounded))
            .take_while(|(key, _)| key.starts_with(prefix));
        let mut page = Page::default();
        let mut bytes = 0;
        for (key, value) in matching.by_ref() {
            if page.entries.len() == limit || (bytes + key.len() > PAGE_BYTES_MAX && !page.entries.is_empty())
            {
                page.more = true;
                break;
            }
            bytes += key.len();
            page.entries.push(Entry { key: key.clone(), value_bytes: value.len() as u32 });
        }
        page
    }
}
