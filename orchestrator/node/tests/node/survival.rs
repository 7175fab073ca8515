//! What was acknowledged survives kills, and nobody signs two things for one place.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use quorate_attest::receipt::LOG_INSTANCE;
use quorate_attest::statement::Kind;
use quorate_ordering::gather::Ordered;
use quorate_ordering::orderer::Orderer;
use quorate_ordering::protocol::CosignedHeads;
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

use crate::cluster::{Cluster, key};
use crate::http::{get, wait_for};
use quorate_transport::Role;

pub const LIMIT: Duration = Duration::from_secs(60);

pub fn runtime() -> Runtime {
    Runtime::new().unwrap()
}

/// Orders operations, several at a time; all must be acknowledged by a quorum.
pub async fn order(
    cluster: &Cluster,
    orderer: &Orderer,
    numbers: std::ops::Range<u64>,
) -> BTreeMap<u64, Ordered> {
    let (mut numbers, mut acknowledged, mut orders) = (numbers, BTreeMap::new(), JoinSet::new());
    loop {
        while orders.len() < 16
            && let Some(number) = numbers.next()
        {
            let (orderer, operation) = (orderer.clone(), cluster.operation(number));
            orders.spawn(async move { (number, orderer.order(&operation, LIMIT).await) });
        }
        let Some(done) = orders.join_next().await else { return acknowledged };
        let (number, ordered) = done.unwrap();
        acknowledged.insert(number, ordered.unwrap());
    }
}

/// Checks each certificate and that no two operations have one place.
fn check(cluster: &Cluster, acknowledged: &BTreeMap<u64, Ordered>) {
    let expected = cluster.group.expected(LOG_INSTANCE, Kind::RECEIPT);
    let mut places = BTreeMap::new();
    for (number, ordered) in acknowledged {
        ordered.receipt.verify(&cluster.group, &expected).unwrap();
        let receipt = &ordered.receipt.receipt;
        assert_eq!(receipt.operation, cluster.operation(*number).id());
        assert_eq!(places.insert(receipt.index, receipt.operation), None, "{}", receipt.index);
    }
}

