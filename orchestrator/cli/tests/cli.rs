//! The `quorate` binary as a user meets it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

use quorate_guest_images::specimen::{FORBIDDEN, image_with};
use serde_json::Value;

fn quorate(words: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_quorate")).args(words).output().unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

/// The last line of standard output as JSON.
fn last_object(output: &Output) -> Value {
    let text = text(&output.stdout);
    serde_json::from_str(text.lines().last().unwrap()).unwrap()
}

fn error_object(output: &Output) -> Value {
    serde_json::from_str(text(&output.stderr).lines().last().unwrap()).unwrap()
}

#[test]
fn help_of_every_command_shows_examples_and_succeeds() {
    let commands: [&[&str]; 25] = [
        &[],
        &["migrate"],
        &["cluster"],
        &["cluster", "up"],
        &["group"],
        &["group", "rotate"],
        &["log"],
        &["log", "proof"],
        &["vm", "create"],
        &["vm", "migrate"],
        &["demo"],
        &["verify"],
        &["verify-bundle"],
        &["evidence"],
        &["vm"],
        &["vm", "run"],
        &["vm", "checkpoint"],
        &["vm", "inspect"],
        &["vm", "replay"],
        &["image"],
        &["image", "check"],
        &["image", "list"],
        &["key"],
        &["key", "generate"],
        &["key", "show"],
    ];
    for words in commands {
        let output = quorate(&[words, &["--help"]].concat());
        let help = text(&output.stdout);
        assert_eq!(code(&output), 0, "{words:?}");
        assert!(help.contains("Usage:"), "{words:?}");
        if words.len() < 2 {
            assert!(help.contains("Examples:"), "{words:?} has no examples");
        }
        assert!(!help.contains('\u{1b}'), "{words:?}: no colours without a terminal");
    }
}

#[test]
fn wrong_use_exits_with_2_and_says_so_in_json_too() {
    let wrong: [&[&str]; 11] = [
        &["frobnicate"],
        &["demo", "--requests", "many"],
        &["demo", "--attack", "unknown"],
        &["demo", "--memory", "3"],
        &["verify"],
        &["verify", "/nowhere/at/all.cert"],
        &["verify-bundle", "/nowhere"],
        &["evidence", "/nowhere/a.bin", "/nowhere/b.bin"],
        &["key", "generate", "--role", "king", "--out", "/nowhere"],
        &["image", "export", "unknown", "/nowhere"],
        &["vm", "run", "/nowhere/guest.elf"],
    ];
    for words in wrong {
        let output = quorate(words);
        assert_eq!(code(&output), 2, "{words:?}: {}", text(&output.stderr));
        assert!(!output.stderr.is_empty(), "{words:?} says nothing");
        let output = quorate(&[words, &["--json"]].concat());
        assert_eq!(code(&output), 2, "{words:?}");
        let error = error_object(&output);
        assert!(error["error_kind"].is_string() && error["exit_code"] == 2, "{words:?}: {error}");
    }
}

#[test]
fn unknown_attack_gets_a_hint() {
    let output = quorate(&["demo", "--attack", "roll"]);
    assert!(text(&output.stderr).contains("did you mean rollback?"), "{}", text(&output.stderr));
}

#[test]
fn attacks_are_listed_with_who_refuses_them() {
    let output = quorate(&["demo", "--attack", "list", "--json"]);
    let list = last_object(&output);
    let attacks = list["attacks"].as_array().unwrap();
    assert_eq!((code(&output), attacks.len()), (0, 17));
    for attack in attacks {
        assert!(attack["tries"].is_string() && attack["refused_by"].is_string(), "{attack}");
    }
}

#[test]
fn keys_are_private_never_replaced_and_refused_when_others_may_read_them() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("host.key");
    let file = path.to_str().unwrap();
    let made = quorate(&["key", "generate", "--role", "host", "--out", file, "--json"]);
    assert_eq!(code(&made), 0);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let shown = quorate(&["key", "show", "--public", file, "--json"]);
    assert_eq!(last_object(&shown)["public"], last_object(&made)["public"]);
    let secret = fs::read_to_string(&path).unwrap();
    assert!(!text(&made.stdout).contains(secret.trim()) && !text(&shown.stdout).contains(secret.trim()));

    let again = quorate(&["key", "generate", "--role", "host", "--out", file]);
    assert_ne!(code(&again), 0);
    assert_eq!(fs::read_to_string(&path).unwrap(), secret, "the key was replaced");

    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let open = quorate(&["key", "show", "--public", file]);
    assert_eq!(code(&open), 77);
    assert!(text(&open.stderr).contains("chmod 600"), "{}", text(&open.stderr));
}

