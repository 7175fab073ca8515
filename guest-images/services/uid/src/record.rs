//! What the state holds, under which keys, and the change that is signed and kept.

use alloc::vec::Vec;

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::encoding::{Bounded, to_bytes};
use quorate_attest::key::PublicKey;
use quorate_attest::merkle::Digest;
use quorate_attest::statement::Kind;
use sha2::{Digest as _, Sha256};

use crate::field::{GECOS_LIMIT, Gecos, NAME_LIMIT, Name, PATH_LIMIT, Path, Uid};

/// Kind of the statement whose body is a [`Bind`].
pub const UID_BIND: Kind = Kind(0x0201);

/// First byte of every key of this service.
const SPACE: u8 = 0x02;

const PROFILE_LIMIT: usize = 4 + NAME_LIMIT + 4 + GECOS_LIMIT + 2 * (4 + PATH_LIMIT);

/// Key of the record of a UID.
pub fn uid_key(uid: u32) -> Vec<u8> {
    key(b'u', &uid.to_be_bytes())
}

/// Key of the record of a name.
pub fn name_key(name: &str) -> Vec<u8> {
    key(b'n', name.as_bytes())
}

/// Key of the change that gave a UID this counter.
pub fn history_key(uid: u32, counter: u64) -> Vec<u8> {
    let mut key = key(b'h', &uid.to_be_bytes());
    key.extend_from_slice(&counter.to_be_bytes());
    key
}

/// Key that is there when a key is an admin's.
pub fn admin_key(admin: &PublicKey) -> Vec<u8> {
    key(b'a', admin.as_bytes())
}

/// Key that is there when a shell is allowed.
pub fn shell_key(shell: &Path) -> Vec<u8> {
    key(b's', shell.as_str().as_bytes())
}

/// Key of the rest of the configuration.
pub(crate) fn rules_key() -> Vec<u8> {
    key(b'g', &[])
}

/// Key of [`Counts`].
pub(crate) fn counts_key() -> Vec<u8> {
    key(b'c', &[])
}

fn key(tag: u8, rest: &[u8]) -> Vec<u8> {
    let mut key = Vec::with_capacity(2 + rest.len());
    key.extend_from_slice(&[SPACE, tag]);
    key.extend_from_slice(rest);
    key
}

/// The UID that a key is about, if it is one of [`uid_key`].
pub fn uid_of_key(key: &[u8]) -> Option<u32> {
    let rest = key.strip_prefix(&[SPACE, b'u'])?;
    Some(u32::from_be_bytes(rest.try_into().ok()?))
}

/// What a user is, besides the UID.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Profile {
    /// User name.
    pub name: Name,
    /// Gecos field.
    pub gecos: Gecos,
    /// Home directory.
    pub home: Path,
    /// Shell, one of those the configuration allows.
    pub shell: Path,
}

/// What a change does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Action {
    /// Binds a UID that was never bound.
    Add,
    /// Ends a binding for ever.
    Delete,
    /// Gives the user another name.
    Rename,
    /// Binds a deleted UID again.
    Transfer,
    /// Changes gecos, home or shell.
    SetAttributes,
}

/// A change of one UID: the body of statements of kind [`UID_BIND`].
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Bind {
    /// The UID.
    pub uid: Uid,
    /// User name after the change; of a deletion, the name that was bound.
    pub name: Name,
    /// Changes of this UID so far, this one included.
    pub counter: u64,
    /// What is done.
    pub action: Action,
    /// Primary group: the user's own, whose number is the UID.
    pub gid: Uid,
    /// Gecos field.
    pub gecos: Gecos,
    /// Home directory.
    pub home: Path,
    /// Shell.
    pub shell: Path,
    /// Digest of the change before; zero for the first.
    pub previous: Digest,
}

impl Bounded for Bind {
    const LIMIT: usize = 4 + PROFILE_LIMIT + 8 + 1 + 4 + 32;
}

impl Bind {
    /// SHA-256 of the encoding.
    pub fn digest(&self) -> Digest {
        Sha256::digest(to_bytes(self)).into()
    }

    /// Name, gecos, home and shell.
    pub fn profile(&self) -> Profile {
        let Self { name, gecos, home, shell, .. } = self.clone();
        Profile { name, gecos, home, shell }
    }
}

/// A change as history keeps it.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Change {
    /// The change.
    pub bind: Bind,
    /// Entry of the service's log that made it.
    pub number: u64,
    /// Admin who asked for it.
    pub author: PublicKey,
    /// Second admin, where there was one.
    pub approver: Option<PublicKey>,
}

impl Bounded for Change {
    const LIMIT: usize = Bind::LIMIT + 8 + 32 + 33;
}

/// Who has a UID.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Holder {
    /// A user.
    Bound(Profile),
    /// Nobody any more. The name was the last user's.
    Deleted(Name),
}

/// What is known of a UID that was ever bound.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct UidRecord {
    /// Changes so far.
    pub counter: u64,
    /// Entry of the service's log that made the last one.
    pub number: u64,
    /// Digest of the last [`Bind`].
    pub digest: Digest,
    /// Who has it.
    pub holder: Holder,
}

impl Bounded for UidRecord {
    const LIMIT: usize = 8 + 8 + 32 + 1 + PROFILE_LIMIT;
}

/// What is known of a name that was ever bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum NameRecord {
    /// It is this UID's.
    Bound(Uid),
    /// It was given up.
    Freed {
        /// By the user of this UID.
        uid: Uid,
        /// In this entry of the service's log.
        number: u64,
    },
}

impl Bounded for NameRecord {
    const LIMIT: usize = 1 + 4 + 8;
}

/// Totals, so that no operation counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Counts {
    /// UIDs that are bound.
    pub users: u32,
    /// Changes kept.
    pub changes: u32,
    /// No UID of a range below this one was never bound.
    pub free_from: u32,
}

impl Bounded for Counts {
    const LIMIT: usize = 12;
}
