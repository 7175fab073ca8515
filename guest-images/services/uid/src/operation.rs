//! Operations, the second admin's approval, answers, and their bytes.

use alloc::vec::Vec;

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::encoding::{Bounded, DecodeError, bounded_list, from_bytes, to_bytes};
use quorate_attest::id::VmId;
use quorate_attest::key::{PublicKey, SecretKey, Signature};
use quorate_attest::merkle::Digest;
use quorate_attest::request::{BODY_LIMIT, status};
use sha2::{Digest as _, Sha256};

use crate::field::{Gecos, Name, Path, Uid};
use crate::record::{Change, Profile, UidRecord};

/// Most entries of one page.
pub const PAGE_LIMIT: u16 = 256;

/// First bytes of what a second admin signs, zero padded.
const APPROVAL_DOMAIN: [u8; 16] = *b"quorate-uid-ok-1";

/// Numbers of the operations.
pub mod op {
    /// Bind a UID of 1000 or above that was never bound.
    pub const ADD_USER: u16 = 1;
    /// Bind a UID below 1000 that was never bound; two admins.
    pub const ADD_SYSTEM_USER: u16 = 2;
    /// End a binding.
    pub const DEL_USER: u16 = 3;
    /// Give a user another name.
    pub const RENAME: u16 = 4;
    /// Change gecos, home or shell.
    pub const SET_ATTR: u16 = 5;
    /// Bind the lowest UID that was never bound.
    pub const ALLOC_UID: u16 = 6;
    /// Bind a deleted UID again; two admins, after the quarantine.
    pub const REISSUE: u16 = 7;
    /// Read one record.
    pub const LOOKUP: u16 = 8;
    /// Read records in order.
    pub const LIST: u16 = 9;
    /// Read the changes of a UID.
    pub const HISTORY: u16 = 10;
}

/// What is looked up. Any number and any name may be asked for; what cannot be bound is not found.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Subject {
    /// A UID.
    Uid(u32),
    /// A name.
    Name(Name),
}

/// New values of attributes; none leaves one as it is.
#[derive(Debug, Clone, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Attributes {
    /// Gecos field.
    pub gecos: Option<Gecos>,
    /// Home directory.
    pub home: Option<Path>,
    /// Shell.
    pub shell: Option<Path>,
}

/// What a client asks for. `counter` is the one that the change shall have: changes of the UID so far, plus one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Bind a UID of 1000 or above that was never bound.
    AddUser {
        /// The UID.
        uid: Uid,
        /// 1.
        counter: u64,
        /// The user.
        profile: Profile,
    },
    /// Bind a UID below 1000 that was never bound.
    AddSystemUser {
        /// The UID.
        uid: Uid,
        /// 1.
        counter: u64,
        /// The user.
        profile: Profile,
    },
    /// End a binding for ever.
    DelUser {
        /// The UID.
        uid: Uid,
        /// Counter of the change.
        counter: u64,
    },
    /// Give a user another name.
    Rename {
        /// The UID.
        uid: Uid,
        /// Counter of the change.
        counter: u64,
        /// The new name.
        name: Name,
    },
    /// Change attributes.
    SetAttr {
        /// The UID.
        uid: Uid,
        /// Counter of the change.
        counter: u64,
        /// New values.
        attributes: Attributes,
    },
    /// Bind the lowest UID of the configured ranges that was never bound.
    AllocUid {
        /// The user.
        profile: Profile,
    },
    /// Bind a deleted UID again.
    Reissue {
        /// The UID.
        uid: Uid,
        /// Counter of the change.
        counter: u64,
        /// Digest of the deletion: the admins saw which binding had ended.
        previous: Digest,
        /// The user.
        profile: Profile,
    },
    /// Read the record of a UID or a name.
    Lookup {
        /// Which.
        subject: Subject,
    },
    /// Read records in order of UIDs, deleted ones included.
    List {
        /// Lowest UID.
        from: u32,
        /// Most entries, 1 to [`PAGE_LIMIT`].
        limit: u16,
    },
    /// Read the changes of a UID in their order.
    History {
        /// The UID.
        uid: u32,
        /// Lowest counter.
        from: u64,
        /// Most entries, 1 to [`PAGE_LIMIT`].
        limit: u16,
    },
}

