//! What the state holds under its keys.

use alloc::vec::Vec;

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::encoding::{Bounded, bounded_bytes};
use quorate_attest::key::PublicKey;

use crate::{NAME_BYTES_MAX, VALUE_BYTES_MAX};

/// A registered name.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Record {
    /// What was registered; commonly [`Endpoints`](crate::endpoint::Endpoints).
    #[borsh(deserialize_with = "bounded_bytes::<VALUE_BYTES_MAX, _>")]
    pub value: Vec<u8>,
    /// Who registered it first, and may change it.
    pub owner: PublicKey,
    /// The lease it ends with; 0 if none.
    pub lease: u64,
    /// Number of the entry that created it.
    pub created: u64,
    /// Number of the entry that changed it last.
    pub modified: u64,
    /// How often it was registered since it was created, from 1 on.
    pub version: u64,
}

impl Bounded for Record {
    const LIMIT: usize = 4 + VALUE_BYTES_MAX + 32 + 4 * 8;
}

/// A lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Lease {
    /// Who may renew and revoke it, and attach names.
    pub owner: PublicKey,
    /// Time to live, in milliseconds.
    pub ttl_ms: u64,
    /// Service time at which it ends; 0 until the first tick after it was granted, from which it runs.
    pub expires_ms: u64,
}

impl Bounded for Lease {
    const LIMIT: usize = 32 + 8 + 8;
}

/// A change of one name.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Event {
    /// Registered, or else deregistered.
    pub put: bool,
    /// The name.
    #[borsh(deserialize_with = "bounded_bytes::<NAME_BYTES_MAX, _>")]
    pub name: Vec<u8>,
    /// The record that was written, or the one that was removed.
    pub record: Record,
}

impl Bounded for Event {
    const LIMIT: usize = 1 + 4 + NAME_BYTES_MAX + Record::LIMIT;
}

/// What is counted, so that limits need no scan.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Totals {
    /// Names registered.
    pub services: u64,
    /// Leases.
    pub leases: u64,
    /// Events kept.
    pub events: u64,
    /// Bytes of the events kept, keys and values.
    pub event_bytes: u64,
}

impl Bounded for Totals {
    const LIMIT: usize = 4 * 8;
}
