//! From one epoch to the next: members leave and join, nothing is lost, and everything stays provable.

mod support;

use std::net::SocketAddr;
use std::sync::Arc;

use quorate_agreement::{Config, EpochConfig, OrderedLog, verify_order};
use quorate_attest::group::GroupConfig;
use quorate_attest::id::Epoch;
use quorate_transport::Limits;
use support::{Cluster, Node, endpoint, group, number, operation, operations, timing, vote_key};

/// Members 1 to 4: 0 leaves, 4 joins.
fn next() -> GroupConfig {
    let (first, mut all) = (group(4), group(5));
    all.members.remove(0);
    GroupConfig { epoch: Epoch(1), genesis: Some(first.id()), members: all.members, ..first }
}

fn end() -> Vec<u8> {
    let mut end = operation(1000, 17);
    end[16] = b'e';
    end
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn test_members_change_and_the_log_goes_on_without_a_gap() {
    let cluster = Cluster::start(4, &[]).await;
    let early = EpochConfig {
        group: Arc::new(next()),
        me: Some(0),
        vote_key: vote_key(1),
        addresses: cluster.addresses.clone(),
    };
    let error = cluster.node(1).log.end_epoch(early).await.unwrap_err();
    assert_eq!(error.kind(), "BadConfig", "no operation has ended the epoch: {error}");

    for number in 0..40 {
        cluster.node((number % 4) as u16).log.submit(operation(number, 100)).await.unwrap();
    }
    cluster.node(2).log.submit(end()).await.unwrap();
    for number in 40..60 {
        cluster.node((number % 4) as u16).log.submit(operation(number, 100)).await.unwrap();
    }
    let local = SocketAddr::from(([127, 0, 0, 1], 0));
    let joining = Arc::new(endpoint(4, local, Limits::default()));
    let mut addresses = cluster.addresses[1..].to_vec();
    addresses.push(joining.local_addr().unwrap());
    // Each member sees the end in the log and moves on.
    for member in 0..4u16 {
        let log = &cluster.node(member).log;
        let mut entries = log.subscribe(0).await.unwrap();
        while number(&entries.next().await.unwrap()) != 1000 {}
        let me = member.checked_sub(1);
        let config = EpochConfig {
            group: Arc::new(next()),
            me,
            vote_key: vote_key(member),
            addresses: addresses.clone(),
        };
        log.end_epoch(config.clone()).await.unwrap();
        if me.is_some() {
            log.end_epoch(config).await.unwrap();
        }
    }
    // The newcomer has nothing: it fetches epoch 0 and then votes in epoch 1.
    let folder = cluster.folder.path().join("o4");
    let mut config = Config::new(Arc::new(next()), 3, vote_key(4), folder, addresses, operations());
    config.history = vec![Arc::new(group(4))];
    config.timing = timing();
    let joined = Node::start(config, joining).await.unwrap();
    joined.log.submit(operation(60, 100)).await.unwrap();
    for number in 61..70 {
        cluster.node(1).log.submit(operation(number, 100)).await.unwrap();
    }
    // What was submitted only at the member that left may have stayed with it.
    let at_least = cluster.node(1).entries(60).await;
    let numbers: Vec<_> = at_least.iter().map(number).collect();
    let ended = numbers.iter().position(|number| *number == 1000).unwrap();
    for entry in &at_least {
        let epoch = u64::from(entry.index > ended as u64);
        assert_eq!(entry.epoch, Epoch(epoch), "entry {}", entry.index);
    }
    assert_eq!(joined.entries(60).await, at_least);
    assert_eq!(cluster.node(3).entries(60).await, at_least);
    for (index, group) in [(ended, group(4)), (ended + 1, next())] {
        let entry = &at_least[index];
        let proof = joined.log.proof(entry.index).await.unwrap();
        verify_order(&proof, &group, entry.index, &entry.operation).unwrap();
        let other = if group.epoch == Epoch(0) { next() } else { support::group(4) };
        let error = verify_order(&proof, &other, entry.index, &entry.operation).unwrap_err();
        assert_eq!(error.kind(), "WrongEpoch");
    }
    joined.stop().await;
    cluster.stop_all().await;
}
