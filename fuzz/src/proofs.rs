//! Proofs of answers and of misbehaviour: what verifies was signed, and is true of the state that was signed.

use std::sync::LazyLock;

use quorate_attest::encoding::{Bounded, to_bytes};
use quorate_attest::group::{GroupConfig, HASH_SHA256, Member};
use quorate_attest::id::{Epoch, Nonce, ServiceId};
use quorate_attest::key::{SecretKey, Signature};
use quorate_attest::operation::Operation;
use quorate_attest::receipt::{Receipt, ReceiptCertificate};
use quorate_attest::request::{Call, Reply, Request};
use quorate_attest::service::{Answer, Query, ServiceReceipt, ServiceReceiptCertificate};
use quorate_attest::state_tree::{EntryProof, StateTree};
use quorate_control::{Answer as Outcome, Command, encode_outcome};
use quorate_services::gather::Heard;
use quorate_services::{AnswerProof, Claim, Contradiction, Dissent, Gather, Trust};
use quorate_uid::client::{Listing, ask_uid, proven_uid};
use quorate_uid::{UidRecord, uid_key};
use sha2::{Digest as _, Sha256};

use crate::codec::{bounded, read};
use crate::cut::{Cut, framed};
use crate::must;
use crate::subject::Uid;
use crate::world::{Subject, World};

/// How many types a first byte chooses from.
pub const TYPES: usize = 7;

const ORCHESTRATORS: u8 = 20;
const REPLICAS: u8 = 60;
const SERVICE: ServiceId = ServiceId::from_bytes([9; 32]);
const NUMBER: u64 = 7;

/// The one replica that lies.
const LIAR: u16 = 3;

/// Four members, of whom one may be Byzantine; `first` is the seed of the first vote key, and every third one of the next.
pub fn group(name: &str, first: u8) -> GroupConfig {
    let member = |index: u8| {
        let keys = [0, 1, 2].map(|role| key(first + 3 * index + role).public());
        let [vote_key, cosigner_key, transport_key] = keys;
        Member { name: format!("{name}-{index}"), vote_key, cosigner_key, transport_key }
    };
    GroupConfig {
        name: name.into(),
        hash_algorithm: HASH_SHA256,
        epoch: Epoch(0),
        genesis: None,
        f: 1,
        members: (0..4).map(member).collect(),
        operators: Vec::new(),
        hosts: Vec::new(),
    }
}

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

/// Vote key of a member of [`group`].
pub(crate) fn vote_key(first: u8, index: u16) -> SecretKey {
    key(first + 3 * index as u8)
}

/// Key with which a member of [`group`] cosigns.
#[cfg(feature = "orchestrator")]
pub(crate) fn cosigner_key(first: u8, index: u16) -> SecretKey {
    key(first + 3 * index as u8 + 1)
}

/// Everything that anybody ever signed here.
struct Truth {
    trust: Trust,
    tree: StateTree,
    operation: Operation,
    outcome: Vec<u8>,
    reply: Vec<u8>,
    order: Receipt,
    /// What the honest replicas say.
    receipt: ServiceReceipt,
    /// What the liar says besides, about this entry and the next one.
    lies: [ServiceReceipt; 2],
}

static TRUTH: LazyLock<Truth> = LazyLock::new(Truth::new);

impl Truth {
    fn new() -> Self {
        let (orchestrators, replicas) = (group("orchestrator", ORCHESTRATORS), group("replica", REPLICAS));
        let trust = Trust { orchestrators, replicas, service: SERVICE };
        let call = Call { op: 3, sequence: 1, nonce: Nonce::from_bytes([1; 16]), epoch: 0, body: vec![1, 2] };
        let request = Request::sign(&key(1), SERVICE.instance(), call);
        let reply = Reply::to(&request, 0, vec![4]).encoded();
        let command = Command::CallService { service: SERVICE, request: request.encoded() };
        let nonce = Nonce::from_bytes([2; 16]);
        let operation = command.to_operation(&key(1), trust.orchestrators.id(), nonce);
        let outcome = encode_outcome(&Ok(Outcome::Numbered { service: SERVICE, number: NUMBER }));
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
        let tree = state();
        let receipt = ServiceReceipt {
            group: trust.replicas.id(),
            epoch: Epoch(0),
            service: SERVICE,
            number: NUMBER,
            log_index: 70,
            operation: operation.id(),
            result: Sha256::digest(&reply).into(),
            log_root: [3; 32],
            log_size: NUMBER + 1,
            state: tree.commitment(),
        };
        let lies = [NUMBER, NUMBER + 1].map(|number| {
            let state = StateTree::default().commitment();
            ServiceReceipt { state, number, log_size: number + 1, ..receipt }
        });
        Self { trust, tree, operation, outcome, reply, order, receipt, lies }
    }

