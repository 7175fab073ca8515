//! The second verifier: `verify.py`, one process for many cases.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64ct::{Base64, Encoding};
use serde_json::{Map, Value, json};

use crate::valid::Case;

/// The files of the verifier of this repository; the first is the program.
pub fn files() -> [PathBuf; 2] {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/audit");
    ["verify.py", "answer.py"].map(|name| folder.join(name))
}

/// The verifier of this repository.
pub fn script() -> PathBuf {
    let [script, _] = files();
    script
}

/// Exit code and message for each case, in order.
pub fn judge(script: &Path, cases: &[Case]) -> Vec<(u8, String)> {
    let mut python = Command::new("python3")
        .arg(script)
        .args(["--batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("python3 starts; scripts/check-requirements says what is needed");
    let (mut input, output) = (python.stdin.take().unwrap(), python.stdout.take().unwrap());
    let answers = std::thread::scope(|scope| {
        scope.spawn(move || {
            for case in cases {
                // Where Python gave up, the missing answers say so.
                if writeln!(input, "{}", Value::Object(object(case))).is_err() {
                    return;
                }
            }
        });
        let answers = BufReader::new(output).lines().map(|line| {
            let line = line.unwrap();
            let (code, message) = line.split_once(' ').unwrap_or((&line, ""));
            (code.parse().unwrap_or(u8::MAX), message.to_owned())
        });
        answers.collect::<Vec<_>>()
    });
    assert!(python.wait().unwrap().success(), "verify.py failed after {} cases", answers.len());
    assert_eq!(answers.len(), cases.len());
    answers
}

fn object(case: &Case) -> Map<String, Value> {
    let vm = case.vm.map(|vm| vm.to_string().into_bytes());
    let files = [
        ("file", Some(&case.file)),
        ("group", case.group.as_ref()),
        ("orchestrators", case.orchestrators.as_ref()),
        ("replicas", case.replicas.as_ref()),
        ("policy", case.policy.as_ref()),
        ("statement", case.statement.as_ref()),
        ("vm", vm.as_ref()),
    ];
    let files = files.into_iter().filter_map(|(name, bytes)| Some((name, bytes?)));
    let mut object: Map<String, Value> =
        files.map(|(name, bytes)| (name.to_owned(), json!(Base64::encode_string(bytes)))).collect();
    object.insert("name".into(), json!(case.name()));
    let services: Vec<String> = case.services.iter().map(|bytes| Base64::encode_string(bytes)).collect();
    object.insert("service".into(), json!(services));
    if let Some(not_before) = case.not_before {
        object.insert("not_before".into(), json!(not_before));
    }
    object
}
