//! One registry on a replica, its voters and some clients.

use std::collections::BTreeMap;
use std::vec::Vec;

use quorate_attest::encoding::Bounded;
use quorate_attest::id::{GroupId, ImageDigest, Nonce, ServiceId};
use quorate_attest::key::SecretKey;
use quorate_attest::request::{Reply, Request};
use quorate_attest::service::{Answer, Genesis, Input, Ordered, Output, Query, ServiceSpec};
use quorate_attest::vm::{InputPolicy, OutputPolicy, VmSpec};
use quorate_kit::{Limits, Replica, Service, status, wire};

use crate::client::{self, AnswerError, StateEntry};
use crate::testing::key;
use crate::*;

pub const MEMORY: u64 = 64 << 20;

pub const LIMITS: Limits =
    Limits { memory_bytes: MEMORY, state_bytes: 24 << 20, session_bytes: 6 << 20, change_bytes: 6 << 20 };

/// What the smallest guest has.
pub const SMALLEST: Limits =
    Limits { memory_bytes: MEMORY, state_bytes: 1 << 20, session_bytes: 1 << 18, change_bytes: 1 << 18 };

pub const VOTERS: u64 = 7;
pub const F: u64 = 2;
pub const ALICE: u64 = 0;
pub const BOB: u64 = 1;
/// By [`crate::testing::config`].
pub const ADMIN: u64 = 4;
pub const NOON: u64 = 1_700_000_000_000;

pub fn voter(number: u64) -> SecretKey {
    key(1_000 + number)
}

/// A replica with the sequences of its clients.
pub struct Node<S = Registry> {
    pub replica: Replica<S>,
    vm: VmSpec,
    genesis: Genesis,
    inputs: u64,
    sequences: BTreeMap<u64, u64>,
}

impl Node {
    pub fn new() -> Self {
        Self::with(LIMITS, testing::config())
    }

    pub fn with(limits: Limits, config: Config) -> Self {
        let (node, output) = Self::begin(limits, config.encoded());
        assert!(matches!(output, Output::Applied(_)), "{output:?}");
        node
    }
}

impl<S: Service> Node<S> {
    pub fn begin(limits: Limits, config: Vec<u8>) -> (Self, Output) {
        let (image, nonce) = (ImageDigest::from_bytes([7; 32]), Nonce::from_bytes([1; 16]));
        let (memory_bytes, replicas) = (MEMORY, GroupId::from_bytes([8; 32]));
        let spec = ServiceSpec { name: "names".into(), image, memory_bytes, replicas, nonce, config };
        let vm = VmSpec {
            name: spec.vm_name(0),
            image,
            machine_version: 1,
            memory_bytes,
            input_policy: InputPolicy::ClientSigned,
            output_policy: OutputPolicy::Immediate,
            host: key(99).public(),
            nonce,
        };
        let voters = (0..VOTERS).map(|number| voter(number).public()).collect();
        let genesis = Genesis { spec, voters, f: F };
        let mut replica = Replica::new(limits);
        assert!(replica.handle(&wire::vm_input(&vm)).is_empty());
        let mut node = Self { replica, vm, genesis: genesis.clone(), inputs: 0, sequences: BTreeMap::new() };
        let output = node.feed(&Input::Genesis(genesis));
        (node, output)
    }

    pub fn service(&self) -> ServiceId {
        self.genesis.spec.id()
    }

    pub fn feed(&mut self, input: &Input) -> Output {
        self.inputs += 1;
        let wrapper = wire::wrap(self.vm.id(), key(99).public(), self.inputs, input);
        wire::unwrap(&wrapper, &self.replica.handle(&wrapper.encoded())).expect("an output")
    }

    /// The next request of a client.
    pub fn request(&mut self, client: u64, operation: &Operation) -> Request {
        let sequence = self.sequences.entry(client).or_default();
        *sequence += 1;
        let call = client::call(*sequence, Nonce::from_bytes([2; 16]), operation);
        Request::sign(&key(client), self.service().instance(), call)
    }

    pub fn deliver(&mut self, request: &Request) -> Reply {
        let (first, request) = (self.replica.next(), request.encoded());
        let requests = Vec::from([Ordered { log_index: 5, request }]);
        match self.feed(&Input::Apply { first, requests }) {
            Output::Applied(applied) => Reply::decoded(&applied.executed[0].reply).expect("a reply"),
            other => panic!("{other:?}"),
        }
    }

    pub fn ask(&mut self, client: u64, operation: &Operation) -> Result<Outcome, u16> {
        let request = self.request(client, operation);
        let reply = self.deliver(&request);
        match client::outcome(operation.op(), &reply) {
            Ok(outcome) => Ok(outcome),
            Err(AnswerError::Failed { status }) => Err(status),
            Err(other) => panic!("{other:?}"),
        }
    }

