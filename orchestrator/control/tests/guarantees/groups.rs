use crate::world::*;
use quorate_attest::group::{Host, Member};
use quorate_attest::id::*;
use quorate_attest::request::status;
use quorate_control::*;

fn joined(number: u16) -> Member {
    Member {
        name: format!("verify-{number}"),
        vote_key: verifier_key(number).public(),
        cosigner_key: quorate_attest::key::SecretKey::from_seed([0xc0 + number as u8; 32]).public(),
        transport_key: quorate_attest::key::SecretKey::from_seed([0xd0 + number as u8; 32]).public(),
    }
}

/// Verifier 0 leaves and verifier 4 joins.
fn rotate(log: &mut Log) -> Applied {
    let link = log.link(Which::Verifiers, |config| {
        config.members.remove(0);
        config.members.push(joined(4));
    });
    log.submit(&operator(0), Command::ChangeGroup { which: Which::Verifiers, link })
}

#[test]
fn test_linked_configuration_begins_an_epoch_of_that_group_only() {
    let mut log = Log::new();
    let applied = rotate(&mut log);
    let begun = Answer::EpochBegun { which: Which::Verifiers, epoch: Epoch(1) };
    assert_eq!((applied.result, applied.epoch_change), (Ok(begun), Some(Which::Verifiers)));
    assert_eq!(log.control.groups(Which::Verifiers).current().epoch, Epoch(1));
    assert_eq!(log.control.groups(Which::Orchestrators).current().epoch, Epoch(0));
    assert_eq!(log.control.group(), orchestrators().id());
}

#[test]
fn test_unsigned_unlinked_and_repeated_links_are_refused() {
    let mut log = Log::new();
    let link = log.link(Which::Orchestrators, |config| config.operators.truncate(1));
    let change = |link| Command::ChangeGroup { which: Which::Orchestrators, link };
    let mut few = link.clone();
    few.old.truncate(2);
    assert_eq!(log.refused(&operator(0), change(few)).kind(), "QuorumNotReached");
    let other = Command::ChangeGroup { which: Which::Verifiers, link: link.clone() };
    assert_eq!(log.refused(&operator(0), other).kind(), "WrongCluster");
    assert_eq!(log.refused(&stranger(), change(link.clone())).kind(), "NotAuthorized");
    let member = log.submit(&orchestrator_key(1), change(link.clone()));
    assert_eq!(member.epoch_change, Some(Which::Orchestrators));
    let again = log.refused(&operator(0), change(link));
    assert_eq!(code(&again), (status::WRONG_EPOCH, "EpochUnlinked"));
}

#[test]
fn test_removed_operator_and_removed_host_have_no_rights_in_the_next_epoch() {
    let (mut log, vm) = Log::with_vm();
    let link = log.link(Which::Orchestrators, |config| config.operators.truncate(1));
    assert!(
        log.submit(&operator(1), Command::ChangeGroup { which: Which::Orchestrators, link }).result.is_ok()
    );
    assert_eq!(log.refused(&operator(1), Command::DeleteVm { vm }).kind(), "NotAuthorized");
    let link = log.link(Which::Verifiers, |config| config.hosts.truncate(2));
    assert!(log.submit(&operator(0), Command::ChangeGroup { which: Which::Verifiers, link }).result.is_ok());
    let begin = Command::Begin { vm, destination: host(3).public(), generation: Generation(1) };
    assert_eq!(log.refused(&operator(0), begin).kind(), "KeyRoleMismatch");
}

#[test]
fn test_host_that_joins_may_receive_vms() {
    let (mut log, vm) = Log::with_vm();
    let key = stranger().public();
    let link = log.link(Which::Verifiers, |config| config.hosts.push(Host { name: "late".into(), key }));
    assert!(log.submit(&operator(0), Command::ChangeGroup { which: Which::Verifiers, link }).result.is_ok());
    let begin = Command::Begin { vm, destination: key, generation: Generation(1) };
    assert_eq!(log.decided(&operator(0), begin).generation, Generation(1));
}

#[test]
fn test_new_slot_certified_by_a_retired_quorum_is_refused_and_a_known_one_is_history() {
    let (mut log, vm) = Log::with_vm();
    let (known, late) = (log.certificate(vm, 5), log.certificate(vm, 6));
    assert!(log.submit(&host(0), Command::Head { certificate: known.clone() }).result.is_ok());
    assert!(rotate(&mut log).result.is_ok());
    let head = Command::Head { certificate: late.clone() };
    assert_eq!(code(&log.refused(&host(0), head)), (status::STALE, "EpochRetired"));
    let recover = |slot, generation| Command::Recover { vm, host: host(2).public(), generation, slot };
    assert_eq!(log.refused(&operator(0), recover(late, Generation(1))).kind(), "EpochRetired");
    assert_eq!(log.decided(&operator(0), recover(known, Generation(1))).generation, Generation(1));
}

#[test]
fn test_removed_verifier_does_not_count_in_the_new_epoch() {
    let (mut log, vm) = Log::with_vm();
    assert!(rotate(&mut log).result.is_ok());
    // Indices have moved: 0 to 3 are now verifiers 1 to 4.
    let statement = log.statement(vm, 5);
    let old = certify(statement.clone(), &[0, 1, 2]);
    assert_eq!(log.refused(&host(0), Command::Head { certificate: old }).kind(), "BadSignature");
    let mut new = certify(statement, &[1, 2, 3]);
    new.attestations.iter_mut().for_each(|attestation| attestation.verifier -= 1);
    assert!(log.submit(&host(0), Command::Head { certificate: new }).result.is_ok());
}

#[test]
fn test_migration_under_way_survives_a_change_of_both_groups() {
    let (mut log, vm) = Log::with_vm();
    let migration = log.begin(vm, 1);
    // The source has stopped before the epoch ends and cannot sign again.
    let relinquish = log.relinquish(vm, 5, 1);
    assert!(rotate(&mut log).result.is_ok());
    let handover = Command::Handover { migration, relinquish };
    let before = log.decided(&host(1), handover.clone());
    let link = log.link(Which::Orchestrators, |config| config.operators.truncate(1));
    assert!(
        log.submit(&operator(0), Command::ChangeGroup { which: Which::Orchestrators, link }).result.is_ok()
    );
    let after = log.decided(&host(1), handover);
    assert_eq!((before.epoch, after.epoch), (Epoch(0), Epoch(1)));
    assert_eq!(quorate_attest::vm::Decision { epoch: Epoch(0), ..after.clone() }, before);
    for grant in [before, after] {
        let mut certificate = log.activation(&grant);
        let activation = certificate.activation.clone();
        let votes = [0u16, 1, 2].map(|index| (index, activation.sign(&verifier_key(index + 1))));
        certificate.attestations = votes.to_vec();
        let mut copy = log.clone();
        assert!(copy.submit(&host(1), Command::Activate { certificate }).result.is_ok());
    }
}
