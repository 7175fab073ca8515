//! Proofs of order convince offline, and only of what is true.

mod support;

use proptest::prelude::*;
use quorate_agreement::{OrderedLog, verify_order};
use support::{Cluster, group, operation};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_a_proof_of_order_verifies_offline_and_each_changed_byte_is_refused() {
    let cluster = Cluster::start(4, &[]).await;
    for number in 0..9 {
        cluster.node(1).log.submit(operation(number, 300)).await.unwrap();
    }
    let entries = cluster.node(2).entries(9).await;
    let group = group(4);
    let mut proofs = Vec::new();
    for entry in &entries {
        let proof = cluster.node(2).log.proof(entry.index).await.unwrap();
        verify_order(&proof, &group, entry.index, &entry.operation).unwrap();
        proofs.push(proof);
    }
    let (entry, proof) = (&entries[3], &proofs[3]);
    for (index, operation) in [(2, &entry.operation), (4, &entry.operation), (3, &entries[4].operation)] {
        assert!(verify_order(proof, &group, index, operation).is_err(), "index {index}");
    }
    for at in 0..proof.len() {
        let mut changed = proof.clone();
        changed[at] ^= 1 << (at % 8);
        let refused = verify_order(&changed, &group, entry.index, &entry.operation);
        assert!(refused.is_err(), "byte {at} of {} changed", proof.len());
        assert!(verify_order(&proof[..at], &group, entry.index, &entry.operation).is_err(), "cut at {at}");
    }
    let mut other = group.clone();
    other.name = "other".into();
    let error = verify_order(proof, &other, entry.index, &entry.operation).unwrap_err();
    assert_eq!(error.kind(), "BadSignature", "another group: {error}");
    let error = cluster.node(2).log.proof(9).await.unwrap_err();
    assert_eq!(error.kind(), "NoEntry");
    cluster.stop_all().await;
}

proptest! {
    #[test]
    fn test_any_bytes_as_a_proof_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        prop_assert!(verify_order(&bytes, &group(4), 0, b"operation").is_err());
    }
}
