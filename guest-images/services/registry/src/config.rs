//! The registry's configuration, part of the service's specification.

use alloc::vec::Vec;

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::encoding::{Bounded, bounded_list};
use quorate_attest::key::PublicKey;
use quorate_kit::status;

/// Who administers a registry and how much of its past it keeps.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Config {
    /// Keys that may change every name and lease, strictly ascending.
    #[borsh(deserialize_with = "bounded_list::<{ Config::ADMINS_MAX }, _, _>")]
    pub admins: Vec<PublicKey>,
    /// Most bytes of events that are kept, keys and values, besides the limit on their number.
    pub event_bytes_max: u64,
}

impl Bounded for Config {
    const LIMIT: usize = 4 + Self::ADMINS_MAX * 32 + 8;
}

impl Default for Config {
    fn default() -> Self {
        Self { admins: Vec::new(), event_bytes_max: 1 << 20 }
    }
}

impl Config {
    /// Most admins.
    pub const ADMINS_MAX: usize = 64;

    /// Checks that the admins ascend.
    ///
    /// # Errors
    /// `BAD_CONFIG`.
    pub fn validate(&self) -> Result<(), u16> {
        let ascending = self.admins.windows(2).all(|pair| pair[0] < pair[1]);
        if ascending && self.admins.len() <= Self::ADMINS_MAX { Ok(()) } else { Err(status::BAD_CONFIG) }
    }
}
