//! Service time: what `f + 1` voters say has passed.

use alloc::vec;
use alloc::vec::Vec;

use quorate_attest::encoding::{from_bytes, to_bytes};
use quorate_attest::key::PublicKey;
use quorate_attest::quorum::QuorumRule;
use quorate_attest::request::status;
use quorate_attest::service::Genesis;

use crate::state::OWN;

/// Voters with their newest votes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Clock {
    voters: Vec<PublicKey>,
    votes: Vec<u64>,
    f: usize,
}

const TAG: [u8; 2] = [OWN, b't'];

/// The voter whose vote has this key, if it is one.
pub(crate) fn voter_of(key: &[u8]) -> Option<PublicKey> {
    let bytes: [u8; 32] = key.strip_prefix(&TAG)?.try_into().ok()?;
    PublicKey::from_bytes(bytes).ok()
}

impl Clock {
    /// A clock that nobody has told the time.
    pub(crate) fn new(genesis: &Genesis) -> Result<Self, u16> {
        let Genesis { voters, f, .. } = genesis;
        let mut sorted = voters.clone();
        sorted.sort_unstable();
        let distinct = sorted.windows(2).all(|pair| pair[0] != pair[1]);
        let feasible = QuorumRule::new(voters.len() as u64, *f).is_ok();
        match usize::try_from(*f) {
            Ok(f) if distinct && feasible => {
                Ok(Self { voters: voters.clone(), votes: vec![0; voters.len()], f })
            }
            _ => Err(status::BAD_CONFIG),
        }
    }

    /// Takes a vote and gives the entry that keeps it.
    ///
    /// # Errors
    /// `NOT_AUTHORIZED`: the key is no voter's; `MALFORMED`: the body is no time; `STALE`: it is not above the voter's last.
    pub(crate) fn vote(&mut self, voter: &PublicKey, body: &[u8]) -> Result<(Vec<u8>, Vec<u8>), u16> {
        let index = self.voters.iter().position(|known| known == voter).ok_or(status::NOT_AUTHORIZED)?;
        let vote: u64 = from_bytes(body, 8).map_err(|_| status::MALFORMED)?;
        match self.votes.get_mut(index) {
            Some(known) if vote > *known => *known = vote,
            _ => return Err(status::STALE),
        }
        Ok(([&TAG[..], voter.as_bytes()].concat(), to_bytes(&vote)))
    }

    /// The `f + 1`-th largest vote, where who has not voted counts as 0.
    pub(crate) fn time_ms(&self) -> u64 {
        let mut votes = self.votes.clone();
        votes.sort_unstable();
        votes.iter().rev().nth(self.f).copied().unwrap_or(0)
    }
}