    fn vote(&self, replica: u16, receipt: ServiceReceipt) -> (ServiceReceipt, Signature) {
        (receipt, receipt.sign(&vote_key(REPLICAS, replica)))
    }

    fn certificate(&self, signers: &[u16]) -> ServiceReceiptCertificate {
        let signatures = signers.iter().map(|replica| (*replica, self.vote(*replica, self.receipt).1));
        ServiceReceiptCertificate { receipt: self.receipt, signatures: signatures.collect() }
    }

    fn reply_claim(&self) -> Claim {
        let vote = |index| (index, self.order.sign(&vote_key(ORCHESTRATORS, index)));
        let order = ReceiptCertificate { receipt: self.order, signatures: [0, 1, 2].map(vote).to_vec() };
        let operation = self.operation.encoded();
        Claim::Reply { operation, order, outcome: self.outcome.clone(), reply: self.reply.clone() }
    }
}

/// A registry of UIDs with a past.
fn state() -> StateTree {
    let world = World::<Uid>::new(false);
    let mut replica = world.begun.clone();
    Uid::script(7, 60, world.instance(), &mut |request| world.execute(&mut replica, request));
    replica.state().cloned().unwrap_or_default()
}

/// Decodes the bytes as the type that the first one names, and verifies.
pub fn check(bytes: &[u8]) {
    let mut cut = Cut::new(bytes);
    match cut.below(TYPES) {
        0 => proof(cut.rest()),
        1 => contradiction(cut.rest()),
        2 => dissent(cut.rest()),
        3 => answer(cut),
        4 => gathered(cut.rest()),
        5 => user(cut),
        _ => listing(cut.rest()),
    }
}

fn proof(bytes: &[u8]) {
    let Some(proof) = bounded::<AnswerProof>(bytes) else { return };
    if proof.verify(&TRUTH.trust).is_err() {
        return;
    }
    assert_eq!(proof.receipt.receipt, TRUTH.receipt, "a receipt that nobody signed");
    assert!(proof.receipt.signatures.len() >= 2);
    match (&proof.claim, TRUTH.reply_claim()) {
        (Claim::State { query, answer }, _) => assert_true(query, answer),
        (
            Claim::Reply { operation, order, outcome, reply },
            Claim::Reply { operation: ordered, order: known, outcome: numbered, reply: given },
        ) => {
            assert_eq!((operation, outcome, reply), (&ordered, &numbered, &given));
            assert_eq!(order.receipt, known.receipt);
            assert!(must(proof.reply()).is_some());
        }
        _ => panic!("a claim of no kind"),
    }
}

fn contradiction(bytes: &[u8]) {
    let Some(found) = bounded::<Contradiction>(bytes) else { return };
    if found.verify(&TRUTH.trust.replicas).is_ok() {
        assert_eq!(found.replica, LIAR, "an honest replica is convicted");
        let said = [found.first.0, found.second.0];
        assert!(said.contains(&TRUTH.receipt) && said.contains(&TRUTH.lies[0]));
    }
}

fn dissent(bytes: &[u8]) {
    let Some(found) = bounded::<Dissent>(bytes) else { return };
    if found.verify(&TRUTH.trust.replicas).is_ok() {
        assert_eq!((found.replica, found.said.0), (LIAR, TRUTH.lies[0]), "an honest replica is convicted");
        assert_eq!(found.certificate.receipt, TRUTH.receipt);
    }
}

fn answer(mut cut: Cut<'_>) {
    let Some(query) = bounded::<Query>(cut.take(4096)) else { return };
    let Some(answer) = read::<Answer>(cut.rest(), AnswerProof::LIMIT) else { return };
    if answer.verify(&query, &TRUTH.tree.commitment()).is_ok() {
        assert_true(&query, &answer);
    }
}

/// An answer that verifies says what the tree says.
fn assert_true(query: &Query, answer: &Answer) {
    let tree = &TRUTH.tree;
    match (query, answer) {
        (Query::Get { key }, Answer::Present(entry)) => {
            assert_eq!((&entry.key, tree.get(key)), (key, Some(entry.value.as_slice())));
        }
        (Query::Get { key }, Answer::Absent(_)) => assert_eq!(tree.get(key), None),
        (Query::Range { low, high, limit }, Answer::Range { proof, more }) => {
            let shown = proof.entries.iter().map(|EntryProof { key, value, .. }| (&key[..], &value[..]));
            let all = tree.from(low).take_while(|(key, _)| *key <= high.as_slice());
            let all: Vec<_> = all.take(if *more { proof.entries.len() } else { usize::MAX }).collect();
            assert!(shown.eq(all), "a range that is not the tree's verifies");
            assert!(proof.entries.len() <= usize::from(*limit));
        }
        (Query::Head, Answer::Head) => {}
        _ => panic!("an answer to another question verifies"),
    }
}

