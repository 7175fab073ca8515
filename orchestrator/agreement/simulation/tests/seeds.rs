//! A few seeds of each scenario; campaigns of any number are run elsewhere.

use std::collections::BTreeSet;
use std::time::Duration;

use quorate_agreement_simulation::{Behaviour, Cluster, Disk, operation, run, test_operations};

const SEEDS: u64 = 3;

async fn start_honest(cluster: &mut Cluster, members: &[u16], disks: &[Disk]) {
    for member in members {
        cluster.start(*member, &disks[usize::from(*member)], test_operations(), |_| {}).await;
    }
}

/// Every disk without violations, and one order; the entries of the longest.
fn check(seed: u64, disks: &[Disk]) -> Vec<[u8; 32]> {
    let mut logs: Vec<Vec<_>> = Vec::new();
    for disk in disks {
        assert!(disk.violations().is_empty(), "seed {seed}: {:?}", disk.violations());
        logs.push(disk.entries().iter().map(|entry| entry.id).collect());
    }
    let longest = logs.iter().max_by_key(|log| log.len()).cloned().unwrap();
    for log in &logs {
        assert_eq!(log[..], longest[..log.len()], "seed {seed}: two orders");
    }
    longest
}

async fn load(cluster: &Cluster, members: &[u16], operations: std::ops::Range<u64>) {
    for number in operations {
        for member in members {
            cluster.submit(*member, operation(number));
        }
        cluster.sleep(Duration::from_millis(50)).await;
    }
}

fn numbers(log: &[[u8; 32]]) -> BTreeSet<u64> {
    log.iter().map(|id| u128::from_be_bytes(id[..16].try_into().unwrap()) as u64).collect()
}

/// Loss, a partition, and a member that crashes twice: everything is ordered once.
fn lossy(seed: u64) -> (Vec<Disk>, String) {
    run(seed, 4, async |mut cluster| {
        let disks: Vec<_> = (0..4).map(|_| Disk::default()).collect();
        start_honest(&mut cluster, &[0, 1, 2, 3], &disks).await;
        cluster.connect(Duration::from_millis(10), Duration::from_millis(20), 10).await;
        load(&cluster, &[0, 1, 2, 3], 0..30).await;
        cluster.crash(1).await;
        load(&cluster, &[0, 2, 3], 30..50).await;
        start_honest(&mut cluster, &[1], &disks).await;
        cluster.partition(&[2, 3]).await;
        load(&cluster, &[0, 3], 50..60).await;
        cluster.connect(Duration::from_millis(10), Duration::from_millis(5), 0).await;
        cluster.crash(1).await;
        start_honest(&mut cluster, &[1], &disks).await;
        cluster.sleep(Duration::from_secs(30)).await;
        disks
    })
}

#[test]
fn test_loss_partition_and_crashes_neither_fork_nor_repeat_nor_lose() {
    for seed in 0..SEEDS {
        let (disks, _) = lossy(seed);
        let log = check(seed, &disks);
        assert_eq!(numbers(&log), (0..60).collect(), "seed {seed}");
        assert_eq!(disks[1].entries().len(), 60, "seed {seed}: the member that crashed has caught up");
    }
}

#[test]
fn test_a_seed_reproduces_a_run_exactly() {
    let ((first, one), (second, two)) = (lossy(11), lossy(11));
    assert_eq!(one, two);
    assert_eq!(first[0].entries(), second[0].entries());
    assert_ne!(one, lossy(12).1, "another seed is another run");
}

fn byzantine(seed: u64, behaviour: Behaviour) -> (Vec<Disk>, u64) {
    let ((disks, evidence), _) = run(seed, 4, async |mut cluster| {
        let disks: Vec<_> = (0..3).map(|_| Disk::default()).collect();
        cluster.start_byzantine(3, behaviour).await;
        start_honest(&mut cluster, &[0, 1, 2], &disks).await;
        load(&cluster, &[0, 1, 2], 0..40).await;
        cluster.sleep(Duration::from_secs(30)).await;
        let refused = (0..3).filter_map(|member| cluster.counts(member));
        let evidence = refused.map(|counts| counts.evidence).sum();
        (disks, evidence)
    });
    (disks, evidence)
}

#[test]
fn test_a_byzantine_member_neither_forks_nor_stops_the_log() {
    let all = [Behaviour::Silent, Behaviour::Equivocating, Behaviour::Replaying, Behaviour::Flooding];
    for behaviour in all {
        for seed in 0..SEEDS {
            let (disks, _) = byzantine(seed, behaviour);
            let log = check(seed, &disks);
            let wanted: BTreeSet<u64> = (0..40).collect();
            assert!(numbers(&log).is_superset(&wanted), "{behaviour:?}, seed {seed}: {} entries", log.len());
        }
    }
}

#[test]
fn test_an_index_that_forgets_is_found_out() {
    let (disks, _) = run(1, 4, async |mut cluster| {
        let disks: Vec<_> = (0..4).map(|_| Disk::forgetful()).collect();
        start_honest(&mut cluster, &[0, 1, 2, 3], &disks).await;
        for _ in 0..3 {
            load(&cluster, &[0], 0..1).await;
            cluster.sleep(Duration::from_secs(5)).await;
        }
        disks
    });
    assert!(!disks[0].violations().is_empty(), "the checks of a campaign must see a planted fault");
}
