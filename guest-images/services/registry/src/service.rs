//! Executing operations and ticks.

use alloc::vec::Vec;

use quorate_attest::encoding::Bounded;
use quorate_attest::quorum::QuorumRule;
use quorate_kit::{Call, Service, State, status};

use crate::page::Room;
use crate::store::{self, Author, Store};
use crate::{
    CHANGES_MAX, Config, Entry, LEASE_NAMES_MAX, LEASES_MAX, Lease, LeaseGrant, List, NameRange, Operation,
    Outcome, QuorumRange, Record, Register, Watch,
};

/// Leases that one tick lets begin to run.
const BEGIN_MAX: usize = 32;

/// Cost of changes after which a tick leaves the rest to the next one. What one more name costs, and the leases that begin,
/// come on top; together that is less than the smallest guest allows.
const TICK_COST_MAX: usize = 65_536;

/// The registry's state machine.
#[derive(Debug, Clone, Copy)]
pub struct Registry;

impl Service for Registry {
    fn genesis(state: &mut State<'_>, config: &[u8]) -> Result<(), u16> {
        let config = Config::decoded(config).map_err(|_| status::BAD_CONFIG)?;
        config.validate()?;
        store::create(state, &config)
    }

    fn apply(state: &mut State<'_>, call: &Call<'_>) -> Result<Vec<u8>, u16> {
        let operation = Operation::decode(call.op, call.body)?;
        let config = store::config(state)?;
        let author = Author { client: call.client, admin: config.admins.binary_search(call.client).is_ok() };
        let mut store = Store::open(state, call.number, call.time_ms, config.event_bytes_max)?;
        let outcome = store.execute(author, operation)?;
        store.finish()?;
        Ok(outcome.encoded())
    }

    fn tick(state: &mut State<'_>, number: u64, time_ms: u64) {
        let Ok(config) = store::config(state) else { return };
        let Ok(mut store) = Store::open(state, number, time_ms, config.event_bytes_max) else { return };
        // Nothing here needs more room than it frees, so nothing fails.
        let done = store.begin_leases(time_ms).and_then(|()| store.end_leases(time_ms));
        debug_assert_eq!(done, Ok(()));
        let _ = store.finish();
    }
}

/// Quorums of `n` members of which `f` may be Byzantine.
fn derive(n: u64, f: u64) -> Option<QuorumRange> {
    let rule = QuorumRule::new(n, f).ok()?;
    Some(QuorumRange { min: rule.quorum(), max: n - f })
}

impl Store<'_, '_> {
    fn execute(&mut self, author: Author<'_>, operation: Operation) -> Result<Outcome, u16> {
        let number = self.number;
        match operation {
            Operation::Register(register) => self.register(author, register),
            Operation::Deregister { name, expected, previous } => {
                let record = self.deregister(author, &name, expected)?;
                Ok(Outcome::Deregistered { number, previous: previous.then_some(record) })
            }
            Operation::DeregisterRange(delete) => {
                let mut room = Room::for_outcome();
                let (deleted, previous) = self.delete_range(author, &delete, &mut room)?;
                Ok(Outcome::RangeDeregistered { number, deleted, previous })
            }
            Operation::Txn(txn) => self.txn(author, txn),
            Operation::LeaseGrant(grant) => self.grant(author, grant),
            Operation::LeaseRenew { id } => self.renew(author, id),
            Operation::LeaseRevoke { id } => self.revoke(author, id),
            Operation::Lookup { name } => Ok(Outcome::Found { number, record: self.record(&name) }),
            Operation::List(list) => self.list(&list),
            Operation::Derive { n, f } => Ok(Outcome::Derived { quorum: derive(n, f) }),
            Operation::Watch(watch) => self.watch(&watch),
        }
    }

    fn register(&mut self, author: Author<'_>, register: Register) -> Result<Outcome, u16> {
        let Register { name, value, lease, expected, previous } = register;
        let before = self.record(&name);
        if let Some(record) = &before {
            author.check(&record.owner)?;
        }
        check_version(expected, before.as_ref())?;
        let before = self.put(author, &name, value, lease)?;
        let version = before.as_ref().map_or(0, |record| record.version) + 1;
        Ok(Outcome::Registered { number: self.number, version, previous: before.filter(|_| previous) })
    }

    fn deregister(&mut self, author: Author<'_>, name: &[u8], expected: Option<u64>) -> Result<Record, u16> {
        let record = self.record(name).ok_or(status::NOT_FOUND)?;
        author.check(&record.owner)?;
        check_version(expected, Some(&record))?;
        self.remove(name, record.clone())?;
        Ok(record)
    }

