//! The first verifier as a process: `quorate verify` with the files of a case.

use std::path::Path;
use std::process::Command;

use quorate_cli::verify::audit::Judgement;
use serde_json::Value;

use crate::valid::Case;

/// Writes the files of a case, and answers the words behind `verify`, which both programs take.
pub fn words(case: &Case, folder: &Path) -> Vec<String> {
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.join(name);
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    };
    let files = [
        ("policy", &case.policy),
        ("statement", &case.statement),
        ("group", &case.group),
        ("orchestrators", &case.orchestrators),
        ("replicas", &case.replicas),
    ];
    let mut words = Vec::new();
    for (name, bytes) in files.into_iter().filter_map(|(name, bytes)| Some((name, bytes.as_ref()?))) {
        words.extend([format!("--{name}"), write(&format!("the.{name}-file"), bytes)]);
    }
    for (number, bytes) in case.services.iter().enumerate() {
        words.extend(["--service".to_owned(), write(&format!("the.{number}-file"), bytes)]);
    }
    if let Some(vm) = case.vm {
        words.extend(["--vm".to_owned(), vm.to_string()]);
    }
    if let Some(not_before) = case.not_before {
        words.extend(["--not-older-than".to_owned(), format!("@{not_before}")]);
    }
    words.push(write(case.name(), &case.file));
    words
}

/// What `quorate verify` says about a case.
pub fn judge(case: &Case) -> Judgement {
    let folder = tempfile::tempdir().unwrap();
    let words = words(case, folder.path());
    let output =
        Command::new(env!("CARGO_BIN_EXE_quorate")).args(["verify", "--json"]).args(words).output().unwrap();
    // A verdict is on standard output, a failure to come to one on standard error.
    let last = |bytes: &[u8]| -> Option<Value> {
        serde_json::from_str(String::from_utf8_lossy(bytes).lines().last()?).ok()
    };
    let object = last(&output.stdout).or_else(|| last(&output.stderr)).unwrap_or_default();
    let text = |name: &str| object[name].as_str().map(str::to_owned);
    let code = output.status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX);
    Judgement { code, rule_failed: text("error_kind"), detail: text("error").unwrap_or_default() }
}
