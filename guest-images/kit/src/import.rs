//! Taking on the state that another guest exported, part by part.

use alloc::vec::Vec;

use quorate_attest::request::status;
use quorate_attest::service::{Genesis, StateEntry};
use quorate_attest::state_tree::{Changes, StateCommitment, StateTree};

use crate::limits::{CLIENTS_LIMIT, ENTRIES_LIMIT, Limits, entry_cost};
use crate::running::{GENESIS_KEY, Running, check, genesis_value};
use crate::session::{self, Sessions};
use crate::state::OWN;
use crate::time::{self, Clock};

/// What was imported so far.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Import {
    genesis: Genesis,
    number: u64,
    limits: Limits,
    tree: StateTree,
    used_bytes: u64,
    sessions: Sessions,
    clock: Clock,
}

impl Import {
    /// Begins with nothing.
    pub(crate) fn new(genesis: Genesis, number: u64, limits: Limits) -> Result<Self, u16> {
        let clock = check(&genesis, &limits)?;
        if number == 0 {
            return Err(status::MALFORMED);
        }
        let (tree, sessions) = (StateTree::default(), Sessions::default());
        Ok(Self { genesis, number, limits, tree, used_bytes: 0, sessions, clock })
    }

    /// Whether it goes on with this part. The first entry of every state is the same, and begins an import anew.
    pub(crate) fn continues(&self, genesis: &Genesis, number: u64, entries: &[StateEntry]) -> bool {
        let first = entries.first().is_some_and(|entry| entry.key == GENESIS_KEY);
        self.genesis == *genesis && self.number == number && !first
    }

    /// Takes further entries.
    pub(crate) fn extend(&mut self, entries: Vec<StateEntry>) -> Result<(), u16> {
        let mut changes = Changes::new();
        for StateEntry { key, value } in entries {
            let last = changes.last_key_value().map(|(key, _)| key);
            let last = last.or_else(|| self.tree.entries().last().map(|(key, _)| key));
            if key.is_empty() || last.is_some_and(|last| *last >= key) {
                return Err(status::MALFORMED);
            }
            self.count(&key, &value)?;
            let (mut key, mut value) = (key, value);
            key.shrink_to_fit();
            value.shrink_to_fit();
            changes.insert(key, Some(value));
            let full = self.tree.len() + changes.len() > ENTRIES_LIMIT;
            let over = self.used_bytes > self.limits.state_bytes
                || self.sessions.used_bytes() > self.limits.session_bytes;
            if full || over || self.sessions.len() > CLIENTS_LIMIT {
                return Err(status::LIMIT);
            }
        }
        self.tree.apply(changes);
        Ok(())
    }

    fn count(&mut self, key: &[u8], value: &[u8]) -> Result<(), u16> {
        if key.first() != Some(&OWN) {
            self.used_bytes += entry_cost(key, value);
            return Ok(());
        }
        let known = if let Some(client) = session::client_of(key) {
            self.sessions.restore(client, key, value)
        } else if let Some(voter) = time::voter_of(key) {
            self.clock.vote(&voter, value).is_ok()
        } else {
            key == GENESIS_KEY && value == genesis_value(&self.genesis)
        };
        if known { Ok(()) } else { Err(status::BAD_CONFIG) }
    }

    /// The service that goes on, if the state is the one that was certified.
    pub(crate) fn complete(self, expected: &StateCommitment) -> Result<Running, u16> {
        let Self { genesis, number, limits, tree, used_bytes, sessions, clock } = self;
        if tree.commitment() != *expected || tree.get(&GENESIS_KEY).is_none() {
            return Err(status::CONFLICT);
        }
        let instance = genesis.spec.id().instance();
        Ok(Running { instance, limits, tree, used_bytes, sessions, clock, next: number })
    }
}
