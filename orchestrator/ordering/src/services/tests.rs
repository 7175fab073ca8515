//! Everything that replicas send survives the way, and nothing else is taken for it.

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use quorate_attest::encoding::from_bytes;
use quorate_attest::id::{Epoch, GroupId, Nonce};
use quorate_attest::state_tree::{AbsenceProof, EntryProof, StateCommitment};
use quorate_transport::Wire;

use super::*;
use crate::protocol::{FromOrchestrator, ToOrchestrator};

fn bytes(most: usize) -> impl Strategy<Value = Vec<u8>> {
    prop::collection::vec(any::<u8>(), 0..=most)
}

fn service() -> impl Strategy<Value = ServiceId> {
    any::<[u8; 32]>().prop_map(ServiceId::from_bytes)
}

fn signature() -> impl Strategy<Value = Signature> {
    any::<[u8; 32]>().prop_map(|half| Signature::from_bytes([half, half].concat().try_into().unwrap()))
}

fn receipt() -> impl Strategy<Value = ServiceReceipt> {
    (any::<[[u8; 32]; 6]>(), any::<[u64; 4]>()).prop_map(|(ids, [number, log_index, epoch, size])| {
        let [group, service, operation, result, log_root, root] = ids;
        ServiceReceipt {
            group: GroupId::from_bytes(group),
            epoch: Epoch(epoch),
            service: ServiceId::from_bytes(service),
            number,
            log_index,
            operation: OperationId::from_bytes(operation),
            result,
            log_root,
            log_size: number.wrapping_add(1),
            state: StateCommitment { root, size },
        }
    })
}

fn signed() -> impl Strategy<Value = SignedReceipt> {
    (any::<u16>(), receipt(), signature()).prop_map(|(replica, receipt, signature)| SignedReceipt {
        replica,
        receipt,
        signature,
    })
}

fn query() -> impl Strategy<Value = Query> {
    prop_oneof![
        bytes(100).prop_map(|key| Query::Get { key }),
        (bytes(100), bytes(100), any::<u16>()).prop_map(|(low, high, limit)| Query::Range {
            low,
            high,
            limit
        }),
        Just(Query::Head),
        bytes(100).prop_map(|after| Query::Export { after }),
    ]
}

fn question() -> impl Strategy<Value = ToOrchestrator> {
    let question = prop_oneof![
        Just(ServiceQuestion::Info),
        Just(ServiceQuestion::Head),
        any::<[u8; 32]>().prop_map(|id| ServiceQuestion::Result { operation: OperationId::from_bytes(id) }),
        any::<u64>().prop_map(|number| ServiceQuestion::At { number }),
        (query(), any::<u64>()).prop_map(|(query, at_least)| ServiceQuestion::Query { query, at_least }),
        any::<(u64, u64)>().prop_map(|(number, size)| ServiceQuestion::Prove { number, size }),
        Just(ServiceQuestion::Heads),
    ];
    prop_oneof![
        6 => (service(), question).prop_map(|(service, question)| AskService { service, question }.into()),
        1 => "[a-z0-9-]{0,64}".prop_map(|name| ServiceNamed { name }.into()),
    ]
}

fn info() -> impl Strategy<Value = ServiceInfo> {
    let ids = (service(), any::<[[u8; 32]; 3]>(), any::<[u8; 16]>());
    let stopped = prop::option::of(".{0,20}");
    (ids, "[a-z0-9-]{1,64}", bytes(300), any::<[u64; 4]>(), any::<u16>(), stopped).prop_map(
        |((service, ids, nonce), name, config, numbers, replica, stopped)| ServiceInfo {
            service,
            spec: ServiceSpec {
                name,
                image: ImageDigest::from_bytes(ids[0]),
                memory_bytes: numbers[0],
                replicas: GroupId::from_bytes(ids[1]),
                nonce: Nonce::from_bytes(nonce),
                config,
            },
            image: ImageDigest::from_bytes(ids[2]),
            created: numbers[1],
            ordered: numbers[2],
            executed: numbers[3],
            replica,
            stopped: stopped.map(|detail| Refused { kind: "ServiceStopped".into(), detail }),
        },
    )
}

fn entry() -> impl Strategy<Value = EntryProof> {
    (bytes(40), bytes(300), any::<u64>(), prop::collection::vec(any::<[u8; 32]>(), 0..20))
        .prop_map(|(key, value, index, path)| EntryProof { key, value, index, path })
}