#[test]
fn every_forbidden_instruction_is_refused_with_its_place_and_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guest.elf");
    let file = path.to_str().unwrap();
    for (mnemonic, bytes) in FORBIDDEN {
        fs::write(&path, image_with(bytes)).unwrap();
        let output = quorate(&["image", "check", file, "--json"]);
        let report = last_object(&output);
        assert_eq!(code(&output), 1, "{mnemonic}: {report}");
        assert_eq!(report["error_kind"], "ImageInvalid", "{mnemonic}");
        assert_eq!(report["field"], "text", "{mnemonic}");
        assert!(report["offset"].as_u64().is_some_and(|offset| offset >= 4096), "{mnemonic}: {report}");
        assert!(report["mnemonic"].is_string(), "{mnemonic}: {report}");
    }
}

#[test]
fn images_that_are_right_are_admitted_with_their_digest() {
    for name in ["kv", "stress"] {
        let output = quorate(&["image", "check", name, "--json"]);
        let report = last_object(&output);
        assert_eq!((code(&output), &report["result"]), (0, &Value::from("admitted")));
        assert_eq!(report["segments"].as_array().unwrap().len(), 3);
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(name);
        let exported = quorate(&["image", "export", name, file.to_str().unwrap()]);
        assert_eq!(code(&exported), 0);
        let again = last_object(&quorate(&["image", "check", file.to_str().unwrap(), "--json"]));
        assert_eq!(again["digest"], report["digest"]);
    }
}

#[test]
fn file_that_is_no_image_is_refused_by_field() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("guest.elf");
    fs::write(&path, b"\x7fELF and nothing else").unwrap();
    let output = quorate(&["image", "check", path.to_str().unwrap()]);
    assert_eq!(code(&output), 1);
    assert!(text(&output.stdout).contains("refused"), "{}", text(&output.stdout));
}

fn kvm_here() -> bool {
    let usable = fs::OpenOptions::new().read(true).write(true).open("/dev/kvm").is_ok();
    if !usable {
        eprintln!("SKIPPED: no usable /dev/kvm here, so nothing can be run");
    }
    usable
}

#[test]
fn recorded_run_replays_to_the_same_digests_and_a_changed_input_is_named() {
    if !kvm_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for image in ["kv", "stress"] {
        let record = folder.path().join(image);
        let record = record.to_str().unwrap();
        let run = quorate(&[
            "vm",
            "run",
            image,
            "--memory",
            "16",
            "--requests",
            "120",
            "--record",
            record,
            "--json",
        ]);
        assert_eq!(code(&run), 0, "{}", text(&run.stderr));
        let replay = quorate(&["vm", "replay", record, "--json"]);
        assert_eq!((code(&replay), &last_object(&replay)["result"]), (0, &Value::from("identical")));

        let recording = fs::read_to_string(record).unwrap();
        let mut lines: Vec<Value> =
            recording.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let inputs = lines[2]["inputs"].as_array_mut().unwrap();
        inputs.swap(10, 11);
        if image == "stress" {
            inputs[10] = Value::from("00");
        }
        let changed: Vec<String> = lines.iter().map(Value::to_string).collect();
        fs::write(record, changed.join("\n") + "\n").unwrap();
        let replay = quorate(&["vm", "replay", record, "--json"]);
        let report = last_object(&replay);
        assert_eq!((code(&replay), &report["slot"]), (1, &Value::from(1)), "{report}");
        assert_eq!(report["component"], "input root", "{report}");
    }
}

