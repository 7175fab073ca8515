//! What a demo prints at its end.

use quorate_attest::encoding::Bounded;
use serde_json::{Value, json};

use super::super::exit;
use super::super::output::{Output, Tone, bytes, milliseconds, wrap};
use super::attacks::{Attack, Outcome, Refuser};
use super::refusals::Refused;
use super::scene::Shown;

/// The verdict on a demo.
struct Verdict {
    result: &'static str,
    code: u8,
    refused: Vec<Refused>,
    active_instances: u64,
    complaints: Vec<String>,
}

/// Prints timeline and summary, and returns the exit code.
pub fn print(shown: &Shown, output: &Output) -> u8 {
    let verdict = judge(shown);
    if let Some((pair, _)) = &shown.conflict {
        let path = shown.certificates.join("conflicting-certificates.evidence");
        if let Err(error) = std::fs::write(&path, pair.encoded()) {
            output.line(&format!("{}: {error}", path.display()));
        }
    }
    output.line(&output.tint(Tone::Strong, &shown.setting));
    output.line("");
    timeline(shown, output);
    summary(shown, &verdict, output);
    if let Some(attack) = shown.attack {
        attack_summary(shown, attack, &verdict, output);
    }
    for complaint in &verdict.complaints {
        output.line(&output.tint(Tone::Bad, complaint));
    }
    output.object(&object(shown, &verdict));
    verdict.code
}

/// Instances that count. An honest host's own word is enough; what a Byzantine one says about itself is not, so it counts
/// when clients believe its answers.
fn active_instances(shown: &Shown) -> u64 {
    let active = |name: &String, claimed: u32| {
        let faulty = shown.faulty.contains(name);
        if faulty { u64::from(shown.serving.contains(name)) } else { u64::from(claimed) }
    };
    let claims = shown.statuses.iter();
    claims
        .map(|(name, status)| active(name, status.as_ref().map_or(0, |status| status.active_instances)))
        .sum()
}

fn judge(shown: &Shown) -> Verdict {
    let active_instances = active_instances(shown);
    let mut complaints = Vec::new();
    let mut demand = |holds: bool, complaint: String| {
        if !holds {
            complaints.push(complaint);
        }
    };
    let gone = shown.attack.is_some_and(|attack| attack.outcome == Outcome::GuaranteeGone);
    if !gone {
        demand(
            active_instances == 1,
            format!("{active_instances} instances are active, there must be exactly one"),
        );
        demand(
            shown.serving.len() == 1,
            format!("{} hosts serve, there must be exactly one", shown.serving.len()),
        );
        demand(shown.load.lost == 0, format!("{} requests or values were lost", shown.load.lost));
        let failed: u64 = shown.load.failed.values().sum();
        demand(failed == 0, format!("the service refused {failed} operations"));
    }
    let moved = shown.report.result == "activated";
    let wanted = match shown.attack.map(|attack| attack.outcome) {
        None | Some(Outcome::Completed) => Some(true),
        Some(Outcome::Aborted) => Some(false),
        Some(Outcome::Either | Outcome::GuaranteeGone) => None,
    };
    if let Some(wanted) = wanted.filter(|wanted| *wanted != moved) {
        let why = shown
            .report
            .refused
            .as_ref()
            .map_or_else(String::new, |why| format!(" ({}: {})", why.kind, why.detail));
        demand(
            false,
            if wanted {
                format!("the VM did not move{why}")
            } else {
                "the VM moved although it must not".into()
            },
        );
    }
    let refused = shown.attack.map(|attack| shown.refusals.matching(attack)).unwrap_or_default();
    if let Some(attack) = shown.attack {
        let seen = match attack.refusers {
            [Refuser::Nobody] => true,
            [Refuser::Anyone] => shown.conflict.is_some(),
            _ => !refused.is_empty(),
        };
        demand(seen, format!("nobody refused the attack with {}", attack.kinds.join(" or ")));
    }
    let result = match (complaints.is_empty(), gone) {
        (true, true) => "guarantee-gone",
        (true, false) => "ok",
        (false, _) => "failed",
    };
    let code = if complaints.is_empty() { exit::OK } else { exit::REFUSED };
    Verdict { result, code, refused, active_instances, complaints }
}

