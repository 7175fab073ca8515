use super::*;
use quorate_attest::epoch::{EpochLinkTally, genesis_statement};
use quorate_attest::group::GroupConfig;

use crate::config::epoch_files::{Signatures, write_signatures};
use crate::config::testing::{genesis, key};

/// One epoch more, with an operator of this number.
fn longer(chain: &GroupChain, operator: u8) -> GroupChain {
    let before = chain.current();
    let (epoch, genesis) = (before.epoch.next().unwrap(), Some(chain.id()));
    let mut config = GroupConfig { epoch, genesis, ..before.clone() };
    config.operators.push(key(5, operator).public());
    let statement = EpochLink::statement(&config, before.digest());
    let mut tally = EpochLinkTally::new(before, config).unwrap();
    for number in 0..3 {
        tally.add(&key(2, number).public(), statement.sign(&key(2, number))).unwrap();
    }
    let mut chain = chain.clone();
    chain.advance(tally.link().unwrap()).unwrap();
    chain
}

/// A folder with the genesis and the links of a chain of three epochs.
fn folder() -> (tempfile::TempDir, GroupChain) {
    let folder = tempfile::tempdir().unwrap();
    group_file::write(&folder.path().join("group.toml"), &genesis()).unwrap();
    fs::create_dir(folder.path().join("links")).unwrap();
    let chain = longer(&longer(&GroupChain::new(genesis()).unwrap(), 0), 1);
    write_links(&folder.path().join("links"), &chain).unwrap();
    (folder, chain)
}

fn read(folder: &Path, roots: Option<&Roots>) -> Result<GroupChain, Problem> {
    let (file, links) = (folder.join("group.toml"), folder.join("links"));
    GroupFiles { key: "group_file", links_key: "group_links", file: &file, links: Some(&links), roots }.read()
}

fn refused(folder: &Path) -> String {
    let problem = read(folder, None).unwrap_err();
    assert_eq!((problem.key.as_str(), problem.exit_code), ("group_links", 78));
    problem.text
}

#[test]
fn links_lead_from_the_genesis_to_the_newest_epoch() {
    let (folder, chain) = folder();
    fs::write(folder.path().join("links").join("demo-orchestrators-epoch-1.link"), "of the other group")
        .unwrap();
    assert_eq!(read(folder.path(), None).unwrap(), chain);
    write_links(&folder.path().join("links"), &longer(&chain, 2)).unwrap();
    assert_eq!(read(folder.path(), None).unwrap().epoch, Epoch(3));
}

#[test]
fn a_gap_a_fork_a_damaged_and_a_misnamed_link_are_refused() {
    let (folder, chain) = folder();
    let links = folder.path().join("links");
    let path = |epoch| link_path(&links, "demo", Epoch(epoch));
    let (first, second) = (fs::read(path(1)).unwrap(), fs::read(path(2)).unwrap());

    fs::remove_file(path(1)).unwrap();
    assert!(refused(folder.path()).contains("EpochUnlinked"), "a gap");
    let fork = longer(&GroupChain::new(genesis()).unwrap(), 7);
    write_links(&links, &fork).unwrap();
    assert!(refused(folder.path()).contains("EpochUnlinked"), "a fork");
    fs::write(path(1), &first[..first.len() - 1]).unwrap();
    assert!(refused(folder.path()).contains("DecodeError"), "a damaged link");
    fs::write(path(1), &second).unwrap();
    assert!(refused(folder.path()).contains("it leads to epoch 2"));
    fs::write(path(1), vec![0; EpochLink::LIMIT + 1]).unwrap();
    assert!(refused(folder.path()).contains("bytes are no link"));
    fs::write(path(1), &first).unwrap();
    fs::write(links.join("demo-epoch-02.link"), &second).unwrap();
    assert!(refused(folder.path()).contains("names no epoch"));
    fs::remove_file(links.join("demo-epoch-02.link")).unwrap();
    assert_eq!(read(folder.path(), None).unwrap(), chain);
}

#[test]
fn with_root_keys_only_a_genesis_that_enough_of_them_signed_is_believed() {
    let (folder, chain) = folder();
    let roots = Roots { threshold: 2, keys: (0..3).map(|number| key(1, number).public()).collect() };
    let problem = read(folder.path(), Some(&roots)).unwrap_err();
    assert_eq!((problem.key.as_str(), problem.exit_code), ("group_file", 78), "no signatures at all");
    let statement = genesis_statement(&genesis());
    let signed = |count: u8| Signatures {
        roots: (0..count).map(|number| (key(1, number).public(), statement.sign(&key(1, number)))).collect(),
        members: Vec::new(),
    };
    let path = folder.path().join("group.signatures");
    write_signatures(&path, &signed(1)).unwrap();
    assert!(read(folder.path(), Some(&roots)).unwrap_err().text.contains("QuorumNotReached"));
    write_signatures(&path, &signed(2)).unwrap();
    assert_eq!(read(folder.path(), Some(&roots)).unwrap(), chain);
    // A later configuration is no genesis, whoever signed another one.
    group_file::write(&folder.path().join("group.toml"), chain.current()).unwrap();
    assert!(read(folder.path(), Some(&roots)).is_err());
    assert_eq!(read(folder.path(), None).unwrap().current(), chain.current(), "but an operator may trust it");
}
