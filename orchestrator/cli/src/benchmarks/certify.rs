//! From a statement to its certificate, with four verifier processes.

use std::collections::BTreeMap;

use tokio::time::{Duration, Instant, sleep};

use super::plain::syncs;
use super::report::{Figure, Row};
use super::scene::{Scene, finish};
use super::stats::Samples;
use super::{BenchError, Context};
use quorate_host::protocol::SlotTimes;

/// How often the host is asked; it remembers more slots than it cuts in this time.
const ASK_EVERY: Duration = Duration::from_secs(1);
/// Slots at the start that are not counted: processes and caches are cold.
const COLD_SLOTS: u64 = 5;

pub(super) async fn measure(context: &Context) -> Result<Figure, BenchError> {
    let sync = syncs(context.scratch.path(), context.effort.syncs)?;
    let mut rows = Vec::new();
    for (mode, sampled) in [("REPLAYED", 0), ("SAMPLED", 4)] {
        let times = certified(context, mode, sampled).await?;
        let row = |what: &str, of: fn(&SlotTimes) -> u64| {
            let mut samples = Samples::new();
            times.values().for_each(|times| samples.push_ns(of(times)));
            Row::new(format!("{mode}: {what}"), "ms", &samples).against("fdatasync", sync.p50())
        };
        rows.push(row("statement durable to certificate", |t| t.certified_ns.saturating_sub(t.durable_ns)));
        rows.push(row("stop of the guest to certificate", |t| t.certified_ns));
        rows.push(row("of which pause", |t| t.pause_ns));
        rows.push(row("of which making the statement durable", |t| t.durable_ns.saturating_sub(t.pause_ns)));
    }
    rows.push(Row::new("fdatasync of 512 bytes written into a file of zeros", "ms", &sync));
    Ok(Figure {
        title: format!(
            "slots of a {} MiB kv guest under {} requests/s, 4 verifiers",
            context.effort.certify_mib, context.effort.rate
        ),
        rows,
        notes: vec![
            "all processes share this machine; each verifier makes its promise durable before it signs"
                .into(),
        ],
        ..Figure::default()
    })
}

async fn certified(
    context: &Context,
    mode: &str,
    sampled: usize,
) -> Result<BTreeMap<u64, SlotTimes>, BenchError> {
    let name = format!("certify-{}", mode.to_lowercase());
    let scene = Scene::start(context, &name, sampled, context.effort.certify_mib).await?;
    let load = scene.load(context.effort.rate)?;
    let end = Instant::now() + context.effort.certify;
    let mut times = BTreeMap::new();
    while Instant::now() < end {
        sleep(ASK_EVERY.min(context.effort.certify)).await;
        times.extend(scene.status(0).await?.slot_times.into_iter().map(|times| (times.slot.0, times)));
    }
    finish(load).await?;
    scene.stop().await?;
    let warm = times.split_off(&COLD_SLOTS);
    if warm.is_empty() {
        return Err(BenchError::unexpected("no slot was certified"));
    }
    Ok(warm)
}
