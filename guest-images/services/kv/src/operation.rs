//! Operations, answers and refusals, and their bytes.

use alloc::vec::Vec;

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::encoding::{Bounded, DecodeError, from_bytes, to_bytes};
use quorate_attest::request::{BODY_LIMIT, status};
use sha2::{Digest, Sha256};

use crate::{KEY_BYTES_MAX, PAGE_ENTRIES_MAX, VALUE_BYTES_MAX};

/// Numbers of the operations.
pub mod op {
    /// Read a value.
    pub const GET: u16 = 1;
    /// Write a value.
    pub const PUT: u16 = 2;
    /// Remove a value.
    pub const DELETE: u16 = 3;
    /// Write or remove a value if it is the expected one.
    pub const COMPARE_AND_SWAP: u16 = 4;
    /// Name the keys with a prefix.
    pub const LIST: u16 = 5;
    /// Load test: hold this many pseudo-random bytes.
    pub const FILL: u16 = 6;
}

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Operation {
    /// Read a value.
    Get {
        /// Key, 1 to [`KEY_BYTES_MAX`] bytes.
        key: Vec<u8>,
    },
    /// Write a value.
    Put {
        /// Key, 1 to [`KEY_BYTES_MAX`] bytes.
        key: Vec<u8>,
        /// Value, at most [`VALUE_BYTES_MAX`] bytes.
        value: Vec<u8>,
    },
    /// Remove a value.
    Delete {
        /// Key, 1 to [`KEY_BYTES_MAX`] bytes.
        key: Vec<u8>,
    },
    /// Write or remove a value if it is the expected one.
    CompareAndSwap {
        /// Key, 1 to [`KEY_BYTES_MAX`] bytes.
        key: Vec<u8>,
        /// What must be there: a value or nothing.
        expected: Option<Vec<u8>>,
        /// What shall be there: a value or nothing.
        value: Option<Vec<u8>>,
    },
    /// Name the keys with a prefix, in order.
    List {
        /// Prefix, at most [`KEY_BYTES_MAX`] bytes, may be empty.
        prefix: Vec<u8>,
        /// Continue behind this key.
        after: Option<Vec<u8>>,
        /// Most entries wanted, 1 to [`PAGE_ENTRIES_MAX`].
        limit: u16,
    },
    /// Load test: replace the arena by this many pseudo-random bytes.
    Fill {
        /// Bytes, rounded down to whole words; 0 frees the arena.
        bytes: u64,
        /// Seed of the words.
        seed: u64,
    },
}

type Swap = (Vec<u8>, Option<Vec<u8>>, Option<Vec<u8>>);
type Listing = (Vec<u8>, Option<Vec<u8>>, u16);

impl Operation {
    /// Number of the operation.
    pub fn op(&self) -> u16 {
        match self {
            Self::Get { .. } => op::GET,
            Self::Put { .. } => op::PUT,
            Self::Delete { .. } => op::DELETE,
            Self::CompareAndSwap { .. } => op::COMPARE_AND_SWAP,
            Self::List { .. } => op::LIST,
            Self::Fill { .. } => op::FILL,
        }
    }

    /// Body of the request.
    pub fn body(&self) -> Vec<u8> {
        match self {
            Self::Get { key } | Self::Delete { key } => to_bytes(key),
            Self::Put { key, value } => to_bytes(&(key, value)),
            Self::CompareAndSwap { key, expected, value } => to_bytes(&(key, expected, value)),
            Self::List { prefix, after, limit } => to_bytes(&(prefix, after, limit)),
            Self::Fill { bytes, seed } => to_bytes(&(bytes, seed)),
        }
    }

    /// Reads the body of a request and checks every length, or says with which status it fails.
    pub fn decode(number: u16, body: &[u8]) -> Result<Self, u16> {
        let operation = match number {
            op::GET => Self::Get { key: read(body)? },
            op::PUT => {
                let (key, value) = read(body)?;
                Self::Put { key, value }
            }
            op::DELETE => Self::Delete { key: read(body)? },
            op::COMPARE_AND_SWAP => {
                let (key, expected, value): Swap = read(body)?;
                Self::CompareAndSwap { key, expected, value }
            }
            op::LIST => {
                let (prefix, after, limit): Listing = read(body)?;
                Self::List { prefix, after, limit }
            }
            op::FILL => {
                let (bytes, seed) = read(body)?;
                Self::Fill { bytes, seed }
            }
            _ => return Err(status::UNKNOWN_KIND),
        };
        operation.check()?;
        Ok(operation)
    }

