//! Migration of a kv VM under load: real processes, beside one without verification and a plain copy.

use std::collections::BTreeMap;

use super::bulk::Link;
use super::effort::Effort;
use super::plain::{incompressible, tcp_copy};
use super::report::{Downtimes, Figure, Row};
use super::scene::{Scene, finish};
use super::stats::Samples;
use super::unverified::Guest;
use super::{BenchError, Context};
use crate::load::{LoadReport, Served};
use quorate_host::protocol::Report;

/// What was measured of one kind of migration.
#[derive(Default)]
struct Moves {
    total: Samples,
    downtime: Samples,
    bytes: Samples,
}

pub(super) fn measure(
    context: &Context,
    progress: &mut dyn FnMut(&str),
) -> Result<(Figure, Downtimes), BenchError> {
    let (reports, load) = context.runtime.block_on(verified_migrations(context, progress))?;
    let verified = verified_moves(&reports);
    progress("migration without verification");
    let unverified = unverified_migrations(context)?;
    progress("plain copy");
    let data = incompressible(verified.bytes.p50() as usize);
    let mut copy = Samples::new();
    for _ in 0..context.effort.unverified {
        copy.push_ms(tcp_copy(&data)?);
    }
    let mut rows = vec![Row::new("total", "ms", &verified.total).against("plain TCP copy", copy.p50())];
    rows.extend(compared("total", &verified.total, &unverified.total, &copy));
    rows.extend(phases(&reports, ("total", verified.total.p50()), before));
    rows.push(
        Row::new("downtime", "ms", &verified.downtime)
            .against("plain TCP copy", copy.p50())
            .aim_at_most(50.0),
    );
    rows.extend(compared("downtime", &verified.downtime, &unverified.downtime, &copy));
    rows.extend(phases(&reports, ("downtime", verified.downtime.p50()), downtime));
    let silence = silences(&reports, &load.served);
    rows.push(
        Row::new("longest time without an answer to any client", "ms", &silence)
            .against("downtime", verified.downtime.p50()),
    );
    let figure = Figure {
        title: format!(
            "a kv VM of {} MiB under {} requests/s, REPLAYED, {} moves to and fro",
            context.effort.migration_mib,
            context.effort.rate,
            reports.len()
        ),
        rows,
        notes: notes(&verified, load.served.len()),
        ..Figure::default()
    };
    Ok((figure, Downtimes { verified: verified.downtime, unverified: unverified.downtime }))
}

fn compared(what: &str, verified: &Samples, unverified: &Samples, copy: &Samples) -> Vec<Row> {
    vec![
        Row::new(what, "ms", verified)
            .against("without verification", unverified.p50())
            .aim_ratio_at_most(1.3),
        Row::new(format!("{what} without verification"), "ms", unverified)
            .against("plain TCP copy", copy.p50()),
    ]
}

fn notes(verified: &Moves, served: usize) -> Vec<String> {
    vec![
        format!("{:.0} MiB of state moved each time; {served} requests served, none lost", verified.bytes.p50() / 1048576.0),
        "without verification: the same state stream and replay in one process, without digests, verifiers and journals".into(),
        "the plain copy is of as many bytes, over one loopback connection into fresh memory; its downtime is its total".into(),
        "phases overlap; a source's handover spans everything the destination does in the downtime".into(),
    ]
}

/// Moves the VM to and fro, every time by the whole protocol.
async fn verified_migrations(
    context: &Context,
    progress: &mut dyn FnMut(&str),
) -> Result<(Vec<Report>, LoadReport), BenchError> {
    let memory_mib = context.effort.migration_mib;
    let scene = Scene::start(context, "migration", 0, memory_mib).await?;
    scene.fill(Effort::fill_bytes(memory_mib)).await?;
    let load = scene.load(context.effort.rate)?;
    let mut reports = Vec::new();
    for run in 0..context.effort.migrations {
        progress(&format!("migration {} of {}", run + 1, context.effort.migrations));
        reports.push(scene.migrate((run + 1) % 2).await?);
    }
    let load = finish(load).await?;
    scene.stop().await?;
    Ok((reports, load))
}

fn verified_moves(reports: &[Report]) -> Moves {
    let mut moves = Moves::default();
    for report in reports {
        moves.total.push_ns(report.running_ns.saturating_sub(start_of(report)));
        moves.downtime.push_ns(report.running_ns.saturating_sub(report.stopped_ns));
        moves.bytes.push(report.bytes_moved as f64);
    }
    moves
}