/// Receipts as replicas send them, one after the other.
fn gathered(bytes: &[u8]) {
    let mut gather = Gather::new(&TRUTH.trust.replicas, SERVICE);
    for bytes in bytes.chunks_exact(2 + ServiceReceipt::LIMIT + Signature::LENGTH) {
        let (replica, rest) = bytes.split_at(2);
        let (receipt, signature) = rest.split_at(ServiceReceipt::LIMIT);
        let (Some(receipt), Ok(signature)) = (bounded::<ServiceReceipt>(receipt), signature.try_into())
        else {
            continue;
        };
        let replica = u16::from_le_bytes([replica[0], replica[1]]);
        match gather.add(replica, receipt, Signature::from_bytes(signature)) {
            Ok(Heard::Certified(certificate)) => assert_eq!(certificate.receipt, TRUTH.receipt),
            Ok(Heard::Contradicts(found)) => {
                assert_eq!((found.replica, found.verify(&TRUTH.trust.replicas)), (LIAR, Ok(())));
            }
            Ok(Heard::Counted) => assert!(receipt == TRUTH.receipt || TRUTH.lies.contains(&receipt)),
            Err(_) => {}
        }
        assert!(gather.dissents(NUMBER).iter().all(|found| found.replica == LIAR));
    }
}

/// What is believed of a UID is what the registry has.
fn user(mut cut: Cut<'_>) {
    let uid = 990 + cut.below(40) as u32;
    let Some(answer) = read::<Answer>(cut.rest(), AnswerProof::LIMIT) else { return };
    if let Ok(proven) = proven_uid(uid, &answer, &TRUTH.tree.commitment()) {
        let known = TRUTH.tree.get(&uid_key(uid)).map(|value| must(UidRecord::decoded(value)));
        assert_eq!(proven.map(|entry| entry.record), known);
    }
}

/// A listing that calls itself complete leaves out nobody.
fn listing(bytes: &[u8]) {
    let Some(answer) = read::<Answer>(bytes, AnswerProof::LIMIT) else { return };
    let state = TRUTH.tree.commitment();
    let mut listing = Listing::of_users(state);
    if listing.add(&answer, &state).is_ok()
        && let Some(users) = listing.complete()
    {
        let (low, high) = (uid_key(0), uid_key(u32::MAX));
        let all = TRUTH.tree.from(&low).take_while(|(key, _)| *key <= high.as_slice());
        assert_eq!(users.len(), all.count());
    }
}

/// Everything that was signed, and answers that are true.
pub fn seeds() -> Vec<Vec<u8>> {
    let truth = &*TRUTH;
    let with = |choice: u8, bytes: &[u8]| [&[choice][..], bytes].concat();
    let (low, high) = (uid_key(0), uid_key(u32::MAX));
    let listed = Answer::Range { proof: truth.tree.range(&low, &high), more: false };
    let range = Query::Range { low, high, limit: 256 };
    let mut seeds = vec![
        with(0, &AnswerProof::new(truth.certificate(&[0, 2]), truth.reply_claim()).encoded()),
        with(6, &to_bytes(&listed)),
    ];
    let (said, lie) = (truth.vote(LIAR, truth.receipt), truth.vote(LIAR, truth.lies[0]));
    seeds.push(with(1, &Contradiction { replica: LIAR, first: said, second: lie }.encoded()));
    let certificate = truth.certificate(&[0, 1]);
    seeds.push(with(2, &Dissent { replica: LIAR, said: lie, certificate }.encoded()));
    let mut answers = vec![(range, listed), (Query::Head, Answer::Head)];
    for uid in [1000, 1001, 1029] {
        let query = ask_uid(uid);
        let Query::Get { key } = &query else { continue };
        let present = truth.tree.membership(key).map(Answer::Present);
        let Some(answer) = present.or_else(|| truth.tree.absence(key).map(Answer::Absent)) else { continue };
        seeds.push(with(5, &[&[(uid - 990) as u8][..], &to_bytes(&answer)].concat()));
        answers.push((query, answer));
    }
    for (query, answer) in answers {
        seeds.push(with(3, &[framed(&query.encoded()), to_bytes(&answer)].concat()));
        let claim = Claim::State { query, answer };
        seeds.push(with(0, &AnswerProof::new(truth.certificate(&[1, 3]), claim).encoded()));
    }
    let votes = [(0, truth.receipt), (1, truth.receipt), (LIAR, truth.lies[0]), (LIAR, truth.receipt)];
    let heard = votes.map(|(replica, receipt)| to_bytes(&(replica, truth.vote(replica, receipt))));
    seeds.push(with(4, &heard.concat()));
    seeds
}

/// A receipt, for the seeds of other targets.
pub(crate) fn receipt() -> ServiceReceipt {
    TRUTH.receipt
}
