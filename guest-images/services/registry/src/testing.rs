//! Random operations for tests, from a seed: the same seed gives the same operations everywhere.

use alloc::vec::Vec;

use quorate_attest::id::{Nonce, VmId};
use quorate_attest::key::SecretKey;
use quorate_attest::request::Request;

use crate::{
    Compare, Config, DeregisterRange, LeaseGrant, List, NameRange, Operation, Register, Relation, Target,
    Txn, TxnOp, Watch, client,
};

/// Clients of a [`Script`]; the last one is an admin.
pub const CLIENTS: u64 = 5;

/// Key of a client.
pub fn key(client: u64) -> SecretKey {
    let mut seed = [0x2a; 32];
    seed[..8].copy_from_slice(&client.to_le_bytes());
    SecretKey::from_seed(seed)
}

/// A configuration in which the last client is admin and few events are kept.
pub fn config() -> Config {
    Config { admins: Vec::from([key(CLIENTS - 1).public()]), event_bytes_max: 20_000 }
}

/// Signed requests of some clients.
#[derive(Debug, Clone)]
pub struct Script {
    operations: Operations,
    instance: VmId,
}

impl Script {
    /// The script of a seed for the service with this [`instance`](quorate_attest::id::ServiceId::instance).
    pub fn new(seed: u64, instance: VmId) -> Self {
        Self { operations: Operations::new(seed), instance }
    }

    /// The next request.
    pub fn request(&mut self) -> Request {
        let operation = self.operations.draw();
        let client = key(self.operations.below(CLIENTS));
        // One sequence for all: gaps are allowed.
        let sequence = self.operations.count;
        Request::sign(&client, self.instance, client::call(sequence, Nonce::from_bytes([3; 16]), &operation))
    }
}

/// Operations in which names, leases and versions meet often.
#[derive(Debug, Clone)]
pub struct Operations {
    state: u64,
    count: u64,
}

impl Operations {
    /// The operations of a seed.
    pub fn new(seed: u64) -> Self {
        Self { state: seed, count: 0 }
    }

    /// The next operation, which may break a rule.
    pub fn draw(&mut self) -> Operation {
        self.count += 1;
        self.operation()
    }

    /// SplitMix64, below `bound`.
    fn below(&mut self, bound: u64) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut word = self.state;
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)) % bound
    }

    fn name(&mut self) -> Vec<u8> {
        let letters = [b'a', b'b', b'c', 0, 0xff];
        let mut name = Vec::from([letters[self.below(3) as usize]]);
        for _ in 0..self.below(3) {
            name.push(letters[self.below(5) as usize]);
        }
        name
    }

    fn value(&mut self) -> Vec<u8> {
        let length = if self.below(16) == 0 { self.below(5_000) } else { self.below(4) };
        (0..length).map(|_| self.below(3) as u8).collect()
    }

    fn lease(&mut self) -> u64 {
        if self.below(3) == 0 { 1 + self.below(6) } else { 0 }
    }

    fn version(&mut self) -> Option<u64> {
        (self.below(3) == 0).then(|| self.below(4))
    }

    fn range(&mut self) -> NameRange {
        match self.below(6) {
            0 => NameRange { low: self.name(), high: None },
            1 => NameRange { low: self.name(), high: Some(self.name()) },
            2 | 3 => NameRange::prefix(&self.name()),
            _ => NameRange::one(&self.name()),
        }
    }

    fn compare(&mut self) -> Compare {
        let relations = [Relation::Equal, Relation::Greater, Relation::Less, Relation::NotEqual];
        let target = match self.below(5) {
            0 => Target::Version(self.below(4)),
            1 => Target::Created(self.below(self.count + 1)),
            2 => Target::Modified(self.below(self.count + 1)),
            3 => Target::Value(self.value()),
            _ => Target::Lease(self.lease()),
        };
        Compare { name: self.name(), relation: relations[self.below(4) as usize], target }
    }

    fn txn_op(&mut self) -> TxnOp {
        let previous = self.below(2) == 0;
        match self.below(6) {
            0 => TxnOp::DeleteRange(DeregisterRange { range: self.range(), previous }),
            1 | 2 => TxnOp::Get { range: self.range(), limit: 1 + self.below(8) as u16 },
            _ => TxnOp::Put { name: self.name(), value: self.value(), lease: self.lease(), previous },
        }
    }

    fn list_of<T>(&mut self, most: u64, mut one: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(most)).map(|_| one(self)).collect()
    }

    fn operation(&mut self) -> Operation {
        let previous = self.below(2) == 0;
        match self.below(20) {
            0..=5 => {
                let (name, value, lease, expected) =
                    (self.name(), self.value(), self.lease(), self.version());
                Operation::Register(Register { name, value, lease, expected, previous })
            }
            6 | 7 => Operation::Deregister { name: self.name(), expected: self.version(), previous },
            8 => Operation::DeregisterRange(DeregisterRange { range: self.range(), previous }),
            9..=11 => {
                let (compare, success) = (self.list_of(3, Self::compare), self.list_of(5, Self::txn_op));
                Operation::Txn(Txn { compare, success, failure: self.list_of(5, Self::txn_op) })
            }
            12 | 13 => {
                let (id, ttl_ms) = (self.below(7), 1 + self.below(5_000));
                Operation::LeaseGrant(LeaseGrant { id, ttl_ms })
            }
            14 => Operation::LeaseRenew { id: 1 + self.below(6) },
            15 => Operation::LeaseRevoke { id: 1 + self.below(6) },
            16 => Operation::Lookup { name: self.name() },
            17 => Operation::List(List {
                prefix: self.name(),
                from: Vec::new(),
                limit: 1 + self.below(8) as u16,
            }),
            18 => {
                let number = self.count.saturating_sub(self.below(40));
                Operation::Watch(Watch { number, sub: 0, limit: 1 + self.below(8) as u16 })
            }
            _ => Operation::Derive { n: self.below(20), f: self.below(7) },
        }
    }
}
