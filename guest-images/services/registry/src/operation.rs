//! Operations and their bytes.

use alloc::vec::Vec;

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::encoding::{bounded_bytes, bounded_list, from_bytes, to_bytes};
use quorate_attest::request::BODY_LIMIT;
use quorate_kit::status;

use crate::key::{record_key, records_end};
use crate::{NAME_BYTES_MAX, PAGE_ENTRIES_MAX, TTL_MS_MAX, TXN_OPERATIONS_MAX, VALUE_BYTES_MAX};

/// Numbers of the operations.
pub mod op {
    /// Register a name or change its value.
    pub const REGISTER: u16 = 1;
    /// Deregister a name.
    pub const DEREGISTER: u16 = 2;
    /// Deregister all names of a range.
    pub const DEREGISTER_RANGE: u16 = 3;
    /// Compare, then do one of two lists.
    pub const TXN: u16 = 4;
    /// Grant a lease.
    pub const LEASE_GRANT: u16 = 5;
    /// Let a lease run anew.
    pub const LEASE_RENEW: u16 = 6;
    /// End a lease.
    pub const LEASE_REVOKE: u16 = 7;
    /// Read a name, in order.
    pub const LOOKUP: u16 = 8;
    /// Read names with a prefix, in order.
    pub const LIST: u16 = 9;
    /// Derive a group's quorum.
    pub const DERIVE: u16 = 10;
    /// Read events, in order.
    pub const WATCH: u16 = 11;
}

/// Most elements that a list of a request is read with; what is allowed is less.
const READ_LIMIT: usize = 4_096;

/// Registers a name or changes its value.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Register {
    /// The name, 1 to [`NAME_BYTES_MAX`] bytes.
    #[borsh(deserialize_with = "bounded_bytes::<BODY_LIMIT, _>")]
    pub name: Vec<u8>,
    /// Its value, at most [`VALUE_BYTES_MAX`] bytes.
    #[borsh(deserialize_with = "bounded_bytes::<BODY_LIMIT, _>")]
    pub value: Vec<u8>,
    /// Lease that it shall end with; 0 for none.
    pub lease: u64,
    /// Version it must have, 0 if it must not be there.
    pub expected: Option<u64>,
    /// Whether the result shall tell the record before.
    pub previous: bool,
}

/// Names from `low` on, up to but without `high`.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct NameRange {
    /// Lowest name; empty for the first there is.
    #[borsh(deserialize_with = "bounded_bytes::<BODY_LIMIT, _>")]
    pub low: Vec<u8>,
    /// The name before which it ends, at most one byte longer than a name; none: after the last name.
    pub high: Option<Vec<u8>>,
}

impl NameRange {
    /// Exactly one name.
    pub fn one(name: &[u8]) -> Self {
        let mut high = name.to_vec();
        high.push(0);
        Self { low: name.to_vec(), high: Some(high) }
    }

    /// All names with a prefix.
    pub fn prefix(prefix: &[u8]) -> Self {
        let mut high = prefix.to_vec();
        while high.pop_if(|last| *last == u8::MAX).is_some() {}
        if let Some(last) = high.last_mut() {
            *last += 1;
        }
        Self { low: prefix.to_vec(), high: (!high.is_empty()).then_some(high) }
    }

    /// Whether a name lies in it.
    pub fn contains(&self, name: &[u8]) -> bool {
        name >= self.low.as_slice() && self.high.as_deref().is_none_or(|high| name < high)
    }

    /// The lowest and the highest state key that a record of the range may have, both included; none if the range is empty.
    pub fn keys(&self) -> Option<(Vec<u8>, Vec<u8>)> {
        let low = record_key(&self.low);
        let Some(high) = &self.high else { return Some((low, records_end())) };
        let mut last = high.clone();
        if last.len() > NAME_BYTES_MAX {
            last.truncate(NAME_BYTES_MAX);
        } else if let Some(byte) = last.pop()
            && byte > 0
        {
            last.push(byte - 1);
            last.resize(NAME_BYTES_MAX, u8::MAX);
        }
        let high = record_key(&last);
        (!last.is_empty() && low <= high).then_some((low, high))
    }

