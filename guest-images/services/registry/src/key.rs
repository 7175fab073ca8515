//! Where things stand in the state. Numbers are big-endian, so that byte order is numeric order.

use alloc::vec::Vec;

/// First byte of all keys of the registry.
const SPACE: u8 = 0x01;

/// The parsed form of a state key of the registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateKey {
    /// `01 'r' ‖ name`: a [`Record`](crate::Record).
    Record {
        /// The name.
        name: Vec<u8>,
    },
    /// `01 'l' ‖ lease`: a [`Lease`](crate::Lease).
    Lease {
        /// Its identifier.
        id: u64,
    },
    /// `01 'm' ‖ lease ‖ name`, no value: the lease keeps the name.
    LeaseName {
        /// The lease.
        id: u64,
        /// The name.
        name: Vec<u8>,
    },
    /// `01 'x' ‖ expires_ms ‖ lease`, no value: when the lease ends; 0 while it waits for the next tick to begin.
    Expiry {
        /// Service time in milliseconds.
        expires_ms: u64,
        /// The lease.
        id: u64,
    },
    /// `01 'e' ‖ number ‖ sub`: an [`Event`](crate::Event).
    Event {
        /// Number of the entry that caused it.
        number: u64,
        /// Its place among the events of that entry.
        sub: u32,
    },
    /// `01 'c'`: the lowest number from which all events are kept, a little-endian u64.
    LowestEvent,
    /// `01 'g'`: the [`Config`](crate::Config).
    Config,
    /// `01 'n'`: [`Totals`](crate::Totals).
    Totals,
}

impl StateKey {
    /// Bytes of the key.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Record { name } => record_key(name),
            Self::Lease { id } => lease_key(*id),
            Self::LeaseName { id, name } => lease_name_key(*id, name),
            Self::Expiry { expires_ms, id } => expiry_key(*expires_ms, *id),
            Self::Event { number, sub } => event_key(*number, *sub),
            Self::LowestEvent => lowest_event_key(),
            Self::Config => config_key(),
            Self::Totals => totals_key(),
        }
    }

    /// What a key means; none if it is no key of the registry.
    pub fn parse(key: &[u8]) -> Option<Self> {
        let [SPACE, tag, rest @ ..] = key else { return None };
        match (tag, rest) {
            (b'r', name) => named(name).map(|name| Self::Record { name }),
            (b'l', id) => Some(Self::Lease { id: be(id)? }),
            (b'm', rest) => {
                let (id, name) = rest.split_at_checked(8)?;
                Some(Self::LeaseName { id: be(id)?, name: named(name)? })
            }
            (b'x', rest) => {
                let (expires, id) = rest.split_at_checked(8)?;
                Some(Self::Expiry { expires_ms: be(expires)?, id: be(id)? })
            }
            (b'e', rest) => {
                let (number, sub) = rest.split_at_checked(8)?;
                let sub = u32::from_be_bytes(sub.try_into().ok()?);
                Some(Self::Event { number: be(number)?, sub })
            }
            (b'c', []) => Some(Self::LowestEvent),
            (b'g', []) => Some(Self::Config),
            (b'n', []) => Some(Self::Totals),
            _ => None,
        }
    }
}

fn be(bytes: &[u8]) -> Option<u64> {
    bytes.try_into().ok().map(u64::from_be_bytes)
}

fn named(name: &[u8]) -> Option<Vec<u8>> {
    (1..=crate::NAME_BYTES_MAX).contains(&name.len()).then(|| name.to_vec())
}

fn key(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let mut key = Vec::from([SPACE, tag]);
    for part in parts {
        key.extend_from_slice(part);
    }
    key
}

/// Key of the record of a name.
pub fn record_key(name: &[u8]) -> Vec<u8> {
    key(b'r', &[name])
}

/// A key behind all records, which nothing has.
pub(crate) fn records_end() -> Vec<u8> {
    key(b's', &[])
}

/// Key of a lease.
pub fn lease_key(id: u64) -> Vec<u8> {
    key(b'l', &[&id.to_be_bytes()])
}

/// Key that says that a lease keeps a name.
pub fn lease_name_key(id: u64, name: &[u8]) -> Vec<u8> {
    key(b'm', &[&id.to_be_bytes(), name])
}

/// Key that says when a lease ends.
pub fn expiry_key(expires_ms: u64, id: u64) -> Vec<u8> {
    key(b'x', &[&expires_ms.to_be_bytes(), &id.to_be_bytes()])
}

/// Key of an event.
pub fn event_key(number: u64, sub: u32) -> Vec<u8> {
    key(b'e', &[&number.to_be_bytes(), &sub.to_be_bytes()])
}

/// Key of the lowest number from which all events are kept.
pub fn lowest_event_key() -> Vec<u8> {
    key(b'c', &[])
}

/// Key of the configuration.
pub fn config_key() -> Vec<u8> {
    key(b'g', &[])
}

/// Key of the totals.
pub fn totals_key() -> Vec<u8> {
    key(b'n', &[])
}
