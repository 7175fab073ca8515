use proptest::prelude::*;
use quorate_attest::id::{Epoch, Nonce};
use quorate_attest::receipt::Receipt;
use quorate_attest::request::Call;
use quorate_attest::service::ServiceReceipt;
use quorate_attest::state_tree::StateTree;
use quorate_control::encode_outcome;

use super::*;
use crate::tests::fixture::*;

const ORCHESTRATORS: u8 = 20;

fn trust() -> Trust {
    let orchestrators = group("orchestrator", ORCHESTRATORS, 4, 1);
    Trust { orchestrators, replicas: replicas(), service: SERVICE }
}

fn tree() -> StateTree {
    StateTree::from_sorted((0..9u8).map(|number| (vec![1, number], vec![number])).collect())
}

/// Entry 7 of the service, ordered as entry 70 of the log: request, reply and everything that shows them.
struct Entry {
    operation: Operation,
    outcome: Vec<u8>,
    order: Receipt,
    reply: Vec<u8>,
    receipt: ServiceReceipt,
}

impl Entry {
    fn new(service: ServiceId, number: u64) -> Self {
        let trust = trust();
        let call = Call { op: 3, sequence: 1, nonce: Nonce::ZERO, epoch: 0, body: vec![1, 2, 3] };
        let request = Request::sign(&key(1), service.instance(), call);
        let reply = Reply::to(&request, 0, vec![4]).encoded();
        let command = Command::CallService { service, request: request.encoded() };
        let operation = command.to_operation(&key(1), trust.orchestrators.id(), Nonce::ZERO);
        let outcome = encode_outcome(&Ok(Outcome::Numbered { service, number }));
        let order = Receipt {
            group: trust.orchestrators.id(),
            epoch: Epoch(0),
            index: 70,
            operation: operation.id(),
            result: Sha256::digest(&outcome).into(),
            log_root: [1; 32],
            log_size: 71,
            state_root: [2; 32],
            state_size: 3,
        };
        let receipt = ServiceReceipt {
            group: trust.replicas.id(),
            epoch: Epoch(0),
            service,
            number,
            log_index: 70,
            operation: operation.id(),
            result: Sha256::digest(&reply).into(),
            log_root: [3; 32],
            log_size: number + 1,
            state: tree().commitment(),
        };
        Self { operation, outcome, order, reply, receipt }
    }

    fn certificate(&self) -> ServiceReceiptCertificate {
        let signatures = [0, 2].map(|replica| (replica, self.receipt.sign(&vote_key(replica)))).to_vec();
        ServiceReceiptCertificate { receipt: self.receipt, signatures }
    }

    fn proof(&self) -> AnswerProof {
        let vote = |index: u16| (index, self.order.sign(&key(ORCHESTRATORS + 3 * index as u8)));
        let order = ReceiptCertificate { receipt: self.order, signatures: [0, 1, 2].map(vote).to_vec() };
        let (operation, outcome, reply) =
            (self.operation.encoded(), self.outcome.clone(), self.reply.clone());
        AnswerProof::new(self.certificate(), Claim::Reply { operation, order, outcome, reply })
    }

    fn kind(&self) -> &'static str {
        self.proof().verify(&trust()).map_or_else(|error| error.kind(), |()| "ok")
    }
}

fn honest() -> Entry {
    Entry::new(SERVICE, 7)
}

#[test]
fn a_reply_holds_with_its_order_and_f_plus_one_receipts() {
    let proof = honest().proof();
    assert_eq!(proof.verify(&trust()), Ok(()));
    assert_eq!(AnswerProof::decoded(&proof.encoded()), Ok(proof.clone()));
    assert_eq!((proof.number(), proof.reply().unwrap().unwrap().body), (7, vec![4]));
}

