//! One service, its replicas, their orchestrator and some clients.

use alloc::vec;
use alloc::vec::Vec;

use quorate_attest::encoding::{Bounded, to_bytes};
use quorate_attest::id::{GroupId, ImageDigest, Nonce};
use quorate_attest::key::{PublicKey, SecretKey};
use quorate_attest::request::{Reply, Request};
use quorate_attest::service::{Applied, Executed, Genesis, Input, Ordered, Output, Query, ServiceSpec};
use quorate_attest::state_tree::StateCommitment;
use quorate_attest::vm::{InputPolicy, OutputPolicy, VmSpec};

use super::notes::{Notes, op};
use crate::{Limits, Replica, wire};

pub const MEMORY: u64 = 16 << 20;

pub const LIMITS: Limits =
    Limits { memory_bytes: MEMORY, state_bytes: 600_000, session_bytes: 400_000, change_bytes: 300_000 };

pub const VOTERS: u16 = 7;
pub const F: u64 = 2;

pub fn key(number: u16) -> SecretKey {
    let mut seed = [1; 32];
    seed[..2].copy_from_slice(&number.to_le_bytes());
    SecretKey::from_seed(seed)
}

pub fn voter(number: u16) -> SecretKey {
    key(60_000 + number)
}

pub fn nonce(number: u8) -> Nonce {
    Nonce::from_bytes([number; 16])
}

pub fn vm_spec(replica: u16) -> VmSpec {
    VmSpec {
        name: service_spec().vm_name(replica),
        image: ImageDigest::from_bytes([7; 32]),
        machine_version: 1,
        memory_bytes: MEMORY,
        input_policy: InputPolicy::ClientSigned,
        output_policy: OutputPolicy::Immediate,
        host: key(50_000 + replica).public(),
        nonce: nonce(1),
    }
}

pub fn service_spec() -> ServiceSpec {
    ServiceSpec {
        name: "notes".into(),
        image: ImageDigest::from_bytes([7; 32]),
        memory_bytes: MEMORY,
        replicas: GroupId::from_bytes([8; 32]),
        nonce: nonce(2),
        config: Vec::new(),
    }
}

pub fn genesis() -> Genesis {
    let voters: Vec<PublicKey> = (0..VOTERS).map(|number| voter(number).public()).collect();
    Genesis { spec: service_spec(), voters, f: F }
}

/// A client's signed request.
pub fn request(client: u16, sequence: u64, op: u16, body: Vec<u8>) -> Request {
    wire::call(&key(client), service_spec().id(), sequence, nonce(sequence as u8), op, body)
}

pub fn put(client: u16, sequence: u64, key: &[u8], value: &[u8]) -> Request {
    request(client, sequence, op::PUT, to_bytes(&(key, value)))
}

pub fn tick(number: u16, time_ms: u64) -> Request {
    wire::tick(&voter(number), service_spec().id(), time_ms)
}

pub fn ordered(request: &[u8]) -> Ordered {
    Ordered { log_index: 5, request: request.to_vec() }
}

/// A replica with the orchestrator that feeds it.
#[derive(Clone)]
pub struct Node {
    pub replica: Replica<Notes>,
    number: u16,
    inputs: u64,
}

impl Node {
    /// A replica that knows its VM.
    pub fn empty(number: u16, limits: Limits) -> Self {
        let mut replica = Replica::new(limits);
        assert!(replica.handle(&wire::vm_input(&vm_spec(number))).is_empty());
        Self { replica, number, inputs: 0 }
    }

    /// One that has begun.
    pub fn with(limits: Limits) -> Self {
        let mut node = Self::empty(0, limits);
        assert!(matches!(node.feed(&Input::Genesis(genesis())), Output::Applied(_)));
        node
    }

    pub fn new() -> Self {
        Self::with(LIMITS)
    }

    pub fn feed(&mut self, input: &Input) -> Output {
        self.inputs += 1;
        let wrapper =
            wire::wrap(vm_spec(self.number).id(), key(50_000 + self.number).public(), self.inputs, input);
        wire::unwrap(&wrapper, &self.replica.handle(&wrapper.encoded())).expect("the answer to this input")
    }

    /// Applies requests as one input.
    pub fn apply(&mut self, requests: &[Vec<u8>]) -> Vec<Executed> {
        let first = self.replica.next();
        let requests = requests.iter().map(|request| ordered(request)).collect();
        match self.feed(&Input::Apply { first, requests }) {
            Output::Applied(Applied { first: at, executed }) if at == first => executed,
            other => panic!("{other:?}"),
        }
    }

    /// Applies bytes as the next request.
    pub fn raw(&mut self, request: &[u8]) -> Reply {
        let [executed] = &self.apply(&[request.to_vec()])[..] else { panic!("one request, one result") };
        assert_eq!(executed.state, self.commitment());
        Reply::decoded(&executed.reply).expect("a reply")
    }

    /// Executes a request and reads the reply to it.
    pub fn ask(&mut self, request: &Request) -> (u16, Vec<u8>) {
        let reply = self.raw(&request.encoded());
        assert!(reply.answers(request), "{reply:?}");
        (reply.status, reply.body)
    }

    pub fn query(&mut self, query: Query) -> Output {
        self.feed(&Input::Query(query))
    }

    pub fn commitment(&self) -> StateCommitment {
        self.replica.state().expect("a state").commitment()
    }

    /// The service's own entries.
    pub fn notes(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let own = |(key, value): (&[u8], &[u8])| (key.to_vec(), value.to_vec());
        self.replica.state().map_or(vec![], |tree| tree.from(&[1]).map(own).collect())
    }
}