    fn check(&self) -> Result<(), u16> {
        at_most(NAME_BYTES_MAX, &self.low)?;
        self.high.iter().try_for_each(|high| at_most(NAME_BYTES_MAX + 1, high))
    }
}

/// Deregisters all names of a range, of which there may be [`CHANGES_MAX`](crate::CHANGES_MAX).
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct DeregisterRange {
    /// Which names.
    pub range: NameRange,
    /// Whether the result shall tell the records removed.
    pub previous: bool,
}

/// How a comparison relates what is there to what is given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Relation {
    /// They are the same.
    Equal,
    /// What is there is greater.
    Greater,
    /// What is there is less.
    Less,
    /// They differ.
    NotEqual,
}

/// What a comparison looks at, and the value given. Numbers of a name that is not there are 0.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Target {
    /// Version.
    Version(u64),
    /// Number of the entry that created it.
    Created(u64),
    /// Number of the entry that changed it last.
    Modified(u64),
    /// Value; no comparison with the value of a name that is not there holds.
    Value(#[borsh(deserialize_with = "bounded_bytes::<BODY_LIMIT, _>")] Vec<u8>),
    /// Lease.
    Lease(u64),
}

/// A comparison.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Compare {
    /// The name.
    #[borsh(deserialize_with = "bounded_bytes::<BODY_LIMIT, _>")]
    pub name: Vec<u8>,
    /// The relation that must hold.
    pub relation: Relation,
    /// What is compared.
    pub target: Target,
}

/// One operation of a transaction.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum TxnOp {
    /// Registers a name or changes its value.
    Put {
        /// The name.
        #[borsh(deserialize_with = "bounded_bytes::<BODY_LIMIT, _>")]
        name: Vec<u8>,
        /// Its value.
        #[borsh(deserialize_with = "bounded_bytes::<BODY_LIMIT, _>")]
        value: Vec<u8>,
        /// Lease that it shall end with; 0 for none.
        lease: u64,
        /// Whether the result shall tell the record before.
        previous: bool,
    },
    /// Deregisters all names of a range.
    DeleteRange(DeregisterRange),
    /// Reads the names of a range.
    Get {
        /// Which names.
        range: NameRange,
        /// Most entries, 1 to [`PAGE_ENTRIES_MAX`].
        limit: u16,
    },
}

/// Does one list of operations if all comparisons hold, and the other if not: all of it or nothing.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Txn {
    /// What must hold, at most [`TXN_OPERATIONS_MAX`] comparisons.
    #[borsh(deserialize_with = "bounded_list::<READ_LIMIT, _, _>")]
    pub compare: Vec<Compare>,
    /// Done if it holds, at most [`TXN_OPERATIONS_MAX`]. No name is put twice, or put and deleted.
    #[borsh(deserialize_with = "bounded_list::<READ_LIMIT, _, _>")]
    pub success: Vec<TxnOp>,
    /// Done if it does not, bounded likewise.
    #[borsh(deserialize_with = "bounded_list::<READ_LIMIT, _, _>")]
    pub failure: Vec<TxnOp>,
}

/// Grants a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct LeaseGrant {
    /// Identifier, at most `i64::MAX`; 0 lets the service choose.
    pub id: u64,
    /// Time to live, 1 to [`TTL_MS_MAX`] milliseconds.
    pub ttl_ms: u64,
}

/// Reads names with a prefix, in order.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct List {
    /// The prefix; empty for all names.
    #[borsh(deserialize_with = "bounded_bytes::<BODY_LIMIT, _>")]
    pub prefix: Vec<u8>,
    /// Lowest name; empty for the first.
    #[borsh(deserialize_with = "bounded_bytes::<BODY_LIMIT, _>")]
    pub from: Vec<u8>,
    /// Most entries, 1 to [`PAGE_ENTRIES_MAX`].
    pub limit: u16,
}

