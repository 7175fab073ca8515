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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_f_members_down_do_not_stop_the_log_and_f_plus_one_only_stall_it() {
    let mut cluster = Cluster::start(4, &[]).await;
    cluster.node(0).log.submit(operation(0, 100)).await.unwrap();
    cluster.node(1).entries(1).await;
    cluster.stop(3).await;
    for number in 1..30 {
        cluster.node((number % 3) as u16).log.submit(operation(number, 100)).await.unwrap();
    }
    let with_three = cluster.node(2).entries(30).await;
    cluster.stop(2).await;
    cluster.node(0).log.submit(operation(30, 100)).await.unwrap();
    let views = cluster.node(0).log.status().view;
    tokio::time::sleep(cluster.timing.heartbeat * 3).await;
    assert_eq!(cluster.node(0).log.status().entries, 30, "two of four ordered something");
    assert!(cluster.node(0).log.status().view <= views + 1, "two of four made a certificate");
    cluster.restart(2).await;
    assert_eq!(numbers(&cluster.node(2).entries(31).await)[30], 30);
    cluster.restart(3).await;
    let caught_up = cluster.node(3).entries(31).await;
    assert_eq!(caught_up[..30], with_three);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_an_empty_member_catches_up_and_takes_part() {
    let mut cluster = Cluster::start(4, &[3]).await;
    for number in 0..300 {
        cluster.node((number % 3) as u16).log.submit(operation(number, 2000)).await.unwrap();
    }
    let before = cluster.node(0).entries(300).await;
    cluster.restart(3).await;
    assert_eq!(cluster.node(3).entries(300).await, before);
    // With another one gone, nothing is ordered without the member that was empty.
    cluster.stop(1).await;
    cluster.node(3).log.submit(operation(300, 100)).await.unwrap();
    assert_eq!(numbers(&cluster.node(0).entries(301).await)[300], 300);
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_a_lost_index_is_built_again_and_a_damaged_one_is_refused() {
    let mut cluster = Cluster::start(1, &[]).await;
    for number in 0..50 {
        cluster.node(0).log.submit(operation(number, 500)).await.unwrap();
    }
    let before = cluster.node(0).entries(50).await;
    cluster.stop(0).await;
    let file = cluster.data_dir(0).join("index.redb");
    std::fs::remove_file(&file).unwrap();
    cluster.restart(0).await;
    assert_eq!(cluster.node(0).entries(50).await, before, "built again from the archive");
    cluster.stop(0).await;

    let mut bytes = std::fs::read(&file).unwrap();
    let end = bytes.len().min(4096);
    bytes[..end].fill(0xa5);
    std::fs::write(&file, &bytes).unwrap();
    let local = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let endpoint = std::sync::Arc::new(support::endpoint(0, local, cluster.limits.clone()));
    let error = quorate_agreement::start(cluster.config(0), endpoint).await.err().unwrap();
    assert_eq!(error.kind(), "WalCorrupt", "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_a_folder_serves_one_process_and_one_group() {
    let mut cluster = Cluster::start(1, &[]).await;
    let local = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let endpoint = std::sync::Arc::new(support::endpoint(0, local, cluster.limits.clone()));
    let error = quorate_agreement::start(cluster.config(0), endpoint.clone()).await.err().unwrap();
    assert_eq!(error.kind(), "DataDirLocked", "{error}");
    cluster.stop(0).await;
    let mut other = support::group(1);
    other.name = "other".into();
    let config = quorate_agreement::Config { group: std::sync::Arc::new(other), ..cluster.config(0) };
    let error = quorate_agreement::start(config, endpoint).await.err().unwrap();
    assert_eq!(error.kind(), "WrongCluster", "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_an_idle_log_makes_about_one_block_a_heartbeat_and_work_wakes_it() {
    let cluster = Cluster::start(4, &[]).await;
    cluster.node(0).log.submit(operation(0, 100)).await.unwrap();
    for member in 0..4 {
        cluster.node(member).entries(1).await;
    }
    let before = cluster.node(0).log.status().height;
    tokio::time::sleep(cluster.timing.heartbeat * 4).await;
    let idle = cluster.node(0).log.status().height - before;
    assert!(idle <= 6, "{idle} blocks in four heartbeats");
    for number in 1..20 {
        cluster.node(2).log.submit(operation(number, 100)).await.unwrap();
        cluster.node(2).entries(number + 1).await;
    }
    cluster.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_a_slow_subscriber_loses_nothing_and_holds_up_nobody() {
    let cluster = Cluster::start(1, &[]).await;
    let log = &cluster.node(0).log;
    let mut slow = log.subscribe(5).await.unwrap();
    for number in 0..600 {
        log.submit(operation(number, 4000)).await.unwrap();
    }
    cluster.node(0).entries(600).await;
    for index in 5..600 {
        assert_eq!(slow.next().await.unwrap().index, index);
    }
    let last = tokio::spawn(async move { slow.next().await });
    log.shutdown().await;
    assert_eq!(last.await.unwrap(), None, "a closed log ends its subscriptions");
    assert_eq!(log.submit(operation(1000, 16)).await.unwrap_err().kind(), "Closed");
}
