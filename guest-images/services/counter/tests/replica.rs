//! The counter from its creation to a call and a proven read, as an orchestrator and a client see it.

use quorate_attest::encoding::{Bounded, from_bytes, to_bytes};
use quorate_attest::id::{GroupId, ImageDigest, Nonce};
use quorate_attest::key::SecretKey;
use quorate_attest::request::{Reply, status};
use quorate_attest::service::{Genesis, Input, Ordered, Output, Query, ServiceSpec};
use quorate_attest::vm::{InputPolicy, OutputPolicy, VmSpec};
use quorate_counter::{ADD, Counter, READ, TOTAL};
use quorate_kit::{Limits, Replica, wire};

const MEMORY: u64 = 16 << 20;

/// A replica in its VM, and the orchestrator that feeds it.
struct Fixture {
    replica: Replica<Counter>,
    orchestrator: SecretKey,
    inputs: u64,
}

impl Fixture {
    fn new() -> Self {
        let orchestrator = SecretKey::from_seed([1; 32]);
        let vm = VmSpec {
            name: "counter-0".into(),
            image: ImageDigest::from_bytes([7; 32]),
            machine_version: 1,
            memory_bytes: MEMORY,
            input_policy: InputPolicy::ClientSigned,
            output_policy: OutputPolicy::Immediate,
            host: SecretKey::from_seed([2; 32]).public(),
            nonce: Nonce::from_bytes([0; 16]),
        };
        let limits = Limits::for_machine(MEMORY, MEMORY - (8 << 20)).expect("room");
        let mut replica = Replica::new(limits);
        assert!(replica.handle(&wire::vm_input(&vm)).is_empty());
        Self { replica, orchestrator, inputs: 0 }
    }

    fn feed(&mut self, input: Input) -> Output {
        self.inputs += 1;
        let vm = self.replica.vm().expect("its VM is known");
        let wrapper = wire::wrap_signed(&self.orchestrator, vm, self.inputs, &input);
        let output = self.replica.handle(&wrapper.encoded());
        wire::unwrap(&wrapper, &output).expect("the answer to this input")
    }
}

fn spec(total: u64) -> ServiceSpec {
    ServiceSpec {
        name: "counter".into(),
        image: ImageDigest::from_bytes([7; 32]),
        memory_bytes: MEMORY,
        replicas: GroupId::from_bytes([3; 32]),
        nonce: Nonce::from_bytes([0; 16]),
        config: to_bytes(&total),
    }
}

fn genesis(total: u64) -> Input {
    let voters = (10..14).map(|seed| SecretKey::from_seed([seed; 32]).public()).collect();
    Input::Genesis(Genesis { spec: spec(total), voters, f: 1 })
}

#[test]
fn a_call_is_answered_and_its_effect_is_proved() {
    let mut fixture = Fixture::new();
    fixture.feed(genesis(40));

    let client = SecretKey::from_seed([9; 32]);
    let request = wire::call(&client, spec(40).id(), 1, Nonce::from_bytes([5; 16]), ADD, to_bytes(&2u64));
    let ordered = Ordered { log_index: 17, request: request.encoded() };
    let Output::Applied(applied) = fixture.feed(Input::Apply { first: 1, requests: vec![ordered] }) else {
        panic!("not applied")
    };
    let reply = Reply::decoded(&applied.executed[0].reply).expect("a reply");
    assert!(reply.answers(&request) && reply.status == status::OK);
    assert_eq!(from_bytes(&reply.body, 8), Ok(42u64));

    let query = Query::Get { key: TOTAL.to_vec() };
    let Output::Answered { answer, .. } = fixture.feed(Input::Query(query.clone())) else {
        panic!("no answer")
    };
    // In a cluster this commitment comes from f + 1 equal receipts, not from the replica that is asked.
    let certified = applied.executed[0].state;
    assert_eq!(answer.verify(&query, &certified), Ok(()));
}

fn result(fixture: &mut Fixture, first: u64, op: u16, body: Vec<u8>) -> (u16, Vec<u8>) {
    let client = SecretKey::from_seed([9; 32]);
    let request = wire::call(&client, spec(40).id(), first, Nonce::from_bytes([5; 16]), op, body);
    let requests = vec![Ordered { log_index: first, request: request.encoded() }];
    let Output::Applied(applied) = fixture.feed(Input::Apply { first, requests }) else {
        panic!("not applied")
    };
    let reply = Reply::decoded(&applied.executed[0].reply).expect("a reply");
    (reply.status, reply.body)
}

#[test]
fn what_cannot_be_added_changes_nothing() {
    let mut fixture = Fixture::new();
    fixture.feed(genesis(40));
    let cases = [
        (ADD, to_bytes(&u64::MAX), status::LIMIT),
        (ADD, vec![1; 7], status::MALFORMED),
        (ADD, vec![1; 9], status::MALFORMED),
        (READ, vec![0], status::MALFORMED),
        (3, vec![], status::UNKNOWN_KIND),
    ];
    let mut number = 1;
    for (op, body, status) in cases {
        assert_eq!(result(&mut fixture, number, op, body), (status, vec![]), "operation {op}");
        assert_eq!(result(&mut fixture, number + 1, READ, vec![]), (status::OK, to_bytes(&40u64)));
        number += 2;
    }
}

#[test]
fn a_configuration_that_is_no_number_is_refused() {
    let mut fixture = Fixture::new();
    let Input::Genesis(mut bad) = genesis(0) else { panic!("no genesis") };
    bad.spec.config.push(0);
    let refused = Output::Refused { status: status::BAD_CONFIG, next: 0 };
    assert_eq!(fixture.feed(Input::Genesis(bad)), refused);
    assert!(matches!(fixture.feed(genesis(0)), Output::Applied(_)));
}
