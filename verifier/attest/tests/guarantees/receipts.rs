use crate::fixtures::*;
use quorate_attest::encoding::Bounded;
use quorate_attest::group::GroupConfig;
use quorate_attest::id::*;
use quorate_attest::merkle::{Frontier, Sha256Tree, TreeHash, root_of_data, verify_inclusion};
use quorate_attest::receipt::*;
use quorate_attest::statement::{Expected, Kind};

pub fn receipt_certificate(group: &GroupConfig, orchestrators: &[u16]) -> ReceiptCertificate {
    let receipt = receipt(group);
    let vote = |index: &u16| (*index, receipt.sign(&vote_key(*index)));
    ReceiptCertificate { signatures: orchestrators.iter().map(vote).collect(), receipt }
}

fn expected(group: &GroupConfig) -> Expected {
    group.expected(LOG_INSTANCE, Kind::RECEIPT)
}

#[test]
fn test_equal_receipts_of_any_quorum_are_a_certificate_and_fewer_are_not() {
    let group = group(4, 1);
    for (size, verdict) in [(2, Err("QuorumNotReached")), (3, Ok(())), (4, Ok(()))] {
        for signers in subsets(4, size) {
            let got = receipt_certificate(&group, &signers).verify(&group, &expected(&group));
            assert_eq!(got.map_err(|e| e.kind()), verdict, "{signers:?}");
        }
    }
}

#[test]
fn test_each_changed_field_of_a_receipt_is_refused() {
    let group = group(4, 1);
    let original = receipt_certificate(&group, &[0, 1, 2]);
    let changes: [Change<Receipt>; 9] = [
        (|r| r.group = GroupId::ZERO, "WrongCluster"),
        (|r| r.epoch = Epoch(9), "WrongEpoch"),
        (|r| r.index = 16, "Inconsistent"),
        (|r| r.operation = OperationId::ZERO, "BadSignature"),
        (|r| r.result = [0; 32], "BadSignature"),
        (|r| r.log_root = [0; 32], "BadSignature"),
        (|r| r.log_size = 19, "Inconsistent"),
        (|r| r.state_root = [0; 32], "BadSignature"),
        (|r| r.state_size = 6, "BadSignature"),
    ];
    for (number, (change, kind)) in changes.into_iter().enumerate() {
        let mut changed = original.clone();
        change(&mut changed.receipt);
        let verdict = changed.verify(&group, &expected(&group));
        assert_eq!(verdict.map_err(|e| e.kind()), Err(kind), "field {number}");
        let (index, vote) = original.signatures[0];
        assert!(changed.receipt.verify_vote(&group, index, &vote).is_err(), "field {number}");
    }
    let moved = Receipt { index: 16, log_size: 17, ..original.receipt };
    let verdict = ReceiptCertificate { receipt: moved, ..original }.verify(&group, &expected(&group));
    assert_eq!(verdict.map_err(|e| e.kind()), Err("BadSignature"));
}

#[test]
fn test_receipts_that_disagree_are_never_counted_together() {
    let group = group(4, 1);
    let honest = receipt(&group);
    let lie = Receipt { result: [1; 32], ..honest };
    let mut tally = ReceiptTally::new(&group, honest).unwrap();
    assert_eq!(tally.add(0, honest.sign(&vote_key(0))), Ok(false));
    assert_eq!(tally.add(1, lie.sign(&vote_key(1))).map_err(|e| e.kind()), Err("BadSignature"));
    assert_eq!(tally.add(2, honest.sign(&vote_key(2))), Ok(false));
    assert_eq!(tally.certificate().map_err(|e| e.kind()), Err("QuorumNotReached"));
    assert_eq!(tally.add(1, honest.sign(&vote_key(1))), Ok(true));
    assert_eq!((tally.progress(), tally.subject()), ((3, 3), &honest));
    assert_eq!(tally.certificate().unwrap().verify(&group, &expected(&group)), Ok(()));
    let stale = Receipt { epoch: Epoch(2), ..honest };
    assert_eq!(ReceiptTally::new(&group, stale).map(|_| ()).map_err(|e| e.kind()), Err("WrongEpoch"));
    let torn = Receipt { log_size: 17, ..honest };
    assert_eq!(ReceiptTally::new(&group, torn).map(|_| ()).map_err(|e| e.kind()), Err("Inconsistent"));
    let endless = Receipt { index: u64::MAX, log_size: 0, ..honest };
    assert_eq!(endless.check(&expected(&group)).map_err(|e| e.kind()), Err("Inconsistent"));
}

#[test]
fn test_leaf_of_a_receipt_is_in_the_log_that_the_receipt_names() {
    let group = group(4, 1);
    let mut frontier = Frontier::<Sha256Tree>::new();
    let leaves: Vec<LogLeaf> =
        (0..7).map(|number| LogLeaf { result: [number; 32], ..receipt(&group).leaf() }).collect();
    let data: Vec<Vec<u8>> = leaves.iter().map(Bounded::encoded).collect();
    data.iter().for_each(|leaf| frontier.push(leaf));
    let log_root = frontier.root();
    assert_eq!(log_root, root_of_data::<Sha256Tree, _>(&data));
    let last = Receipt { result: [6; 32], index: 6, log_root, log_size: 7, ..receipt(&group) };
    assert_eq!(last.leaf(), leaves[6]);
    let hashes: Vec<_> = data.iter().map(|leaf| Sha256Tree::leaf(leaf)).collect();
    let path = quorate_attest::merkle::inclusion_proof::<Sha256Tree>(&hashes, last.index).unwrap();
    let leaf = Sha256Tree::leaf(&last.leaf().encoded());
    assert!(verify_inclusion::<Sha256Tree>(&leaf, last.index, last.log_size, &path, &last.log_root).is_ok());
    let text = log_checkpoint(&group.name, last.log_size, last.log_root).unwrap().to_text();
    assert!(text.starts_with("test/log\n7\n"), "{text}");
}
