//! `quorate verify`: checks certificates, proofs and chains as files. No network, and no clock unless
//! `--not-older-than` asks for one.
//!
//! What is expected (group, VM, policy, statement) comes from the command line. Where it is not given, files beside the
//! checked one are used and named in the output: then the result says that the files fit together, and it is as good as
//! the way by which the group file came here.

pub mod audit;
pub mod bundle;
mod chain;
mod describe;
pub mod evidence;
mod finding;
mod freshness;
mod heads;
mod log_proof;
mod material;
mod services;
mod single;
#[cfg(test)]
mod tests;
mod trust;

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};

use super::exit;
use super::failure::Failure;
use super::output::{Output, Tone};
use finding::Finding;
use freshness::Age;
use trust::Trust;

/// Checks certificates, proofs and chains as files, offline.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate verify certificates/                               everything in a folder, and that it is one chain
  quorate verify slot-000042.cert --group group.toml --vm ID
  quorate verify --policy policy.txt --statement slot-000042.statement slot-000042.tlog-proof
  quorate verify alice.answer --orchestrators orchestrators.toml --replicas services.toml --service uid.service
  quorate verify head.note --policy policy.txt --not-older-than 10m
  quorate verify a/slot-000042.cert b/slot-000042.cert       do two certificates contradict each other?

Exit codes: 0 valid, 1 invalid (the first rule that failed is named), 2 usage or unreadable file,
3 valid but older than demanded.")]
pub struct Arguments {
    /// Files (certificates, proofs, answers, notes, evidence) or folders with a chain.
    #[arg(required = true)]
    paths: Vec<PathBuf>,
    /// The group that is expected (TOML). Default: group.toml beside the first path.
    #[arg(long, value_name = "FILE")]
    group: Option<PathBuf>,
    /// The orchestrators whose grants count (TOML). Default: orchestrators.toml beside the first path.
    #[arg(long, value_name = "FILE")]
    orchestrators: Option<PathBuf>,
    /// The replicas of services (TOML). Default: services.toml beside the first path.
    #[arg(long, value_name = "FILE")]
    replicas: Option<PathBuf>,
    /// A service that is expected: its specification. Default: every .service file beside the first path.
    #[arg(long = "service", value_name = "FILE")]
    services: Vec<PathBuf>,
    /// The VM that is expected. Default: the one of vm.spec beside the first path; for certificates that are no slot's:
    /// none.
    #[arg(long, value_name = "ID")]
    vm: Option<String>,
    /// The VM's image, to compute its genesis: name of a built-in image or ELF file. Default: by the digest in vm.spec.
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// The C2SP policy for notes and proofs. Default: group.policy or policy.txt beside the first path, or the group's
    /// own.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// The statement a proof is about. Default: the file of the same name that ends in .statement or .bin.
    #[arg(long, value_name = "FILE")]
    statement: Option<PathBuf>,
    /// Refuse attestations that were only sampled.
    #[arg(long)]
    replayed_only: bool,
    /// Demand cosignatures not older than this: 90s, 10m, 2h, 7d, or @SECONDS of POSIX time.
    #[arg(long, value_name = "AGE")]
    not_older_than: Option<Age>,
    /// Demand that the newest slot is at least this one.
    #[arg(long, value_name = "SLOT")]
    min_slot: Option<u64>,
}

impl Arguments {
    /// What is expected by those files, and by what lies beside the first of them.
    fn beside(
        paths: Vec<PathBuf>,
        group: Option<PathBuf>,
        orchestrators: Option<PathBuf>,
        replicas: Option<PathBuf>,
        policy: Option<PathBuf>,
    ) -> Self {
        Self {
            paths,
            group,
            orchestrators,
            replicas,
            services: Vec::new(),
            vm: None,
            image: None,
            policy,
            statement: None,
            replayed_only: false,
            not_older_than: None,
            min_slot: None,
        }
    }
}

