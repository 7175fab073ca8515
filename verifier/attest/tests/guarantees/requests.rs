//! Client requests and replies.

use crate::fixtures::*;
use quorate_attest::encoding::{Bounded, to_bytes};
use quorate_attest::id::{Nonce, VmId};
use quorate_attest::request::*;
use quorate_attest::vm::{InputPolicy, VmSpec};

pub fn call() -> Call {
    Call { op: 2, sequence: 41, nonce: Nonce::from_bytes([7; 16]), epoch: 0, body: b"set a=1".to_vec() }
}

pub fn request() -> Request {
    Request::sign(&secret(Use::Client, 0), spec().id(), call())
}

#[test]
fn test_each_changed_field_of_a_request_is_refused() {
    let vm = spec().id();
    assert_eq!(request().verify(&vm), Ok(()));
    let changes: [fn(&mut Request); 8] = [
        |request| request.vm = VmId::ZERO,
        |request| request.abi = 2,
        |request| request.op = 3,
        |request| request.client = secret(Use::Client, 1).public(),
        |request| request.sequence += 1,
        |request| request.nonce = Nonce::ZERO,
        |request| request.epoch = 1,
        |request| request.body.push(0),
    ];
    for (number, changed) in each_changed(&request(), &changes) {
        let kind = ["WrongVm", "Inconsistent"].get(number).copied().unwrap_or("BadSignature");
        assert_eq!(changed.verify(&vm).map_err(|e| e.kind()), Err(kind), "field {number}");
        assert_eq!(classify(&spec(), &changed.encoded()), InputClass::Unauthenticated, "field {number}");
    }
}

#[test]
fn test_only_a_request_signed_for_this_vm_is_classed_client_signed() {
    let input = request().encoded();
    assert_eq!(classify(&spec(), &input), InputClass::ClientSigned);
    let mut other_vm = spec();
    other_vm.nonce = Nonce::ZERO;
    assert_eq!(classify(&other_vm, &input), InputClass::Unauthenticated);
    assert_eq!(classify(&spec(), b""), InputClass::Unauthenticated);
    assert_eq!(classify(&spec(), &[&input[..], b"\0"].concat()), InputClass::Unauthenticated);
    assert_eq!(classify(&spec(), &vec![0; MESSAGE_LIMIT + 1]), InputClass::Unauthenticated);
    for length in 0..input.len() {
        assert_eq!(classify(&spec(), &input[..length]), InputClass::Unauthenticated);
    }
}

#[test]
fn test_where_one_client_is_admitted_requests_of_others_are_unauthenticated() {
    let [admitted, other] = [0, 1].map(|client| secret(Use::Client, client));
    let vm = VmSpec { input_policy: InputPolicy::SignedBy(admitted.public()), ..spec() };
    assert_eq!(VmSpec::decoded(&vm.encoded()), Ok(vm.clone()));
    let class_of = |key| classify(&vm, &Request::sign(key, vm.id(), call()).encoded());
    assert_eq!(class_of(&admitted), InputClass::ClientSigned);
    assert_eq!(class_of(&other), InputClass::Unauthenticated);
    let posing = Request { client: admitted.public(), ..Request::sign(&other, vm.id(), call()) };
    assert_eq!(classify(&vm, &posing.encoded()), InputClass::Unauthenticated);
}

#[test]
fn test_largest_request_and_reply_fit_one_message() {
    let large = Call { body: vec![1; BODY_LIMIT], ..call() };
    let request = Request::sign(&secret(Use::Client, 0), spec().id(), large);
    assert_eq!(classify(&spec(), &request.encoded()), InputClass::ClientSigned);
    assert!(Reply::to(&request, status::OK, vec![1; BODY_LIMIT]).encoded().len() <= MESSAGE_LIMIT);
    let over = Call { body: vec![1; BODY_LIMIT + 1], ..call() };
    let over = Request::sign(&secret(Use::Client, 0), spec().id(), over);
    assert_eq!(Request::decoded(&to_bytes(&over)).map_err(|e| e.kind()), Err("DecodeError"));
}

#[test]
fn test_reply_answers_its_own_request_only() {
    let reply = Reply::to(&request(), status::NOT_FOUND, vec![]);
    assert!(reply.answers(&request()));
    for other in [Call { sequence: 42, ..call() }, Call { nonce: Nonce::ZERO, ..call() }] {
        assert!(!reply.answers(&Request::sign(&secret(Use::Client, 0), spec().id(), other)));
    }
    assert!(!reply.answers(&Request::sign(&secret(Use::Client, 1), spec().id(), call())));
}
