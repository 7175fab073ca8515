//! Two verifiers that share no code, Quorate's own and `verify.py`, over the same files: valid ones, and ten thousand
//! that were changed in every way that `mutate` knows. They must agree about each.
//!
//! ```text
//! seed ─▶ valid.rs: groups, logs, proofs, certificates ─▶ mutate ────┬─▶ quorate_cli::verify::audit::judge
//!         services.rs: answers                                       │   or quorate verify, where services are named
//!                                                                    └─▶ verify.py --batch
//! ```
//!
//! `QUORATE_SEED` repeats a run. Both sides are told the same expectations. Verdicts are compared, messages are not.

mod cli;
mod mutate;
mod python;
mod rng;
mod services;
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

/// The first verifier. What names services or orchestrators goes through the program, the rest through its library, which
/// is quicker and takes no others.
fn judge(case: &Case) -> Judgement {
    if case.orchestrators.is_some() || case.replicas.is_some() || !case.services.is_empty() {
        return cli::judge(case);
    }
    audit::judge(&audit::Case {
        name: case.name(),
        file: &case.file,
        group: case.group.as_deref(),
        vm: case.vm,
        policy: case.policy.as_deref(),
        statement: case.statement.as_deref(),
        not_before: case.not_before,
    })
}

/// Verdicts of the first verifier, from some threads at once.
fn judged(cases: &[Case]) -> Vec<Judgement> {
    std::thread::scope(|scope| {
        let part = |cases: &'_ [Case]| cases.iter().map(judge).collect::<Vec<_>>();
        let parts: Vec<_> = cases
            .chunks(cases.len().div_ceil(4).max(1))
            .map(|cases| scope.spawn(move || part(cases)))
            .collect();
        parts.into_iter().flat_map(|part| part.join().unwrap()).collect()
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
fn differences(script: &Path, cases: &[Case], ours: &[Judgement]) -> Vec<String> {
    let python = judged_by_python(script, cases);
    ours.iter()
        .zip(python)
        .zip(cases)
        .filter(|((ours, python), _)| class(ours.code) != class(python.0))
        .map(|((ours, python), case)| format!("{:?}: quorate {ours:?}, verify.py {python:?}", case.history))
        .collect()
}

#[test]
fn the_python_verifier_accepts_and_refuses_exactly_what_quorate_does() {
    let mut rng = Rng::new(seed());
    let worlds = valid::worlds(&mut rng);
    let valid = valid::cases(&mut rng, &worlds);
    let mut cases = valid.clone();
    cases.extend(mutated(&mut rng, &worlds, &valid, MUTATIONS));
    let ours = judged(&cases);
    for (case, ours) in valid.iter().zip(&ours) {
        assert_eq!(ours.code, 0, "a valid {} was refused: {ours:?}", case.name());
    }
    let found = differences(&python::script(), &cases, &ours);
    assert!(found.is_empty(), "{} differences, the first: {:#?}", found.len(), &found[..found.len().min(8)]);

    let mut codes: BTreeMap<(&str, u8), usize> = BTreeMap::new();
    let changed = cases.iter().zip(&ours).skip(valid.len());
    changed.for_each(|(case, ours)| *codes.entry((case.name(), ours.code)).or_default() += 1);
    println!("{} valid files accepted; of {MUTATIONS} changed ones, by exit code: {codes:?}", valid.len());
    for (name, code) in ["entry.tlog-proof", "certificate.bin", "alice.answer"]
        .into_iter()
        .flat_map(|name| (0..=2).map(move |code| (name, code)))
    {
        assert!(codes.contains_key(&(name, code)), "no changed {name} had exit code {code}");
    }
    assert!(codes.contains_key(&("entry.tlog-proof", 3)), "no changed proof was older than demanded");
}

/// A rule of `verify.py` or `answer.py`, the same rule weakened, and the mutations that only that rule refuses.
const PLANTED: [(&str, &str, &str); 18] = [
    ("require(last < signer < len(keys)", "require(last <= signer < len(keys)", "DOUBLER"),
    ("or s >= L:", "or s >= 1 << 256:", "S not canonical"),
    ("require(count >= need", "require(count >= need - 1", "vote removed"),
    ("require(base64.b64encode(data).decode() == text", "require(True", "base64"),
    ("require(instance == (trust[\"vm\"] or NOBODY)", "require(True", "VM is expected"),
    ("len(set(each)) == len(each) <= 1024", "True", "DOUBLER"),
    ("(of == group[1] and epoch <= group[2])", "True", "changed"),
    ("require(index == place and", "require(", "signed: statement at another index"),
    ("require(replicas and log and name,", "require(replicas and log,", "service is expected"),
    ("replicas[5] + 1, receipt", "replicas[5], receipt", "f replicas only"),
    ("outcome == NUMBERED + service + number", "outcome.startswith(NUMBERED)", "number"),
    ("require(asked == replied or", "require(True or", "request"),
    ("require(is_signed(author, message, signature)", "require(True", "not signed by its author"),
    ("require(found[0] == key", "require(True", "question: another key"),
    ("index + 1 == behind for", "index < behind for", "entry left out"),
    ("(not before or before[0] < low)", "True", "as neighbour"),
    ("(not after or high < after[0])", "True", "as neighbour"),
    ("all(low <= key <= high for key in keys)", "True", "wider than was asked"),
];

#[test]
fn rule_that_is_missing_in_one_verifier_is_found() {
    let mut rng = Rng::new(seed());
    let worlds = valid::worlds(&mut rng);
    let valid = valid::cases(&mut rng, &worlds);
    let cases = mutated(&mut rng, &worlds, &valid, MUTATIONS);
    let sources = python::files().map(|path| (path.clone(), std::fs::read_to_string(path).unwrap()));
    for (rule, weakened, mutation) in PLANTED {
        let count: usize = sources.iter().map(|(_, source)| source.matches(rule).count()).sum();
        assert_eq!(count, 1, "verify.py or answer.py has changed: {rule}");
        let folder = tempfile::tempdir().unwrap();
        let copies = sources.each_ref().map(|(path, source)| {
            let copy = folder.path().join(path.file_name().unwrap());
            std::fs::write(&copy, source.replace(rule, weakened)).unwrap();
            copy
        });
        let concerned = |case: &&Case| case.history.iter().any(|name| name.contains(mutation));
        let concerned: Vec<Case> = cases.iter().filter(concerned).take(400).cloned().collect();
        let found = differences(&copies[0], &concerned, &judged(&concerned));
        println!("{rule:?} weakened: {} of {} verdicts differ", found.len(), concerned.len());
        assert!(!found.is_empty(), "nothing notices that this rule is weakened: {rule}");
    }
}

#[test]
fn programs_exit_as_their_libraries_judge() {
    let mut rng = Rng::new(seed());
    let worlds = valid::worlds(&mut rng);
    let valid = valid::cases(&mut rng, &worlds);
    let mut cases = mutated(&mut rng, &worlds, &valid, 60);
    cases.extend(valid.iter().step_by(37).cloned());
    for case in &cases {
        let folder = tempfile::tempdir().unwrap();
        let words = cli::words(case, folder.path());
        let ours = cli::judge(case);
        let python = Command::new("python3").arg(python::script()).args(&words).output().unwrap();
        let expected = judge(case);
        let described = format!("{:?} {expected:?} {ours:?} {python:?}", case.history);
        assert_eq!(ours.code, expected.code, "{described}");
        let python = python.status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX);
        assert_eq!(class(python), class(expected.code), "{described}");
        if expected.code == 1 {
            assert_eq!(ours.rule_failed, expected.rule_failed, "{described}");
        }
    }
}
