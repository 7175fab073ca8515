//! tmp
#![allow(dead_code, missing_docs)]
#[path = "node/cluster.rs"]
mod cluster;
use std::time::{Duration, Instant};
#[test]
fn latency() {
    let cluster = cluster::Cluster::running(std::env::var("N").map_or(4, |n| n.parse().unwrap()));
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let orderer = cluster.orderer();
    runtime.block_on(orderer.warm_up());
    let limit = Duration::from_secs(60);
    runtime.block_on(orderer.order(&cluster.operation(1_000_000), limit)).unwrap();
    let mut times = Vec::new();
    for number in 0..200 {
        let began = Instant::now();
        runtime.block_on(orderer.order(&cluster.operation(number), limit)).unwrap();
        times.push(began.elapsed());
    }
    times.sort();
    eprintln!("p50 {:?} p90 {:?} p99 {:?} min {:?}", times[100], times[180], times[197], times[0]);
    let began = Instant::now();
    let mut set = tokio::task::JoinSet::new();
    let total = 2000u64;
    let mut next = 10_000u64;
    runtime.block_on(async {
        let mut done = 0;
        while done < total {
            while set.len() < 128 && next < 10_000 + total {
                let (o, op) = (orderer.clone(), cluster.operation(next));
                next += 1;
                set.spawn(async move { o.order(&op, limit).await.map(drop) });
            }
            set.join_next().await.unwrap().unwrap().unwrap();
            done += 1;
        }
    });
    eprintln!("throughput {:.0}/s", total as f64 / began.elapsed().as_secs_f64());
}