fn timeline(shown: &Shown, output: &Output) {
    let zero = shown.ordered_ns;
    let rows: Vec<Vec<String>> = shown
        .report
        .phases
        .iter()
        .map(|phase| {
            let some = |count: u64, text: String| if count == 0 { String::new() } else { text };
            vec![
                phase.name.clone(),
                phase.party.clone(),
                milliseconds(phase.start_ns.saturating_sub(zero)),
                milliseconds(phase.end_ns.saturating_sub(phase.start_ns)),
                some(phase.bytes, bytes(phase.bytes)),
                some(phase.votes.into(), phase.votes.to_string()),
            ]
        })
        .collect();
    if rows.is_empty() {
        output.line("the migration ended before its first phase did");
    } else {
        output.table(&["phase", "party", "start", "duration", "bytes", "votes"], &rows, &[2, 3, 4, 5]);
    }
    output.line("");
}

/// The times that are missing from a migration that was refused are not shown as zero.
fn downtime_ns(shown: &Shown) -> Option<u64> {
    let report = &shown.report;
    (report.result == "activated" && report.running_ns > 0)
        .then(|| report.running_ns.saturating_sub(report.stopped_ns))
}

fn summary(shown: &Shown, verdict: &Verdict, output: &Output) {
    let (report, load) = (&shown.report, &shown.load);
    let mut rows: Vec<(&str, String)> = Vec::new();
    let moved = report.result == "activated";
    let result = match (moved, &report.refused) {
        (true, _) => {
            format!("slot {} handed over, generation {} runs on host-b", report.slot, report.generation)
        }
        (false, Some(why)) => format!("refused: {}: {}", why.kind, why.detail),
        (false, None) => "given up".to_owned(),
    };
    rows.push(("migration", result));
    rows.push(("total", milliseconds(shown.ended_ns.saturating_sub(shown.ordered_ns))));
    if let Some(downtime) = downtime_ns(shown) {
        rows.push(("downtime", milliseconds(downtime)));
        rows.push(("replay", format!("{} for the last transition", milliseconds(report.replay_ns))));
        rows.push(("moved", format!("{} pages, {}", report.pages_moved, bytes(report.bytes_moved))));
    }
    let (before, during, after) = phases_of_load(shown);
    rows.push(("requests", format!("{before} before, {during} during, {after} after the migration")));
    let (p50, p99, gap) = (load.latency(0.5), load.latency(0.99), load.longest_gap());
    rows.push((
        "latency",
        format!(
            "p50 {}, p99 {}, longest pause {}",
            milliseconds(p50.as_nanos() as u64),
            milliseconds(p99.as_nanos() as u64),
            milliseconds(gap.as_nanos() as u64),
        ),
    ));
    rows.push(("lost", format!("{} ({} keys read back)", load.lost, load.read_back)));
    let (replayed, sampled) = shown.attestations;
    rows.push((
        "certified",
        format!("{} slots, {replayed} REPLAYED and {sampled} SAMPLED attestations", shown.slots),
    ));
    rows.push((
        "instances",
        format!("{} active, served by {}", verdict.active_instances, names(&shown.serving)),
    ));
    rows.push(("certificates", shown.certificates.display().to_string()));
    for (name, text) in rows {
        let name = output.tint(Tone::Faint, &format!("{name:<13}"));
        output.line(&format!("  {name} {}", wrap(&text, output.width(), 16)));
    }
    if let Some(kept) = &shown.kept {
        output.line(&format!("  {} {}", output.tint(Tone::Faint, "kept         "), kept.display()));
    }
    output.line("");
    output.line(&format!("check them:  quorate verify {}", shown.certificates.display()));
    if shown.attack.is_none() && verdict.complaints.is_empty() {
        output.line(&output.tint(Tone::Good, "ok: the VM moved, requests went on, nothing was lost"));
    }
}

fn names(names: &[String]) -> String {
    if names.is_empty() { "nobody".to_owned() } else { names.join(", ") }
}

fn attack_summary(shown: &Shown, attack: &Attack, verdict: &Verdict, output: &Output) {
    output.line("");
    let title = format!("attack {}", attack.name);
    output.line(&output.tint(Tone::Strong, &title));
    let line = |text: &str| output.line(&format!("  {}", wrap(text, output.width(), 2)));
    line(&format!("{} ({}): {}", attack.byzantine.words(), shown.faulty.join(", "), attack.tries));
    for (by, refused) in together(&verdict.refused) {
        let text = format!("{by} refused it: {}: {}", refused.kind, refused.detail);
        output.line(&format!("  {}", output.tint(Tone::Good, &wrap(&text, output.width(), 2))));
    }
    if attack.outcome == Outcome::GuaranteeGone {
        guarantee_gone(shown, output);
        return;
    }
    if attack.refusers == [Refuser::Nobody] {
        line("nobody had to refuse anything: a quorum of the others answered");
    }
    if verdict.complaints.is_empty() {
        let text = format!(
            "refused; the VM is served by exactly one host, {}, and nothing was lost",
            names(&shown.serving)
        );
        output.line(&format!("  {}", output.tint(Tone::Good, &text)));
    }
}

