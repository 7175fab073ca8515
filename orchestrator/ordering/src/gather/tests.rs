use proptest::prelude::*;
use quorate_attest::group::{GroupConfig, HASH_SHA256, Member};
use quorate_attest::id::{Epoch, Generation, OperationId, Slot, StatementDigest, VmId};
use quorate_attest::key::{SecretKey, Signature};
use quorate_attest::receipt::Receipt;
use quorate_attest::vm::{Action, Decision};
use sha2::{Digest as _, Sha256};

use super::*;

const OPERATION: OperationId = OperationId::from_bytes([7; 32]);

fn key(index: u16, purpose: u8) -> SecretKey {
    SecretKey::from_seed([index as u8 * 3 + purpose + 1; 32])
}

fn group() -> GroupConfig {
    let members = (0..4).map(|index| Member {
        name: format!("orchestrator-{index}"),
        vote_key: key(index, 0).public(),
        cosigner_key: key(index, 1).public(),
        transport_key: key(index, 2).public(),
    });
    GroupConfig {
        name: "order".into(),
        hash_algorithm: HASH_SHA256,
        epoch: Epoch(0),
        genesis: None,
        f: 1,
        members: members.collect(),
        operators: Vec::new(),
        hosts: Vec::new(),
    }
}

fn decision(group: &GroupConfig, host: u8) -> Decision {
    let host = SecretKey::from_seed([host; 32]).public();
    Decision {
        group: group.id(),
        epoch: group.epoch,
        vm: VmId::from_bytes([1; 32]),
        generation: Generation(1),
        operation: OPERATION,
        index: 5,
        action: Action::Grant { slot: Slot(9), statement: StatementDigest::from_bytes([3; 32]), host },
    }
}

fn applied(group: &GroupConfig, from: u16, outcome: &[u8], decision: Option<Decision>) -> Applied {
    let receipt = Receipt {
        group: group.id(),
        epoch: group.epoch,
        index: 5,
        operation: OPERATION,
        result: Sha256::digest(outcome).into(),
        log_root: [1; 32],
        log_size: 6,
        state_root: [2; 32],
        state_size: 3,
    };
    let signature = receipt.sign(&key(from, 0));
    let decision = decision.map(|decision| {
        let signature = decision.sign(&key(from, 0));
        (decision, signature)
    });
    Applied { orchestrator: from, receipt, signature, outcome: outcome.to_vec(), decision }
}

#[test]
fn a_quorum_of_equal_answers_is_believed_and_one_less_is_not() {
    let group = group();
    let mut gather = Gather::new(&group, OPERATION);
    let grant = decision(&group, 200);
    for from in [3, 0] {
        assert_eq!(gather.add(from, &applied(&group, from, b"ok", Some(grant.clone()))).unwrap(), None);
    }
    let ordered = gather.add(1, &applied(&group, 1, b"ok", Some(grant.clone()))).unwrap().unwrap();
    assert_eq!(ordered.outcome, b"ok");
    let expected = group.expected(grant.vm, quorate_attest::statement::Kind::DECISION);
    ordered.decision.unwrap().verify(&group, &expected).unwrap();
}

#[test]
fn a_liar_among_four_changes_neither_outcome_nor_decision() {
    let group = group();
    let mut gather = Gather::new(&group, OPERATION);
    let grant = decision(&group, 200);
    assert_eq!(gather.add(0, &applied(&group, 0, b"lie", Some(decision(&group, 201)))).unwrap(), None);
    let mut found = None;
    for from in 1..4 {
        found = gather.add(from, &applied(&group, from, b"ok", Some(grant.clone()))).unwrap();
    }
    assert_eq!(found.unwrap().decision.unwrap().decision, grant);
    assert!(gather.is_split());
}

#[test]
fn a_decision_that_one_orchestrator_invents_does_not_hold_up_the_others() {
    let group = group();
    let mut gather = Gather::new(&group, OPERATION);
    assert_eq!(gather.add(0, &applied(&group, 0, b"ok", Some(decision(&group, 201)))).unwrap(), None);
    assert_eq!(gather.add(1, &applied(&group, 1, b"ok", None)).unwrap(), None);
    assert_eq!(gather.add(2, &applied(&group, 2, b"ok", None)).unwrap().unwrap().decision, None);
}

#[test]
fn a_decision_that_one_orchestrator_withholds_is_waited_for() {
    let group = group();
    let mut gather = Gather::new(&group, OPERATION);
    let grant = decision(&group, 200);
    assert_eq!(gather.add(0, &applied(&group, 0, b"ok", None)).unwrap(), None);
    assert_eq!(gather.add(1, &applied(&group, 1, b"ok", Some(grant.clone()))).unwrap(), None);
    assert_eq!(gather.add(2, &applied(&group, 2, b"ok", Some(grant.clone()))).unwrap(), None);
    let ordered = gather.add(3, &applied(&group, 3, b"ok", Some(grant.clone()))).unwrap().unwrap();
    assert_eq!(ordered.decision.unwrap().decision, grant);
}

#[test]
fn forged_repeated_and_foreign_answers_count_nothing() {
    let group = group();
    let mut gather = Gather::new(&group, OPERATION);
    let good = applied(&group, 0, b"ok", None);
    gather.add(0, &good).unwrap();
    assert!(gather.add(0, &good).is_err(), "the same orchestrator twice");
    assert!(gather.add(1, &good).is_err(), "somebody else's answer");
    let forged = Applied { orchestrator: 1, signature: Signature::NONE, ..good.clone() };
    assert!(gather.add(1, &forged).is_err(), "no signature");
    let swapped = Applied { outcome: b"other".to_vec(), ..applied(&group, 2, b"ok", None) };
    assert!(gather.add(2, &swapped).is_err(), "outcome and receipt differ");
    let mut other = applied(&group, 2, b"ok", None);
    other.receipt.operation = OperationId::from_bytes([8; 32]);
    other.signature = other.receipt.sign(&key(2, 0));
    assert!(gather.add(2, &other).is_err(), "another operation");
    assert_eq!(gather.progress(), (1, 3));
}

proptest! {
    /// Whatever one of four says, and in whatever order: what is believed is what the honest ones say.
    #[test]
    fn no_single_liar_decides(
        order in Just([0u16, 1, 2, 3]).prop_shuffle(),
        lie in any::<Vec<u8>>(),
        host in any::<Option<u8>>(),
    ) {
        let group = group();
        let mut gather = Gather::new(&group, OPERATION);
        let grant = decision(&group, 200);
        let mut believed = None;
        for from in order {
            let answer = if from == 0 {
                applied(&group, 0, &lie, host.map(|host| decision(&group, host.max(20))))
            } else {
                applied(&group, from, b"ok", Some(grant.clone()))
            };
            believed = believed.or(gather.add(from, &answer).unwrap());
        }
        let believed = believed.unwrap();
        prop_assert_eq!(believed.outcome, b"ok");
        prop_assert_eq!(believed.decision.unwrap().decision, grant);
    }
}

/// The same attack with one liar too many: two of four (f = 1) and a quorum believed from too few honest ones.
#[test]
fn with_a_quorum_of_liars_the_lie_is_believed() {
    let group = group();
    let mut gather = Gather::new(&group, OPERATION);
    let mut believed = None;
    for from in 0..3 {
        believed = gather.add(from, &applied(&group, from, b"lie", None)).unwrap();
    }
    assert_eq!(believed.unwrap().outcome, b"lie");
}
