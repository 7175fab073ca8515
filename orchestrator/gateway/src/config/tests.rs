use std::fs;
use std::path::Path;

use quorate_attest::group::{HASH_SHA256, Member};
use quorate_attest::id::Epoch;

use super::*;

fn key(number: u8) -> SecretKey {
    SecretKey::from_seed([number; 32])
}

fn group(name: &str, first: u8) -> GroupConfig {
    let member = |number: u8| Member {
        name: format!("{name}-{number}"),
        vote_key: key(first + 3 * number).public(),
        cosigner_key: key(first + 3 * number + 1).public(),
        transport_key: key(first + 3 * number + 2).public(),
    };
    GroupConfig {
        name: name.to_owned(),
        hash_algorithm: HASH_SHA256,
        epoch: Epoch(0),
        genesis: None,
        f: 1,
        members: (0..4).map(member).collect(),
        operators: vec![key(200).public()],
        hosts: Vec::new(),
    }
}

/// The files of a cluster, as `quorate cluster` writes them.
fn cluster() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| folder.path().join(name);
    group_file::write(&at(ORCHESTRATORS_FILE), &group("orchestrator", 1)).unwrap();
    group_file::write(&at(REPLICAS_FILE), &group("replica", 50)).unwrap();
    let node = |role: &str, number: u16| {
        format!(
            "[[nodes]]\nname = \"{role}-{number}\"\nrole = \"{role}\"\nmessages = \"127.0.0.1:{}\"\n\
             service = \"127.0.0.1:9\"\n",
            4000 + number
        )
    };
    let nodes: String =
        (0..4).map(|number| node("orchestrator", number) + &node("verifier", number)).collect();
    fs::write(at(INDEX_FILE), nodes).unwrap();
    key_file::write(&at("gateway.client"), &key(201)).unwrap();
    folder
}

const USUAL: &str =
    "cluster = \".\"\nkey_file = \"gateway.client\"\nstate_dir = \"state\"\nregistry = \"registry\"\n";

fn open(folder: &Path, text: &str) -> Result<Loaded, Vec<Problem>> {
    Config::parse(text, folder, &Overrides::default()).and_then(Config::open)
}

fn problems(text: &str) -> String {
    let folder = cluster();
    let problems = open(folder.path(), text).unwrap_err();
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[test]
fn folder_of_a_cluster_tells_whom_to_believe_and_where_they_are() {
    let folder = cluster();
    let loaded = open(folder.path(), USUAL).unwrap();
    assert_eq!(loaded.orchestrators, group("orchestrator", 1));
    assert_eq!(loaded.replicas, group("replica", 50));
    assert_eq!(loaded.addresses["orchestrator-3"], "127.0.0.1:4003".parse().unwrap());
    assert_eq!(loaded.addresses.len(), 4);
    assert_eq!(loaded.key.public(), key(201).public());
    assert_eq!(loaded.config.nss_socket(), Path::new("/run/quorate/nss.sock"));
    assert!(loaded.etcd_listen.ip().is_loopback() && loaded.http_listen.ip().is_loopback());
}

#[test]
fn files_named_one_by_one_tell_the_same_as_the_folder() {
    let folder = cluster();
    let mut text = USUAL.replace(
        "cluster = \".\"",
        "orchestrators_file = \"orchestrators.toml\"\nreplicas_file = \"services.toml\"",
    );
    for number in 0..4 {
        text += &format!(
            "[[orchestrators]]\nname = \"orchestrator-{number}\"\naddress = \"127.0.0.1:400{number}\"\n"
        );
    }
    let (named, whole) = (open(folder.path(), &text).unwrap(), open(folder.path(), USUAL).unwrap());
    assert_eq!((named.orchestrators, named.replicas), (whole.orchestrators, whole.replicas));
    assert_eq!(named.addresses, whole.addresses);
    let without = text.replace("name = \"orchestrator-2\"", "name = \"orchestrator-9\"");
    let problems = open(folder.path(), &without).unwrap_err();
    assert!(problems[0].text.contains("no address for member orchestrator-2"), "{problems:?}");
    let both = format!("orchestrators_file = \"x\"\n{USUAL}");
    assert!(open(folder.path(), &both).unwrap_err()[0].text.contains("beside `cluster`"));
}

#[test]
fn address_that_others_can_reach_is_refused_unless_it_is_allowed() {
    for address in ["0.0.0.0:0", "192.0.2.1:2379", "[::]:0", "[2001:db8::1]:0", "[::ffff:10.0.0.1]:0"] {
        for key in ["etcd_listen", "http_listen"] {
            let text = format!("{USUAL}{key} = \"{address}\"\n");
            assert!(problems(&text).contains("not a loopback address"), "{address}");
            let folder = cluster();
            let loaded = open(folder.path(), &format!("{text}allow_remote = true\n")).unwrap();
            assert!([loaded.etcd_listen, loaded.http_listen].contains(&address.parse().unwrap()));
        }
    }
    assert!(problems(&format!("{USUAL}etcd_listen = \"localhost\"\n")).contains("etcd_listen"));
}

#[test]
fn wrong_configuration_is_refused_with_every_problem() {
    assert!(problems(&format!("{USUAL}etcd_lisen = \"\"\n")).contains("etcd_listen"));
    assert!(problems(&USUAL.replace("registry = \"registry\"\n", "")).contains("name the service registry"));
    let text = problems(&format!(
        "{USUAL}uid = \"U I D\"\ntimeout_ms = 0\nproofs_max = 0\nnss_max_age_ms = 99999999\n"
    ));
    for part in ["\"U I D\" is no name", "timeout_ms", "proofs_max", "nss_max_age_ms"] {
        assert!(text.contains(part), "{part}: {text}");
    }
    assert!(problems(&USUAL.replace("gateway.client", "absent")).contains("key_file"));
    let nothing = "key_file = \"gateway.client\"\nstate_dir = \"s\"\nregistry = \"registry\"\n";
    let text = problems(nothing);
    assert!(text.contains("orchestrators_file") && text.contains("replicas_file"), "{text}");
}

#[test]
fn key_that_others_can_read_is_refused() {
    use std::os::unix::fs::PermissionsExt;
    let folder = cluster();
    let path = folder.path().join("gateway.client");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    let problems = open(folder.path(), USUAL).unwrap_err();
    assert_eq!(problems[0].exit_code, quorate_verifier::exit::NOT_PERMITTED);
}
