//! The registry of services: indexes, totals and leases agree with the records there are.

use std::collections::BTreeSet;

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::encoding::{Bounded, from_bytes};
use quorate_attest::id::VmId;
use quorate_attest::key::SecretKey;
use quorate_attest::request::Reply;
use quorate_attest::state_tree::StateTree;
use quorate_registry::client;
use quorate_registry::testing::{self, Script};
use quorate_registry::{
    Compare, DeregisterRange, EVENTS_MAX, Lease, LeaseGrant, List, NAME_BYTES_MAX, NameRange, Operation,
    PAGE_ENTRIES_MAX, Record, Register, Relation, StateKey, TTL_MS_MAX, Target, Totals, Txn, TxnOp, Watch,
    expiry_key, lease_key, lease_name_key,
};

use crate::cut::Cut;
use crate::must;
use crate::world::{Draft, Subject};

/// The registry with the configuration of its own tests: one admin, few events.
#[derive(Debug)]
pub struct Registry;

impl Subject for Registry {
    type Service = quorate_registry::Registry;

    fn config() -> Vec<u8> {
        testing::config().encoded()
    }

    fn key(client: u8) -> SecretKey {
        testing::key(u64::from(client))
    }

    fn operation(cut: &mut Cut<'_>, _: &Draft<'_>) -> (u16, Vec<u8>) {
        let operation = operation(cut);
        (operation.op(), operation.body())
    }

    fn script(seed: u64, length: usize, instance: VmId, execute: &mut dyn FnMut(Vec<u8>) -> Option<Reply>) {
        let mut script = Script::new(seed, instance);
        for _ in 0..length {
            execute(script.request().encoded());
        }
    }

    fn check(tree: &StateTree) {
        let (mut expected, mut found) = (BTreeSet::new(), BTreeSet::new());
        let (mut totals, mut counted) = (None, Totals::default());
        let (mut lowest, mut oldest) = (None, u64::MAX);
        for (key, value) in tree.from(&[1]) {
            let parsed = StateKey::parse(key).unwrap_or_else(|| panic!("a key of no kind: {key:?}"));
            assert_eq!(parsed.to_bytes(), key);
            match parsed {
                StateKey::Record { name } => {
                    counted.services += 1;
                    let KeptRecord { lease, .. } = must(from_bytes(value, Record::LIMIT));
                    if lease != 0 {
                        assert!(tree.get(&lease_key(lease)).is_some(), "a name outlived lease {lease}");
                        expected.insert(lease_name_key(lease, &name));
                    }
                }
                StateKey::Lease { id } => {
                    counted.leases += 1;
                    let KeptLease { expires_ms, .. } = must(from_bytes(value, Lease::LIMIT));
                    expected.insert(expiry_key(expires_ms, id));
                }
                StateKey::Event { number, .. } => {
                    counted.events += 1;
                    counted.event_bytes += (key.len() + value.len()) as u64;
                    oldest = oldest.min(number);
                }
                StateKey::LeaseName { .. } | StateKey::Expiry { .. } => {
                    found.insert(key.to_vec());
                }
                StateKey::LowestEvent => lowest = Some(must(from_bytes::<u64>(value, 8))),
                StateKey::Totals => totals = Some(must(Totals::decoded(value))),
                StateKey::Config => {}
            }
        }
        assert_eq!(found, expected, "indexes");
        assert_eq!(totals, Some(counted), "totals");
        assert!(counted.events <= EVENTS_MAX && lowest.is_some());
        // Of the number before the window a part may be left.
        assert!(oldest >= lowest.unwrap_or(0).saturating_sub(1), "events before the window");
    }

    fn check_entry(key: &[u8], value: &[u8]) {
        must(client::entry(key, value));
    }
}

/// A [`Record`] whose key is bytes.
#[derive(BorshSerialize, BorshDeserialize)]
struct KeptRecord {
    value: Vec<u8>,
    owner: [u8; 32],
    lease: u64,
    created: u64,
    modified: u64,
    version: u64,
}

/// A [`Lease`] whose key is bytes.
#[derive(BorshSerialize, BorshDeserialize)]
struct KeptLease {
    owner: [u8; 32],
    ttl_ms: u64,
    expires_ms: u64,
}

