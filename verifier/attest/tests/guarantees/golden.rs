//! One fixed value of every travelling type and the SHA-256 of its encoding.
//!
//! Keys and signatures are deterministic, so the digests pin what is signed as well as what is sent.

use crate::epochs;
use crate::evidence::{conflict, double_vote, equivocation};
use crate::fixtures::*;
use crate::receipts::receipt_certificate;
use crate::requests::request;
use crate::services;
use quorate_attest::certificate::Certificate;
use quorate_attest::encoding::{Bounded, DecodeError};
use quorate_attest::id::{Generation, to_hex};
use quorate_attest::merkle::{Frontier, Sha256Tree, TreeHash};
use quorate_attest::possession::{Possession, Role};
use quorate_attest::request::{Reply, status};
use quorate_attest::service::*;
use quorate_attest::state_tree::StateTree;
use quorate_attest::statement::Kind;
use quorate_attest::vm::*;

const GOLDEN: &str = include_str!("../golden/encodings.txt");

/// A value's encoding with its decoder, so that one test serves all types.
pub struct Sample {
    pub name: &'static str,
    pub bytes: Vec<u8>,
    pub limit: usize,
    /// Decodes and encodes again.
    pub again: fn(&[u8]) -> Result<Vec<u8>, DecodeError>,
}

fn sample<T: Bounded>(name: &'static str, value: &T) -> Sample {
    let again = |bytes: &[u8]| T::decoded(bytes).map(|value| value.encoded());
    Sample { name, bytes: value.encoded(), limit: T::LIMIT, again }
}

/// One of every type that travels.
pub fn samples() -> Vec<Sample> {
    let group = group(4, 1);
    let statement = slot(&group, 5);
    let generic = statement.to_statement(Kind::SLOT_REPLAYED);
    let votes = [0u16, 1, 2].map(|verifier| (verifier, generic.sign(&vote_key(verifier))));
    let mut frontier = Frontier::<Sha256Tree>::new();
    (0..7).for_each(|op| frontier.push(format!("op-{op}").as_bytes()));
    let entry = |number: u8| (vec![b'k', number], vec![number; 3]);
    let state = StateTree::new(&(1..6).map(entry).collect());
    let nothing = HeadAnswer {
        proposal: None,
        attestation: None,
        generation: Generation::ZERO,
        vote: None,
        vote_signature: None,
        ..head(&group, 0)
    };
    let mut samples = vec![
        sample("PublicKey", &vote_key(0).public()),
        sample("Frontier", &frontier),
        sample("GroupConfig", &group),
        sample("Possession", &Possession::prove("test", "host-0", Role::Host, &host_key(0))),
        sample("Statement", &generic),
        sample("Certificate", &Certificate { statement: generic.clone(), signatures: votes.to_vec() }),
        sample("Request", &request()),
        sample("Reply", &Reply::to(&request(), 6, vec![1, 2, 3])),
        sample("VmSpec", &spec()),
        sample("SlotStatement", &statement),
        sample("Proposal", &Proposal::sign(statement.clone(), &host_key(0))),
        sample("Attestation", &attest(&statement, 3, Mode::Sampled)),
        sample("SlotCertificate", &certificate(&statement, &[0, 1, 2], Mode::Replayed)),
        sample("Relinquish", &relinquish(&group)),
        sample("Activation", &activation(&group, &granted(&group))),
        sample("ActivationCertificate", &activated(&group)),
        sample("HeadAnswer", &head(&group, 1)),
        sample("HeadAnswer of nothing", &nothing.signed(group.id(), group.epoch, &vote_key(0))),
        sample("Refusal", &refusal(&group)),
        sample("Equivocation", &equivocation()),
        sample("DoubleVote", &double_vote(Mode::Replayed, Mode::Sampled)),
        sample("ConflictingCertificates", &conflict()),
        sample("RootSet", &epochs::roots()),
        sample("SignedGenesis", &epochs::signed_genesis(&[0, 2])),
        sample("EpochLink", &epochs::link(&epochs::genesis(), epochs::rotated(&epochs::genesis()))),
        sample("GroupChain", &epochs::chain(2)),
        sample("Operation", &operation(&group)),
        sample("Decision to migrate", &decision(&group, migrate())),
        sample("Decision to grant", &decision(&group, grant(&group))),
        sample("DecisionCertificate", &decision_certificate(decision(&group, grant(&group)), &[0, 1, 2])),
        sample("LogLeaf", &receipt(&group).leaf()),
        sample("Receipt", &receipt(&group)),
        sample("ReceiptCertificate", &receipt_certificate(&group, &[0, 1, 2])),
        sample("StateCommitment", &state.commitment()),
        sample("EntryProof", &state.membership(&[b'k', 3]).unwrap()),
        sample("AbsenceProof", &state.absence(b"k").unwrap()),
        sample("RangeProof", &state.range(&[b'k', 2], &[b'k', 4])),
    ];
    samples.extend(service_samples());
    samples
}