/// Waits until a node has executed as much as the log holds.
pub fn wait_until_synced(cluster: &Cluster, index: u8, applied: u64) {
    let deadline = Instant::now() + LIMIT;
    loop {
        let (_, status) = get(&cluster.node(index).api, "/v1/status");
        if status["applied"].as_u64() >= Some(applied) {
            return;
        }
        assert!(Instant::now() < deadline, "{status}\n{}", cluster.log(index));
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn nothing_acknowledged_is_lost_when_one_of_four_is_killed_under_load() {
    let mut cluster = Cluster::running(4);
    let runtime = runtime();
    let _inside = runtime.enter();
    let orderer = cluster.orderer();
    let mut acknowledged = runtime.block_on(order(&cluster, &orderer, 0..40));
    cluster.kill(2);
    acknowledged.extend(runtime.block_on(order(&cluster, &orderer, 40..100)));
    cluster.start(2);
    acknowledged.extend(runtime.block_on(order(&cluster, &orderer, 100..140)));
    cluster.kill(0);
    acknowledged.extend(runtime.block_on(order(&cluster, &orderer, 140..160)));
    cluster.start(0);
    check(&cluster, &acknowledged);
    for index in 0..4u8 {
        wait_until_synced(&cluster, index, 160);
        for (number, ordered) in &acknowledged {
            let place = ordered.receipt.receipt.index;
            let tail = runtime.block_on(orderer.tail(index.into(), place, 1)).unwrap();
            let entry = &tail.entries[0];
            assert_eq!(entry.operation, quorate_attest::encoding::to_bytes(&cluster.operation(*number)));
            assert_eq!(
                entry.applied.receipt, ordered.receipt.receipt,
                "orchestrator {index} signed another receipt"
            );
            entry
                .applied
                .receipt
                .verify_vote(&cluster.group, index.into(), &entry.applied.signature)
                .unwrap();
        }
    }
}

#[test]
fn all_killed_at_once_lose_nothing_that_was_acknowledged() {
    let mut cluster = Cluster::running(4);
    let runtime = runtime();
    let _inside = runtime.enter();
    let orderer = cluster.orderer();
    let before = runtime.block_on(order(&cluster, &orderer, 0..30));
    (0..4).for_each(|index| cluster.kill(index));
    (0..4).for_each(|index| cluster.start(index));
    for (number, ordered) in &before {
        let found = runtime.block_on(orderer.find(cluster.operation(*number).id(), LIMIT)).unwrap();
        assert_eq!(found.receipt.receipt, ordered.receipt.receipt, "{number}");
        assert_eq!(found.outcome, ordered.outcome);
    }
    let after = runtime.block_on(order(&cluster, &orderer, 30..40));
    check(&cluster, &before.into_iter().chain(after).collect());
}

#[test]
fn a_single_orchestrator_orders_and_survives_a_kill() {
    let mut cluster = Cluster::running(1);
    let runtime = runtime();
    let _inside = runtime.enter();
    let orderer = cluster.orderer();
    let mut acknowledged = runtime.block_on(order(&cluster, &orderer, 0..20));
    cluster.kill(0);
    cluster.start(0);
    acknowledged.extend(runtime.block_on(order(&cluster, &orderer, 15..25)));
    check(&cluster, &acknowledged);
    assert_eq!(get(&cluster.node(0).api, "/v1/status").1["applied"], 25, "what came twice was executed once");
}

#[test]
fn heads_that_all_cosigned_are_proved_to_hold_every_entry() {
    let cluster = Cluster::running(4);
    let runtime = runtime();
    let _inside = runtime.enter();
    let orderer = cluster.orderer();
    runtime.block_on(order(&cluster, &orderer, 0..8));
    (0..4).for_each(|index| wait_until_synced(&cluster, index, 8));
    // What is executed is in the file a little later.
    let deadline = Instant::now() + LIMIT;
    let heads = loop {
        let heads = runtime.block_on(orderer.heads());
        let newest = |heads: &CosignedHeads| heads.0.last().map(|head| head.size);
        if heads.len() == 4 && heads.values().all(|heads| newest(heads) == Some(8)) {
            break heads;
        }
        assert!(Instant::now() < deadline, "{heads:?}");
    };
    for (index, heads) in heads {
        let newest = heads.0.last().unwrap();
        let proved = runtime.block_on(orderer.prove(index, 3, newest.size)).unwrap();
        assert_eq!(proved.root, newest.root);
    }
}

#[test]
fn only_clients_that_the_log_knows_may_connect() {
    let cluster = Cluster::running(4);
    let runtime = runtime();
    let _inside = runtime.enter();
    let client = key(200);
    let as_client = cluster.orderer_as(&client, Role::Client);
    let none = runtime.block_on(as_client.ask_each(&quorate_ordering::protocol::Question::Heads, LIMIT));
    assert!(none.is_empty(), "a stranger is refused in the handshake");
    let registered = cluster.registration(client.public(), 0);
    runtime.block_on(cluster.orderer().order(&registered, LIMIT)).unwrap();
    // A quorum has executed it; the others let the client in as soon as they have.
    let deadline = Instant::now() + LIMIT;
    loop {
        let all = runtime.block_on(as_client.ask_each(&quorate_ordering::protocol::Question::Heads, LIMIT));
        if all.len() == 4 {
            break;
        }
        assert!(Instant::now() < deadline, "only {} of 4 let the client in", all.len());
    }
}

#[test]
fn readiness_follows_the_quorum() {
    let mut cluster = Cluster::running(4);
    wait_for(&cluster.node(0).api, "/readyz");
    for index in 1..4 {
        cluster.kill(index);
    }
    let deadline = Instant::now() + LIMIT;
    loop {
        let (status, verdict) = get(&cluster.node(0).api, "/readyz?verbose");
        let quorum =
            verdict["checks"].as_array().unwrap().iter().find(|check| check["name"] == "quorum").unwrap();
        if status == 503 && quorum["ok"] == false {
            break;
        }
        assert!(Instant::now() < deadline, "{verdict}");
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(get(&cluster.node(0).api, "/livez").0, 200, "a node without a quorum is alive");
    (1..4).for_each(|index| cluster.start(index));
    wait_for(&cluster.node(0).api, "/readyz");
}
