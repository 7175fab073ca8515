use crate::world::*;
use quorate_attest::id::*;
use quorate_attest::request::status;
use quorate_control::*;

fn recover(log: &Log, vm: VmId, slot: u64, to: u16) -> Command {
    let generation = log.vm(&vm).next_generation;
    Command::Recover { vm, host: host(to).public(), generation, slot: log.certificate(vm, slot) }
}

#[test]
fn test_recovery_grants_the_next_generation_from_a_certified_slot() {
    let (mut log, vm) = Log::with_vm();
    let command = recover(&log, vm, 5, 2);
    let grant = log.decided(&operator(0), command);
    assert_eq!((grant.generation, granted_to(&grant)), (Generation(1), host(2).public()));
    assert!(log.activate(&grant).result.is_ok());
    assert_eq!((log.vm(&vm).generation, log.vm(&vm).host), (Generation(1), host(2).public()));
}

#[test]
fn test_recovery_from_a_slot_older_than_the_head_is_stale() {
    let (mut log, vm) = Log::with_vm();
    let certificate = log.certificate(vm, 7);
    assert!(log.submit(&host(0), Command::Head { certificate }).result.is_ok());
    let old = recover(&log, vm, 6, 2);
    assert_eq!(code(&log.refused(&operator(0), old)), (status::STALE, "Stale"));
    let certificate = log.certificate(vm, 6);
    assert_eq!(log.refused(&host(0), Command::Head { certificate }).code, status::STALE);
    let newest = recover(&log, vm, 7, 2);
    assert_eq!(log.decided(&operator(0), newest).generation, Generation(1));
    let older = recover(&log, vm, 6, 3);
    assert_eq!(log.refused(&operator(0), older).code, status::STALE);
}

#[test]
fn test_recovery_overtakes_a_migration_and_both_its_ends_lose() {
    let (mut log, vm) = Log::with_vm();
    let migration = log.begin(vm, 1);
    let command = recover(&log, vm, 5, 2);
    let grant = log.decided(&operator(1), command);
    assert_eq!(grant.generation, Generation(2), "above the one that the migration asked for");
    assert_eq!(log.control.migration(&migration).unwrap().phase, Phase::Superseded);
    let handover = Command::Handover { migration, relinquish: log.relinquish(vm, 6, 1) };
    assert_eq!(log.refused(&host(1), handover).winner.as_deref(), Some(&grant));
    let back = AbortEvidence::Relinquished(log.relinquish(vm, 6, 0));
    let failure = log.refused(&host(0), Command::Abort { vm, migration, evidence: back });
    assert_eq!((failure.code, failure.winner.as_deref()), (status::CONFLICT, Some(&grant)));
}

#[test]
fn test_recovery_overtakes_a_grant_that_nobody_uses() {
    let (mut log, vm) = Log::with_vm();
    let migration = log.begin(vm, 1);
    let relinquish = log.relinquish(vm, 5, 1);
    let unused = log.decided(&host(1), Command::Handover { migration, relinquish });
    let command = recover(&log, vm, 5, 2);
    let grant = log.decided(&operator(0), command);
    assert!(log.activate(&grant).result.is_ok());
    let late = log.activate(&unused).result.unwrap_err();
    assert_eq!((late.code, late.winner.as_deref()), (status::STALE, Some(&grant)));
    assert_eq!(log.vm(&vm).host, host(2).public());
}

#[test]
fn test_recovery_needs_an_operator_a_quorum_and_a_host() {
    let (mut log, vm) = Log::with_vm();
    let good = recover(&log, vm, 5, 2);
    for author in [host(0), host(2), stranger()] {
        assert_eq!(log.refused(&author, good.clone()).kind(), "NotAuthorized");
    }
    let generation = Generation(1);
    let few = certify(log.statement(vm, 5), &[0, 1]);
    let few = Command::Recover { vm, host: host(2).public(), generation, slot: few };
    assert_eq!(code(&log.refused(&operator(0), few)), (status::INCONCLUSIVE, "QuorumNotReached"));
    let slot = log.certificate(vm, 5);
    let away = Command::Recover { vm, host: stranger().public(), generation, slot: slot.clone() };
    assert_eq!(log.refused(&operator(0), away).kind(), "KeyRoleMismatch");
    let late = Command::Recover { vm, host: host(2).public(), generation: Generation(2), slot };
    assert_eq!(log.refused(&operator(0), late).code, status::CONFLICT);
    let other = log.create(&operator(0), "other");
    let slot = log.certificate(other, 5);
    let moved = Command::Recover { vm, host: host(2).public(), generation, slot };
    assert_eq!(log.refused(&operator(0), moved).kind(), "WrongVm");
}

#[test]
fn test_slot_of_a_generation_that_nobody_asked_for_is_refused() {
    let (mut log, vm) = Log::with_vm();
    let mut statement = log.statement(vm, 5);
    statement.body.generation = Generation(1);
    let certificate = certify(statement, &[0, 1, 2]);
    let failure = log.refused(&operator(0), Command::Head { certificate });
    assert_eq!(failure.kind(), "FencedGeneration");
}

#[test]
fn test_grants_that_nobody_uses_are_bounded_and_the_newest_stay() {
    let (mut log, vm) = Log::with_vm();
    let mut grants = Vec::new();
    for number in 0..GRANTS_LIMIT as u16 + 2 {
        let command = recover(&log, vm, 5, number % 4);
        grants.push(log.decided(&operator(0), command));
    }
    assert_eq!(log.vm(&vm).grants, grants[2..]);
    assert_eq!(log.activate(&grants[1]).result.unwrap_err().code, status::CONFLICT);
    assert!(log.activate(&grants[2]).result.is_ok());
    assert!(log.activate(&grants[9]).result.is_ok());
}

#[test]
fn test_heads_come_from_hosts_of_the_vm_only_and_two_for_one_slot_conflict() {
    let (mut log, vm) = Log::with_vm();
    let certificate = log.certificate(vm, 5);
    let head = Command::Head { certificate };
    assert_eq!(log.refused(&host(3), head.clone()).kind(), "NotAuthorized");
    assert_eq!(log.submit(&host(0), head.clone()).result, Ok(Answer::Recorded { vm, slot: Slot(5) }));
    let before = log.control.commitment();
    assert!(log.submit(&host(0), head).result.is_ok());
    assert_eq!(log.control.commitment(), before);
    let mut fork = log.statement(vm, 5);
    fork.body.doorbells += 1;
    let certificate = certify(fork, &[1, 2, 3]);
    let failure = log.refused(&host(0), Command::Head { certificate });
    assert_eq!(code(&failure), (status::CONFLICT, "WrongSlot"));
}
