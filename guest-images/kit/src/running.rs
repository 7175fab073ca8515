//! A service that has begun: its state, its clients and its time.

use alloc::vec::Vec;

use quorate_attest::encoding::{Bounded, to_bytes};
use quorate_attest::id::VmId;
use quorate_attest::request::{BODY_LIMIT, Reply, Request, status};
use quorate_attest::service::{Applied, Executed, Genesis, Ordered, Output, Query, TICK};
use quorate_attest::state_tree::{Changes, StateTree};
use sha2::{Digest as _, Sha256};

use crate::envelope::{authenticate, to_nobody};
use crate::limits::{Limits, REPLY_LIMIT};
use crate::session::{self, Sessions};
use crate::state::{OWN, Outcome, State};
use crate::time::Clock;
use crate::{Call, Service, query};

/// Where the state says which service it is of.
pub(crate) const GENESIS_KEY: [u8; 2] = [OWN, b'g'];

/// Bytes of an executed request in an output at most.
const EXECUTED_BYTES: usize = 4 + (2 + 32 + 8 + 16 + 2 + 4 + REPLY_LIMIT) + 40;

/// What every replica of a service holds alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Running {
    pub(crate) instance: VmId,
    pub(crate) limits: Limits,
    pub(crate) tree: StateTree,
    /// What the service's entries cost.
    pub(crate) used_bytes: u64,
    pub(crate) sessions: Sessions,
    pub(crate) clock: Clock,
    /// Number of the next entry of the service's log.
    pub(crate) next: u64,
}

/// Checks what does not depend on the service.
pub(crate) fn check(genesis: &Genesis, limits: &Limits) -> Result<Clock, u16> {
    let spec = &genesis.spec;
    match spec.validate() {
        Ok(()) if spec.memory_bytes == limits.memory_bytes => Clock::new(genesis),
        _ => Err(status::BAD_CONFIG),
    }
}

/// What the state says about its service: its id, and who votes about its time.
pub(crate) fn genesis_value(genesis: &Genesis) -> Vec<u8> {
    let digest: [u8; 32] = Sha256::digest(to_bytes(genesis)).into();
    to_bytes(&(genesis.spec.id(), digest))
}

impl Running {
    /// The service as it begins: entry 0 of its log.
    pub(crate) fn begin<S: Service>(genesis: &Genesis, limits: Limits) -> Result<Self, u16> {
        let clock = check(genesis, &limits)?;
        let mut tree = StateTree::default();
        let mut state = State::new(&tree, 0, &limits);
        S::genesis(&mut state, &genesis.spec.config).map_err(failure)?;
        let Outcome { mut changes, used_bytes } = state.finish().ok_or(status::LIMIT)?;
        changes.insert(GENESIS_KEY.to_vec(), Some(genesis_value(genesis)));
        tree.apply(changes);
        let instance = genesis.spec.id().instance();
        Ok(Self { instance, limits, tree, used_bytes, sessions: Sessions::default(), clock, next: 1 })
    }

    /// Whether this is the genesis and nothing was executed since.
    pub(crate) fn began_with(&self, genesis: &Genesis) -> bool {
        self.next == 1 && self.tree.get(&GENESIS_KEY) == Some(&genesis_value(genesis)[..])
    }

    /// The result of entry 0.
    pub(crate) fn begun(&self) -> Output {
        let executed = Executed { reply: to_nobody(status::OK).encoded(), state: self.tree.commitment() };
        Output::Applied(Applied { first: 0, executed: [executed].into() })
    }

    /// Executes requests in order, as many as an output has room for.
    pub(crate) fn apply<S: Service>(
        &mut self,
        first: u64,
        requests: &[Ordered],
        pace: &mut dyn FnMut(),
    ) -> Output {
        if first != self.next {
            return self.refuse(status::STALE);
        }
        if first.checked_add(requests.len() as u64).is_none() {
            return self.refuse(status::LIMIT);
        }
        let mut executed: Vec<Executed> = Vec::new();
        let mut used = 1 + 8 + 4;
        for request in requests {
            if used + EXECUTED_BYTES > BODY_LIMIT {
                break;
            }
            let entry = self.execute::<S>(&request.request);
            used += 4 + entry.reply.len() + 40;
            executed.push(entry);
            pace();
        }
        Output::Applied(Applied { first, executed })
    }