/// What belongs to ordered services: every variant of what replicas and guests say to each other.
fn service_samples() -> Vec<Sample> {
    let (spec, tree) = (services::spec(), services::tree());
    let genesis = Genesis { spec: spec.clone(), voters: vec![vote_key(0).public()], f: 0 };
    let (number, entries, complete) = (8, services::entries(), Some(tree.commitment()));
    let import = Input::Import { genesis: genesis.clone(), number, entries: entries.clone(), complete };
    let requests = vec![Ordered { log_index: 90, request: request().encoded() }];
    let get = Query::Get { key: vec![4] };
    let range = Query::Range { low: vec![2], high: vec![9], limit: 3 };
    let executed = Executed { reply: Reply::to(&request(), 0, vec![1]).encoded(), state: tree.commitment() };
    let answered = |answer| Output::Answered { size: 8, state: tree.commitment(), answer: Box::new(answer) };
    let part = Answer::Range { proof: tree.range(&[2], &[4]), more: true };
    vec![
        sample("ServiceSpec", &spec),
        sample("ServiceReceipt", &services::receipt(&group(4, 1))),
        sample("ServiceReceiptCertificate", &services::certificate(&group(4, 1), &[0, 2])),
        sample("Statement of a ServiceReceipt", &services::receipt(&group(4, 1)).to_statement()),
        sample("Query of a key", &get),
        sample("Query of a range", &range),
        sample("Query of the head", &Query::Head),
        sample("Query for an export", &Query::Export { after: vec![4] }),
        sample("Input of genesis", &Input::Genesis(genesis)),
        sample("Input of requests", &Input::Apply { first: 7, requests }),
        sample("Input of a query", &Input::Query(get)),
        sample("Input of an import", &import),
        sample("Output of requests", &Output::Applied(Applied { first: 7, executed: vec![executed] })),
        sample("Output of a present key", &answered(Answer::Present(tree.membership(&[4]).unwrap()))),
        sample("Output of an absent key", &answered(Answer::Absent(tree.absence(&[4, 0]).unwrap()))),
        sample("Output of a range", &answered(part)),
        sample("Output of the head", &answered(Answer::Head)),
        sample("Output of an export", &answered(Answer::Entries { entries, more: false })),
        sample("Output of a refusal", &Output::Refused { status: status::STALE, next: 8 }),
    ]
}

fn digest(bytes: &[u8]) -> String {
    // The statement digest is SHA-256; a one-leaf tree would prefix the data.
    use sha2::Digest as _;
    to_hex(&sha2::Sha256::digest(bytes))
}

#[test]
fn test_encodings_are_those_of_version_1() {
    let table: String = samples()
        .iter()
        .map(|sample| format!("{} {} {}\n", sample.name, sample.bytes.len(), digest(&sample.bytes)))
        .collect();
    for (now, golden) in table.lines().zip(GOLDEN.lines()) {
        assert_eq!(
            now, golden,
            "\nAn encoding changed (name, bytes, SHA-256). Nodes of the old and the new version would refuse each \
             other's signatures, and stored certificates would no longer verify. If that is meant, it needs a new \
             statement kind or a new magic version, not a new golden file. The whole table now:\n{table}"
        );
    }
    assert_eq!(table.lines().count(), GOLDEN.lines().count(), "a type was added or removed:\n{table}");
}

#[test]
fn test_tree_hash_of_nothing_is_the_hash_of_nothing() {
    assert_eq!(to_hex(&Sha256Tree::empty()), digest(b""));
}
