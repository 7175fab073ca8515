//! A replica of the registry, its clients and its replicas' group.

use alloc::format;
use alloc::vec;
use alloc::vec::Vec;

use quorate_attest::encoding::{Bounded, to_bytes};
use quorate_attest::group::{GroupConfig, HASH_SHA256, Member};
use quorate_attest::id::{Epoch, GroupId, ImageDigest, Nonce, ServiceId, VmId};
use quorate_attest::key::SecretKey;
use quorate_attest::request::{Call, Reply, Request as Signed, status};
use quorate_attest::service::{
    Answer as Proof, Executed, Genesis, Input, Ordered, Output, Query, ServiceSpec,
};
use quorate_attest::state_tree::StateCommitment;
use quorate_attest::vm::{InputPolicy, OutputPolicy, VmSpec};
use quorate_kit::{Limits, Replica, wire};

use crate::testing::{config, key};
use crate::{
    Answer, Change, Config, Gecos, Name, Operation, Path, Profile, QUARANTINE, Request, Subject, Uid,
    UidRegistry,
};

const MEMORY: u64 = 64 << 20;

/// Enough for every test.
const LIMITS: Limits =
    Limits { memory_bytes: MEMORY, state_bytes: 64 << 20, session_bytes: 4 << 20, change_bytes: 4 << 20 };

#[derive(Clone)]
pub struct World {
    pub replica: Replica<UidRegistry>,
    vm: VmId,
    pub service: ServiceId,
    sequence: u64,
}

pub fn service_spec(config: Vec<u8>) -> ServiceSpec {
    ServiceSpec {
        name: "uid".into(),
        image: ImageDigest::from_bytes([7; 32]),
        memory_bytes: MEMORY,
        replicas: GroupId::from_bytes([8; 32]),
        nonce: Nonce::from_bytes([9; 16]),
        config,
    }
}

impl World {
    /// Under [`config`], with the quarantine nobody waits for.
    pub fn new() -> Self {
        let mut config = config();
        config.rules.quarantine = QUARANTINE;
        Self::with(&config)
    }

    pub fn with(config: &Config) -> Self {
        Self::begin(config.encoded()).unwrap_or_else(|status| panic!("genesis ended in {status}"))
    }

    pub fn begin(config: Vec<u8>) -> Result<Self, u16> {
        Self::limited(config, LIMITS)
    }

    /// In a guest with room for hardly any clients: they are forgotten soon.
    pub fn forgetful() -> Self {
        Self::limited(config().encoded(), Limits { session_bytes: 8192, ..LIMITS }).unwrap()
    }

    fn limited(config: Vec<u8>, limits: Limits) -> Result<Self, u16> {
        let spec = service_spec(config);
        let vm = VmSpec {
            name: spec.vm_name(0),
            image: spec.image,
            machine_version: 1,
            memory_bytes: MEMORY,
            input_policy: InputPolicy::ClientSigned,
            output_policy: OutputPolicy::Immediate,
            host: key(99).public(),
            nonce: Nonce::from_bytes([1; 16]),
        };
        let mut replica = Replica::new(limits);
        assert!(replica.handle(&wire::vm_input(&vm)).is_empty());
        let service = spec.id();
        let mut world = Self { replica, vm: vm.id(), service, sequence: 0 };
        let voters = (0..4).map(|voter| key(1000 + voter).public()).collect();
        match world.input(&Input::Genesis(Genesis { spec, voters, f: 1 })) {
            Output::Applied(_) => Ok(world),
            Output::Refused { status, .. } => Err(status),
            other => panic!("{other:?}"),
        }
    }

    pub fn input(&mut self, input: &Input) -> Output {
        self.sequence += 1;
        let wrapper = wire::wrap(self.vm, key(98).public(), self.sequence, input);
        wire::unwrap(&wrapper, &self.replica.handle(&wrapper.encoded())).unwrap()
    }

