use quorate_attest::epoch::{RootSet, SignedGenesis};
use quorate_verifier::config::epoch_files::{Signatures, write_roots, write_signatures};
use quorate_verifier::key_file;

use super::testing::{group, key};
use super::*;

/// A folder with everything that a start needs, and the text of its configuration.
fn folder() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    for (name, seed) in [("vote.key", 11), ("cosigner.key", 21), ("transport.key", 31)] {
        key_file::write(&folder.path().join(name), &key(seed)).unwrap();
    }
    group_file::write(&folder.path().join("orchestrators.toml"), &group("orchestrator", 10)).unwrap();
    group_file::write(&folder.path().join("verifiers.toml"), &group("verifier", 60)).unwrap();
    let mut text = "name = \"orchestrator-1\"\nkey_file = \"vote.key\"\ncosigner_key_file = \"cosigner.key\"\n\
        transport_key_file = \"transport.key\"\norchestrators_file = \"orchestrators.toml\"\n\
        verifiers_file = \"verifiers.toml\"\nlisten = \"127.0.0.1:0\"\ndata_dir = \"data\"\napi = \"127.0.0.1:0\"\n"
        .to_owned();
    for index in [0, 2, 3] {
        text += &format!(
            "[[orchestrators]]\nname = \"orchestrator-{index}\"\naddress = \"127.0.0.1:{}\"\n",
            7000 + index
        );
    }
    (folder, text)
}

fn load(folder: &Path, text: &str, overrides: &Overrides) -> Result<Loaded, Vec<Problem>> {
    Config::parse(text, folder, overrides).and_then(Config::open)
}

fn keys_of(problems: &[Problem]) -> Vec<&str> {
    problems.iter().map(|problem| problem.key.as_str()).collect()
}

#[test]
fn a_complete_configuration_loads() {
    let (folder, text) = folder();
    let loaded = load(folder.path(), &text, &Overrides::default()).unwrap();
    assert_eq!((loaded.orchestrators, loaded.verifiers), (group("orchestrator", 10), group("verifier", 60)));
    assert_eq!(loaded.api, Some("127.0.0.1:0".parse().unwrap()));
    assert_eq!(loaded.config.data_dir, folder.path().join("data"));
    assert_eq!(loaded.config.address_of("orchestrator-2"), Some("127.0.0.1:7002".parse().unwrap()));
}

#[test]
fn overrides_win_over_the_file() {
    let (folder, text) = folder();
    let overrides = Overrides {
        listen: Some("127.0.0.1:7100".into()),
        data_dir: Some("elsewhere".into()),
        api: Some("unix:api.sock".into()),
        log: Some(LogFormat::Json),
    };
    let loaded = load(folder.path(), &text, &overrides).unwrap();
    assert_eq!((loaded.listen.port(), loaded.config.log), (7100, LogFormat::Json));
    assert_eq!(loaded.config.data_dir, Path::new("elsewhere"));
    assert_eq!(loaded.api, Some(ApiAddress::Unix("api.sock".into())));
    let in_file = text.replace("api = \"127.0.0.1:0\"", "api = \"unix:api.sock\"");
    let loaded = load(folder.path(), &in_file, &Overrides::default()).unwrap();
    assert_eq!(loaded.api, Some(ApiAddress::Unix(folder.path().join("api.sock"))));
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_name() {
    let (folder, text) = folder();
    let text = text.replace("listen =", "lisen =").replace("api =", "apis =");
    let problems = load(folder.path(), &text, &Overrides::default()).unwrap_err();
    let texts: Vec<_> = problems.iter().map(|problem| problem.text.as_str()).collect();
    assert_eq!(
        texts,
        ["unknown key `apis`, did you mean `api`?", "unknown key `lisen`, did you mean `listen`?"]
    );
}

#[test]
fn every_problem_is_reported_at_once() {
    let (folder, text) = folder();
    std::fs::remove_file(folder.path().join("vote.key")).unwrap();
    std::fs::remove_file(folder.path().join("verifiers.toml")).unwrap();
    let text = text
        .replace("listen = \"127.0.0.1:0\"", "listen = \"nowhere\"")
        .replace("api = \"127.0.0.1:0\"", "api = \"0.0.0.0:80\"\norder_timeout_ms = 1\nwaiters_max = 0");
    let problems = load(folder.path(), &text, &Overrides::default()).unwrap_err();
    assert_eq!(
        keys_of(&problems),
        ["order_timeout_ms", "waiters_max", "key_file", "verifiers_file", "listen", "api"]
    );
    assert!(problems.iter().all(|problem| problem.exit_code == crate::exit::CONFIGURATION));
}

#[test]
fn keys_that_the_group_does_not_list_and_members_without_an_address_are_refused() {
    let (folder, text) = folder();
    let swapped = text
        .replace("\"vote.key\"", "\"x\"")
        .replace("\"cosigner.key\"", "\"vote.key\"")
        .replace("\"x\"", "\"cosigner.key\"")
        .replace("\"orchestrator-3\"", "\"orchestrator-9\"");
    let problems = load(folder.path(), &swapped, &Overrides::default()).unwrap_err();
    assert_eq!(keys_of(&problems), ["key_file", "cosigner_key_file", "orchestrators"]);
}

#[test]
fn a_genesis_that_root_keys_did_not_sign_is_refused() {
    let (folder, text) = folder();
    let roots = [key(101), key(102), key(103)];
    let keys = roots.iter().map(SecretKey::public).collect();
    write_roots(&folder.path().join("roots.toml"), &RootSet { threshold: 2, keys }).unwrap();
    let write = |name: &str, config: GroupConfig, signers: &[SecretKey]| {
        let roots = SignedGenesis::sign(config, signers).signatures;
        let signatures = Signatures { roots, ..Signatures::default() };
        write_signatures(&folder.path().join(name), &signatures).unwrap();
    };
    write("o.signatures", group("orchestrator", 10), &roots[..2]);
    write("v.signatures", group("verifier", 60), &roots[1..]);
    let text = text
        + "[roots]\nfile = \"roots.toml\"\norchestrators_signatures = \"o.signatures\"\n\
           verifiers_signatures = \"v.signatures\"\n";
    load(folder.path(), &text, &Overrides::default()).unwrap();
    write("o.signatures", group("orchestrator", 10), &roots[..1]);
    write("v.signatures", group("verifier", 90), &roots);
    let problems = load(folder.path(), &text, &Overrides::default()).unwrap_err();
    assert_eq!(keys_of(&problems), ["roots.orchestrators_signatures", "roots.verifiers_signatures"]);
    assert!(problems[0].text.contains("QuorumNotReached"), "{}", problems[0]);
    assert!(problems[1].text.contains("BadSignature"), "{}", problems[1]);
}
