//! What is no authentic request to this service, and wrappers that are not for this VM.

use alloc::vec;
use alloc::vec::Vec;

use quorate_attest::encoding::{Bounded, to_bytes};
use quorate_attest::id::{Nonce, ServiceId, VmId};
use quorate_attest::key::{PublicKey, Signature};
use quorate_attest::request::{BODY_LIMIT, Call, MESSAGE_LIMIT, Reply, Request, status};
use quorate_attest::service::{Applied, Genesis, Input, Output};
use quorate_attest::vm::{InputPolicy, VmSpec};

use super::fixture::{LIMITS, Node, genesis, key, nonce, ordered, put, request, service_spec, vm_spec};
use super::notes::{Notes, op};
use crate::{Replica, wire};

fn forged(request: &Request, change: impl FnOnce(&mut Request)) -> Vec<u8> {
    let mut other = request.clone();
    change(&mut other);
    other.encoded()
}

#[test]
fn a_request_for_another_instance_or_with_another_signature_changes_nothing_and_names_no_client() {
    let mut node = Node::new();
    let genuine = put(1, 1, b"k", b"v");
    let elsewhere =
        wire::call(&key(1), ServiceId::from_bytes([9; 32]), 1, nonce(1), op::PUT, genuine.body.clone());
    let cases = [
        (elsewhere.encoded(), status::NOT_AUTHORIZED),
        (forged(&elsewhere, |r| r.vm = service_spec().id().instance()), status::BAD_SIGNATURE),
        (forged(&genuine, |r| r.body[4] ^= 1), status::BAD_SIGNATURE),
        (forged(&genuine, |r| r.nonce = nonce(2)), status::BAD_SIGNATURE),
        (forged(&genuine, |r| r.sequence += 1), status::BAD_SIGNATURE),
        (forged(&genuine, |r| r.op += 1), status::BAD_SIGNATURE),
        (forged(&genuine, |r| r.epoch += 1), status::BAD_SIGNATURE),
        (forged(&genuine, |r| r.client = key(2).public()), status::BAD_SIGNATURE),
        (forged(&genuine, |r| r.client = PublicKey::NOBODY), status::BAD_SIGNATURE),
        (forged(&genuine, |r| r.signature = Signature::NONE), status::BAD_SIGNATURE),
        (forged(&genuine, |r| r.vm = VmId::from_bytes([9; 32])), status::NOT_AUTHORIZED),
        (forged(&genuine, |r| r.abi = 2), status::MALFORMED),
        (genuine.encoded()[1..].to_vec(), status::MALFORMED),
        ([genuine.encoded(), vec![0]].concat(), status::MALFORMED),
        (vec![], status::MALFORMED),
        (vec![0xff; wire::REQUEST_LIMIT], status::MALFORMED),
    ];
    let state = node.commitment();
    for (bytes, status) in cases {
        let reply = node.raw(&bytes);
        assert_eq!(
            (reply.client, reply.sequence, reply.nonce),
            (PublicKey::NOBODY, 0, Nonce::from_bytes([0; 16]))
        );
        assert_eq!((reply.status, reply.body.as_slice()), (status, &[][..]));
        assert!(!reply.answers(&genuine));
        assert_eq!(node.commitment(), state);
    }
    assert_eq!(node.ask(&genuine).0, status::OK, "the forgeries used nothing up");
}

#[test]
fn an_epoch_other_than_zero_is_refused() {
    let mut node = Node::new();
    let call = Call {
        op: op::PUT,
        sequence: 1,
        nonce: nonce(1),
        epoch: 1,
        body: to_bytes(&(b"k".to_vec(), b"v".to_vec())),
    };
    let later = Request::sign(&key(1), service_spec().id().instance(), call);
    assert_eq!(node.ask(&later), (status::WRONG_EPOCH, vec![]));
    assert!(node.notes().is_empty());
}

#[test]
fn an_unknown_operation_and_a_body_that_does_not_decode_are_refused() {
    let mut node = Node::new();
    assert_eq!(node.ask(&request(1, 1, 77, vec![])), (status::UNKNOWN_KIND, vec![]));
    assert_eq!(node.ask(&request(1, 2, op::PUT, vec![1])), (status::MALFORMED, vec![]));
    assert!(node.notes().is_empty());
}