    /// Answers a question. Changes nothing.
    pub(crate) fn query(&self, query: &Query) -> Output {
        match query::answer(&self.tree, query) {
            Ok(answer) => {
                Output::Answered { size: self.next, state: self.tree.commitment(), answer: answer.into() }
            }
            Err(status) => self.refuse(status),
        }
    }

    pub(crate) fn refuse(&self, status: u16) -> Output {
        Output::Refused { status, next: self.next }
    }

    fn execute<S: Service>(&mut self, bytes: &[u8]) -> Executed {
        let number = self.next;
        self.next += 1;
        let reply = match authenticate(&self.instance, bytes) {
            Ok(request) if request.op == TICK => self.tick::<S>(&request, number),
            Ok(request) => self.request::<S>(&request, number),
            Err(status) => to_nobody(status),
        };
        Executed { reply: reply.encoded(), state: self.tree.commitment() }
    }

    fn request<S: Service>(&mut self, request: &Request, number: u64) -> Reply {
        if let Some(reply) = session::judge(&self.tree, request) {
            return reply;
        }
        let (status, body, outcome) = match self.attempt::<S>(request, number) {
            Ok((body, outcome)) => (status::OK, body, outcome),
            Err(error) => {
                (failure(error), Vec::new(), Outcome { changes: Changes::new(), used_bytes: self.used_bytes })
            }
        };
        let reply = Reply::to(request, status, body);
        let Outcome { mut changes, used_bytes } = outcome;
        let budget = self.limits.session_bytes;
        self.sessions.record(&self.tree, &mut changes, request, &reply, number, budget);
        self.tree.apply(changes);
        self.used_bytes = used_bytes;
        reply
    }

    fn attempt<S: Service>(&self, request: &Request, number: u64) -> Result<(Vec<u8>, Outcome), u16> {
        let Request { op, client, sequence, epoch, body, .. } = request;
        if *epoch != 0 {
            return Err(status::WRONG_EPOCH);
        }
        let mut state = State::new(&self.tree, self.used_bytes, &self.limits);
        let (instance, time_ms) = (&self.instance, self.clock.time_ms());
        let call = Call { op: *op, instance, client, sequence: *sequence, number, time_ms, body };
        let body = S::apply(&mut state, &call)?;
        if body.len() > REPLY_LIMIT {
            return Err(status::LIMIT);
        }
        Ok((body, state.finish().ok_or(status::LIMIT)?))
    }

    fn tick<S: Service>(&mut self, request: &Request, number: u64) -> Reply {
        if request.epoch != 0 {
            return Reply::to(request, status::WRONG_EPOCH, Vec::new());
        }
        let before = self.clock.time_ms();
        let (key, value) = match self.clock.vote(&request.client, &request.body) {
            Ok(entry) => entry,
            Err(status) => return Reply::to(request, status, Vec::new()),
        };
        let now = self.clock.time_ms();
        let mut changes = Changes::new();
        if now > before {
            let mut state = State::new(&self.tree, self.used_bytes, &self.limits);
            S::tick(&mut state, number, now);
            // A service that changes too much at once must not keep time from passing.
            if let Some(outcome) = state.finish() {
                (changes, self.used_bytes) = (outcome.changes, outcome.used_bytes);
            }
        }
        changes.insert(key, Some(value));
        self.tree.apply(changes);
        Reply::to(request, status::OK, to_bytes(&now))
    }
}

/// An error must not look like success: what it did was rolled back.
fn failure(status: u16) -> u16 {
    status.max(status::MALFORMED)
}
