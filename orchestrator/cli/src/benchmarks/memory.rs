//! Peak memory of the processes, for each MiB of the guest.

use super::effort::Effort;
use super::report::{Figure, Row};
use super::scene::{Scene, finish};
use super::stats::Samples;
use super::{BenchError, Context};
use crate::cluster::Plan;

pub(super) async fn measure(context: &Context) -> Result<Figure, BenchError> {
    let memory_mib = context.effort.migration_mib;
    let filled = Effort::fill_bytes(memory_mib);
    // The last two verifiers sample.
    let mut scene = Scene::start(context, "memory", 2, memory_mib).await?;
    scene.fill(filled).await?;
    let load = scene.load(context.effort.rate)?;
    scene.migrate(1).await?;
    finish(load).await?;
    let names = [
        ("host, source", scene.hosts[0].name.clone()),
        ("host, destination", scene.hosts[1].name.clone()),
        ("verifier, REPLAYED", Plan::verifier_name(0)),
        ("verifier, SAMPLED", Plan::verifier_name(3)),
    ];
    let mut rows = Vec::new();
    for (what, name) in names {
        let mut samples = Samples::new();
        samples.push(peak_mib(scene.cluster.node(&name)?.pid())?);
        rows.push(Row::new(what, "MiB", &samples).against("guest memory", memory_mib as f64));
    }
    scene.stop().await?;
    Ok(Figure {
        title: format!("peak memory (VmHWM) with a kv guest of {memory_mib} MiB that was migrated once"),
        rows,
        notes: vec![
            format!("the guest holds {} MiB of incompressible data", filled >> 20),
            "a host keeps a copy of its guest's pages for verifiers and destinations".into(),
        ],
        ..Figure::default()
    })
}

fn peak_mib(pid: Option<u32>) -> Result<f64, BenchError> {
    let pid = pid.ok_or_else(|| BenchError::unexpected("a process has ended"))?;
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    peak_of(&status).ok_or_else(|| BenchError::unexpected("the system does not tell a peak"))
}

fn peak_of(status: &str) -> Option<f64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kilobytes: f64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kilobytes / 1024.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peak_is_read_from_the_systems_table() {
        assert_eq!(peak_of("VmPeak:\t  9 kB\nVmHWM:\t    2048 kB\nVmRSS:\t 1 kB\n"), Some(2.0));
        assert_eq!(peak_of("VmRSS:\t 1 kB\n"), None);
        assert!(peak_mib(Some(std::process::id())).unwrap() > 1.0);
    }
}