/// Reads events, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Watch {
    /// Lowest number.
    pub number: u64,
    /// Lowest place among the events of that number.
    pub sub: u32,
    /// Most events, 1 to [`PAGE_ENTRIES_MAX`].
    pub limit: u16,
}

/// What a client asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Register a name or change its value.
    Register(Register),
    /// Deregister a name.
    Deregister {
        /// The name.
        name: Vec<u8>,
        /// Version it must have.
        expected: Option<u64>,
        /// Whether the result shall tell the record removed.
        previous: bool,
    },
    /// Deregister all names of a range.
    DeregisterRange(DeregisterRange),
    /// Compare, then do one of two lists.
    Txn(Txn),
    /// Grant a lease.
    LeaseGrant(LeaseGrant),
    /// Let a lease run anew.
    LeaseRenew {
        /// The lease.
        id: u64,
    },
    /// End a lease and deregister its names.
    LeaseRevoke {
        /// The lease.
        id: u64,
    },
    /// Read a name, in order.
    Lookup {
        /// The name.
        name: Vec<u8>,
    },
    /// Read names with a prefix, in order.
    List(List),
    /// Derive the quorum of a group.
    Derive {
        /// Members.
        n: u64,
        /// How many of them may be Byzantine.
        f: u64,
    },
    /// Read events, in order.
    Watch(Watch),
}

impl Operation {
    /// Number of the operation.
    pub fn op(&self) -> u16 {
        match self {
            Self::Register(_) => op::REGISTER,
            Self::Deregister { .. } => op::DEREGISTER,
            Self::DeregisterRange(_) => op::DEREGISTER_RANGE,
            Self::Txn(_) => op::TXN,
            Self::LeaseGrant(_) => op::LEASE_GRANT,
            Self::LeaseRenew { .. } => op::LEASE_RENEW,
            Self::LeaseRevoke { .. } => op::LEASE_REVOKE,
            Self::Lookup { .. } => op::LOOKUP,
            Self::List(_) => op::LIST,
            Self::Derive { .. } => op::DERIVE,
            Self::Watch(_) => op::WATCH,
        }
    }

    /// Body of the request.
    pub fn body(&self) -> Vec<u8> {
        match self {
            Self::Register(register) => to_bytes(register),
            Self::Deregister { name, expected, previous } => to_bytes(&(name, expected, previous)),
            Self::DeregisterRange(range) => to_bytes(range),
            Self::Txn(txn) => to_bytes(txn),
            Self::LeaseGrant(grant) => to_bytes(grant),
            Self::LeaseRenew { id } | Self::LeaseRevoke { id } => to_bytes(id),
            Self::Lookup { name } => to_bytes(name),
            Self::List(list) => to_bytes(list),
            Self::Derive { n, f } => to_bytes(&(n, f)),
            Self::Watch(watch) => to_bytes(watch),
        }
    }

    /// Reads the body of a request and checks every bound.
    ///
    /// # Errors
    /// `MALFORMED`, `TOO_LARGE` or `UNKNOWN_KIND`.
    pub fn decode(number: u16, body: &[u8]) -> Result<Self, u16> {
        let operation = match number {
            op::REGISTER => Self::Register(read(body)?),
            op::DEREGISTER => {
                let (name, expected, previous) = read(body)?;
                Self::Deregister { name, expected, previous }
            }
            op::DEREGISTER_RANGE => Self::DeregisterRange(read(body)?),
            op::TXN => Self::Txn(read(body)?),
            op::LEASE_GRANT => Self::LeaseGrant(read(body)?),
            op::LEASE_RENEW => Self::LeaseRenew { id: read(body)? },
            op::LEASE_REVOKE => Self::LeaseRevoke { id: read(body)? },
            op::LOOKUP => Self::Lookup { name: read(body)? },
            op::LIST => Self::List(read(body)?),
            op::DERIVE => {
                let (n, f) = read(body)?;
                Self::Derive { n, f }
            }
            op::WATCH => Self::Watch(read(body)?),
            _ => return Err(status::UNKNOWN_KIND),
        };
        operation.check()?;
        Ok(operation)
    }

