//! The client's half: questions about the state, what a proven answer says, and lines of passwd(5) and group(5).
//!
//! Every function that reads an answer takes the state it must hold against. The caller answers for that state being
//! certified and new enough; an answer without such a state says nothing.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use quorate_attest::encoding::{Bounded, DecodeError};
use quorate_attest::merkle::ProofError;
use quorate_attest::service::{Answer, Query};
use quorate_attest::state_tree::{EntryProof, StateCommitment};

use crate::field::{Name, Uid};
use crate::operation::{Entry, PAGE_LIMIT};
use crate::record::{
    Action, Bind, Change, Holder, NameRecord, Profile, UidRecord, history_key, name_key, uid_key, uid_of_key,
};

/// Why an answer is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClientError {
    /// The answer is to another question, or its proof does not hold.
    #[error(transparent)]
    Proof(#[from] ProofError),
    /// A proven entry is none of this service's: the state is another service's.
    #[error("a proven entry does not decode: {0}")]
    Decode(#[from] DecodeError),
    /// Proven entries contradict each other, which no honest registry brings about.
    #[error("the registry contradicts itself: {0}")]
    Inconsistent(&'static str),
    /// Answers of one listing stand against different states.
    #[error("the state changed between two parts of a listing; begin again")]
    StateChanged,
}

impl ClientError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Proof(error) => error.kind(),
            Self::Decode(error) => error.kind(),
            Self::Inconsistent(_) => "Inconsistent",
            Self::StateChanged => "StateChanged",
        }
    }
}

/// A user, as other programs know them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The UID, and the number of the user's own group.
    pub uid: Uid,
    /// The rest.
    pub profile: Profile,
}

impl User {
    /// Line of passwd(5), without its end. The password field says that there is none here.
    pub fn passwd_line(&self) -> String {
        let Self { uid, profile: Profile { name, gecos, home, shell } } = self;
        format!("{name}:x:{uid}:{uid}:{gecos}:{home}:{shell}")
    }

    /// Line of group(5) of the user's own group, without its end.
    pub fn group_line(&self) -> String {
        format!("{}:x:{}:", self.profile.name, self.uid)
    }
}

impl Entry {
    /// The user; none when the UID was given up.
    pub fn user(&self) -> Option<User> {
        match &self.record.holder {
            Holder::Bound(profile) => Some(User { uid: self.uid, profile: profile.clone() }),
            Holder::Deleted(_) => None,
        }
    }
}

/// Asks for the record of a UID. Every number may be asked for.
pub fn ask_uid(uid: u32) -> Query {
    Query::Get { key: uid_key(uid) }
}

/// Asks which UID a name has.
pub fn ask_name(name: &Name) -> Query {
    Query::Get { key: name_key(name.as_str()) }
}

/// What `answer` to [`ask_uid`] proves: the record, or that this UID was never bound.
///
/// # Errors
/// It proves nothing.
pub fn proven_uid(uid: u32, answer: &Answer, state: &StateCommitment) -> Result<Option<Entry>, ClientError> {
    proven(&ask_uid(uid), answer, state)?.map(entry).transpose()
}

/// What `answer` to [`ask_name`] proves: the record, or that this name was never bound.
///
/// A user is found by asking for the UID next: if that record bears the name, it is right by itself, whichever state it
/// was proved against; if not, the registry changed in between and the name is asked for again.
///
/// # Errors
/// It proves nothing.
pub fn proven_name(
    name: &Name,
    answer: &Answer,
    state: &StateCommitment,
) -> Result<Option<NameRecord>, ClientError> {
    let found = proven(&ask_name(name), answer, state)?;
    Ok(found.map(|entry| NameRecord::decoded(&entry.value)).transpose()?)
}

fn proven<'a>(
    query: &Query,
    answer: &'a Answer,
    state: &StateCommitment,
) -> Result<Option<&'a EntryProof>, ClientError> {
    answer.verify(query, state)?;
    match answer {
        Answer::Present(entry) => Ok(Some(entry)),
        _ => Ok(None),
    }
}

fn entry(proof: &EntryProof) -> Result<Entry, ClientError> {
    let uid = uid_of_key(&proof.key).and_then(|uid| Uid::new(uid).ok());
    let uid = uid.ok_or(ClientError::Inconsistent("a UID is bound that nobody may have"))?;
    Ok(Entry { uid, record: UidRecord::decoded(&proof.value)? })
}

