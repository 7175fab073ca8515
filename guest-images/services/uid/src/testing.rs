//! Random operations from a seed: the same seed and the same replies give the same requests, byte for byte.
//!
//! They come from admins mostly, about a small world of UIDs and names, so that conflicts, deletions and re-use happen;
//! some are stale, unauthorised, badly approved or no operations at all.

use alloc::collections::BTreeMap;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use quorate_attest::id::{Nonce, VmId};
use quorate_attest::key::SecretKey;
use quorate_attest::request::{Call, Reply, Request as Signed, status};

use crate::config::{Config, Range, Rules};
use crate::field::{Gecos, Name, Path, REFUSED, SYSTEM_END, Uid};
use crate::operation::{Answer, Approval, Attributes, Operation, Request, Subject, op};
use crate::record::{Bind, Profile};

/// Admins of [`config`]; two more clients are none.
const ADMINS: u64 = 3;

/// Entries for which a deleted UID rests in [`config`].
const QUARANTINE: u64 = 40;

/// A source of numbers that are the same everywhere (SplitMix64).
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.draw() % bound
    }
}

/// The key of a client: below 3 an admin of [`config`].
pub fn key(client: u64) -> SecretKey {
    let mut seed = [0x75; 32];
    seed[..8].copy_from_slice(&client.to_le_bytes());
    SecretKey::from_seed(seed)
}

/// A configuration under which everything can happen within some hundred operations.
pub fn config() -> Config {
    Config {
        admins: (0..ADMINS).map(|admin| key(admin).public()).collect(),
        shells: ["/bin/sh", "/usr/sbin/nologin"]
            .into_iter()
            .filter_map(|path| Path::new(path).ok())
            .collect(),
        ranges: vec![
            Range { first: SYSTEM_END, last: SYSTEM_END + 20 },
            Range { first: 65_530, last: 65_545 },
        ],
        rules: Rules { quarantine: QUARANTINE, users_max: 30, changes_max: 20_000 },
    }
}

/// Requests one after the other. Tell it the reply to each: what it learns makes later ones succeed.
#[derive(Debug)]
pub struct Script {
    random: Random,
    instance: VmId,
    sequences: BTreeMap<u64, u64>,
    known: BTreeMap<u32, Bind>,
    numbers: Vec<u16>,
}

impl Script {
    /// For a service with [`config`].
    pub fn new(seed: u64, instance: VmId) -> Self {
        let (sequences, known) = Default::default();
        Self { random: Random::new(seed), instance, sequences, known, numbers: Vec::new() }
    }

    /// How often each operation was made, by its number.
    pub fn numbers(&self) -> &[u16] {
        &self.numbers
    }

    /// Learns from the reply to the last request.
    pub fn observe(&mut self, reply: &Reply) {
        let Some(number) = self.numbers.last().filter(|_| reply.status == status::OK) else { return };
        if let Ok(Answer::Changed(change)) = Answer::decode(*number, &reply.body) {
            self.known.insert(change.bind.uid.get(), change.bind);
        }
    }