    /// Deregisters the names of a range; returns how many, and what was asked for of them.
    pub(crate) fn delete_range(
        &mut self,
        author: Author<'_>,
        delete: &crate::DeregisterRange,
        room: &mut Room,
    ) -> Result<(u64, Vec<Entry>), u16> {
        let found = self.range(&delete.range, CHANGES_MAX + 1);
        let names: Vec<Vec<u8>> = found.into_iter().map(|(name, _)| name.to_vec()).collect();
        if names.len() > CHANGES_MAX {
            return Err(status::LIMIT);
        }
        let mut previous = Vec::new();
        for name in &names {
            let record = self.deregister(author, name, None)?;
            if delete.previous {
                let entry = Entry { name: name.clone(), record };
                room.take(&entry)?;
                previous.push(entry);
            }
        }
        Ok((names.len() as u64, previous))
    }

    fn grant(&mut self, author: Author<'_>, grant: LeaseGrant) -> Result<Outcome, u16> {
        let LeaseGrant { id, ttl_ms } = grant;
        if self.totals.leases >= LEASES_MAX {
            return Err(status::LIMIT);
        }
        let id = match id {
            0 => self.free_lease(),
            id if self.lease(id).is_some() => return Err(status::CONFLICT),
            id => id,
        };
        // Time may stand still while nothing depends on it: the lease runs from the next tick.
        self.set_lease(id, Lease { owner: *author.client, ttl_ms, expires_ms: 0 })?;
        Ok(Outcome::LeaseGranted { number: self.number, id, ttl_ms })
    }

    fn free_lease(&self) -> u64 {
        let mut id = self.number;
        while self.lease(id).is_some() {
            id += 1;
        }
        id
    }

    fn renew(&mut self, author: Author<'_>, id: u64) -> Result<Outcome, u16> {
        let mut lease = self.running_lease(id).ok_or(status::NOT_FOUND)?;
        author.check(&lease.owner)?;
        if lease.expires_ms != 0 {
            lease.expires_ms = self.time_ms().saturating_add(lease.ttl_ms);
            self.set_lease(id, lease)?;
        }
        let Lease { ttl_ms, expires_ms, .. } = lease;
        Ok(Outcome::LeaseRenewed { number: self.number, ttl_ms, expires_ms })
    }

    fn revoke(&mut self, author: Author<'_>, id: u64) -> Result<Outcome, u16> {
        let lease = self.lease(id).ok_or(status::NOT_FOUND)?;
        author.check(&lease.owner)?;
        let names = self.lease_names(id, LEASE_NAMES_MAX);
        for name in &names {
            self.end_name(name)?;
        }
        self.remove_lease(id, &lease);
        Ok(Outcome::LeaseRevoked { number: self.number, deleted: names.len() as u64 })
    }

    fn end_name(&mut self, name: &[u8]) -> Result<(), u16> {
        let record = self.record(name).ok_or(status::NOT_FOUND)?;
        self.remove(name, record)
    }

    fn list(&mut self, list: &List) -> Result<Outcome, u16> {
        let mut range = NameRange::prefix(&list.prefix);
        range.low = range.low.max(list.from.clone());
        let page = self.page(&range, list.limit, &mut Room::for_outcome())?;
        Ok(Outcome::Listed { number: self.number, page })
    }

    fn watch(&mut self, watch: &Watch) -> Result<Outcome, u16> {
        Ok(Outcome::Watched { number: self.number, watched: self.watched(watch)? })
    }

    fn begin_leases(&mut self, time_ms: u64) -> Result<(), u16> {
        for id in self.ending(0, 0, BEGIN_MAX) {
            let Some(mut lease) = self.lease(id) else { continue };
            lease.expires_ms = time_ms.saturating_add(lease.ttl_ms);
            self.set_lease(id, lease)?;
        }
        Ok(())
    }

    fn end_leases(&mut self, time_ms: u64) -> Result<(), u16> {
        let begun = self.cost();
        while self.cost() - begun < TICK_COST_MAX {
            let Some(&id) = self.ending(1, time_ms, 1).first() else { return Ok(()) };
            let Some(lease) = self.lease(id) else { return Ok(()) };
            match self.lease_names(id, 1).first() {
                Some(name) => self.end_name(name)?,
                None => self.remove_lease(id, &lease),
            }
        }
        Ok(())
    }
}

/// Compares the version a client expects with the one there is, 0 if there is none.
fn check_version(expected: Option<u64>, record: Option<&Record>) -> Result<(), u16> {
    match (expected, record.map_or(0, |record| record.version)) {
        (None, _) => Ok(()),
        (Some(expected), version) if expected == version => Ok(()),
        (Some(0), _) => Err(status::CONFLICT),
        _ => Err(status::STALE),
    }
}
