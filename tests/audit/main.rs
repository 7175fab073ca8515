//! Two verifiers that share no code, Quorate's own and `verify.py`, over the same files: valid ones, and ten thousand
//! that were changed in every way that `mutate` knows. They must agree about each.
//!
//! ```text
//! seed ─▶ valid.rs: groups, logs, proofs, certificates ─▶ mutate ────┬─▶ quorate_cli::verify::audit::judge
//!                                                                    └─▶ verify.py --batch
//! ```
//!
//! `QUORATE_SEED` repeats a run. Both sides are told the same expectations. Verdicts are compared, messages are not.

mod mutate;
mod python;
mod rng;
mod valid;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use quorate_cli::verify::audit::{self, Judgement};

use mutate::mutate;
use rng::Rng;
use valid::{Case, World};

const MUTATIONS: usize = 10_000;

fn seed() -> u64 {
    let given =
        std::env::var("QUORATE_SEED").ok().map(|text| text.parse().expect("QUORATE_SEED is a number"));
    let seed = given.unwrap_or_else(|| getrandom::u64().unwrap());
    println!("QUORATE_SEED={seed}");
    seed
}

fn mutated(rng: &mut Rng, worlds: &[World], valid: &[Case], count: usize) -> Vec<Case> {
    let one = |_| {
        let mut case = valid[rng.below(valid.len())].clone();
        mutate(&mut case, worlds, rng);
        case
    };
    (0..count).map(one).collect()
}

fn judge(case: &Case) -> Judgement {
    audit::judge(&audit::Case {
        name: if case.is_proof() { "entry.tlog-proof" } else { "certificate.bin" },
        file: &case.file,
        group: case.group.as_deref(),
        vm: case.vm,
        policy: case.policy.as_deref(),
        statement: case.statement.as_deref(),
        not_before: case.not_before,
    })
}

/// Verdicts of `verify.py`, from two processes at once.
fn judged_by_python(script: &Path, cases: &[Case]) -> Vec<(u8, String)> {
    let (first, second) = cases.split_at(cases.len() / 2);
    std::thread::scope(|scope| {
        let other = scope.spawn(|| python::judge(script, second));
        let mut verdicts = python::judge(script, first);
        verdicts.extend(other.join().unwrap());
        verdicts
    })
}

/// Accepted, refused, or older than demanded. Whether a group file that is nobody's is called wrong configuration or a
/// wrong group is a matter of taste.
fn class(code: u8) -> &'static str {
    match code {
        0 => "accepted",
        1 | 2 => "refused",
        3 => "stale",
        _ => "failed",
    }
}

/// Cases about which the two verifiers do not agree, described.
fn differences(script: &Path, cases: &[Case]) -> Vec<String> {
    let python = judged_by_python(script, cases);
    let pairs = cases.iter().map(judge).zip(python).zip(cases);
    pairs
        .filter(|((ours, python), _)| class(ours.code) != class(python.0))
        .map(|((ours, python), case)| format!("{:?}: quorate {ours:?}, verify.py {python:?}", case.history))
        .collect()
}

#[test]
fn the_python_verifier_accepts_and_refuses_exactly_what_quorate_does() {
    let mut rng = Rng::new(seed());
    let worlds = valid::worlds(&mut rng);
    let valid = valid::cases(&mut rng, &worlds);
    for case in &valid {
        let ours = judge(case);
        assert_eq!(ours.code, 0, "a valid file was refused: {ours:?}");
    }
    let mut cases = valid.clone();
    cases.extend(mutated(&mut rng, &worlds, &valid, MUTATIONS));
    let found = differences(&python::script(), &cases);
    assert!(found.is_empty(), "{} differences, the first: {:#?}", found.len(), &found[..found.len().min(8)]);

    let mut codes: BTreeMap<u8, usize> = BTreeMap::new();
    cases[valid.len()..].iter().for_each(|case| *codes.entry(judge(case).code).or_default() += 1);
    println!("{} valid files accepted; of {MUTATIONS} changed ones, by exit code: {codes:?}", valid.len());
    for code in 0..=3 {
        assert!(codes.get(&code).is_some_and(|count| *count > 0), "no changed file had exit code {code}");
    }
}

