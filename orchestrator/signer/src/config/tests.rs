use quorate_attest::group::HASH_SHA256;
use quorate_attest::key::PublicKey;

use super::*;
use crate::tests::fixture::service;

fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

fn public(seed: u8) -> PublicKey {
    key(seed).public()
}

fn group() -> GroupConfig {
    let member = |index: u8| Member {
        name: format!("replica-{index}"),
        vote_key: public(10 + index),
        cosigner_key: public(20 + index),
        transport_key: public(30 + index),
    };
    GroupConfig {
        name: "demo".to_owned(),
        hash_algorithm: HASH_SHA256,
        epoch: Epoch::ZERO,
        genesis: None,
        f: 1,
        members: (0..4).map(member).collect(),
        operators: Vec::new(),
        hosts: Vec::new(),
    }
}

const TEXT: &str = "name = \"replica-1\"\nkey_file = \"vote.key\"\ncosigner_key_file = \"cosigner.key\"\n\
    data_dir = \"data\"\nsocket = \"run/socket\"\n";
const GROUP_FILE: &str = "group_file = \"group.toml\"\n";

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (name, seed) in [("vote.key", 11), ("cosigner.key", 21)] {
        key_file::write(&folder.path().join(name), &key(seed)).unwrap();
    }
    group_file::write(&folder.path().join("group.toml"), &group()).unwrap();
    folder
}

fn load(text: &str) -> Result<Loaded, Vec<Problem>> {
    let folder = folder();
    Config::parse(text, folder.path(), &Overrides::default()).and_then(Config::open)
}

fn problem(text: &str) -> String {
    let problems = load(text).unwrap_err();
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems[0].to_string()
}

#[test]
fn a_file_with_a_group_file_gives_rules_keys_and_the_cosigners_name() {
    let loaded = load(&format!("{TEXT}{GROUP_FILE}")).unwrap();
    let rules = &loaded.rules;
    assert_eq!((rules.group, rules.epoch), (group().id(), Epoch::ZERO));
    assert_eq!((&rules.receipts, &rules.logs), (&Allowed::Any, &Allowed::Any), "the default");
    assert_eq!(loaded.keys.cosigner_name, "demo/replica-1");
    assert!(loaded.config.data_dir.is_absolute() && loaded.config.socket.ends_with("run/socket"));
}

#[test]
fn a_group_can_be_named_instead_and_one_of_both_is_needed() {
    let id = group().id();
    let named = format!("{TEXT}group = {{ id = \"{id}\", name = \"demo\", epoch = 4 }}\n");
    assert_eq!(load(&named).unwrap().rules.epoch, Epoch(4));
    assert!(problem(TEXT).contains("give group_file"));
    assert!(problem(&format!("{named}{GROUP_FILE}")).contains("not both"));
    assert!(problem(&named.replace("demo", "De mo")).contains("1 to 64"));
}

#[test]
fn services_and_logs_can_be_listed() {
    let id = service(1);
    let text = format!(
        "{TEXT}{GROUP_FILE}cosign = [\"kv\"]\nallow = [{{ kind = \"service-receipt\", services = [\"{id}\"] }}]\n"
    );
    let rules = load(&text).unwrap().rules;
    assert_eq!(rules.receipts, Allowed::Only(BTreeSet::from([id])));
    assert_eq!(rules.logs, Allowed::Only(BTreeSet::from(["kv".to_owned()])));
    let nothing = load(&format!("{TEXT}{GROUP_FILE}allow = []\ncosign = []\n")).unwrap().rules;
    assert_eq!(nothing.receipts, Allowed::Only(BTreeSet::new()));
    let any = text.replace(&format!("[\"{id}\"]"), "\"any\"").replace("[\"kv\"]", "\"any\"");
    assert_eq!(load(&any).unwrap().rules.receipts, Allowed::Any);
}

#[test]
fn wrong_lists_and_kinds_are_refused_with_what_was_expected() {
    let with = |line: &str| problem(&format!("{TEXT}{GROUP_FILE}{line}\n"));
    assert!(with("cosign = \"all\"").contains("expected \"any\" or a list"));
    assert!(with("cosign = [\"Kv\"]").contains("1 to 64 of a-z"));
    assert!(with("allow = [{ kind = \"receipt\", services = \"any\" }]").contains("service-receipt"));
    assert!(
        with("allow = [{ kind = \"service-receipt\", services = [\"12\"] }]").contains("expected \"any\"")
    );
    assert!(with("allow = [{ kind = \"service-receipt\" }]").contains("services"));
    assert!(with("alow = []").contains("did you mean `allow`?"));
}

#[test]
fn keys_that_are_not_the_members_or_are_the_same_are_refused() {
    let swapped = TEXT
        .replace("vote.key", "x")
        .replace("cosigner.key", "vote.key")
        .replace("\"x\"", "\"cosigner.key\"");
    let problems = load(&format!("{swapped}{GROUP_FILE}")).unwrap_err();
    let keys: Vec<_> = problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["key_file", "cosigner_key_file"]);
    assert!(
        problem(&format!("{}{GROUP_FILE}", TEXT.replace("replica-1", "replica-9"))).contains("no member")
    );
    let id = group().id();
    let named = format!("{TEXT}group = {{ id = \"{id}\", name = \"demo\", epoch = 0 }}\n");
    assert!(problem(&named.replace("cosigner.key", "vote.key")).starts_with("cosigner_key_file: "));
}

#[test]
fn every_problem_is_told_at_once() {
    let text = format!("{}cosign = [\"K\"]\n", TEXT.replace("vote.key", "none.key"));
    let problems = load(&text).unwrap_err();
    let keys: Vec<_> = problems.iter().map(|problem| problem.key.as_str()).collect();
    assert_eq!(keys, ["cosign", "key_file", "group_file"]);
}