#[test]
fn the_longest_request_is_executed_and_one_byte_more_fits_into_no_input() {
    let mut node = Node::new();
    let fields = put(1, 1, b"", b"").encoded().len();
    let longest = request(1, 1, 77, vec![0; wire::REQUEST_LIMIT - (fields - 8)]);
    assert_eq!(longest.encoded().len(), wire::REQUEST_LIMIT);
    assert_eq!(node.ask(&longest).0, status::UNKNOWN_KIND);
    let input = Input::Apply { first: 2, requests: vec![ordered(&vec![0; wire::REQUEST_LIMIT])] };
    assert_eq!(input.encoded().len(), BODY_LIMIT);
    let over = Input::Apply { first: 2, requests: vec![ordered(&vec![0; wire::REQUEST_LIMIT + 1])] };
    assert!(Input::decoded(&over.encoded()).is_err());
}

/// What `node` answers to a wrapper, which must change nothing.
fn refusal(node: &mut Node, bytes: &[u8]) -> Reply {
    let before = node.replica.clone();
    let reply = Reply::decoded(&node.replica.handle(bytes)).expect("a reply");
    assert!(node.replica == before);
    reply
}

#[test]
fn a_wrapper_for_another_vm_is_refused_whoever_signed_it() {
    let mut node = Node::new();
    let input = Input::Apply { first: 1, requests: vec![ordered(&put(1, 1, b"k", b"v").encoded())] };
    let other = wire::wrap_signed(&key(50_001), vm_spec(1).id(), 9, &input);
    let reply = refusal(&mut node, &other.encoded());
    assert_eq!((reply.status, reply.client), (status::NOT_AUTHORIZED, PublicKey::NOBODY));
    let own = wire::wrap(vm_spec(0).id(), key(50_000).public(), 9, &input);
    let cases = [
        (forged(&own, |r| r.abi = 2), status::MALFORMED),
        (forged(&own, |r| r.op = 1), status::UNKNOWN_KIND),
        (forged(&own, |r| r.epoch = 1), status::WRONG_EPOCH),
        (forged(&own, |r| r.body.push(0)), status::MALFORMED),
        (forged(&own, |r| r.body[0] = 9), status::MALFORMED),
        (vec![], status::MALFORMED),
        (vec![0; MESSAGE_LIMIT + 1], status::MALFORMED),
        (wire::vm_input(&vm_spec(0)), status::MALFORMED),
    ];
    for (bytes, status) in cases {
        assert_eq!(refusal(&mut node, &bytes).status, status);
    }
}

#[test]
fn before_it_knows_its_vm_a_replica_takes_only_the_specification_of_its_machine() {
    let mut replica = Replica::<super::notes::Notes>::new(LIMITS);
    let mut bad = [vm_spec(0), vm_spec(0), vm_spec(0)];
    bad[0].memory_bytes *= 2;
    bad[1].machine_version = 2;
    bad[2].name = "A".into();
    let refused = bad.iter().map(wire::vm_input).chain([vec![], vec![0; 300]]);
    for input in refused {
        assert_eq!(Reply::decoded(&replica.handle(&input)).unwrap().status, status::BAD_CONFIG);
        assert_eq!(replica.vm(), None);
    }
    assert!(replica.handle(&wire::vm_input(&vm_spec(0))).is_empty());
    assert_eq!(replica.vm(), Some(vm_spec(0).id()));
}

#[test]
fn inputs_out_of_order_are_refused_with_the_number_that_is_next() {
    let mut node = Node::empty(0, LIMITS);
    let apply = |first| Input::Apply { first, requests: vec![ordered(&put(1, first, b"k", b"v").encoded())] };
    let refused = |status, next| Output::Refused { status, next };
    assert_eq!(node.feed(&apply(1)), refused(status::STALE, 0));
    assert_eq!(node.feed(&apply(0)), refused(status::STALE, 0));
    node.feed(&Input::Genesis(genesis()));
    for first in [0, 2, u64::MAX] {
        assert_eq!(node.feed(&apply(first)), refused(status::STALE, 1));
    }
    assert!(matches!(node.feed(&apply(1)), Output::Applied(_)));
    assert_eq!(node.feed(&apply(3)), refused(status::STALE, 2));
    assert!(matches!(node.feed(&apply(2)), Output::Applied(_)));
    assert_eq!(node.feed(&apply(1)), refused(status::STALE, 3));
    assert_eq!(node.feed(&Input::Genesis(genesis())), refused(status::CONFLICT, 3));
    let import = Input::Import { genesis: genesis(), number: 1, entries: vec![], complete: None };
    assert_eq!(node.feed(&import), refused(status::CONFLICT, 3));
}