fn answer() -> impl Strategy<Value = ServiceAnswer> {
    let found = prop_oneof![
        entry().prop_map(Answer::Present),
        (prop::option::of(entry()), prop::option::of(entry()))
            .prop_map(|(before, after)| Answer::Absent(AbsenceProof { before, after })),
        Just(Answer::Head),
    ];
    let leaf = any::<([[u8; 32]; 3], u64)>().prop_map(|([operation, result, state_root], state_size)| {
        LogLeaf { operation: OperationId::from_bytes(operation), result, state_root, state_size }
    });
    let head = (any::<u64>(), any::<[u8; 32]>(), ".{0,80}")
        .prop_map(|(size, root, cosignature)| CosignedHead { size, root, cosignature });
    prop_oneof![
        info().prop_map(ServiceAnswer::Info),
        any::<(u64, u64, u16)>().prop_map(|(ordered, executed, replica)| ServiceAnswer::Head(ServiceHead {
            ordered,
            executed,
            replica
        })),
        (signed(), bytes(300)).prop_map(|(SignedReceipt { replica, receipt, signature }, reply)| {
            ServiceAnswer::Executed(ExecutedEntry { replica, receipt, signature, reply })
        }),
        (signed(), found)
            .prop_map(|(newest, answer)| ServiceAnswer::Answered(AnsweredQuery { newest, answer })),
        (leaf, prop::collection::vec(any::<[u8; 32]>(), 0..=PROOF_LIMIT), any::<(u64, [u8; 32])>()).prop_map(
            |(leaf, path, (size, root))| ServiceAnswer::Proved(ServiceProof { leaf, path, size, root })
        ),
        prop::collection::vec(head, 0..4).prop_map(ServiceAnswer::Heads),
    ]
}

#[test]
fn the_largest_reply_and_the_largest_question_fit_into_a_message() {
    let key = vec![7; quorate_attest::state_tree::KEY_LIMIT];
    let query = Query::Range { low: key.clone(), high: key, limit: 256 };
    let question = ServiceQuestion::Query { query, at_least: u64::MAX };
    let ask: ToOrchestrator = AskService { service: ServiceId::from_bytes([1; 32]), question }.into();
    assert!(ask.encode_body().len() <= SERVICE_QUESTION_BYTES_MAX);
    assert_eq!(ToOrchestrator::decode_body(ask.tag(), &ask.encode_body()), Ok(ask));
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let SignedReceipt { replica, receipt, signature } = signed().new_tree(&mut runner).unwrap().current();
    let answer = |length| {
        ServiceAnswer::Executed(ExecutedEntry { replica, receipt, signature, reply: vec![9; length] }).into()
    };
    let longest: FromOrchestrator = answer(BODY_LIMIT);
    assert_eq!(FromOrchestrator::decode_body(longest.tag(), &longest.encode_body()), Ok(longest));
    let longer: FromOrchestrator = answer(BODY_LIMIT + 1);
    assert!(FromOrchestrator::decode_body(longer.tag(), &longer.encode_body()).is_err());
}

proptest! {
    #[test]
    fn every_question_decodes_to_itself_and_no_prefix_of_it_does(question in question()) {
        let (tag, bytes) = (question.tag(), question.encode_body());
        prop_assert_eq!(ToOrchestrator::decode_body(tag, &bytes), Ok(question));
        for length in 0..bytes.len() {
            prop_assert!(ToOrchestrator::decode_body(tag, &bytes[..length]).is_err());
        }
    }

    #[test]
    fn every_answer_decodes_to_itself_and_no_prefix_of_it_does(answer in answer()) {
        let answer = FromOrchestrator::from(answer);
        let (tag, bytes) = (answer.tag(), answer.encode_body());
        prop_assert_eq!(FromOrchestrator::decode_body(tag, &bytes), Ok(answer));
        for length in (0..bytes.len()).step_by(7) {
            prop_assert!(FromOrchestrator::decode_body(tag, &bytes[..length]).is_err());
        }
        let longer = [&bytes[..], &[0]].concat();
        prop_assert!(FromOrchestrator::decode_body(tag, &longer).is_err());
    }

    #[test]
    fn random_bytes_are_refused_or_are_what_they_decode_to(bytes in bytes(200)) {
        if let Ok(ask) = from_bytes::<AskService>(&bytes, SERVICE_QUESTION_BYTES_MAX) {
            prop_assert_eq!(quorate_attest::encoding::to_bytes(&ask), bytes.clone());
        }
        if let Ok(answer) = from_bytes::<ServiceAnswer>(&bytes, SERVICE_ANSWER_BYTES_MAX) {
            prop_assert_eq!(quorate_attest::encoding::to_bytes(&answer), bytes);
        }
    }
}