#[test]
fn chain_of_checkpoints_leads_to_the_state_of_the_run() {
    if !kvm_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (base, next, whole) = (path("base.ckpt"), path("next.ckpt"), path("whole.ckpt"));
    let words = ["vm", "run", "kv", "--memory", "16", "--checkpoint", &base, "--checkpoint", &next, "--json"];
    let run = quorate(&words);
    assert_eq!(code(&run), 0, "{}", text(&run.stderr));
    let slots: Vec<Value> =
        text(&run.stdout).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let last = &slots[slots.len() - 2];
    let chain = last_object(&quorate(&["vm", "inspect", &base, &next, "--json"]));
    assert_eq!(chain["page_root"], last["page_root"]);
    assert_eq!(chain["inputs"], last["consumed"]);
    let joined = quorate(&["vm", "checkpoint", "kv", &base, &next, "--out", &whole, "--full", "--json"]);
    assert_eq!(code(&joined), 0, "{}", text(&joined.stderr));
    let whole = last_object(&quorate(&["vm", "inspect", &whole, "--json"]));
    assert_eq!((&whole["page_root"], &whole["cpu"]), (&chain["page_root"], &chain["cpu"]));

    let alone = quorate(&["vm", "inspect", &next]);
    assert_eq!(code(&alone), 1, "an incremental checkpoint is nothing alone");
}

#[test]
fn guest_that_crashes_is_reported_with_its_vector() {
    if !kvm_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("guest.elf");
    fs::write(&image, image_with(&[0x31, 0xc9, 0xf7, 0xf1])).unwrap(); // xor ecx, ecx; div ecx
    let inputs = folder.path().join("inputs");
    fs::write(&inputs, "").unwrap();
    let words = ["vm", "run", image.to_str().unwrap(), "--memory", "8", "--inputs", inputs.to_str().unwrap()];
    let output = quorate(&words);
    assert_eq!(code(&output), 1, "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("#DE divide error"), "{}", text(&output.stderr));
}

/// Runs `quorate` where `/dev` is empty. None where the system does not allow that.
fn without_kvm(words: &[&str]) -> Option<Output> {
    let folder = tempfile::tempdir().unwrap();
    let hide = r#"mount --bind "$0" /dev && exec "$@""#;
    let output = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", hide])
        .arg(folder.path())
        .arg(env!("CARGO_BIN_EXE_quorate"))
        .args(words)
        .output()
        .ok()?;
    let hidden = !text(&output.stderr).contains("mount:") && !text(&output.stderr).contains("unshare:");
    hidden.then_some(output)
}

#[test]
fn missing_kvm_is_named_with_a_way_to_get_it_by_every_command_that_needs_it() {
    let folder = tempfile::tempdir().unwrap();
    let record = folder.path().join("kv.rec");
    let record = record.to_str().unwrap();
    if kvm_here() {
        quorate(&["vm", "run", "kv", "--memory", "16", "--requests", "1", "--record", record]);
    }
    let mut commands: Vec<Vec<&str>> = vec![vec!["demo"], vec!["vm", "run", "kv"]];
    if Path::new(record).exists() {
        commands.push(vec!["vm", "replay", record]);
    }
    for words in commands {
        let Some(output) = without_kvm(&words) else {
            eprintln!("SKIPPED: this system does not let a test hide /dev/kvm (unshare)");
            return;
        };
        let error = text(&output.stderr);
        assert_eq!(code(&output), 77, "{words:?}: {error}");
        assert!(error.contains("/dev/kvm") && error.contains("modprobe"), "{words:?}: {error}");
    }
}