fn unverified_migrations(context: &Context) -> Result<Moves, BenchError> {
    let (memory_mib, link) = (context.effort.migration_mib, Link::new()?);
    let mut guest = Guest::start(memory_mib << 20, Effort::fill_bytes(memory_mib))?;
    let mut moves = Moves::default();
    for _ in 0..context.effort.unverified {
        let (moved, migrated) = guest.migrate(&link, context.effort.rate)?;
        guest = moved;
        moves.total.push_ns(migrated.total_ns);
        moves.downtime.push_ns(migrated.downtime_ns);
        moves.bytes.push(migrated.bytes as f64);
    }
    Ok(moves)
}

/// For each migration the longest time between two answers, of which part lies inside the migration.
fn silences(reports: &[Report], served: &[Served]) -> Samples {
    let mut answered: Vec<u64> = served.iter().map(|served| served.answered_ns).collect();
    answered.sort_unstable();
    let mut silences = Samples::new();
    for report in reports {
        let (from, until) = (start_of(report), report.running_ns);
        let during = answered.windows(2).filter(|pair| pair[1] > from && pair[0] < until);
        silences.push_ns(during.map(|pair| pair[1] - pair[0]).max().unwrap_or(0));
    }
    silences
}

/// Where the time went: of each phase the part that lies inside `within`, in the order in which they begin.
fn phases(reports: &[Report], whole: (&str, f64), within: fn(&Report) -> (u64, u64)) -> Vec<Row> {
    let mut parts: BTreeMap<String, (Samples, Samples)> = BTreeMap::new();
    for report in reports {
        let (from, until) = within(report);
        for phase in &report.phases {
            let (start, end) = (phase.start_ns.max(from), phase.end_ns.min(until));
            if end > start {
                let (begins, lasts) = parts.entry(format!("{}: {}", phase.party, phase.name)).or_default();
                begins.push_ns(start - from);
                lasts.push_ns(end - start);
            }
        }
    }
    let mut parts: Vec<_> = parts.into_iter().collect();
    parts.sort_by(|(_, (a, _)), (_, (b, _))| a.p50().total_cmp(&b.p50()));
    let row = |(name, (begins, lasts)): (String, (Samples, Samples))| {
        Row::new(format!("  {name} (at {:.1} ms)", begins.p50()), "ms", &lasts).against(whole.0, whole.1)
    };
    parts.into_iter().map(row).collect()
}

/// From the stop of the guest until it could run again.
fn downtime(report: &Report) -> (u64, u64) {
    (report.stopped_ns, report.running_ns)
}

/// From the first phase until the stop of the guest.
fn before(report: &Report) -> (u64, u64) {
    (start_of(report), report.stopped_ns)
}

fn start_of(report: &Report) -> u64 {
    report.phases.iter().map(|phase| phase.start_ns).min().unwrap_or(report.stopped_ns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use quorate_attest::id::{Generation, Slot};
    use quorate_host::protocol::Phase;

    fn report() -> Report {
        let phase = |name: &str, start_ms: u64, end_ms: u64| Phase {
            name: name.into(),
            party: "destination".into(),
            start_ns: start_ms * 1_000_000,
            end_ns: end_ms * 1_000_000,
            bytes: 0,
            votes: 0,
        };
        Report {
            result: "activated".into(),
            refused: None,
            refused_by: None,
            slot: Slot(5),
            generation: Generation(1),
            phases: vec![phase("base state", 10, 80), phase("following", 80, 104), phase("votes", 110, 118)],
            stopped_ns: 100_000_000,
            running_ns: 120_000_000,
            replay_ns: 0,
            bytes_moved: 1000,
            pages_moved: 1,
        }
    }

    #[test]
    fn only_the_part_of_a_phase_inside_the_downtime_counts() {
        let rows = phases(&[report()], ("downtime", 20.0), downtime);
        let found: Vec<(&str, f64, Option<f64>)> =
            rows.iter().map(|row| (row.what.as_str(), row.p50, row.ratio())).collect();
        assert_eq!(
            found,
            [
                ("  destination: following (at 0.0 ms)", 4.0, Some(0.2)),
                ("  destination: votes (at 10.0 ms)", 8.0, Some(0.4)),
            ]
        );
    }

    #[test]
    fn silence_may_reach_beyond_the_migration() {
        let served = |ms: u64| Served { asked_ns: 0, answered_ns: ms * 1_000_000, generation: Generation(0) };
        let answers: Vec<Served> = [1, 9, 30, 40, 105, 125, 500].into_iter().map(served).collect();
        assert_eq!(silences(&[report()], &answers).p50(), 65.0);
        assert_eq!(silences(&[report()], &answers[4..]).p50(), 20.0);
    }

    #[test]
    fn total_begins_with_the_first_phase() {
        let moves = verified_moves(&[report()]);
        assert_eq!((moves.total.p50(), moves.downtime.p50()), (110.0, 20.0));
    }
}