    pub fn vote(&mut self, number: u64, time_ms: u64) -> u16 {
        let request = wire::tick(&voter(number), self.service(), time_ms);
        self.deliver(&request).status
    }

    /// All voters tell one time.
    pub fn tick(&mut self, time_ms: u64) {
        for number in 0..VOTERS {
            assert_eq!(self.vote(number, time_ms), status::OK);
        }
        assert_eq!(self.replica.time_ms(), time_ms);
    }

    /// A proven answer, decoded.
    pub fn prove(&mut self, query: Query) -> Vec<StateEntry> {
        let Output::Answered { state, answer, .. } = self.feed(&Input::Query(query.clone())) else {
            panic!("no answer to {query:?}")
        };
        answer.verify(&query, &state).expect("a proof");
        let proofs = match *answer {
            Answer::Present(entry) => Vec::from([entry]),
            Answer::Absent(_) => Vec::new(),
            Answer::Range { proof, .. } => proof.entries,
            other => panic!("{other:?}"),
        };
        proofs.iter().map(|proof| client::entry(&proof.key, &proof.value).expect("an entry")).collect()
    }

    pub fn record(&mut self, name: &[u8]) -> Option<Record> {
        match self.prove(client::record_query(name)).pop() {
            Some(StateEntry::Record(entry)) => Some(entry.record),
            None => None,
            other => panic!("{other:?}"),
        }
    }

    pub fn events_from(&mut self, number: u64) -> Vec<NumberedEvent> {
        let events = self.prove(client::events_query(number, 0, 256)).into_iter();
        let event = |entry| match entry {
            StateEntry::Event(event) => event,
            other => panic!("{other:?}"),
        };
        events.map(event).collect()
    }

    pub fn lowest(&mut self) -> u64 {
        match self.prove(client::lowest_query())[..] {
            [StateEntry::LowestEvent(lowest)] => lowest,
            ref other => panic!("{other:?}"),
        }
    }

    /// The registry's entries, as bytes.
    pub fn entries(&self) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let tree = self.replica.state().expect("a state");
        tree.from(&[1]).map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
    }

    /// Checks that indexes, totals and bounds agree with the records, leases and events there are.
    pub fn check(&self) {
        let (mut expected, mut totals, mut lowest, mut oldest) = (BTreeMap::new(), None, None, u64::MAX);
        let mut counted = Totals::default();
        for (key, value) in self.entries() {
            match client::entry(&key, &value).expect("an entry") {
                StateEntry::Record(Entry { name, record }) => {
                    counted.services += 1;
                    if record.lease != 0 {
                        expected.insert(lease_name_key(record.lease, &name), Vec::new());
                    }
                }
                StateEntry::Lease { id, lease } => {
                    counted.leases += 1;
                    expected.insert(expiry_key(lease.expires_ms, id), Vec::new());
                }
                StateEntry::Event(event) => {
                    counted.events += 1;
                    counted.event_bytes += (key.len() + value.len()) as u64;
                    oldest = oldest.min(event.number);
                }
                StateEntry::LowestEvent(number) => lowest = Some(number),
                StateEntry::Totals(found) => totals = Some(found),
                StateEntry::LeaseName { .. } | StateEntry::Expiry { .. } | StateEntry::Config(_) => {}
            }
        }
        let entries = self.entries();
        let indexes = entries.iter().filter(|(key, _)| matches!(key[1], b'm' | b'x'));
        assert!(indexes.eq(expected.iter()), "indexes differ");
        for key in expected.keys() {
            if let Some(StateKey::LeaseName { id, .. }) = StateKey::parse(key) {
                assert!(entries.contains_key(&lease_key(id)), "a name outlived lease {id}");
            }
        }
        assert_eq!(totals, Some(counted));
        assert!(counted.events <= EVENTS_MAX && lowest.is_some());
        // Of the number before the window a part may be left.
        assert!(oldest >= lowest.unwrap_or(0).saturating_sub(1));
    }
}

pub fn register(name: &[u8], value: &[u8]) -> Operation {
    register_with(name, value, 0, None)
}

pub fn register_with(name: &[u8], value: &[u8], lease: u64, expected: Option<u64>) -> Operation {
    Operation::Register(Register { name: name.into(), value: value.into(), lease, expected, previous: true })
}

pub fn deregister(name: &[u8]) -> Operation {
    Operation::Deregister { name: name.into(), expected: None, previous: true }
}

pub fn grant(id: u64, ttl_ms: u64) -> Operation {
    Operation::LeaseGrant(LeaseGrant { id, ttl_ms })
}
