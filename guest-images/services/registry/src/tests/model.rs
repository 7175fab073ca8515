//! The registry against the simplest maps that could be right, and arbitrary bodies.

use std::collections::BTreeMap;
use std::vec::Vec;

use proptest::prelude::*;
use quorate_attest::key::PublicKey;
use quorate_attest::request::Request;
use quorate_kit::status;

use super::fixture::{ADMIN, NOON, Node};
use crate::client::{self, StateEntry};
use crate::testing::{CLIENTS, Operations, key};
use crate::*;

#[derive(Clone, Default)]
struct Model {
    names: BTreeMap<Vec<u8>, Record>,
    leases: BTreeMap<u64, Lease>,
    events: Vec<NumberedEvent>,
    number: u64,
    time_ms: u64,
}

type Result<T> = core::result::Result<T, u16>;

fn allowed(client: u64, owner: &PublicKey) -> Result<()> {
    if client == ADMIN || key(client).public() == *owner { Ok(()) } else { Err(status::NOT_AUTHORIZED) }
}

impl Model {
    fn event(&mut self, put: bool, name: &[u8], record: Record) {
        let sub = self.events.iter().filter(|event| event.number == self.number).count() as u32;
        let event = Event { put, name: name.into(), record };
        self.events.push(NumberedEvent { number: self.number, sub, event });
    }

    fn running(&self, id: u64) -> Result<Lease> {
        let lease = self.leases.get(&id).copied().ok_or(status::NOT_FOUND)?;
        if lease.expires_ms == 0 || lease.expires_ms > self.time_ms {
            Ok(lease)
        } else {
            Err(status::NOT_FOUND)
        }
    }

    fn put(&mut self, client: u64, name: &[u8], value: &[u8], lease: u64) -> Result<()> {
        let before = self.names.get(name);
        if let Some(record) = before {
            allowed(client, &record.owner)?;
        }
        if lease != 0 {
            allowed(client, &self.running(lease)?.owner)?;
        }
        let fresh = Record {
            value: Vec::new(),
            owner: key(client).public(),
            lease: 0,
            created: self.number,
            modified: 0,
            version: 0,
        };
        let mut record = before.cloned().unwrap_or(fresh);
        (record.value, record.lease, record.modified) = (value.into(), lease, self.number);
        record.version += 1;
        self.names.insert(name.into(), record.clone());
        self.event(true, name, record);
        Ok(())
    }

    fn delete(&mut self, client: u64, range: &NameRange) -> Result<()> {
        let names: Vec<_> = self.names.keys().filter(|name| range.contains(name)).cloned().collect();
        for name in names {
            allowed(client, &self.names[&name].owner)?;
            self.end(&name);
        }
        Ok(())
    }

    fn end(&mut self, name: &[u8]) {
        if let Some(record) = self.names.remove(name) {
            self.event(false, name, record);
        }
    }

    fn end_lease(&mut self, id: u64) {
        let kept = self.names.iter().filter(|(_, record)| record.lease == id);
        for name in kept.map(|(name, _)| name.clone()).collect::<Vec<_>>() {
            self.end(&name);
        }
        self.leases.remove(&id);
    }

    fn expect(&self, client: u64, name: &[u8], expected: Option<u64>) -> Result<()> {
        let record = self.names.get(name);
        if let Some(record) = record {
            allowed(client, &record.owner)?;
        }
        match (expected, record.map_or(0, |record| record.version)) {
            (Some(0), version) if version != 0 => Err(status::CONFLICT),
            (Some(expected), version) if expected != version => Err(status::STALE),
            _ => Ok(()),
        }
    }

    fn holds(&self, compare: &Compare) -> bool {
        let record = self.names.get(&compare.name);
        let (there, given) = match (&compare.target, record) {
            (Target::Value(given), Some(record)) => {
                return related(compare.relation, &record.value, given);
            }
            (Target::Value(_), None) => return false,
            (Target::Version(given), record) => (record.map(|record| record.version), given),
            (Target::Created(given), record) => (record.map(|record| record.created), given),
            (Target::Modified(given), record) => (record.map(|record| record.modified), given),
            (Target::Lease(given), record) => (record.map(|record| record.lease), given),
        };
        related(compare.relation, &there.unwrap_or(0), given)
    }