    fn check(&self) -> Result<(), u16> {
        let key = |key: &Vec<u8>| match key.len() {
            0 => Err(status::MALFORMED),
            1..=KEY_BYTES_MAX => Ok(()),
            _ => Err(status::TOO_LARGE),
        };
        let at_most =
            |limit: usize, bytes: &[u8]| if bytes.len() <= limit { Ok(()) } else { Err(status::TOO_LARGE) };
        match self {
            Self::Get { key: k } | Self::Delete { key: k } => key(k),
            Self::Put { key: k, value } => key(k).and_then(|()| at_most(VALUE_BYTES_MAX, value)),
            Self::CompareAndSwap { key: k, expected, value } => {
                key(k)?;
                expected.iter().chain(value).try_for_each(|value| at_most(VALUE_BYTES_MAX, value))
            }
            Self::List { limit: 0, .. } => Err(status::MALFORMED),
            Self::List { prefix, after, limit } => {
                at_most(KEY_BYTES_MAX, prefix)?;
                after.iter().try_for_each(key)?;
                if *limit > PAGE_ENTRIES_MAX { Err(status::TOO_LARGE) } else { Ok(()) }
            }
            Self::Fill { .. } => Ok(()),
        }
    }
}

fn read<T: BorshSerialize + BorshDeserialize>(body: &[u8]) -> Result<T, u16> {
    from_bytes(body, BODY_LIMIT).map_err(|_| status::MALFORMED)
}

/// One line of a listing.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Entry {
    /// The key.
    pub key: Vec<u8>,
    /// Bytes of its value.
    pub value_bytes: u32,
}

/// Part of a listing.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Page {
    /// Entries in key order.
    pub entries: Vec<Entry>,
    /// Whether there are more behind the last entry.
    pub more: bool,
}

/// The result of an operation that succeeded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// Of a get: the value.
    Value(Vec<u8>),
    /// Of a put.
    Stored {
        /// Whether there was a value before.
        replaced: bool,
    },
    /// Of a delete or a compare and swap.
    Done,
    /// Of a list.
    Page(Page),
    /// Of a fill.
    Filled {
        /// Bytes the arena holds.
        bytes: u64,
        /// Sum of its words, wrapping.
        checksum: u64,
    },
}

impl Answer {
    /// Body of the reply.
    pub fn body(&self) -> Vec<u8> {
        match self {
            Self::Value(value) => value.clone(),
            Self::Stored { replaced } => to_bytes(replaced),
            Self::Done => Vec::new(),
            Self::Page(page) => to_bytes(page),
            Self::Filled { bytes, checksum } => to_bytes(&(bytes, checksum)),
        }
    }

    /// Reads the body of a reply to the operation with this number.
    ///
    /// # Errors
    ///
    /// If the body is none of that operation's answers.
    pub fn decode(number: u16, body: &[u8]) -> Result<Self, DecodeError> {
        match number {
            op::GET => Ok(Self::Value(body.to_vec())),
            op::PUT => from_bytes(body, 1).map(|replaced| Self::Stored { replaced }),
            op::LIST => from_bytes(body, BODY_LIMIT).map(Self::Page),
            op::FILL => from_bytes(body, 16).map(|(bytes, checksum)| Self::Filled { bytes, checksum }),
            _ => from_bytes(body, 0).map(|()| Self::Done),
        }
    }
}

/// The output for an input that is no authentic request for this VM.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Refusal {
    /// Version of the layout, [`ABI`](quorate_attest::request::ABI).
    pub abi: u16,
    /// One of [`status`].
    pub status: u16,
    /// SHA-256 of the input.
    pub input: [u8; 32],
}

impl Refusal {
    /// How a refusal names an input.
    pub fn digest(input: &[u8]) -> [u8; 32] {
        Sha256::digest(input).into()
    }
}

impl Bounded for Refusal {
    const LIMIT: usize = 36;
}
