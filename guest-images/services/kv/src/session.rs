//! What makes a request take effect at most once: the last request of each client, with its reply.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use quorate_attest::key::Signature;
use quorate_attest::request::Request;

/// Most clients remembered.
pub const CLIENTS_MAX: usize = 4096;

/// What a client costs beyond its reply: both table entries and an allocation header.
const SESSION_OVERHEAD_BYTES: u64 = 448;

/// What is to be done with an authentic request.
pub(crate) enum Verdict {
    /// It is new: execute it and [`Sessions::record`] the reply.
    Execute,
    /// It was executed: this was its reply.
    Again(Vec<u8>),
    /// Its sequence number was used by another request or is too low.
    Replayed,
}

struct Session {
    sequence: u64,
    signature: Signature,
    reply: Vec<u8>,
    last_used: u64,
}

/// The table, with the order in which clients were last heard.
pub(crate) struct Sessions {
    clients: BTreeMap<[u8; 32], Session>,
    by_last_used: BTreeMap<u64, [u8; 32]>,
    used_bytes: u64,
    budget_bytes: u64,
}

impl Sessions {
    pub(crate) fn new(budget_bytes: u64) -> Self {
        Self { clients: BTreeMap::new(), by_last_used: BTreeMap::new(), used_bytes: 0, budget_bytes }
    }

    pub(crate) fn len(&self) -> usize {
        self.clients.len()
    }

    /// Judges an authentic request, which is input number `now` and counts as use of the client's place.
    pub(crate) fn judge(&mut self, request: &Request, now: u64) -> Verdict {
        let client = request.client.to_bytes();
        let Some(session) = self.clients.get_mut(&client) else { return Verdict::Execute };
        self.by_last_used.remove(&session.last_used);
        self.by_last_used.insert(now, client);
        session.last_used = now;
        if request.sequence > session.sequence {
            return Verdict::Execute;
        }
        // Ed25519 as verified here gives no second message under one signature, so this is the same request.
        match request.sequence == session.sequence && request.signature == session.signature {
            true => Verdict::Again(session.reply.clone()),
            false => Verdict::Replayed,
        }
    }

    /// Keeps the reply to a request that was executed as input number `now`, and forgets others if need be.
    pub(crate) fn record(&mut self, request: &Request, reply: Vec<u8>, now: u64) {
        let client = request.client.to_bytes();
        self.forget(&client);
        let cost = cost(&reply);
        while self.clients.len() >= CLIENTS_MAX || self.used_bytes + cost > self.budget_bytes {
            let Some((_, oldest)) = self.by_last_used.pop_first() else { break };
            self.forget(&oldest);
        }
        let Request { sequence, signature, .. } = *request;
        self.used_bytes += cost;
        self.by_last_used.insert(now, client);
        self.clients.insert(client, Session { sequence, signature, reply, last_used: now });
    }

    fn forget(&mut self, client: &[u8; 32]) {
        if let Some(session) = self.clients.remove(client) {
            self.by_last_used.remove(&session.last_used);
            self.used_bytes -= cost(&session.reply);
        }
    }
}

fn cost(reply: &[u8]) -> u64 {
    reply.len() as u64 + SESSION_OVERHEAD_BYTES
}