#[test]
fn parts_of_different_answers_prove_nothing_together() {
    let honest = honest;
    let other = Entry::new(ServiceId::from_bytes([8; 32]), 7);
    assert_eq!(Entry { reply: vec![0], ..honest() }.kind(), "Inconsistent", "another reply");
    assert_eq!(Entry { outcome: vec![0], ..honest() }.kind(), "Inconsistent", "another outcome");
    assert_eq!(
        Entry { operation: other.operation.clone(), ..honest() }.kind(),
        "Inconsistent",
        "another operation"
    );
    assert_eq!(Entry { receipt: other.receipt, ..honest() }.kind(), "WrongVm", "another service's receipt");
    assert_eq!(
        Entry { order: other.order, ..honest() }.kind(),
        "Inconsistent",
        "the order of another operation"
    );
    let ordered_elsewhere = ServiceReceipt { log_index: 71, ..honest().receipt };
    assert_eq!(Entry { receipt: ordered_elsewhere, ..honest() }.kind(), "Inconsistent");
    let as_other_number = Entry::new(SERVICE, 8);
    assert_eq!(
        Entry { receipt: as_other_number.receipt, ..honest() }.kind(),
        "Inconsistent",
        "another number"
    );
    // A reply to somebody else's request, honestly signed as the result of this one, is what f + 1 liars could do.
    let answer = Reply { sequence: 9, ..Reply::decoded(&honest().reply).unwrap() }.encoded();
    let receipt = ServiceReceipt { result: Sha256::digest(&answer).into(), ..honest().receipt };
    assert_eq!(Entry { reply: answer, receipt, ..honest() }.kind(), "Inconsistent");
}

#[test]
fn too_few_signatures_of_either_group_are_refused() {
    let mut proof = honest().proof();
    proof.receipt.signatures.pop();
    assert_eq!(proof.verify(&trust()).map_err(|e| e.kind()), Err("QuorumNotReached"), "f receipts");
    let mut proof = honest().proof();
    let Claim::Reply { order, .. } = &mut proof.claim else { panic!() };
    order.signatures.pop();
    assert_eq!(proof.verify(&trust()).map_err(|e| e.kind()), Err("QuorumNotReached"), "two of four orders");
    let swapped = Trust { replicas: trust().orchestrators, ..trust() };
    assert!(honest().proof().verify(&swapped).is_err());
}

#[test]
fn an_answer_about_the_state_holds_against_the_certified_state_only() {
    let query = Query::Get { key: vec![1, 4] };
    let answer = Answer::Present(tree().membership(&[1, 4]).unwrap());
    let proof = AnswerProof::new(
        honest().certificate(),
        Claim::State { query: query.clone(), answer: answer.clone() },
    );
    assert_eq!(proof.verify(&trust()), Ok(()));
    assert_eq!(proof.reply(), Ok(None));
    let mut grown = tree();
    grown.put(vec![9], vec![]);
    let newer = Answer::Present(grown.membership(&[1, 4]).unwrap());
    let stale =
        AnswerProof::new(honest().certificate(), Claim::State { query: query.clone(), answer: newer });
    assert_eq!(stale.verify(&trust()).map_err(|e| e.kind()), Err("ProofInvalid"));
    let other =
        AnswerProof::new(honest().certificate(), Claim::State { query: Query::Get { key: vec![2] }, answer });
    assert_eq!(other.verify(&trust()).map_err(|e| e.kind()), Err("ProofInvalid"));
}

#[test]
fn each_changed_byte_of_a_proof_is_refused() {
    let bytes = honest().proof().encoded();
    for at in 0..bytes.len() {
        let mut changed = bytes.clone();
        changed[at] ^= 1;
        let accepted = AnswerProof::decoded(&changed).is_ok_and(|proof| proof.verify(&trust()).is_ok());
        // The operation's own signature is no part of its identity: another valid one would do. One changed bit is none.
        assert!(!accepted, "byte {at}");
    }
    assert!(AnswerProof::decoded(&bytes[..bytes.len() - 1]).is_err());
}

proptest! {
    #[test]
    fn arbitrary_bytes_prove_nothing(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let with_magic = [&AnswerProof::MAGIC[..], &bytes].concat();
        for bytes in [bytes, with_magic] {
            if let Ok(proof) = AnswerProof::decoded(&bytes) {
                prop_assert!(proof.verify(&trust()).is_err());
            }
        }
    }
}
