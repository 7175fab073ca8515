//! Random requests to each service, the same from the same seed.

use quorate_attest::encoding::{Bounded, to_bytes};
use quorate_attest::id::{Nonce, ServiceId};
use quorate_attest::key::SecretKey;
use quorate_attest::request::Reply;
use quorate_counter::{ADD, READ};
use quorate_kit::wire;
use quorate_uid::testing::Random;

use super::node::{VOTERS, voter};

/// Makes requests of clients, and may learn from replies.
pub trait Script {
    fn request(&mut self) -> Vec<u8>;
    fn observe(&mut self, _reply: &Reply) {}
}

/// Additions and reads of some clients, with wrong ones among them.
pub struct Counting {
    pub random: Random,
    pub service: ServiceId,
    pub sequence: u64,
}

impl Script for Counting {
    fn request(&mut self) -> Vec<u8> {
        self.sequence += 1;
        let client = SecretKey::from_seed([self.random.below(40) as u8; 32]);
        let (op, body) = match self.random.below(8) {
            0..=3 => (ADD, to_bytes(&self.random.below(1000))),
            4 => (ADD, to_bytes(&(u64::MAX - self.random.below(1000)))),
            5 => (ADD, vec![1; self.random.below(20) as usize]),
            6 => (self.random.below(9) as u16, vec![]),
            _ => (READ, vec![]),
        };
        let nonce = Nonce::from_bytes([self.sequence as u8; 16]);
        wire::call(&client, self.service, self.sequence, nonce, op, body).encoded()
    }
}

impl Script for quorate_uid::testing::Script {
    fn request(&mut self) -> Vec<u8> {
        self.request().encoded()
    }

    fn observe(&mut self, reply: &Reply) {
        self.observe(reply);
    }
}

impl Script for quorate_registry::testing::Script {
    fn request(&mut self) -> Vec<u8> {
        self.request().encoded()
    }
}

/// A script with votes about time, repeated requests and garbage between.
pub struct Mixed<S> {
    pub script: S,
    pub random: Random,
    pub service: ServiceId,
    pub time_ms: u64,
    pub last: Vec<u8>,
    /// Whether the newest request is the script's.
    pub own: bool,
}

impl<S> Mixed<S> {
    pub fn new(script: S, service: ServiceId, seed: u64) -> Self {
        Self {
            script,
            random: Random::new(seed),
            service,
            time_ms: 1_700_000_000_000,
            last: Vec::new(),
            own: false,
        }
    }
}

impl<S: Script> Script for Mixed<S> {
    fn request(&mut self) -> Vec<u8> {
        self.own = false;
        match self.random.below(16) {
            0 => {
                self.time_ms += self.random.below(3000);
                let time = self.time_ms - self.random.below(2000);
                wire::tick(&voter(self.random.below(u64::from(VOTERS)) as u8), self.service, time).encoded()
            }
            1 => self.last.clone(),
            2 => {
                let mut garbage = self.last.clone();
                let at = self.random.below(garbage.len().max(1) as u64) as usize;
                garbage.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= 0x10);
                garbage
            }
            _ => {
                self.own = true;
                self.last = self.script.request();
                self.last.clone()
            }
        }
    }

    fn observe(&mut self, reply: &Reply) {
        if self.own {
            self.script.observe(reply);
        }
    }
}

/// Additions and reads, mixed.
pub fn counting(service: ServiceId, seed: u64) -> Mixed<Counting> {
    Mixed::new(Counting { random: Random::new(seed), service, sequence: 0 }, service, seed + 1)
}

/// Changes of users, mixed.
pub fn users(service: ServiceId, seed: u64) -> Mixed<quorate_uid::testing::Script> {
    Mixed::new(quorate_uid::testing::Script::new(seed, service.instance()), service, seed + 1)
}

/// Registrations, leases and transactions, mixed.
pub fn registering(service: ServiceId, seed: u64) -> Mixed<quorate_registry::testing::Script> {
    Mixed::new(quorate_registry::testing::Script::new(seed, service.instance()), service, seed + 1)
}