fn change(proof: &EntryProof) -> Result<Change, ClientError> {
    let change = Change::decoded(&proof.value)?;
    match proof.key == history_key(change.bind.uid.get(), change.bind.counter) {
        true => Ok(change),
        false => Err(ClientError::Inconsistent("a change stands in another's place")),
    }
}

/// A complete listing on its way: each part is proved to leave nothing out, all of them against one state.
#[derive(Debug, Clone)]
pub struct Listing<T> {
    low: Vec<u8>,
    high: Vec<u8>,
    state: StateCommitment,
    decode: fn(&EntryProof) -> Result<T, ClientError>,
    entries: Vec<T>,
    complete: bool,
}

impl Listing<Entry> {
    /// Of all UIDs that were ever bound.
    pub fn of_users(state: StateCommitment) -> Self {
        Self::new(uid_key(0), uid_key(u32::MAX), state, entry)
    }
}

impl Listing<Change> {
    /// Of all changes of a UID; [`check_history`] holds them against the record.
    pub fn of_history(uid: u32, state: StateCommitment) -> Self {
        Self::new(history_key(uid, 0), history_key(uid, u64::MAX), state, change)
    }
}

impl<T> Listing<T> {
    fn new(
        low: Vec<u8>,
        high: Vec<u8>,
        state: StateCommitment,
        decode: fn(&EntryProof) -> Result<T, ClientError>,
    ) -> Self {
        Self { low, high, state, decode, entries: Vec::new(), complete: false }
    }

    /// The next question; none when the listing is complete.
    pub fn query(&self) -> Option<Query> {
        let (low, high) = (self.low.clone(), self.high.clone());
        (!self.complete).then_some(Query::Range { low, high, limit: PAGE_LIMIT })
    }

    /// Takes the answer to [`Self::query`]. One that is refused changes nothing.
    ///
    /// # Errors
    /// It leaves something out, proves nothing, or stands against another state than the parts before.
    pub fn add(&mut self, answer: &Answer, state: &StateCommitment) -> Result<(), ClientError> {
        if *state != self.state {
            return Err(ClientError::StateChanged);
        }
        let Some(query) = self.query() else { return Ok(()) };
        answer.verify(&query, state)?;
        let Answer::Range { proof, more } = answer else { return Ok(()) };
        let entries = proof.entries.iter().map(self.decode).collect::<Result<Vec<_>, _>>()?;
        self.entries.extend(entries);
        match proof.entries.last() {
            // The least key above the last one: nothing lies between.
            Some(last) if *more => self.low = [last.key.as_slice(), &[0]].concat(),
            _ => self.complete = true,
        }
        // A last entry at the very end leaves no range to ask for.
        self.complete |= self.low > self.high;
        Ok(())
    }

    /// Everything, once nothing is missing.
    pub fn complete(self) -> Option<Vec<T>> {
        self.complete.then_some(self.entries)
    }
}

/// Checks that proven changes are the whole history that led to a proven record: counters from 1 on without a gap, each
/// change naming the digest of the one before, the last one the record's.
///
/// # Errors
/// They are not.
pub fn check_history(record: &Entry, changes: &[Change]) -> Result<(), ClientError> {
    let mut before: Option<&Bind> = None;
    for (counter, Change { bind, .. }) in (1..).zip(changes) {
        if bind.uid != record.uid || bind.gid != record.uid || bind.counter != counter {
            return Err(ClientError::Inconsistent("a change is missing from the history"));
        }
        if bind.previous != before.map_or([0; 32], Bind::digest) {
            return Err(ClientError::Inconsistent("a change does not follow from the one before"));
        }
        let was_bound = before.is_some_and(|before| before.action != Action::Delete);
        let fits = match bind.action {
            Action::Add => before.is_none(),
            Action::Transfer => before.is_some() && !was_bound,
            Action::Delete | Action::Rename | Action::SetAttributes => was_bound,
        };
        if !fits {
            return Err(ClientError::Inconsistent("an action was not possible at its place"));
        }
        before = Some(bind);
    }
    match before {
        Some(last) if last.digest() == record.record.digest => Ok(()),
        _ => Err(ClientError::Inconsistent("the history does not lead to the record")),
    }
}