/// A second admin's consent to one request of the first.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Approval {
    /// The second admin.
    pub admin: PublicKey,
    /// Over [`Request::message`].
    pub signature: Signature,
}

/// A request that a second admin approves: another sequence, client, service or argument is another request.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// The service.
    pub instance: &'a VmId,
    /// The first admin, who sends it.
    pub client: &'a PublicKey,
    /// Sequence number with which it is sent.
    pub sequence: u64,
    /// What is asked for.
    pub operation: &'a Operation,
}

impl Request<'_> {
    /// SHA-256 of instance, client, sequence, operation number and arguments, each under a length or of fixed size.
    pub fn digest(&self) -> Digest {
        let Self { instance, client, sequence, operation } = self;
        let bytes = to_bytes(&(instance, client, sequence, operation.op(), operation.arguments()));
        Sha256::digest(bytes).into()
    }

    /// What the second admin signs: the domain and [`Self::digest`].
    pub fn message(&self) -> Vec<u8> {
        to_bytes(&(APPROVAL_DOMAIN, self.digest()))
    }

    /// Approves it.
    pub fn approve(&self, admin: &SecretKey) -> Approval {
        Approval { admin: admin.public(), signature: admin.sign(&self.message()) }
    }
}

impl Operation {
    /// Number of the operation.
    pub fn op(&self) -> u16 {
        match self {
            Self::AddUser { .. } => op::ADD_USER,
            Self::AddSystemUser { .. } => op::ADD_SYSTEM_USER,
            Self::DelUser { .. } => op::DEL_USER,
            Self::Rename { .. } => op::RENAME,
            Self::SetAttr { .. } => op::SET_ATTR,
            Self::AllocUid { .. } => op::ALLOC_UID,
            Self::Reissue { .. } => op::REISSUE,
            Self::Lookup { .. } => op::LOOKUP,
            Self::List { .. } => op::LIST,
            Self::History { .. } => op::HISTORY,
        }
    }

    /// Body of the request: the arguments and, of operations 2, 4, 5 and 7, an optional approval behind them.
    pub fn body(&self, approval: Option<&Approval>) -> Vec<u8> {
        let mut body = self.arguments();
        if may_be_approved(self.op()) {
            body.extend(to_bytes(&approval));
        }
        body
    }

    fn arguments(&self) -> Vec<u8> {
        match self {
            Self::AddUser { uid, counter, profile } | Self::AddSystemUser { uid, counter, profile } => {
                to_bytes(&(uid, counter, profile))
            }
            Self::DelUser { uid, counter } => to_bytes(&(uid, counter)),
            Self::Rename { uid, counter, name } => to_bytes(&(uid, counter, name)),
            Self::SetAttr { uid, counter, attributes } => to_bytes(&(uid, counter, attributes)),
            Self::AllocUid { profile } => to_bytes(profile),
            Self::Reissue { uid, counter, previous, profile } => to_bytes(&(uid, counter, previous, profile)),
            Self::Lookup { subject } => to_bytes(subject),
            Self::List { from, limit } => to_bytes(&(from, limit)),
            Self::History { uid, from, limit } => to_bytes(&(uid, from, limit)),
        }
    }

    /// Reads the body of a request.
    ///
    /// # Errors
    /// `UNKNOWN_KIND`, `MALFORMED` or `TOO_LARGE`.
    pub fn decode(number: u16, body: &[u8]) -> Result<(Self, Option<Approval>), u16> {
        if may_be_approved(number) {
            return Self::decode_approved(number, body);
        }
        let operation = match number {
            op::ADD_USER => {
                let (uid, counter, profile) = read(body)?;
                Self::AddUser { uid, counter, profile }
            }
            op::DEL_USER => {
                let (uid, counter) = read(body)?;
                Self::DelUser { uid, counter }
            }
            op::ALLOC_UID => Self::AllocUid { profile: read(body)? },
            op::LOOKUP => Self::Lookup { subject: read(body)? },
            op::LIST => {
                let (from, limit) = read(body)?;
                Self::List { from, limit: page(limit)? }
            }
            op::HISTORY => {
                let (uid, from, limit) = read(body)?;
                Self::History { uid, from, limit: page(limit)? }
            }
            _ => return Err(status::UNKNOWN_KIND),
        };
        Ok((operation, None))
    }

