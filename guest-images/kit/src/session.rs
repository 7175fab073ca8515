//! What makes a request take effect at most once: the last request of each client, with its reply.
//!
//! The table itself is in the state tree. Beside it stands only the order in which clients were last used, which follows
//! from the entries.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::encoding::{Bounded, bounded_bytes};
use quorate_attest::key::{PublicKey, Signature};
use quorate_attest::request::{Reply, Request, status};
use quorate_attest::state_tree::{Changes, StateTree};

use crate::limits::{CLIENTS_LIMIT, REPLY_LIMIT, entry_cost};
use crate::state::OWN;

/// What is kept of a client's last request. Client and nonce of the reply are those of the request.
#[derive(BorshSerialize, BorshDeserialize)]
struct Session {
    last_used: u64,
    sequence: u64,
    signature: Signature,
    status: u16,
    #[borsh(deserialize_with = "bounded_bytes::<REPLY_LIMIT, _>")]
    body: Vec<u8>,
}

impl Bounded for Session {
    const LIMIT: usize = 8 + 8 + 64 + 2 + 4 + REPLY_LIMIT;
}

/// The order of use, and what the table costs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Sessions {
    by_last_used: BTreeMap<u64, (PublicKey, u64)>,
    used_bytes: u64,
}

const TAG: [u8; 2] = [OWN, b's'];

fn key(client: &PublicKey) -> Vec<u8> {
    [&TAG[..], client.as_bytes()].concat()
}

/// The client whose entry has this key, if it is one of the table's.
pub(crate) fn client_of(key: &[u8]) -> Option<PublicKey> {
    let bytes: [u8; 32] = key.strip_prefix(&TAG)?.try_into().ok()?;
    PublicKey::from_bytes(bytes).ok()
}

/// The reply to an authentic request that is not to be executed.
pub(crate) fn judge(tree: &StateTree, request: &Request) -> Option<Reply> {
    let known = Session::decoded(tree.get(&key(&request.client))?).ok()?;
    if request.sequence > known.sequence {
        return None;
    }
    // Ed25519 as verified here gives no second message under one signature, so this is the same request.
    let again = request.sequence == known.sequence && request.signature == known.signature;
    Some(match again {
        true => Reply::to(request, known.status, known.body),
        false => Reply::to(request, status::REPLAYED, Vec::new()),
    })
}

impl Sessions {
    /// Takes an entry of the table as it was exported; false if it is none.
    pub(crate) fn restore(&mut self, client: PublicKey, entry_key: &[u8], value: &[u8]) -> bool {
        let Ok(session) = Session::decoded(value) else { return false };
        let cost = entry_cost(entry_key, value);
        self.used_bytes += cost;
        self.by_last_used.insert(session.last_used, (client, cost)).is_none()
    }

    pub(crate) fn used_bytes(&self) -> u64 {
        self.used_bytes
    }

    pub(crate) fn len(&self) -> usize {
        self.by_last_used.len()
    }

    /// Keeps the reply to a request that was executed as entry `number`, and forgets others if need be.
    pub(crate) fn record(
        &mut self,
        tree: &StateTree,
        changes: &mut Changes,
        request: &Request,
        reply: &Reply,
        number: u64,
        budget_bytes: u64,
    ) {
        let key = key(&request.client);
        if let Some(old) = tree.get(&key).and_then(|value| Session::decoded(value).ok()) {
            self.forget(old.last_used);
        }
        let Request { sequence, signature, .. } = *request;
        let mut value = Session {
            last_used: number,
            sequence,
            signature,
            status: reply.status,
            body: reply.body.clone(),
        }
        .encoded();
        value.shrink_to_fit();
        let cost = entry_cost(&key, &value);
        while self.len() >= CLIENTS_LIMIT || self.used_bytes + cost > budget_bytes {
            let Some((&oldest, &(client, _))) = self.by_last_used.first_key_value() else { break };
            self.forget(oldest);
            changes.insert(self::key(&client), None);
        }
        self.used_bytes += cost;
        self.by_last_used.insert(number, (request.client, cost));
        changes.insert(key, Some(value));
    }

    fn forget(&mut self, last_used: u64) {
        if let Some((_, cost)) = self.by_last_used.remove(&last_used) {
            self.used_bytes -= cost;
        }
    }
}
