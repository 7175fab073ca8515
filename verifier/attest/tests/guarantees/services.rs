use crate::fixtures::*;
use proptest::prelude::*;
use quorate_attest::encoding::Bounded;
use quorate_attest::group::GroupConfig;
use quorate_attest::id::*;
use quorate_attest::service::*;
use quorate_attest::state_tree::StateTree;
use quorate_attest::statement::{Expected, Kind, Statement};

pub fn spec() -> ServiceSpec {
    ServiceSpec {
        name: "uid".into(),
        image: ImageDigest::from_bytes([3; 32]),
        memory_bytes: 16 << 20,
        replicas: GroupId::from_bytes([4; 32]),
        nonce: Nonce::from_bytes([5; 16]),
        config: vec![1, 2, 3],
    }
}

pub fn tree() -> StateTree {
    StateTree::from_sorted((0..20u8).map(|number| (vec![number], vec![number; 3])).collect())
}

pub fn receipt(group: &GroupConfig) -> ServiceReceipt {
    ServiceReceipt {
        group: group.id(),
        epoch: group.epoch,
        service: spec().id(),
        number: 7,
        log_index: 90,
        operation: OperationId::from_bytes([6; 32]),
        result: [7; 32],
        log_root: [8; 32],
        log_size: 8,
        state: tree().commitment(),
    }
}

pub fn certificate(group: &GroupConfig, replicas: &[u16]) -> ServiceReceiptCertificate {
    let receipt = receipt(group);
    let vote = |index: &u16| (*index, receipt.sign(&vote_key(*index)));
    ServiceReceiptCertificate { signatures: replicas.iter().map(vote).collect(), receipt }
}

/// Of [`tree`], as a guest exports them.
pub fn entries() -> Vec<StateEntry> {
    let entry = |(key, value): &(Vec<u8>, Vec<u8>)| StateEntry { key: key.clone(), value: value.clone() };
    tree().entries().iter().map(entry).collect()
}

fn expected(group: &GroupConfig) -> Expected {
    group.expected(spec().id().instance(), Kind::SERVICE_RECEIPT)
}

#[test]
fn test_f_equal_receipts_are_no_answer_and_f_plus_one_are() {
    let group = group(7, 2);
    for (size, verdict) in [(1, Err("QuorumNotReached")), (2, Err("QuorumNotReached")), (3, Ok(()))] {
        for signers in subsets(7, size) {
            let got = certificate(&group, &signers).verify(&group, &expected(&group));
            let got = got.map_err(|error| error.kind());
            assert_eq!(got, verdict, "{signers:?}");
        }
    }
}

#[test]
fn test_f_liars_never_get_a_wrong_receipt_certified_and_f_plus_one_do() {
    let group = group(7, 2);
    let lie = ServiceReceipt { result: [0; 32], ..receipt(&group) };
    let mut tally = ServiceReceiptTally::new(&group, lie).unwrap();
    assert_eq!(tally.add(0, lie.sign(&vote_key(0))), Ok(false));
    assert_eq!(tally.add(0, lie.sign(&vote_key(0))).map_err(|e| e.kind()), Err("DuplicateSigner"));
    assert_eq!(tally.add(1, lie.sign(&vote_key(1))), Ok(false));
    let honest = receipt(&group).sign(&vote_key(2));
    assert_eq!(tally.add(2, honest).map_err(|e| e.kind()), Err("BadSignature"));
    assert_eq!(tally.certificate().map_err(|e| e.kind()), Err("QuorumNotReached"));
    assert_eq!(tally.add(2, lie.sign(&vote_key(2))), Ok(true), "one fault too many");
    assert!(tally.certificate().unwrap().verify(&group, &expected(&group)).is_ok());
}

#[test]
fn test_each_changed_field_of_a_service_receipt_is_refused() {
    let group = group(4, 1);
    let honest = receipt(&group);
    let changes: [Change<ServiceReceipt>; 10] = [
        (|r| r.group = GroupId::ZERO, "WrongCluster"),
        (|r| r.epoch = Epoch(9), "WrongEpoch"),
        (|r| r.service = ServiceId::ZERO, "WrongVm"),
        (|r| r.number = 8, "Inconsistent"),
        (|r| r.log_index = 91, "BadSignature"),
        (|r| r.operation = OperationId::ZERO, "BadSignature"),
        (|r| r.result = [0; 32], "BadSignature"),
        (|r| r.log_root = [0; 32], "BadSignature"),
        (|r| r.state.root = [0; 32], "BadSignature"),
        (|r| r.state.size = 6, "BadSignature"),
    ];
    let signatures: Vec<_> = (0..3).map(|index| (index, honest.sign(&vote_key(index)))).collect();
    for (number, (change, kind)) in changes.into_iter().enumerate() {
        let mut certificate = ServiceReceiptCertificate { receipt: honest, signatures: signatures.clone() };
        change(&mut certificate.receipt);
        let got = certificate.verify(&group, &expected(&group)).map_err(|error| error.kind());
        assert_eq!(got, Err(kind), "field {number}");
    }
}

