//! A VM's statement log as files that other tools verify: cosigned head, policy of the group, proof of one slot.

use crate::fixtures::*;
use quorate_attest::cosignature::cosign;
use quorate_attest::group::GroupConfig;
use quorate_attest::merkle::{Digest, Frontier, Sha256Tree, TreeHash, inclusion_proof, root};
use quorate_attest::note::{Assembler, Note, SignatureLine};
use quorate_attest::policy::Policy;
use quorate_attest::tlog_proof::TlogProof;
use quorate_attest::vm::{head_checkpoint, log_origin, statement_leaf};

const SLOTS: u64 = 6;

fn leaves(group: &GroupConfig) -> Vec<Digest> {
    (0..SLOTS).map(|number| Sha256Tree::leaf(&statement_leaf(&slot(group, number)))).collect()
}

fn cosigned(group: &GroupConfig, verifiers: &[u16]) -> Note {
    let head = head_checkpoint(&spec().id(), SLOTS, root::<Sha256Tree>(&leaves(group))).unwrap();
    let keys = (0..group.members.len()).map(|index| group.cosigner(index as u16).unwrap()).collect();
    let mut assembler = Assembler::new(&head.to_text(), keys).unwrap();
    for verifier in verifiers {
        let name = group.cosigner(*verifier).unwrap().name().to_string();
        let line = cosign(&name, &secret(Use::Cosigner, *verifier), 1_750_000_000, &head).unwrap();
        assembler.add(line).unwrap();
    }
    assembler.note().unwrap()
}

#[test]
fn test_slot_is_proved_offline_by_three_files() {
    let group = group(4, 1);
    let policy = Policy::text_for_group(&group, None).unwrap();
    let policy = Policy::parse(policy.as_bytes()).unwrap();
    let checkpoint = cosigned(&group, &[3, 0, 2]);
    for number in 0..SLOTS {
        let path = inclusion_proof::<Sha256Tree>(&leaves(&group), number).unwrap();
        let file = TlogProof { extra: None, index: number, path, checkpoint: checkpoint.clone() }.to_string();
        let proof: TlogProof = file.parse().unwrap();
        let origin = log_origin(&spec().id());
        let accepted = proof.verify(&origin, &statement_leaf(&slot(&group, number)), &policy).unwrap();
        assert_eq!(accepted.checkpoint.size(), SLOTS);
        let names: Vec<_> = accepted.witnesses.iter().map(|witness| witness.name.as_str()).collect();
        assert_eq!(names, ["test/verifier-0", "test/verifier-2", "test/verifier-3"]);
        let other = proof.verify(&origin, &statement_leaf(&slot(&group, number + 1)), &policy);
        assert_eq!(other.map_err(|e| e.kind()).err(), Some("ProofInvalid"));
    }
}

#[test]
fn test_policy_of_a_group_demands_its_quorum_and_its_log() {
    for (n, f) in [(4u16, 1u64), (7, 1), (7, 2)] {
        let group = group(n, f);
        let quorum = group.rule().unwrap().quorum() as u16;
        let policy = Policy::parse(Policy::text_for_group(&group, None).unwrap().as_bytes()).unwrap();
        let enough: Vec<u16> = (0..quorum).collect();
        assert!(policy.evaluate(&cosigned(&group, &enough)).is_ok());
        let few = policy.evaluate(&cosigned(&group, &enough[1..])).map_err(|e| e.kind());
        assert_eq!(few.err(), Some("QuorumNotReached"));
    }
    let group = group(4, 1);
    let gateway = secret(Use::Client, 5);
    let origin = log_origin(&spec().id());
    let note = cosigned(&group, &[0, 1, 2]);
    let line = SignatureLine::sign(&origin, &gateway, note.text()).unwrap();
    let key = quorate_attest::note::VerifierKey::new(
        &origin,
        quorate_attest::note::KeyType::Ed25519,
        gateway.public(),
    )
    .unwrap();
    let policy = Policy::parse(Policy::text_for_group(&group, Some(&key)).unwrap().as_bytes()).unwrap();
    assert_eq!(policy.evaluate(&note).map_err(|e| e.kind()).err(), Some("SignerNotMember"));
    let lines = [&[line], note.lines()].concat();
    let signed = Note::new(note.text(), lines).unwrap();
    assert_eq!(policy.evaluate(&signed).unwrap().log, Some(origin));
}

#[test]
fn test_frontier_continues_the_log_of_a_vm() {
    let group = group(4, 1);
    let mut frontier = Frontier::<Sha256Tree>::new();
    (0..SLOTS).for_each(|number| frontier.push(&statement_leaf(&slot(&group, number))));
    assert_eq!(frontier.root(), root::<Sha256Tree>(&leaves(&group)));
    let head = head_checkpoint(&spec().id(), frontier.size(), frontier.root()).unwrap();
    assert!(head.to_text().starts_with(&format!("quorate.vm/{}\n6\n", spec().id())));
}