    fn apply(&mut self, client: u64, operation: &Operation) -> Result<()> {
        operation.check()?;
        match operation {
            Operation::Register(Register { name, value, lease, expected, .. }) => {
                self.expect(client, name, *expected)?;
                self.put(client, name, value, *lease)
            }
            Operation::Deregister { name, expected, .. } => {
                if !self.names.contains_key(name) {
                    return Err(status::NOT_FOUND);
                }
                self.expect(client, name, *expected)?;
                self.delete(client, &NameRange::one(name))
            }
            Operation::DeregisterRange(delete) => self.delete(client, &delete.range),
            Operation::Txn(txn) => {
                let holds = txn.compare.iter().all(|compare| self.holds(compare));
                for operation in if holds { &txn.success } else { &txn.failure } {
                    match operation {
                        TxnOp::Put { name, value, lease, .. } => self.put(client, name, value, *lease)?,
                        TxnOp::DeleteRange(delete) => self.delete(client, &delete.range)?,
                        TxnOp::Get { .. } => {}
                    }
                }
                Ok(())
            }
            Operation::LeaseGrant(LeaseGrant { id, ttl_ms }) => {
                let id = if *id == 0 {
                    (self.number..).find(|id| !self.leases.contains_key(id)).unwrap()
                } else {
                    *id
                };
                if self.leases.contains_key(&id) {
                    return Err(status::CONFLICT);
                }
                let owner = key(client).public();
                self.leases.insert(id, Lease { owner, ttl_ms: *ttl_ms, expires_ms: 0 });
                Ok(())
            }
            Operation::LeaseRenew { id } => {
                let mut lease = self.running(*id)?;
                allowed(client, &lease.owner)?;
                if lease.expires_ms != 0 {
                    lease.expires_ms = self.time_ms + lease.ttl_ms;
                }
                self.leases.insert(*id, lease);
                Ok(())
            }
            Operation::LeaseRevoke { id } => {
                let lease = self.leases.get(id).ok_or(status::NOT_FOUND)?;
                allowed(client, &lease.owner)?;
                self.end_lease(*id);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn tick(&mut self, time_ms: u64) {
        for lease in self.leases.values_mut().filter(|lease| lease.expires_ms == 0) {
            lease.expires_ms = time_ms + lease.ttl_ms;
        }
        self.time_ms = time_ms;
        let mut ended: Vec<_> = self.leases.iter().map(|(id, lease)| (lease.expires_ms, *id)).collect();
        ended.retain(|(expires_ms, _)| *expires_ms <= time_ms);
        ended.sort();
        for (_, id) in ended {
            self.end_lease(id);
        }
    }
}

fn related<T: Ord>(relation: Relation, there: &T, given: &T) -> bool {
    match relation {
        Relation::Equal => there == given,
        Relation::Greater => there > given,
        Relation::Less => there < given,
        Relation::NotEqual => there != given,
    }
}

/// Checks that an outcome tells what the model holds.
fn agrees(model: &Model, before: &Model, operation: &Operation, outcome: &Outcome) -> bool {
    let entry = |(name, record): (&Vec<u8>, &Record)| Entry { name: name.clone(), record: record.clone() };
    match (operation, outcome) {
        (Operation::Lookup { name }, Outcome::Found { record, .. }) => {
            record.as_ref() == model.names.get(name)
        }
        (Operation::List(list), Outcome::Listed { page, .. }) => {
            let all: Vec<_> =
                model.names.iter().filter(|(name, _)| name.starts_with(&list.prefix)).map(entry).collect();
            all.starts_with(&page.entries) && page.more == (all.len() > page.entries.len())
        }
        (Operation::Register(register), Outcome::Registered { version, previous, .. }) => {
            let there = before.names.get(&register.name).filter(|_| register.previous);
            *version == model.names[&register.name].version && previous.as_ref() == there
        }
        (Operation::DeregisterRange(delete), Outcome::RangeDeregistered { deleted, previous, .. }) => {
            let gone: Vec<_> =
                before.names.iter().filter(|(name, _)| delete.range.contains(name)).map(entry).collect();
            *deleted == gone.len() as u64 && *previous == if delete.previous { gone } else { Vec::new() }
        }
        (Operation::Txn(txn), Outcome::Txn { succeeded, results, .. }) => {
            let holds = txn.compare.iter().all(|compare| before.holds(compare));
            *succeeded == holds && results.len() == if holds { txn.success.len() } else { txn.failure.len() }
        }
        _ => operation.op() == outcome.op(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn random_operations_agree_with_the_model_and_an_error_changes_nothing(seed: u64) {
        let (mut node, mut model, mut operations) = (Node::new(), Model::default(), Operations::new(seed));
        let mut time_ms = NOON;
        for step in 0..150 {
            if step % 9 == 0 {
                time_ms += 700;
                // The third of the seven votes moves the time.
                model.number = node.replica.next() + 2;
                model.tick(time_ms);
                node.tick(time_ms);
            }
            let (operation, client) = (operations.draw(), step % CLIENTS);
            let (entries, before) = (node.entries(), model.clone());
            model.number = node.replica.next();
            let result = node.ask(client, &operation);
            if result == Err(status::LIMIT) {
                // Only the length of a result may be over a limit here, which the model does not measure.
                prop_assert!(matches!(operation.op(), op::TXN | op::DEREGISTER_RANGE | op::LIST), "{:?}", operation);
                model = before;
                prop_assert_eq!(node.entries(), entries);
                continue;
            }
            match (model.apply(client, &operation), &result) {
                (Ok(()), Ok(outcome)) => {
                    prop_assert!(agrees(&model, &before, &operation, outcome), "{:?} {:?}", operation, outcome);
                }
                (expected, result) => {
                    model = before;
                    prop_assert_eq!(expected.err(), result.clone().err(), "{:?}", operation);
                    prop_assert_eq!(node.entries(), entries);
                }
            }
        }
        node.check();
        let (mut names, mut leases) = (BTreeMap::new(), BTreeMap::new());
        for (key, value) in node.entries() {
            match client::entry(&key, &value).unwrap() {
                StateEntry::Record(entry) => drop(names.insert(entry.name, entry.record)),
                StateEntry::Lease { id, lease } => drop(leases.insert(id, lease)),
                _ => {}
            }
        }
        prop_assert!(names == model.names && leases == model.leases);
        let lowest = node.lowest();
        model.events.retain(|event| event.number >= lowest);
        model.events.truncate(256);
        prop_assert_eq!(node.events_from(lowest), model.events);
    }

    #[test]
    fn arbitrary_and_mutated_bodies_never_panic_and_their_errors_change_nothing(
        seed: u64, number in 0u16..14, at: prop::sample::Index, flip: u8, noise in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let (mut node, mut operations) = (Node::new(), Operations::new(seed));
        for _ in 0..12 {
            let _ = node.ask(0, &operations.draw());
        }
        for step in 0..24u64 {
            let operation = operations.draw();
            let mut call = client::call(100 + step, quorate_attest::id::Nonce::from_bytes([0; 16]), &operation);
            if !call.body.is_empty() {
                let at = at.index(call.body.len());
                call.body[at] ^= flip;
            }
            match step % 3 {
                0 => call.body = noise.clone(),
                1 => call.body.extend(&noise),
                _ => call.op = if step % 2 == 0 { number } else { call.op },
            }
            let before = node.entries();
            let request = Request::sign(&key(0), node.service().instance(), call);
            if node.deliver(&request).status != status::OK {
                prop_assert_eq!(node.entries(), before);
            }
        }
        node.check();
    }
}
