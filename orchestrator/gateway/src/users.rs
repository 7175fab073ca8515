//! Users of the UID registry, from proven reads.

use quorate_attest::encoding::{Bounded, DecodeError};
use quorate_uid::client::User;
use quorate_uid::{Entry, Name, NameRecord, Uid, UidRecord, name_key, uid_key, uid_of_key};

use crate::backend::{Backend, Freshness, Read, ServiceError};
use crate::registry::Pages;

/// How often a listing begins again because somebody wrote in between.
const ATTEMPTS: usize = 8;
/// How often a user is looked for whose name changes meanwhile.
const LOOKUPS: usize = 4;

/// Why there is no answer about users.
#[derive(Debug, thiserror::Error)]
pub enum UsersError {
    /// There is no answer that can be believed.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// A proven entry is none of a UID registry's: the service is another one.
    #[error("a proven entry is none of a UID registry: {0}")]
    Decode(#[from] DecodeError),
    /// A UID is bound that nobody may have.
    #[error("a UID is bound that nobody may have")]
    BadUid,
    /// It changes faster than it is read.
    #[error("users were changed meanwhile, again and again")]
    Overtaken,
}

impl UsersError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &str {
        match self {
            Self::Service(error) => error.kind(),
            Self::Decode(_) => "DecodeError",
            Self::BadUid => "Inconsistent",
            Self::Overtaken => "Busy",
        }
    }
}

/// All users, ascending by UID, as they were at one number.
///
/// # Errors
/// There is no answer that can be believed.
pub async fn users(backend: &dyn Backend) -> Result<Vec<User>, UsersError> {
    for _ in 0..ATTEMPTS {
        let mut pages = Pages::new(uid_key(0), uid_key(u32::MAX), Freshness::Linearizable);
        let mut users = Vec::new();
        while let Some(entries) = pages.next(backend).await? {
            for (key, value) in entries {
                users.extend(entry(&key, &value)?.user());
            }
        }
        if pages.at_one_number() {
            return Ok(users);
        }
    }
    Err(UsersError::Overtaken)
}

/// The user of a UID, or that there is none, with the number at which that holds.
///
/// # Errors
/// There is no answer that can be believed.
pub async fn by_uid(
    backend: &dyn Backend,
    uid: u32,
    freshness: Freshness,
) -> Result<(Option<User>, u64), UsersError> {
    let key = uid_key(uid);
    let Read { value, number, .. } = backend.get(&key, freshness).await?;
    let entry = value.map(|value| entry(&key, &value)).transpose()?;
    Ok((entry.and_then(|entry| entry.user()), number))
}

/// The users from a UID on, at most `limit` of them, none left out, with the newest number at which that holds.
///
/// # Errors
/// There is no answer that can be believed.
pub async fn from_uid(
    backend: &dyn Backend,
    from: u32,
    limit: usize,
    freshness: Freshness,
) -> Result<(Vec<User>, u64), UsersError> {
    let mut pages = Pages::new(uid_key(from), uid_key(u32::MAX), freshness);
    let mut users = Vec::new();
    while users.len() < limit
        && let Some(entries) = pages.next(backend).await?
    {
        for (key, value) in entries {
            users.extend(entry(&key, &value)?.user());
        }
    }
    users.truncate(limit);
    Ok((users, pages.newest))
}

/// The user of a name, or that there is none, with the number at which that holds.
///
/// # Errors
/// There is no answer that can be believed.
pub async fn by_name(
    backend: &dyn Backend,
    name: &Name,
    freshness: Freshness,
) -> Result<(Option<User>, u64), UsersError> {
    let mut freshness = freshness;
    for _ in 0..LOOKUPS {
        let Read { value, number, .. } = backend.get(&name_key(name.as_str()), freshness).await?;
        let Some(value) = value else { return Ok((None, number)) };
        let NameRecord::Bound(uid) = NameRecord::decoded(&value)? else { return Ok((None, number)) };
        let (user, number) = by_uid(backend, uid.get(), Freshness::AtLeast(number + 1)).await?;
        // A record that bears the name is right by itself; another one has changed in between.
        match user {
            Some(user) if user.profile.name == *name => return Ok((Some(user), number)),
            _ => freshness = Freshness::AtLeast(number + 1),
        }
    }
    Err(UsersError::Overtaken)
}

fn entry(key: &[u8], value: &[u8]) -> Result<Entry, UsersError> {
    let uid = uid_of_key(key).and_then(|uid| Uid::new(uid).ok()).ok_or(UsersError::BadUid)?;
    Ok(Entry { uid, record: UidRecord::decoded(value)? })
}
