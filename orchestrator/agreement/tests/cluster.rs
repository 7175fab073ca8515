//! Order, durability and progress of real logs over real QUIC.

mod support;

use std::collections::BTreeSet;

use quorate_agreement::{OrderedLog, SubmitError};
use support::{Cluster, eventually, numbers, operation};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_all_members_deliver_the_same_operations_in_the_same_order_once() {
    let cluster = Cluster::start(4, &[]).await;
    for number in 0..200u64 {
        if number % 10 == 0 {
            // The same operation at all members.
            for member in 0..4 {
                cluster.node(member).log.submit(operation(number, 100)).await.unwrap();
            }
        } else {
            cluster.node((number % 4) as u16).log.submit(operation(number, 100)).await.unwrap();
        }
    }
    let first = cluster.node(0).entries(200).await;
    let all: BTreeSet<_> = numbers(&first).into_iter().collect();
    assert_eq!(all, (0..200).collect(), "each operation once");
    for member in 1..4 {
        assert_eq!(cluster.node(member).entries(200).await, first, "member {member}");
    }
    // Submitted again, after it was ordered: accepted, and never a second entry.
    cluster.node(2).log.submit(operation(7, 100)).await.unwrap();
    cluster.node(3).log.submit(operation(1000, 100)).await.unwrap();
    assert_eq!(numbers(&cluster.node(1).entries(201).await)[200], 1000);
    assert!(cluster.node(2).log.status().duplicates > 0);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_a_log_of_one_member_works_and_survives_a_restart() {
    let mut cluster = Cluster::start(1, &[]).await;
    for number in 0..20 {
        cluster.node(0).log.submit(operation(number, 1000)).await.unwrap();
    }
    let before = cluster.node(0).entries(20).await;
    cluster.stop(0).await;
    cluster.restart(0).await;
    assert_eq!(cluster.node(0).log.status().entries, 20);
    cluster.node(0).log.submit(operation(3, 1000)).await.unwrap();
    cluster.node(0).log.submit(operation(20, 1000)).await.unwrap();
    let after = cluster.node(0).entries(21).await;
    assert_eq!(after[..20], before);
    assert_eq!(numbers(&after)[20], 20);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_malformed_and_oversize_operations_are_refused_before_ordering() {
    let cluster = Cluster::start(1, &[]).await;
    let log = &cluster.node(0).log;
    let huge = log.submit(vec![0; quorate_agreement::OPERATION_LIMIT + 1]).await.unwrap_err();
    assert!(matches!(huge, SubmitError::MessageTooLarge { .. }), "{huge}");
    for bad in [Vec::new(), vec![1; 15], [&[1; 16][..], b"x"].concat()] {
        assert_eq!(log.submit(bad).await, Err(SubmitError::Malformed));
    }
    log.submit(operation(1, quorate_agreement::OPERATION_LIMIT)).await.unwrap();
    assert_eq!(numbers(&cluster.node(0).entries(1).await), [1]);
    eventually("nothing is pending", || cluster.node(0).log.status().pending == 0).await;
    cluster.stop_all().await;
}