/// Whoever feeds a replica may die before the answer is stored; nobody else may have it either.
#[test]
fn an_answer_that_was_lost_is_given_again_until_a_newer_one_is_given() {
    let mut node = Node::empty(0, LIMITS);
    let begun = node.feed(&Input::Genesis(genesis()));
    assert_eq!(node.feed(&Input::Genesis(genesis())), begun);
    let other = Genesis { f: 1, ..genesis() };
    assert_eq!(node.feed(&Input::Genesis(other)), Output::Refused { status: status::CONFLICT, next: 1 });

    let requests = |numbers: core::ops::Range<u64>| -> Vec<_> {
        numbers.map(|number| ordered(&put(1, number, &[number as u8], b"v").encoded())).collect()
    };
    let mut apply = |first, numbers| node.feed(&Input::Apply { first, requests: requests(numbers) });
    let Output::Applied(whole) = apply(1, 1..6) else { panic!("not applied") };
    let again = |from: usize, to: usize| {
        Output::Applied(Applied { first: 1 + from as u64, executed: whole.executed[from..to].to_vec() })
    };
    assert_eq!(apply(1, 1..6), again(0, 5));
    assert_eq!(apply(1, 1..9), again(0, 5), "what is new is executed by an input of its own");
    assert_eq!(apply(3, 3..5), again(2, 4));
    assert_eq!(apply(5, 5..9), again(4, 5));
    assert!(matches!(apply(6, 6..8), Output::Applied(_)));
    assert_eq!(apply(5, 5..6), Output::Refused { status: status::STALE, next: 8 });
    assert_eq!(node.replica.next(), 8);
}

#[test]
fn a_genesis_that_the_kit_or_the_service_refuses_leaves_nothing_behind() {
    let mut node = Node::empty(0, LIMITS);
    let mut bad = [genesis(), genesis(), genesis(), genesis(), genesis()];
    bad[0].spec.config = b"bad".to_vec();
    bad[1].spec.memory_bytes *= 2;
    bad[2].f = 3;
    bad[3].voters[1] = bad[3].voters[0];
    bad[4].voters.clear();
    bad[4].f = 0;
    for genesis in bad {
        assert_eq!(
            node.feed(&Input::Genesis(genesis)),
            Output::Refused { status: status::BAD_CONFIG, next: 0 }
        );
        assert!(node.replica.state().is_none());
    }
    let Output::Applied(applied) = node.feed(&Input::Genesis(genesis())) else { panic!("refused") };
    assert_eq!((applied.first, applied.executed.len(), node.replica.next()), (0, 1, 1));
    assert_eq!(applied.executed[0].state, node.commitment());
    assert_eq!(Reply::decoded(&applied.executed[0].reply).unwrap().client, PublicKey::NOBODY);
}

#[test]
fn replicas_in_different_vms_give_equal_results() {
    let mut nodes = [Node::empty(0, LIMITS), Node::empty(1, LIMITS)];
    let results = nodes.each_mut().map(|node| {
        let begun = node.feed(&Input::Genesis(genesis()));
        (begun, node.apply(&[put(1, 1, b"k", b"v").encoded(), vec![1, 2, 3]]))
    });
    assert_eq!(results[0], results[1]);
    assert_ne!(nodes[0].replica.vm(), nodes[1].replica.vm());
}

#[test]
fn inputs_of_anybody_but_the_one_who_began_the_service_change_nothing() {
    let mut node = Node::new();
    node.ask(&put(1, 1, b"k", b"v"));
    let before = node.replica.clone();
    let vm = node.replica.vm().unwrap();
    let requests = vec![ordered(&put(1, 2, b"k", b"forged").encoded())];
    let inputs = [Input::Apply { first: node.replica.next(), requests }, Input::Genesis(genesis())];
    for input in &inputs {
        let wrapper = wire::wrap_signed(&key(66), vm, 1, input);
        let output = wire::unwrap(&wrapper, &node.replica.handle(&wrapper.encoded())).unwrap();
        let next = before.next();
        assert_eq!(output, Output::Refused { status: status::NOT_AUTHORIZED, next });
    }
    assert!(node.replica == before);
    assert_eq!(node.ask(&put(1, 2, b"k", b"w")).0, status::OK, "who began it goes on");
}

#[test]
fn where_the_vms_specification_names_a_key_nobody_else_begins_the_service() {
    let spec = VmSpec { input_policy: InputPolicy::SignedBy(key(67).public()), ..vm_spec(0) };
    let mut replica = Replica::<Notes>::new(LIMITS);
    assert!(replica.handle(&wire::vm_input(&spec)).is_empty());
    let mut feed = |client: u16| {
        let wrapper = wire::wrap_signed(&key(client), spec.id(), 1, &Input::Genesis(genesis()));
        wire::unwrap(&wrapper, &replica.handle(&wrapper.encoded())).unwrap()
    };
    assert_eq!(feed(66), Output::Refused { status: status::NOT_AUTHORIZED, next: 0 });
    assert!(matches!(feed(67), Output::Applied(_)));
}