    fn decode_approved(number: u16, body: &[u8]) -> Result<(Self, Option<Approval>), u16> {
        Ok(match number {
            op::ADD_SYSTEM_USER => {
                let (uid, counter, profile, approval) = read(body)?;
                (Self::AddSystemUser { uid, counter, profile }, approval)
            }
            op::RENAME => {
                let (uid, counter, name, approval) = read(body)?;
                (Self::Rename { uid, counter, name }, approval)
            }
            op::SET_ATTR => {
                let (uid, counter, attributes, approval) = read(body)?;
                (Self::SetAttr { uid, counter, attributes }, approval)
            }
            op::REISSUE => {
                let (uid, counter, previous, profile, approval) = read(body)?;
                (Self::Reissue { uid, counter, previous, profile }, approval)
            }
            _ => return Err(status::UNKNOWN_KIND),
        })
    }

    /// Whether it changes the registry.
    pub fn is_change(&self) -> bool {
        !matches!(self, Self::Lookup { .. } | Self::List { .. } | Self::History { .. })
    }

    /// Whether one admin is not enough: everything that gives somebody a UID below 1000, or one that was another's.
    pub fn needs_approval(&self) -> bool {
        match self {
            Self::AddSystemUser { .. } | Self::Reissue { .. } => true,
            Self::Rename { uid, .. } | Self::SetAttr { uid, .. } => uid.is_system(),
            _ => false,
        }
    }
}

fn may_be_approved(number: u16) -> bool {
    matches!(number, op::ADD_SYSTEM_USER | op::RENAME | op::SET_ATTR | op::REISSUE)
}

fn page(limit: u16) -> Result<u16, u16> {
    match limit {
        0 => Err(status::MALFORMED),
        1..=PAGE_LIMIT => Ok(limit),
        _ => Err(status::TOO_LARGE),
    }
}

fn read<T: BorshSerialize + BorshDeserialize>(body: &[u8]) -> Result<T, u16> {
    from_bytes(body, BODY_LIMIT).map_err(|_| status::MALFORMED)
}

/// A UID and its record.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Entry {
    /// The UID.
    pub uid: Uid,
    /// Its record.
    pub record: UidRecord,
}

impl Bounded for Entry {
    const LIMIT: usize = 4 + UidRecord::LIMIT;
}

/// Part of a listing.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Page<T: BorshSerialize + BorshDeserialize> {
    /// Ascending.
    #[borsh(deserialize_with = "bounded_list::<{ PAGE_LIMIT as usize }, _, _>")]
    pub entries: Vec<T>,
    /// Whether there are more behind the last.
    pub more: bool,
}

/// The result of an operation that succeeded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// Of a change.
    Changed(Change),
    /// Of a lookup.
    Found(Entry),
    /// Of a list.
    Users(Page<Entry>),
    /// Of a history.
    Changes(Page<Change>),
}

impl Answer {
    /// Body of the reply.
    pub fn body(&self) -> Vec<u8> {
        match self {
            Self::Changed(change) => to_bytes(change),
            Self::Found(entry) => to_bytes(entry),
            Self::Users(page) => to_bytes(page),
            Self::Changes(page) => to_bytes(page),
        }
    }

    /// Reads the body of a reply with status 0 to the operation of this number.
    ///
    /// # Errors
    /// It is none of that operation's answers.
    pub fn decode(number: u16, body: &[u8]) -> Result<Self, DecodeError> {
        match number {
            op::LOOKUP => Entry::decoded(body).map(Self::Found),
            op::LIST => from_bytes(body, BODY_LIMIT).map(Self::Users),
            op::HISTORY => from_bytes(body, BODY_LIMIT).map(Self::Changes),
            _ => Change::decoded(body).map(Self::Changed),
        }
    }
}
