use super::*;
use quorate_attest::epoch::{GroupChain, genesis_statement};
use quorate_attest::id::Epoch;

use crate::config::testing::{genesis, key};

fn roots() -> RootSet {
    RootSet { threshold: 2, keys: (0..3).map(|number| key(1, number).public()).collect() }
}

fn next() -> GroupConfig {
    let mut next = GroupConfig { epoch: Epoch(1), genesis: Some(genesis().id()), ..genesis() };
    next.operators.push(key(5, 0).public());
    next
}

fn by_roots(count: u8) -> Signatures {
    let statement = genesis_statement(&genesis());
    let line = |number| (key(1, number).public(), statement.sign(&key(1, number)));
    Signatures { roots: (0..count).map(line).collect(), members: Vec::new() }
}

fn by_members(count: u8) -> Signatures {
    let statement = EpochLink::statement(&next(), genesis().digest());
    let line = |number| (key(2, number).public(), statement.sign(&key(2, number)));
    Signatures { roots: Vec::new(), members: (0..count).map(line).collect() }
}

#[test]
fn signatures_of_root_keys_and_members_survive_their_files() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    write_roots(&path("roots.toml"), &roots()).unwrap();
    write_signatures(&path("genesis.signatures"), &by_roots(2)).unwrap();
    write_signatures(&path("next.signatures"), &by_members(3)).unwrap();
    let read = |name| read_signatures(&path(name)).unwrap();
    let signed = read("genesis.signatures").genesis(genesis());
    let mut chain = GroupChain::from_signed(signed, &read_roots(&path("roots.toml")).unwrap()).unwrap();
    chain.advance(read("next.signatures").link(&genesis(), next()).unwrap()).unwrap();
    assert_eq!((chain.current(), chain.id()), (&next(), genesis().id()));
    assert!(read_signatures(&path("none")).unwrap_err().text.contains("none"));
}

#[test]
fn too_few_signatures_and_those_on_another_configuration_are_refused() {
    let few = by_roots(1).genesis(genesis()).verify(&roots());
    assert_eq!(few.map_err(|error| error.kind()), Err("QuorumNotReached"));
    let too_few = by_members(2).link(&genesis(), next()).unwrap_err();
    assert!(too_few.text.contains("2 of 3 votes"), "{too_few}");
    let other = GroupConfig { f: 0, ..next() };
    let moved = by_members(3).link(&genesis(), other).unwrap_err();
    assert!(moved.text.contains("does not verify"), "{moved}");
    let foreign = GroupConfig { genesis: Some(quorate_attest::id::GroupId::ZERO), ..next() };
    assert!(by_members(3).link(&genesis(), foreign).unwrap_err().text.contains("belongs to group"));
}

#[test]
fn signature_files_are_read_strictly() {
    let good = by_members(3);
    let text = good.to_text();
    assert_eq!(Signatures::parse(&text), Ok(good));
    assert_eq!(Signatures::parse(""), Ok(Signatures::default()));
    let first = text.lines().next().unwrap();
    let wrong = [
        (text.trim_end().to_owned(), "does not end"),
        (text.replace("member", "operator"), "neither root nor member"),
        (text.replacen(' ', "  ", 1), "needs a role"),
        (format!("{first} x\n"), "needs a role"),
        (format!("\n{text}"), "needs a role"),
        (format!("{text}{first}\n"), "key occurs twice"),
        (text.to_uppercase().replace("MEMBER", "member"), "lower-case"),
        (text.replacen("\n", "0\n", 1), "129 bytes"),
        (text.replace('\n', "\r\n"), "128 hexadecimal digits"),
    ];
    for (text, want) in wrong {
        let problem = Signatures::parse(&text).unwrap_err();
        assert!(problem.text.contains(want), "{problem}");
    }
    let many: String = (0..=LINES_MAX)
        .map(|number| format!("member {} {}\n", key(number as u8, 9).public(), "00".repeat(64)))
        .collect();
    assert!(Signatures::parse(&many).unwrap_err().text.contains("more than 128 lines"));
}

#[test]
fn root_files_without_a_sensible_threshold_are_refused() {
    let keys: Vec<String> = roots().keys.iter().map(|key| format!("\"{key}\"")).collect();
    let text = |threshold: &str, keys: &str| format!("{threshold}\nkeys = [{keys}]\n");
    assert!(parse_roots(&text("threshold = 2", &keys.join(","))).is_ok());
    for (threshold, want) in [
        ("threshold = 0", "no threshold"),
        ("threshold = 4", "no threshold"),
        ("treshold = 2", "did you mean `threshold`?"),
        ("threshold = 70000", "invalid value"),
    ] {
        let problem = parse_roots(&text(threshold, &keys.join(","))).unwrap_err();
        assert!(problem.text.contains(want), "{problem}");
    }
    let doubled = format!("{},{}", keys[0], keys[0]);
    assert!(parse_roots(&text("threshold = 1", &doubled)).is_err());
}