fn operation(cut: &mut Cut<'_>) -> Operation {
    match cut.below(12) {
        0 | 1 => Operation::Register(Register {
            name: name(cut),
            value: value(cut),
            lease: lease(cut),
            expected: version(cut),
            previous: cut.flag(),
        }),
        2 => Operation::Deregister { name: name(cut), expected: version(cut), previous: cut.flag() },
        3 => Operation::DeregisterRange(DeregisterRange { range: range(cut), previous: cut.flag() }),
        4 => Operation::Txn(Txn {
            compare: list(cut, 3, compare),
            success: list(cut, 5, txn_op),
            failure: list(cut, 5, txn_op),
        }),
        5 => {
            let ttl_ms = if cut.byte() == 255 { TTL_MS_MAX } else { cut.number() };
            Operation::LeaseGrant(LeaseGrant { id: lease(cut), ttl_ms })
        }
        6 => Operation::LeaseRenew { id: lease(cut) },
        7 => Operation::LeaseRevoke { id: lease(cut) },
        8 => Operation::Lookup { name: name(cut) },
        9 => Operation::List(List { prefix: name(cut), from: name(cut), limit: limit(cut) }),
        10 => Operation::Watch(Watch { number: cut.number(), sub: cut.number() as u32, limit: limit(cut) }),
        _ => Operation::Derive { n: cut.number(), f: cut.number() },
    }
}

fn list<T>(cut: &mut Cut<'_>, most: usize, one: fn(&mut Cut<'_>) -> T) -> Vec<T> {
    let length = match cut.byte() {
        255 => 129,
        byte => usize::from(byte) % most,
    };
    (0..length).map(|_| one(cut)).collect()
}

/// Short names of few letters, so that they meet; rarely any bytes, or one at the limit.
fn name(cut: &mut Cut<'_>) -> Vec<u8> {
    match cut.byte() {
        255 => vec![cut.byte(); NAME_BYTES_MAX + usize::from(cut.flag())],
        254 => cut.take(64).to_vec(),
        byte => (0..byte % 4).map(|_| cut.one(&[b'a', b'b', b'c', 0, 0xff])).collect(),
    }
}

fn value(cut: &mut Cut<'_>) -> Vec<u8> {
    match cut.byte() {
        255 => vec![1; usize::from(cut.word())],
        254 => cut.take(64).to_vec(),
        byte => vec![byte; usize::from(byte) % 4],
    }
}

fn lease(cut: &mut Cut<'_>) -> u64 {
    match cut.byte() {
        255 => cut.number(),
        byte => u64::from(byte % 6),
    }
}

fn version(cut: &mut Cut<'_>) -> Option<u64> {
    cut.flag().then(|| cut.number())
}

fn limit(cut: &mut Cut<'_>) -> u16 {
    match cut.byte() {
        255 => cut.word(),
        byte => u16::from(byte) % PAGE_ENTRIES_MAX,
    }
}

fn range(cut: &mut Cut<'_>) -> NameRange {
    match cut.below(4) {
        0 => NameRange { low: name(cut), high: None },
        1 => NameRange { low: name(cut), high: Some(name(cut)) },
        2 => NameRange::prefix(&name(cut)),
        _ => NameRange::one(&name(cut)),
    }
}

fn compare(cut: &mut Cut<'_>) -> Compare {
    let target = match cut.below(5) {
        0 => Target::Version(cut.number()),
        1 => Target::Created(cut.number()),
        2 => Target::Modified(cut.number()),
        3 => Target::Value(value(cut)),
        _ => Target::Lease(lease(cut)),
    };
    let relation = cut.one(&[Relation::Equal, Relation::Greater, Relation::Less, Relation::NotEqual]);
    Compare { name: name(cut), relation, target }
}

fn txn_op(cut: &mut Cut<'_>) -> TxnOp {
    match cut.below(5) {
        0 => TxnOp::DeleteRange(DeregisterRange { range: range(cut), previous: cut.flag() }),
        1 => TxnOp::Get { range: range(cut), limit: limit(cut) },
        _ => TxnOp::Put { name: name(cut), value: value(cut), lease: lease(cut), previous: cut.flag() },
    }
}
