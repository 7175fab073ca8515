//! The service's own configuration: it stands in the specification of the service and never changes.

use alloc::collections::BTreeSet;
use alloc::vec;
use alloc::vec::Vec;

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::encoding::{Bounded, bounded_list};
use quorate_attest::key::PublicKey;
use quorate_attest::service::CONFIG_LIMIT;

use crate::field::{FieldError, Path, REFUSED, SYSTEM_END};

/// Most admins.
pub const ADMINS_LIMIT: usize = 64;

/// Most shells.
pub const SHELLS_LIMIT: usize = 64;

/// Most ranges.
pub const RANGES_LIMIT: usize = 16;

/// Most users at a time.
pub const USERS_LIMIT: u32 = 65_536;

/// Most changes of all users together: with records and names they stay below what a state may hold.
pub const CHANGES_LIMIT: u32 = 262_144;

/// Entries of the log for which a deleted UID and a freed name rest, unless the configuration says otherwise.
pub const QUARANTINE: u64 = 1 << 20;

/// UIDs that [`AllocUid`](crate::Operation::AllocUid) may take, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Range {
    /// Lowest.
    pub first: u32,
    /// Highest.
    pub last: u32,
}

/// Why a configuration is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The bytes are no configuration.
    #[error("the configuration of the UID registry does not decode")]
    Malformed,
    /// Fewer than two admins, or one listed twice.
    #[error("a UID registry needs 2 to 64 different admins")]
    Admins,
    /// No shell, or one listed twice.
    #[error("a UID registry needs 1 to 64 different shells")]
    Shells,
    /// Ranges do not ascend, or begin below 1000.
    #[error("ranges must lie at 1000 or above, not overlap, and ascend")]
    Ranges,
    /// A limit is zero or above the highest.
    #[error("users must be 1 to 65,536, changes 2 to 262,144")]
    Limits,
}

impl ConfigError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        "BadConfig"
    }
}

/// Configuration of a UID registry.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Config {
    /// Who may change anything.
    #[borsh(deserialize_with = "bounded_list::<ADMINS_LIMIT, _, _>")]
    pub admins: Vec<PublicKey>,
    /// Shells that a user may have.
    #[borsh(deserialize_with = "bounded_list::<SHELLS_LIMIT, _, _>")]
    pub shells: Vec<Path>,
    /// Where UIDs are allocated, ascending.
    #[borsh(deserialize_with = "bounded_list::<RANGES_LIMIT, _, _>")]
    pub ranges: Vec<Range>,
    /// The rest.
    pub rules: Rules,
}

/// Numbers of a configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Rules {
    /// Entries of the log for which a deleted UID and a freed name rest.
    pub quarantine: u64,
    /// Most users at a time, at most [`USERS_LIMIT`].
    pub users_max: u32,
    /// Most changes ever, at most [`CHANGES_LIMIT`]. One is kept free for each user, so that deleting never fails.
    pub changes_max: u32,
}

impl Bounded for Config {
    const LIMIT: usize = CONFIG_LIMIT;
}

impl Config {
    /// The usual one: common shells, UIDs from 1000 to 59999, the longest quarantine and the highest limits.
    ///
    /// # Errors
    /// Never; the paths are checked like everybody's.
    pub fn usual(admins: Vec<PublicKey>) -> Result<Self, FieldError> {
        let shells = ["/bin/bash", "/bin/sh", "/usr/bin/zsh", "/usr/sbin/nologin"];
        Ok(Self {
            admins,
            shells: shells.into_iter().map(Path::new).collect::<Result<_, _>>()?,
            ranges: vec![Range { first: SYSTEM_END, last: 59_999 }],
            rules: Rules { quarantine: QUARANTINE, users_max: USERS_LIMIT, changes_max: CHANGES_LIMIT },
        })
    }

    /// Reads and checks a configuration.
    ///
    /// # Errors
    /// It does not decode, or a rule of [`ConfigError`] is broken.
    pub fn decode(bytes: &[u8]) -> Result<Self, ConfigError> {
        let config = Self::decoded(bytes).map_err(|_| ConfigError::Malformed)?;
        config.validate()?;
        Ok(config)
    }

    /// Checks what decoding a single field cannot.
    ///
    /// # Errors
    /// One rule is broken.
    pub fn validate(&self) -> Result<(), ConfigError> {
        let distinct = self.admins.iter().collect::<BTreeSet<_>>().len();
        if distinct != self.admins.len() || !(2..=ADMINS_LIMIT).contains(&distinct) {
            return Err(ConfigError::Admins);
        }
        let distinct = self.shells.iter().collect::<BTreeSet<_>>().len();
        if distinct != self.shells.len() || !(1..=SHELLS_LIMIT).contains(&distinct) {
            return Err(ConfigError::Shells);
        }
        let proper = self.ranges.iter().all(|range| range.first >= SYSTEM_END && range.first <= range.last);
        let ascending = self.ranges.windows(2).all(|pair| pair[0].last < pair[1].first);
        if !proper || !ascending || self.ranges.len() > RANGES_LIMIT {
            return Err(ConfigError::Ranges);
        }
        let Rules { users_max, changes_max, .. } = self.rules;
        if !(1..=USERS_LIMIT).contains(&users_max) || !(2..=CHANGES_LIMIT).contains(&changes_max) {
            return Err(ConfigError::Limits);
        }
        Ok(())
    }
}

/// Whether automatic allocation passes over a UID.
pub(crate) fn is_refused(uid: u32) -> bool {
    REFUSED.contains(&uid)
}
