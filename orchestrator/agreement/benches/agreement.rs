//! Submit to finality and throughput of the ordered log, against the engine alone in the same run. Prints JSON lines.
//!
//! `cargo bench -p quorate-agreement --bench agreement [-- --seconds 5 --samples 100]`
//!
//! *log*: n members in this process over real QUIC on loopback, each with archive and index, measured at the entry of a
//! subscription. *engine*: the same validators with the same archives, frames handed over in memory, no index, measured when the
//! engine delivers the block. All members share the processor, so ratios are what counts.

#[path = "../tests/support/mod.rs"]
mod support;

mod baseline;

use std::time::{Duration, Instant};

use quorate_agreement::{OrderedLog, Timing};
use quorate_transport::Limits;
use serde_json::json;
use support::{Cluster, operation};

const BYTES: usize = 1024;

/// What is measured of a system of n members.
pub struct Figures {
    latencies_us: Vec<u64>,
    operations: u64,
    seconds: f64,
}

impl Figures {
    fn percentile(&self, share: f64) -> f64 {
        let mut sorted = self.latencies_us.clone();
        sorted.sort_unstable();
        let at = ((sorted.len().saturating_sub(1)) as f64 * share) as usize;
        sorted.get(at).map_or(0.0, |us| *us as f64 / 1000.0)
    }

    fn print(&self, system: &str, n: u16, down: u16, base: Option<&Self>) {
        let rate = self.operations as f64 / self.seconds;
        let (p50, p99) = (self.percentile(0.5), self.percentile(0.99));
        let mut line = json!({
            "bench": "agreement", "system": system, "n": n, "down": down, "operation_bytes": BYTES,
            "idle_latency_ms": { "p50": p50, "p99": p99, "samples": self.latencies_us.len() },
            "operations_per_second": rate,
        });
        if let Some(base) = base {
            line["latency_ratio_p50"] = json!(p50 / base.percentile(0.5));
            line["throughput_ratio"] = json!(rate / (base.operations as f64 / base.seconds));
        }
        println!("{line}");
    }
}

fn argument(name: &str, default: u64) -> u64 {
    let mut arguments = std::env::args().skip_while(|argument| argument != name);
    arguments.nth(1).and_then(|value| value.parse().ok()).unwrap_or(default)
}

/// Operations that wait at once while throughput is measured, at each member.
const WINDOW: u64 = 1024;

async fn measure(cluster: &Cluster, up: &[u16], first: u64, samples: u64, time: Duration) -> Figures {
    let log = |member: u16| &cluster.node(member).log;
    let mut entries = log(up[0]).subscribe(log(up[0]).status().entries).await.unwrap();
    let mut next = first;
    // What was left over from before is ordered first.
    let mut latencies_us = Vec::new();
    for _ in 0..samples {
        let started = Instant::now();
        let member = up[(next % up.len() as u64) as usize];
        log(member).submit(operation(next, BYTES)).await.unwrap();
        while support::number(&entries.next().await.unwrap()) != next {}
        latencies_us.push(started.elapsed().as_micros() as u64);
        next += 1;
    }
    let started = Instant::now();
    let (mut sent, mut done) = (0u64, 0u64);
    while started.elapsed() < time {
        while sent - done < WINDOW * up.len() as u64 {
            let member = up[(sent % up.len() as u64) as usize];
            log(member).submit(operation(next + sent, BYTES)).await.unwrap();
            sent += 1;
        }
        entries.next().await.unwrap();
        done += 1;
    }
    let figures = Figures { latencies_us, operations: done, seconds: started.elapsed().as_secs_f64() };
    while done < sent {
        entries.next().await.unwrap();
        done += 1;
    }
    figures
}

/// Operations that a member catches up with.
const BACKLOG: u64 = 10_000;

/// Time until a member that was away for [`BACKLOG`] operations, and one with an empty disk, delivers the last of them. The rate
/// at which the others had ordered them is the baseline.
async fn catch_up() {
    let mut cluster = Cluster::start_with(4, &[], Limits::default(), Timing::default()).await;
    measure(&cluster, &[0, 1, 2, 3], 0, 20, Duration::ZERO).await;
    cluster.stop(3).await;
    let log = &cluster.node(0).log;
    let before = log.status().entries;
    let mut entries = log.subscribe(before).await.unwrap();
    let started = Instant::now();
    for sent in 0..BACKLOG {
        log.submit(operation((7 << 32) + sent, BYTES)).await.unwrap();
        if sent >= WINDOW {
            entries.next().await.unwrap();
        }
    }
    for _ in 0..WINDOW {
        entries.next().await.unwrap();
    }
    let ordered = started.elapsed().as_secs_f64();
    for what in ["restarted", "empty"] {
        if what == "empty" {
            cluster.stop(3).await;
            std::fs::remove_dir_all(cluster.data_dir(3)).unwrap();
        }
        let started = Instant::now();
        cluster.restart(3).await;
        let mut entries = cluster.node(3).log.subscribe(before + BACKLOG - 1).await.unwrap();
        entries.next().await.unwrap();
        let seconds = started.elapsed().as_secs_f64();
        println!(
            "{}",
            json!({
                "bench": "catch-up", "member": what, "n": 4, "operations": BACKLOG, "operation_bytes": BYTES,
                "seconds": seconds, "of_the_time_they_took_to_order": seconds / ordered,
            })
        );
    }
    cluster.stop_all().await;
}

fn main() {
    let (samples, seconds) = (argument("--samples", 100), argument("--seconds", 5));
    let time = Duration::from_secs(seconds);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    for n in [4u16, 7] {
        let base = baseline::measure(n, samples, time);
        base.print("engine", n, 0, None);
        runtime.block_on(async {
            let mut cluster = Cluster::start_with(n, &[], Limits::default(), Timing::default()).await;
            let all: Vec<_> = (0..n).collect();
            measure(&cluster, &all, 0, 5, Duration::ZERO).await;
            let figures = measure(&cluster, &all, 1 << 32, samples, time).await;
            figures.print("log", n, 0, Some(&base));
            let f = (n - 1) / 3;
            for member in n - f..n {
                cluster.stop(member).await;
            }
            // Until the others have noticed that leaders are missing.
            measure(&cluster, &all[..usize::from(n - f)], 2 << 32, 20, Duration::ZERO).await;
            let figures = measure(&cluster, &all[..usize::from(n - f)], 3 << 32, samples, time).await;
            figures.print("log", n, f, Some(&base));
            cluster.stop_all().await;
        });
    }
    runtime.block_on(catch_up());
}
