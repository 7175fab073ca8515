//! The orchestrator's side: what it sends, and what it believes is an answer.

use alloc::vec;
use alloc::vec::Vec;

use quorate_attest::encoding::Bounded;
use quorate_attest::request::{BODY_LIMIT, InputClass, Reply, classify, status};
use quorate_attest::service::{BATCH_LIMIT, Input, Output, Query};

use super::fixture::{Node, key, ordered, vm_spec};
use crate::wire::{REQUEST_LIMIT, WireError, fitting, unwrap, wrap, wrap_signed};

#[test]
fn a_signed_wrapper_counts_as_signed_by_a_client_and_an_unsigned_one_does_not() {
    let (spec, input) = (vm_spec(0), Input::Query(Query::Head));
    let signed = wrap_signed(&key(1), spec.id(), 7, &input);
    assert_eq!(classify(&spec, &signed.encoded()), InputClass::ClientSigned);
    let unsigned = wrap(spec.id(), key(1).public(), 7, &input);
    assert_eq!(classify(&spec, &unsigned.encoded()), InputClass::Unauthenticated);
    let mut node = Node::new();
    for wrapper in [signed, unsigned] {
        let output = node.replica.handle(&wrapper.encoded());
        assert!(matches!(unwrap(&wrapper, &output), Ok(Output::Answered { size: 1, .. })));
    }
}

#[test]
fn an_output_to_another_input_and_garbage_are_no_answer() {
    let mut node = Node::new();
    let vm = vm_spec(0).id();
    let wrapper = |sequence| wrap(vm, key(1).public(), sequence, &Input::Query(Query::Head));
    let output = node.replica.handle(&wrapper(1).encoded());
    assert_eq!(unwrap(&wrapper(2), &output), Err(WireError::OtherInput));
    assert_eq!(unwrap(&wrapper(1), &output[1..]), Err(WireError::Undecodable));
    let mut reply = Reply::decoded(&output).unwrap();
    reply.body.push(0);
    assert_eq!(unwrap(&wrapper(1), &reply.encoded()), Err(WireError::Undecodable));
    let other = wrap(vm_spec(1).id(), key(1).public(), 1, &Input::Query(Query::Head));
    let refused = node.replica.handle(&other.encoded());
    let error = unwrap(&other, &refused).unwrap_err();
    assert_eq!(error, WireError::Refused { status: status::NOT_AUTHORIZED });
    assert_eq!(error.kind(), "RequestRefused");
}

#[test]
fn as_many_requests_as_fit_are_put_into_one_input() {
    let list = |sizes: &[usize]| -> Vec<_> { sizes.iter().map(|size| ordered(&vec![0; *size])).collect() };
    for sizes in [
        vec![],
        vec![0; 300],
        vec![1000; 300],
        vec![REQUEST_LIMIT, 0],
        vec![REQUEST_LIMIT + 1],
        vec![100_000; 3],
    ] {
        let requests = list(&sizes);
        let count = fitting(&requests);
        let bytes =
            |count: usize| Input::Apply { first: 1, requests: requests[..count].to_vec() }.encoded().len();
        assert!(bytes(count) <= BODY_LIMIT);
        assert!(count == requests.len() || count == BATCH_LIMIT || bytes(count + 1) > BODY_LIMIT);
    }
    assert_eq!(fitting(&list(&[REQUEST_LIMIT])), 1);
    assert_eq!(fitting(&list(&[REQUEST_LIMIT + 1])), 0);
}