/// Runs the command.
pub fn run(arguments: &Arguments, output: &Output) -> Result<u8, Failure> {
    let trust = Trust::gather(arguments)?;
    trust.describe(output);
    let findings = examine(arguments, &trust)?;
    for finding in &findings {
        finding.print(output);
    }
    Ok(conclude(&findings, output))
}

/// Checks everything that was named, each file alone and all of them together.
fn examine(arguments: &Arguments, trust: &Trust) -> Result<Vec<Finding>, Failure> {
    let mut findings = Vec::new();
    let mut certificates = Vec::new();
    for path in &arguments.paths {
        let is_folder = path.is_dir();
        let materials =
            if is_folder { material::read_folder(path)? } else { vec![material::read_file(path)?] };
        if is_folder && materials.is_empty() {
            let failure = Failure::usage(format!("{} contains nothing that can be verified", path.display()));
            return Err(failure.next("name a folder of certificates, such as a demo leaves"));
        }
        if is_folder {
            findings.extend(chain::check(trust, &materials)?);
        } else {
            for item in &materials {
                findings.push(single::check(trust, item)?);
            }
        }
        certificates.extend(materials.into_iter().filter_map(material::Item::certificate));
    }
    findings.extend(chain::conflicts(trust, &certificates));
    findings.extend(freshness::check_slot(trust, &certificates));
    Ok(findings)
}

/// What all checks together mean.
struct Verdict {
    result: &'static str,
    code: u8,
    failed: Option<(String, String)>,
    stale: Option<String>,
    replayed: u64,
    sampled: u64,
}

fn judge(findings: &[Finding]) -> Verdict {
    let (replayed, sampled) = findings.iter().fold((0, 0), |(replayed, sampled), finding| {
        (replayed + finding.replayed, sampled + finding.sampled)
    });
    let failed = findings.iter().find_map(|finding| finding.failed.clone());
    let stale = findings.iter().find_map(|finding| finding.stale.clone());
    let (result, code) = match (&failed, &stale) {
        (Some(_), _) => ("invalid", exit::REFUSED),
        (None, Some(_)) => ("stale", exit::STALE),
        (None, None) => ("valid", exit::OK),
    };
    Verdict { result, code, failed, stale, replayed, sampled }
}

/// Prints the verdict and returns the exit code.
fn conclude(findings: &[Finding], output: &Output) -> u8 {
    let Verdict { result, code, failed, stale, replayed, sampled } = judge(findings);
    if replayed + sampled > 0 {
        output.line(&format!("attestations: {replayed} REPLAYED, {sampled} SAMPLED"));
        if replayed == 0 {
            let warning = "nobody has executed these transitions again: the chain is SAMPLED only";
            output.line(&output.tint(Tone::Notable, warning));
        }
    }
    match (&failed, &stale) {
        (Some((kind, detail)), _) => eprintln!("invalid: {kind}: {detail}"),
        (None, Some(detail)) => eprintln!("valid, but older than demanded: {detail}"),
        (None, None) => {}
    }
    let tone = if code == exit::OK { Tone::Good } else { Tone::Bad };
    output.line(&output.tint(tone, result));
    let kind = failed.as_ref().map(|(kind, _)| kind);
    let object = json!({
        "result": result, "checked": findings.len(), "replayed": replayed, "sampled": sampled,
        "sampled_only": replayed == 0 && sampled > 0, "rule_failed": kind, "error_kind": kind,
        "error": failed.as_ref().map(|(_, detail)| detail), "stale": stale,
    });
    output.object(&with_facts(findings, object));
    code
}

/// Of a single file the result says all, so that a program needs the last line only.
fn with_facts(findings: &[Finding], mut object: Value) -> Value {
    if let [only] = findings {
        for name in ["kind", "group", "epoch", "instance", "seq", "body", "signers", "q", "tree_size", "root"]
        {
            object[name] = only.facts.get(name).cloned().unwrap_or_default();
        }
    }
    object
}
