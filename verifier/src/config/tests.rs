use super::*;
use quorate_attest::group::{HASH_SHA256, Host, Member};
use quorate_attest::id::{Epoch, GroupId};

use crate::key_file;

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

fn group() -> GroupConfig {
    let member = |index: u8| Member {
        name: format!("verifier-{index}"),
        vote_key: key(10 + index).public(),
        cosigner_key: key(20 + index).public(),
        transport_key: key(30 + index).public(),
    };
    GroupConfig {
        name: "demo".into(),
        hash_algorithm: HASH_SHA256,
        epoch: Epoch(3),
        genesis: Some(GroupId::from_bytes([9; 32])),
        f: 1,
        members: (0..4).map(member).collect(),
        operators: vec![key(1).public()],
        hosts: vec![Host { name: "host-a".into(), key: key(2).public() }],
    }
}

fn orchestrators() -> GroupConfig {
    let member = Member {
        name: "orchestrator-0".into(),
        vote_key: key(40).public(),
        cosigner_key: key(41).public(),
        transport_key: key(42).public(),
    };
    GroupConfig { name: "log".into(), f: 0, members: vec![member], ..group() }
}

/// A folder with everything that a start needs, and the text of its configuration.
fn folder() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().unwrap();
    for (name, seed) in [("vote.key", 11), ("cosigner.key", 21), ("transport.key", 31)] {
        key_file::write(&folder.path().join(name), &key(seed)).unwrap();
    }
    group_file::write(&folder.path().join("group.toml"), &group()).unwrap();
    group_file::write(&folder.path().join("orchestrators.toml"), &orchestrators()).unwrap();
    let text = "name = \"verifier-1\"\nkey_file = \"vote.key\"\ncosigner_key_file = \"cosigner.key\"\n\
        transport_key_file = \"transport.key\"\nlisten = \"127.0.0.1:0\"\ndata_dir = \"data\"\nmode = \"replayed\"\n\
        group_file = \"group.toml\"\norchestrators_file = \"orchestrators.toml\"\n";
    (folder, text.to_owned())
}

fn load(folder: &Path, text: &str, overrides: &Overrides) -> Result<Loaded, Vec<Problem>> {
    Config::parse(text, folder, overrides).and_then(Config::open)
}

#[test]
fn a_complete_configuration_loads_and_finds_its_index() {
    let (folder, text) = folder();
    let loaded = load(folder.path(), &text, &Overrides::default()).unwrap();
    assert_eq!((loaded.index, loaded.config.sample_pages), (1, 16));
    assert_eq!(loaded.config.data_dir, folder.path().join("data"));
    assert_eq!((loaded.group.current(), loaded.orchestrators.current()), (&group(), &orchestrators()));
}

#[test]
fn overrides_win_over_the_file() {
    let (folder, text) = folder();
    let overrides = Overrides {
        listen: Some("127.0.0.1:7000".into()),
        data_dir: Some("elsewhere".into()),
        mode: Some("sampled".into()),
        log: Some(LogFormat::Json),
    };
    let loaded = load(folder.path(), &text, &overrides).unwrap();
    assert_eq!(loaded.listen.port(), 7000);
    assert_eq!(loaded.config.data_dir, Path::new("elsewhere"));
    assert_eq!((loaded.config.mode, loaded.config.log), (ModeName::Sampled, LogFormat::Json));
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_name() {
    let (folder, text) = folder();
    let text = text.replace("listen =", "lisen =") + "sample_page = 3\n";
    let problems = load(folder.path(), &text, &Overrides::default()).unwrap_err();
    let texts: Vec<_> = problems.iter().map(|problem| problem.text.as_str()).collect();
    assert_eq!(
        texts,
        [
            "unknown key `lisen`, did you mean `listen`?",
            "unknown key `sample_page`, did you mean `sample_pages`?"
        ]
    );
}

#[test]
fn every_problem_is_reported_at_once() {
    let (folder, text) = folder();
    std::fs::remove_file(folder.path().join("vote.key")).unwrap();
    std::fs::remove_file(folder.path().join("group.toml")).unwrap();
    std::fs::remove_file(folder.path().join("orchestrators.toml")).unwrap();
    let text = text.replace("127.0.0.1:0", "nowhere") + "sample_pages = 0\nvms_max = 0\n";
    let problems = load(folder.path(), &text, &Overrides::default()).unwrap_err();
    let keys: Vec<_> = problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["sample_pages", "vms_max", "key_file", "listen", "group_file", "orchestrators_file"]);
}

#[test]
fn keys_that_the_group_does_not_list_for_this_member_are_refused() {
    let (folder, text) = folder();
    let stranger =
        load(folder.path(), &text.replace("verifier-1", "verifier-9"), &Overrides::default()).unwrap_err();
    assert_eq!(stranger[0].text, "group demo has no member verifier-9");
    let swapped = text
        .replace("\"vote.key\"", "\"x\"")
        .replace("\"cosigner.key\"", "\"vote.key\"")
        .replace("\"x\"", "\"cosigner.key\"");
    let problems = load(folder.path(), &swapped, &Overrides::default()).unwrap_err();
    assert_eq!(problems.len(), 2, "{problems:?}");
}

#[test]
fn verifiers_cannot_be_their_own_orchestrators() {
    let (folder, text) = folder();
    let text = text.replace("orchestrators.toml", "group.toml");
    let problems = load(folder.path(), &text, &Overrides::default()).unwrap_err();
    assert_eq!(problems[0].key, "orchestrators_file");
    assert!(problems[0].text.contains("demo"), "{}", problems[0].text);
}

#[test]
fn a_group_file_survives_writing_and_reading() {
    let text = group_file::to_text(&group());
    assert_eq!(group_file::parse(&text).unwrap(), group());
    assert!(text.contains("quorum = 3"));
}

#[test]
fn group_files_with_a_wrong_quorum_an_unknown_key_or_a_duplicate_key_are_refused() {
    let text = group_file::to_text(&group());
    let wrong = [
        (text.replace("quorum = 3", "quorum = 2"), "unsafe"),
        (text.replace("epoch = 3", "epoc = 3"), "did you mean `epoch`?"),
        (text.replace("epoch = 3", "epoch = 0"), "epoch 0 is the genesis"),
        (text.replace("genesis", "# genesis"), "epoch 3 does not name its genesis"),
        (text.replace("vote_key", "vot_key"), "unknown field"),
        (text.replace(&key(13).public().to_string(), &key(12).public().to_string()), "twice"),
        (text.replace("f = 1", "f = 2"), "3f + 1"),
    ];
    for (text, part) in wrong {
        let problem = group_file::parse(&text).unwrap_err();
        assert!(problem.text.contains(part), "{part}: {problem}");
    }
}