    /// Orders one request and answers reply and state after it.
    pub fn order(&mut self, request: Vec<u8>) -> (Reply, StateCommitment) {
        let first = self.replica.next();
        let requests = vec![Ordered { log_index: first, request }];
        let Output::Applied(applied) = self.input(&Input::Apply { first, requests }) else {
            panic!("not applied")
        };
        let Executed { reply, state } = &applied.executed[0];
        (Reply::decoded(reply).unwrap(), *state)
    }

    /// Lets entries of the log pass that are nothing.
    pub fn pass(&mut self, entries: u64) {
        for _ in 0..entries {
            assert_eq!(self.order(vec![]).0.status, status::MALFORMED);
        }
    }

    pub fn sign(&self, client: u64, operation: &Operation, second: Option<u64>) -> Signed {
        let (first, sequence) = (key(client), self.replica.next());
        let instance = self.service.instance();
        let request = Request { instance: &instance, client: &first.public(), sequence, operation };
        let approval = second.map(|second| request.approve(&key(second)));
        sign_body(&first, instance, sequence, operation.op(), operation.body(approval.as_ref()))
    }

    /// What the registry answers to this client, with the approval of a second one if asked for.
    pub fn ask(&mut self, client: u64, operation: &Operation, second: Option<u64>) -> Result<Answer, u16> {
        let request = self.sign(client, operation, second);
        let (reply, _) = self.order(request.encoded());
        assert!(reply.answers(&request));
        match reply.status {
            status::OK => Ok(Answer::decode(operation.op(), &reply.body).unwrap()),
            status => Err(status),
        }
    }

    /// A change that admin 0 asks for, approved by admin 1 where that is needed.
    pub fn change(&mut self, operation: &Operation) -> Result<Change, u16> {
        let second = operation.needs_approval().then_some(1);
        match self.ask(0, operation, second)? {
            Answer::Changed(change) => Ok(change),
            other => panic!("{other:?}"),
        }
    }

    pub fn lookup(&mut self, subject: Subject) -> Result<Answer, u16> {
        self.ask(77, &Operation::Lookup { subject }, None)
    }

    pub fn query(&mut self, query: &Query) -> (Proof, StateCommitment) {
        match self.input(&Input::Query(query.clone())) {
            Output::Answered { state, answer, .. } => (*answer, state),
            other => panic!("{other:?}"),
        }
    }
}

pub fn sign_body(key: &SecretKey, instance: VmId, sequence: u64, op: u16, body: Vec<u8>) -> Signed {
    Signed::sign(key, instance, Call { op, sequence, nonce: Nonce::from_bytes([5; 16]), epoch: 0, body })
}

pub fn uid(number: u32) -> Uid {
    Uid::new(number).unwrap()
}

pub fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

pub fn path(text: &str) -> Path {
    Path::new(text).unwrap()
}

pub fn profile(text: &str) -> Profile {
    let home = path(&format!("/home/{text}"));
    Profile { name: name(text), gecos: Gecos::new("").unwrap(), home, shell: path("/bin/sh") }
}

pub fn add(number: u32, counter: u64, text: &str) -> Operation {
    Operation::AddUser { uid: uid(number), counter, profile: profile(text) }
}

pub fn delete(number: u32, counter: u64) -> Operation {
    Operation::DelUser { uid: uid(number), counter }
}

/// Body of an add operation whose fields obey no rule.
pub fn raw_add(number: u32, text: &[u8]) -> Vec<u8> {
    to_bytes(&(number, 1u64, text.to_vec(), "", "/home/x", "/bin/sh"))
}

/// A group of `n` replicas and the vote keys.
pub fn group(n: u64, f: u64) -> (GroupConfig, Vec<SecretKey>) {
    let votes: Vec<_> = (0..n).map(|member| key(2000 + member)).collect();
    let members = (0..n).map(|member| Member {
        name: format!("r{member}"),
        vote_key: key(2000 + member).public(),
        cosigner_key: key(3000 + member).public(),
        transport_key: key(4000 + member).public(),
    });
    let config = GroupConfig {
        name: "services".into(),
        hash_algorithm: HASH_SHA256,
        epoch: Epoch::ZERO,
        genesis: None,
        f,
        members: members.collect(),
        operators: vec![],
        hosts: vec![],
    };
    config.validate().unwrap();
    (config, votes)
}
