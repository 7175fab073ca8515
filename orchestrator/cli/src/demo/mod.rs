//! `quorate demo`: the whole path once, with real processes on this machine.

mod attacks;
mod progress;
mod refusals;
mod report;
mod scene;

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::exit;
use super::failure::Failure;
use super::kvm;
use super::output::{Output, Tone, wrap};
use attacks::{ATTACKS, Attack, Refuser};

/// Runs the whole path once: boot, load, attestation, migration under load, proof that nothing was lost.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate demo
  quorate demo --requests 5000 --memory 256 --fill 128 --keep demo-run
  quorate demo --sampled 2                two of the four verifiers only sample pages
  quorate demo --attack list
  quorate demo --attack rollback --json

It starts two hosts and the verifiers as processes, boots a key-value guest under KVM on host-a, sends requests from
several clients, moves the VM to host-b under load, and checks that every acknowledged write is still there.")]
pub struct Arguments {
    /// Requests in all; a third of them before the migration begins and a third after it.
    #[arg(long, default_value_t = 900, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(3..))]
    requests: u64,
    /// Requests a second over all clients; 0 is as fast as answers come.
    #[arg(long, default_value_t = 300.0, value_name = "PER-SECOND")]
    rate: f64,
    /// Clients, each with one request in flight.
    #[arg(long, default_value_t = 16, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=1024))]
    clients: u16,
    /// Memory of the guest in MiB, a multiple of 2.
    #[arg(long, default_value_t = 64, value_name = "MIB")]
    memory: u64,
    /// Memory that the guest fills with incompressible data before the load, in MiB.
    #[arg(long, default_value_t = 16, value_name = "MIB")]
    fill: u64,
    /// Verifiers; fewer than a third of them may be Byzantine.
    #[arg(long, default_value_t = 4, value_name = "COUNT", value_parser = clap::value_parser!(u16).range(1..=64))]
    verifiers: u16,
    /// How many of the verifiers sample pages instead of executing each transition again.
    #[arg(long, default_value_t = 0, value_name = "COUNT")]
    sampled: u16,
    /// Shortest time between two slots, milliseconds.
    #[arg(long, default_value_t = 20, value_name = "MS", value_parser = clap::value_parser!(u64).range(1..=10_000))]
    slot_interval: u64,
    /// A migration without progress for this long is given up, milliseconds.
    #[arg(long, default_value_t = 5000, value_name = "MS", value_parser = clap::value_parser!(u32).range(100..))]
    timeout: u32,
    /// Turns one party Byzantine; `list` explains the attacks.
    #[arg(long, value_name = "NAME")]
    attack: Option<String>,
    /// Keeps keys, configurations, logs and data in this folder. Default: a temporary folder that keeps only the
    /// certificates.
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
    /// Folder of quorate-verifier, quorate-host and quorate-faulty. Default: where quorate is.
    #[arg(long, value_name = "DIR", env = "QUORATE_PROGRAMS")]
    programs: Option<PathBuf>,
}

/// Runs the command.
pub fn run(arguments: &Arguments, output: &Output) -> Result<u8, Failure> {
    let attack = match arguments.attack.as_deref() {
        Some("list") => return Ok(list(output)),
        Some(name) => Some(named(name)?),
        None => None,
    };
    check(arguments)?;
    kvm::require()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::new(exit::RETRY, "ResourceExhausted", error))?;
    let shown = runtime.block_on(scene::play(arguments, attack, output))?;
    Ok(report::print(&shown, output))
}

fn named(name: &str) -> Result<&'static Attack, Failure> {
    attacks::by_name(name).ok_or_else(|| {
        let names: Vec<_> = ATTACKS.iter().map(|attack| attack.name).collect();
        let near = names.iter().find(|known| known.contains(name) || name.contains(**known));
        let hint = near.map_or_else(String::new, |near| format!(", did you mean {near}?"));
        Failure::usage(format!("there is no attack {name}{hint}")).next("quorate demo --attack list")
    })
}

fn check(arguments: &Arguments) -> Result<(), Failure> {
    if arguments.sampled > arguments.verifiers {
        let text = format!("{} of {} verifiers cannot sample", arguments.sampled, arguments.verifiers);
        return Err(Failure::usage(text));
    }
    let memory = arguments.memory;
    if !memory.is_multiple_of(2) || !(16..=16_384).contains(&memory) {
        return Err(Failure::usage(format!("--memory {memory}: a multiple of 2 from 16 to 16384 MiB")));
    }
    // The service keeps three eighths of its heap free.
    if arguments.fill > memory / 2 {
        return Err(Failure::usage(format!("--fill {}: at most half of the memory", arguments.fill)));
    }
    if !arguments.rate.is_finite() || arguments.rate < 0.0 {
        return Err(Failure::usage(format!("--rate {}: a number that is not negative", arguments.rate)));
    }
    let tolerated = (arguments.verifiers - 1) / 3;
    if arguments.attack.as_deref().is_some_and(|attack| attack.ends_with("verifiers")) && tolerated == 0 {
        return Err(Failure::usage("a group of fewer than four verifiers tolerates no Byzantine one"));
    }
    Ok(())
}

fn list(output: &Output) -> u8 {
    let refusers = |attack: &Attack| -> String {
        let words: Vec<_> = attack.refusers.iter().map(|refuser| refuser.words()).collect();
        words.join(", ")
    };
    let consequence = |attack: &Attack| -> String {
        let kinds = attack.kinds.join(" or ");
        match attack.refusers {
            [Refuser::Nobody] => "harmless: a quorum answers without them".to_owned(),
            [Refuser::Anyone] => format!("not prevented; proved by whoever sees both certificates: {kinds}"),
            _ => format!("refused by {}: {kinds}", refusers(attack)),
        }
    };
    for attack in &ATTACKS {
        let name = output.tint(Tone::Strong, &format!("{:<18}", attack.name));
        let tries = format!("{}: {}", attack.byzantine.words(), attack.tries);
        output.line(&format!("  {name}{}", wrap(&tries, output.width(), 20)));
        let refused = wrap(&consequence(attack), output.width(), 20);
        output.line(&output.tint(Tone::Faint, &format!("{:20}{refused}", "")));
    }
    let attacks: Vec<Value> = ATTACKS
        .iter()
        .map(|attack| {
            json!({
                "name": attack.name, "byzantine": attack.byzantine.words(), "tries": attack.tries,
                "refused_by": refusers(attack), "error_kinds": attack.kinds,
            })
        })
        .collect();
    output.object(&json!({"result": "ok", "attacks": attacks}));
    exit::OK
}