    /// Checks every bound, as a replica does.
    ///
    /// # Errors
    /// `MALFORMED` or `TOO_LARGE`.
    pub fn check(&self) -> Result<(), u16> {
        match self {
            Self::Register(Register { name: text, value, .. }) => {
                name(text).and_then(|()| at_most(VALUE_BYTES_MAX, value))
            }
            Self::Deregister { name: text, .. } | Self::Lookup { name: text } => name(text),
            Self::DeregisterRange(delete) => delete.range.check(),
            Self::Txn(txn) => txn.check(),
            Self::LeaseGrant(grant) => grant.check(),
            Self::List(list) => {
                at_most(NAME_BYTES_MAX, &list.prefix)?;
                at_most(NAME_BYTES_MAX, &list.from)?;
                page(list.limit)
            }
            Self::Watch(watch) => page(watch.limit),
            Self::LeaseRenew { .. } | Self::LeaseRevoke { .. } | Self::Derive { .. } => Ok(()),
        }
    }
}

impl LeaseGrant {
    fn check(&self) -> Result<(), u16> {
        match (self.id, self.ttl_ms) {
            (id, _) if i64::try_from(id).is_err() => Err(status::MALFORMED),
            (_, 0) => Err(status::MALFORMED),
            (_, 1..=TTL_MS_MAX) => Ok(()),
            _ => Err(status::TOO_LARGE),
        }
    }
}

impl Txn {
    fn check(&self) -> Result<(), u16> {
        let longest = self.compare.len().max(self.success.len()).max(self.failure.len());
        if longest > TXN_OPERATIONS_MAX {
            return Err(status::TOO_LARGE);
        }
        for compare in &self.compare {
            name(&compare.name)?;
            if let Target::Value(value) = &compare.target {
                at_most(VALUE_BYTES_MAX, value)?;
            }
        }
        self.success.iter().chain(&self.failure).try_for_each(TxnOp::check)?;
        check_distinct(&self.success)?;
        check_distinct(&self.failure)
    }
}

impl TxnOp {
    fn check(&self) -> Result<(), u16> {
        match self {
            Self::Put { name: text, value, .. } => name(text).and_then(|()| at_most(VALUE_BYTES_MAX, value)),
            Self::DeleteRange(delete) => delete.range.check(),
            Self::Get { range, limit } => range.check().and_then(|()| page(*limit)),
        }
    }
}

/// As in etcd: within one number a name has one fate, or else its version would not tell how often it changed.
fn check_distinct(operations: &[TxnOp]) -> Result<(), u16> {
    let mut names: Vec<&[u8]> = Vec::new();
    for operation in operations {
        if let TxnOp::Put { name, .. } = operation {
            names.push(name);
        }
    }
    names.sort_unstable();
    let twice = names.windows(2).any(|pair| pair[0] == pair[1]);
    let deleted = operations.iter().any(|operation| match operation {
        TxnOp::DeleteRange(delete) => names.iter().any(|name| delete.range.contains(name)),
        _ => false,
    });
    if twice || deleted { Err(status::MALFORMED) } else { Ok(()) }
}

fn read<T: BorshSerialize + BorshDeserialize>(body: &[u8]) -> Result<T, u16> {
    from_bytes(body, BODY_LIMIT).map_err(|_| status::MALFORMED)
}

fn name(name: &[u8]) -> Result<(), u16> {
    if name.is_empty() { Err(status::MALFORMED) } else { at_most(NAME_BYTES_MAX, name) }
}

fn at_most(limit: usize, bytes: &[u8]) -> Result<(), u16> {
    if bytes.len() <= limit { Ok(()) } else { Err(status::TOO_LARGE) }
}

fn page(limit: u16) -> Result<(), u16> {
    match limit {
        0 => Err(status::MALFORMED),
        1..=PAGE_ENTRIES_MAX => Ok(()),
        _ => Err(status::TOO_LARGE),
    }
}