#[test]
fn test_a_receipt_is_read_back_from_its_statement_and_from_no_other() {
    let group = group(4, 1);
    let statement = receipt(&group).to_statement();
    assert_eq!(ServiceReceipt::from_statement(&statement), Ok(receipt(&group)));
    let other = Statement { kind: Kind::RECEIPT, ..statement.clone() };
    assert_eq!(ServiceReceipt::from_statement(&other).map_err(|e| e.kind()), Err("WrongDomain"));
    let next = Statement { seq: 8, ..statement.clone() };
    assert_eq!(ServiceReceipt::from_statement(&next).map_err(|e| e.kind()), Err("Inconsistent"));
    for length in 0..statement.body.len() {
        let short = Statement { body: statement.body[..length].to_vec(), ..statement.clone() };
        assert_eq!(ServiceReceipt::from_statement(&short).map_err(|e| e.kind()), Err("DecodeError"));
    }
}

#[test]
fn test_every_field_of_a_specification_names_the_service() {
    let original = spec();
    let changes: [fn(&mut ServiceSpec); 6] = [
        |s| s.name = "uid2".into(),
        |s| s.image = ImageDigest::ZERO,
        |s| s.memory_bytes = 8 << 20,
        |s| s.replicas = GroupId::ZERO,
        |s| s.nonce = Nonce::ZERO,
        |s| s.config.clear(),
    ];
    for change in changes {
        let mut changed = original.clone();
        change(&mut changed);
        assert_ne!(changed.id(), original.id());
    }
    assert!(original.validate().is_ok());
    assert!(ServiceSpec { name: "UID".into(), ..original.clone() }.validate().is_err());
    assert!(ServiceSpec { memory_bytes: 1, ..original.clone() }.validate().is_err());
    assert!(ServiceSpec { config: vec![0; CONFIG_LIMIT + 1], ..original }.validate().is_err());
}

#[test]
fn test_an_answer_to_another_question_proves_nothing() {
    let (tree, state) = (tree(), tree().commitment());
    let get = |key: u8| Query::Get { key: vec![key] };
    let present = Answer::Present(tree.membership(&[4]).unwrap());
    assert_eq!(present.verify(&get(4), &state), Ok(()));
    assert!(present.verify(&get(5), &state).is_err());
    let absent = Answer::Absent(tree.absence(&[99]).unwrap());
    assert_eq!(absent.verify(&get(99), &state), Ok(()));
    assert!(absent.verify(&get(4), &state).is_err(), "a key that is there is never shown absent");
    let range = |limit| Query::Range { low: vec![2], high: vec![9], limit };
    let whole = Answer::Range { proof: tree.range(&[2], &[9]), more: false };
    assert_eq!(whole.verify(&range(8), &state), Ok(()));
    assert!(whole.verify(&range(7), &state).is_err(), "more than asked for");
    let first = Answer::Range { proof: tree.range(&[2], &[4]), more: true };
    assert_eq!(first.verify(&range(3), &state), Ok(()));
    let hiding = Answer::Range { proof: tree.range(&[2], &[4]), more: false };
    assert!(hiding.verify(&range(8), &state).is_err(), "the rest is left out");
    let gap = Answer::Range { proof: tree.range(&[3], &[5]), more: true };
    assert!(gap.verify(&range(3), &state).is_err(), "the first is left out");
    let endless = Answer::Range { proof: tree.range(&[50], &[60]), more: true };
    assert!(endless.verify(&range(3), &state).is_err(), "more, but nothing shown");
    let beyond = Answer::Range { proof: tree.range(&[2], &[11]), more: true };
    assert!(beyond.verify(&range(100), &state).is_err(), "entries that nobody asked for");
    assert!(Answer::Head.verify(&get(4), &state).is_err());
}

proptest! {
    #[test]
    fn test_bytes_decode_to_one_message_or_to_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        if let Ok(input) = Input::decoded(&bytes) {
            prop_assert_eq!(input.encoded(), bytes.clone());
        }
        if let Ok(output) = Output::decoded(&bytes) {
            prop_assert_eq!(output.encoded(), bytes);
        }
    }

    #[test]
    fn test_truncated_and_extended_messages_are_refused(cut in 0usize..400, extra in any::<u8>()) {
        let input = Input::Apply { first: 1, requests: vec![Ordered { log_index: 5, request: vec![9; 300] }] };
        let bytes = input.encoded();
        prop_assert_eq!(Input::decoded(&bytes), Ok(input));
        if cut < bytes.len() {
            prop_assert!(Input::decoded(&bytes[..cut]).is_err());
        }
        prop_assert!(Input::decoded(&[bytes, vec![extra]].concat()).is_err());
    }
}

#[test]
fn test_too_many_requests_are_refused_before_they_are_read() {
    let request = Ordered { log_index: 0, request: Vec::new() };
    let batch = |count| Input::Apply { first: 1, requests: vec![request.clone(); count] }.encoded();
    assert!(Input::decoded(&batch(BATCH_LIMIT)).is_ok());
    assert!(Input::decoded(&batch(BATCH_LIMIT + 1)).is_err());
}
