//! `quorate-campaign`: any number of seeds.

use std::process::ExitCode;

use clap::Parser;
use quorate_campaign::{Scenario, play};
use serde_json::json;

/// Simulates whole orchestrator clusters, one seed after the other, and stops at the first that breaks a rule.
#[derive(Parser)]
#[command(
    name = "quorate-campaign",
    version,
    after_help = "Example:\n  quorate-campaign --seeds 10000 --from 1000"
)]
struct Arguments {
    /// How many seeds; each is played in every scenario.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// First seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let mut runs = 0u64;
    for seed in arguments.from..arguments.from.saturating_add(arguments.seeds) {
        for (number, scenario) in Scenario::ALL.into_iter().enumerate() {
            let report = play(seed, scenario, None);
            runs += 1;
            let line = json!({
                "scenario": format!("{scenario:?}"), "seed": seed, "entries": report.entries,
                "answered": report.seen.answered, "conflicts": report.seen.conflicts, "grants": report.seen.grants,
                "activations": report.seen.activations, "violations": report.violations,
            });
            println!("{line}");
            if !report.violations.is_empty() {
                eprintln!(
                    "play it again with: quorate-campaign --from {seed} --seeds 1   (scenario {number})"
                );
                return ExitCode::FAILURE;
            }
        }
    }
    // Without a failure in N independent runs, the probability of one is below 3/N with 95 % confidence.
    println!(
        "{}",
        json!({"result": "ok", "runs": runs, "failure_probability_below": 3.0 / runs.max(1) as f64})
    );
    ExitCode::SUCCESS
}
