//! The group changes while it orders.

use std::sync::Arc;

use quorate_attest::encoding::Bounded;
use quorate_attest::id::Nonce;
use quorate_attest::receipt::LOG_INSTANCE;
use quorate_attest::statement::Kind;
use quorate_control::{Command, Which};
use quorate_transport::Role;

use crate::cluster::{Cluster, operator};
use crate::http::get;
use crate::survival::{LIMIT, order, runtime, wait_until_synced};

#[test]
fn a_change_of_the_group_lets_one_leave_and_another_join_and_loses_nothing() {
    let mut cluster = Cluster::with_spares(4, 1);
    (0..4).for_each(|index| cluster.start(index));
    let runtime = runtime();
    let _inside = runtime.enter();
    let before = runtime.block_on(order(&cluster, &cluster.orderer(), 0..20));
    let link = cluster.next_epoch(&[0, 1, 2, 4], &[0, 1, 2]);
    let group = Arc::new(link.config.clone());
    let change = Command::ChangeGroup { which: Which::Orchestrators, link };
    let change = change.to_operation(&operator(), cluster.group.id(), Nonce::ZERO);
    assert!(change.encoded().len() < 8192);
    let ordered = runtime.block_on(cluster.orderer().order(&change, LIMIT)).unwrap();
    assert_eq!(ordered.receipt.receipt.epoch, cluster.group.epoch, "an epoch's members certify its end");
    assert_eq!(cluster.wait(3), Some(0), "who leaves ends in order\n{}", cluster.log(3));
    cluster.init(4);
    cluster.start(4);
    let orderer = cluster.orderer_of(&group, &operator(), Role::Operator);
    let after = runtime.block_on(order(&cluster, &orderer, 20..40));
    let expected = group.expected(LOG_INSTANCE, Kind::RECEIPT);
    for ordered in after.values() {
        ordered.receipt.verify(&group, &expected).unwrap();
        assert!(ordered.receipt.receipt.index > 20, "the log goes on");
    }
    cluster.kill(0);
    cluster.start(0);
    for index in [0, 1, 2, 4] {
        wait_until_synced(&cluster, index, 41);
        let (_, status) = get(&cluster.node(index).api, "/v1/status");
        assert_eq!(status["epoch"], 1, "{status}");
    }
    for (number, ordered) in &before {
        let place = ordered.receipt.receipt.index;
        let tail = runtime.block_on(orderer.tail(3, place, 1)).unwrap();
        assert_eq!(tail.entries[0].operation, cluster.operation(*number).encoded());
        assert_eq!(
            tail.entries[0].applied.orchestrator,
            u16::MAX,
            "who joins signs nothing of epochs before"
        );
        assert_eq!(tail.entries[0].applied.receipt, ordered.receipt.receipt);
    }
}