/// Refusals of one kind and reason, with the names of all who gave them.
fn together(refused: &[Refused]) -> Vec<(String, &Refused)> {
    let mut together: Vec<(String, &Refused)> = Vec::new();
    for one in refused {
        let same =
            together.iter_mut().find(|(_, other)| (&other.kind, &other.detail) == (&one.kind, &one.detail));
        match same {
            Some((by, _)) => *by = format!("{by}, {}", one.by),
            None => together.push((one.by.clone(), one)),
        }
    }
    together
}

fn guarantee_gone(shown: &Shown, output: &Output) {
    let line =
        |tone, text: &str| output.line(&format!("  {}", output.tint(tone, &wrap(text, output.width(), 2))));
    line(
        Tone::Notable,
        "The guarantee is gone: with f + 1 Byzantine verifiers two quorums need not share an honest member, so two \
         certificates can exist for one slot, and no host or client can know which history is the true one.",
    );
    match &shown.conflict {
        Some((pair, both)) => {
            let slot = pair.first.statement.slot;
            line(
                Tone::Plain,
                &format!(
                    "How one can tell: two valid certificates for slot {slot} (ConflictingCertificates). {} signed both, \
                     which no honest verifier does; the pair convinces anyone who has the group file.",
                    both.join(", "),
                ),
            );
            let path = shown.certificates.join("conflicting-certificates.evidence");
            line(Tone::Plain, &format!("quorate verify {}", path.display()));
        }
        None => line(Tone::Bad, "both certificates did not come together in this run"),
    }
}

/// Requests answered before the migration was ordered, until it ended, and after.
fn phases_of_load(shown: &Shown) -> (u64, u64, u64) {
    let load = &shown.load;
    (
        load.served_between(0, shown.ordered_ns),
        load.served_between(shown.ordered_ns, shown.ended_ns),
        load.served_between(shown.ended_ns, u64::MAX),
    )
}

fn object(shown: &Shown, verdict: &Verdict) -> Value {
    let (report, load) = (&shown.report, &shown.load);
    let ms = |ns: u64| ns as f64 / 1e6;
    let (before, during, after) = phases_of_load(shown);
    let zero = shown.ordered_ns;
    let timeline: Vec<Value> = report
        .phases
        .iter()
        .map(|phase| {
            json!({
                "phase": phase.name, "party": phase.party, "start_ms": ms(phase.start_ns.saturating_sub(zero)),
                "duration_ms": ms(phase.end_ns.saturating_sub(phase.start_ns)), "bytes": phase.bytes,
                "votes": phase.votes,
            })
        })
        .collect();
    let mut object = json!({
        "result": verdict.result, "migration": report.result, "slots": shown.slots,
        "total_ms": ms(shown.ended_ns.saturating_sub(zero)), "downtime_ms": downtime_ns(shown).map(ms),
        "replay_ms": ms(report.replay_ns), "bytes_moved": report.bytes_moved, "pages_moved": report.pages_moved,
        "requests_served": load.served.len(), "requests_before": before, "requests_during": during,
        "requests_after": after, "requests_lost": load.lost, "latency_p50_ms": load.latency(0.5).as_secs_f64() * 1e3,
        "latency_p99_ms": load.latency(0.99).as_secs_f64() * 1e3,
        "longest_gap_ms": load.longest_gap().as_secs_f64() * 1e3, "replayed": shown.attestations.0,
        "sampled": shown.attestations.1, "generation": report.generation,
        "active_instances": verdict.active_instances, "serving": shown.serving,
        "certificates_dir": shown.certificates, "head": shown.written.head, "timeline": timeline,
        "complaints": verdict.complaints,
    });
    if let Some(attack) = shown.attack {
        let by: Vec<&str> = verdict.refused.iter().map(|refused| refused.by.as_str()).collect();
        let conflict = shown.conflict.as_ref().map(|_| "ConflictingCertificates".to_owned());
        let kind = verdict.refused.first().map(|refused| refused.kind.clone()).or(conflict);
        object["attack"] = json!(attack.name);
        object["byzantine"] = json!(shown.faulty);
        object["refused_by"] = json!(if by.is_empty() { None } else { Some(by.join(", ")) });
        object["error_kind"] = json!(kind);
        object["signed_both"] = json!(shown.conflict.as_ref().map(|(_, both)| both));
        let all = shown.refusals.all();
        object["refusals"] = json!(
            all.iter()
                .map(|refused| json!({"by": refused.by, "error_kind": refused.kind, "count": refused.count}))
                .collect::<Vec<_>>()
        );
    }
    object
}