/// A rule of `verify.py`, the same rule weakened, and the mutations that only that rule refuses.
const PLANTED: [(&str, &str, &str); 8] = [
    ("require(last < signer < len(keys)", "require(last <= signer < len(keys)", "DOUBLER"),
    ("or s >= L:", "or s >= 1 << 256:", "S not canonical"),
    ("require(count >= quorum", "require(count >= quorum - 1", "vote removed"),
    ("require(base64.b64encode(data).decode() == text", "require(True", "base64"),
    ("require(instance == (vm or NOBODY)", "require(True", "VM is expected"),
    ("len(set(each)) == len(each) <= 1024", "True", "DOUBLER"),
    ("(of == group[1] and epoch <= group[2])", "True", "changed"),
    ("require(index == place and", "require(", "signed: statement at another index"),
];

#[test]
fn rule_that_is_missing_in_one_verifier_is_found() {
    let mut rng = Rng::new(seed());
    let worlds = valid::worlds(&mut rng);
    let valid = valid::cases(&mut rng, &worlds);
    let cases = mutated(&mut rng, &worlds, &valid, MUTATIONS);
    let source = std::fs::read_to_string(python::script()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    for (number, (rule, weakened, mutation)) in PLANTED.into_iter().enumerate() {
        assert_eq!(source.matches(rule).count(), 1, "verify.py has changed: {rule}");
        let script = folder.path().join(format!("planted{number}.py"));
        std::fs::write(&script, source.replace(rule, weakened)).unwrap();
        let concerned = |case: &&Case| case.history.iter().any(|name| name.contains(mutation));
        let concerned: Vec<Case> = cases.iter().filter(concerned).take(400).cloned().collect();
        let found = differences(&script, &concerned);
        println!("{rule:?} weakened: {} of {} verdicts differ", found.len(), concerned.len());
        assert!(!found.is_empty(), "nothing notices that this rule is weakened: {rule}");
    }
}

#[test]
fn programs_exit_as_their_libraries_judge() {
    let mut rng = Rng::new(seed());
    let worlds = valid::worlds(&mut rng);
    let valid = valid::cases(&mut rng, &worlds);
    let mut cases = mutated(&mut rng, &worlds, &valid, 30);
    cases.extend(valid.iter().step_by(40).cloned());
    for case in &cases {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path.display().to_string()
        };
        let files = [("policy", &case.policy), ("statement", &case.statement), ("group", &case.group)];
        let mut words = Vec::new();
        for (name, bytes) in files.into_iter().filter_map(|(name, bytes)| Some((name, bytes.as_ref()?))) {
            words.extend([format!("--{name}"), write(&format!("the.{name}-file"), bytes)]);
        }
        if let Some(vm) = case.vm {
            words.extend(["--vm".to_owned(), vm.to_string()]);
        }
        if let Some(not_before) = case.not_before {
            words.extend(["--not-older-than".to_owned(), format!("@{not_before}")]);
        }
        words.push(write(if case.is_proof() { "entry.tlog-proof" } else { "certificate.bin" }, &case.file));
        let ours = Command::new(env!("CARGO_BIN_EXE_quorate")).arg("verify").args(&words).output().unwrap();
        let python = Command::new("python3").arg(python::script()).args(&words).output().unwrap();
        let expected = judge(case);
        let code = i32::from(expected.code);
        let described = format!("{:?} {expected:?} {ours:?} {python:?}", case.history);
        assert_eq!(ours.status.code(), Some(code), "{described}");
        let python = python.status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX);
        assert_eq!(class(python), class(expected.code), "{described}");
        if let Some(rule) = expected.rule_failed.filter(|_| code == 1) {
            assert!(String::from_utf8_lossy(&ours.stderr).contains(&rule), "{described}");
        }
    }
}