    /// The next request, signed.
    pub fn request(&mut self) -> Signed {
        // One in ten is no admin's.
        let client = if self.random.below(10) == 0 {
            ADMINS + self.random.below(2)
        } else {
            self.random.below(ADMINS)
        };
        let sequence = self.sequences.entry(client).or_default();
        *sequence += 1;
        let sequence = *sequence;
        let (mut number, mut body) = match self.operation() {
            Some(operation) => {
                let approval = self.approval(client, sequence, &operation);
                (operation.op(), operation.body(approval.as_ref()))
            }
            None => (op::LIST, Vec::new()),
        };
        match self.random.below(40) {
            0 => number = self.random.below(14) as u16,
            1 => body.truncate(self.random.below(body.len() as u64 + 1) as usize),
            2 if !body.is_empty() => {
                let place = self.random.below(body.len() as u64) as usize;
                body[place] ^= 1 << self.random.below(8);
            }
            _ => {}
        }
        self.numbers.push(number);
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&self.random.draw().to_le_bytes());
        let call = Call { op: number, sequence, nonce: Nonce::from_bytes(nonce), epoch: 0, body };
        Signed::sign(&key(client), self.instance, call)
    }

    fn approval(&mut self, client: u64, sequence: u64, operation: &Operation) -> Option<Approval> {
        let wanted = operation.needs_approval() && self.random.below(8) != 0;
        if !wanted && self.random.below(12) != 0 {
            return None;
        }
        let sequence = if self.random.below(10) == 0 { sequence + 1 } else { sequence };
        let second =
            if self.random.below(10) == 0 { self.random.below(ADMINS + 1) } else { (client + 1) % ADMINS };
        let first = key(client).public();
        let request = Request { instance: &self.instance, client: &first, sequence, operation };
        Some(request.approve(&key(second)))
    }

    fn operation(&mut self) -> Option<Operation> {
        let uid = self.uid();
        let counter = self.counter(uid);
        let previous = self.known.get(&uid).map_or([0; 32], Bind::digest);
        Some(match self.random.below(20) {
            0..=3 => Operation::AddUser { uid: Uid::new(uid).ok()?, counter, profile: self.profile()? },
            4 | 5 => Operation::AddSystemUser {
                uid: Uid::new(uid % SYSTEM_END).ok()?,
                counter: self.counter(uid % SYSTEM_END),
                profile: self.profile()?,
            },
            6..=8 => Operation::DelUser { uid: Uid::new(uid).ok()?, counter },
            9 | 10 => Operation::Rename { uid: Uid::new(uid).ok()?, counter, name: self.name()? },
            11 | 12 => {
                Operation::SetAttr { uid: Uid::new(uid).ok()?, counter, attributes: self.attributes()? }
            }
            13 | 14 => Operation::AllocUid { profile: self.profile()? },
            15 | 16 => {
                Operation::Reissue { uid: Uid::new(uid).ok()?, counter, previous, profile: self.profile()? }
            }
            17 if self.random.below(2) == 0 => Operation::Lookup { subject: Subject::Uid(uid) },
            17 => Operation::Lookup { subject: Subject::Name(self.name()?) },
            18 => Operation::List { from: uid, limit: self.random.below(258) as u16 },
            _ => Operation::History { uid, from: self.random.below(4), limit: self.random.below(258) as u16 },
        })
    }

    fn uid(&mut self) -> u32 {
        match self.random.below(12) {
            0 => REFUSED[self.random.below(4) as usize],
            1 | 2 => self.random.below(6) as u32,
            3 => 65_530 + self.random.below(16) as u32,
            _ => SYSTEM_END - 2 + self.random.below(30) as u32,
        }
    }

    fn counter(&mut self, uid: u32) -> u64 {
        let next = self.known.get(&uid).map_or(1, |bind| bind.counter + 1);
        if self.random.below(10) == 0 { self.random.below(4) } else { next }
    }

    fn name(&mut self) -> Option<Name> {
        Name::new(&format!("user-{}", self.random.below(40))).ok()
    }

    fn path(&mut self) -> Option<Path> {
        Path::new(&format!("/home/{}", self.random.below(100))).ok()
    }

    fn shell(&mut self) -> Option<Path> {
        let shells = ["/bin/sh", "/bin/sh", "/bin/sh", "/usr/sbin/nologin", "/bin/evil"];
        Path::new(shells[self.random.below(5) as usize]).ok()
    }

    fn profile(&mut self) -> Option<Profile> {
        let gecos = Gecos::new(["", "Somebody", "Jemand Anderes"][self.random.below(3) as usize]).ok()?;
        Some(Profile { name: self.name()?, gecos, home: self.path()?, shell: self.shell()? })
    }

    fn attributes(&mut self) -> Option<Attributes> {
        let mut attributes = Attributes::default();
        if self.random.below(2) == 0 {
            attributes.home = Some(self.path()?);
        }
        if self.random.below(2) == 0 {
            attributes.shell = Some(self.shell()?);
        }
        if self.random.below(2) == 0 {
            attributes.gecos = Some(Gecos::new("Changed").ok()?);
        }
        Some(attributes)
    }
}
