use crate::world::*;
use quorate_attest::id::{Generation, Nonce};
use quorate_attest::request::status;
use quorate_attest::vm::VmSpec;
use quorate_control::*;

#[test]
fn test_created_vm_runs_in_generation_0_on_the_host_of_its_specification() {
    let (log, vm) = Log::with_vm();
    let record = log.vm(&vm);
    assert_eq!((record.generation, record.next_generation), (Generation(0), Generation(1)));
    assert_eq!((record.host, record.owner), (host(0).public(), operator(0).public()));
    assert_eq!(log.control.vm_named("vm"), Some(vm));
    assert_eq!(log.control.vms().count(), 1);
}

#[test]
fn test_second_vm_of_the_same_specification_or_name_is_a_conflict() {
    let (mut log, _) = Log::with_vm();
    let same = log.refused(&operator(1), Command::CreateVm { spec: spec("vm", 0) });
    assert_eq!(code(&same), (status::CONFLICT, "Conflict"));
    let other = VmSpec { nonce: Nonce::from_bytes([1; 16]), ..spec("vm", 0) };
    assert_eq!(log.refused(&operator(0), Command::CreateVm { spec: other }).code, status::CONFLICT);
}

#[test]
fn test_impossible_machine_and_host_outside_the_group_are_refused() {
    let mut log = Log::new();
    let small = VmSpec { memory_bytes: 1, ..spec("vm", 0) };
    assert_eq!(
        code(&log.refused(&operator(0), Command::CreateVm { spec: small })),
        (status::BAD_CONFIG, "BadConfig")
    );
    let foreign = VmSpec { host: stranger().public(), ..spec("vm", 0) };
    let failure = log.refused(&operator(0), Command::CreateVm { spec: foreign });
    assert_eq!(code(&failure), (status::NOT_AUTHORIZED, "KeyRoleMismatch"));
}

#[test]
fn test_deleted_vm_cannot_come_back_by_a_replay_of_its_creation() {
    let mut log = Log::new();
    let creation = log.operation(&operator(0), &Command::CreateVm { spec: spec("vm", 0) });
    assert!(log.apply(&creation).result.is_ok());
    let vm = spec("vm", 0).id();
    assert_eq!(log.submit(&operator(0), Command::DeleteVm { vm }).result, Ok(Answer::Deleted { vm }));
    assert_eq!(log.apply(&creation).result.unwrap_err().code, status::CONFLICT);
    assert_eq!(log.refused(&operator(0), Command::DeleteVm { vm }).code, status::NOT_FOUND);
    assert_eq!((log.control.vm(&vm), log.control.vm_named("vm")), (None, None));
    // The name is free again; the identity is not.
    let next = VmSpec { nonce: Nonce::from_bytes([1; 16]), ..spec("vm", 0) };
    assert!(log.submit(&operator(0), Command::CreateVm { spec: next }).result.is_ok());
}

#[test]
fn test_only_the_newest_deleted_vms_are_remembered() {
    let mut log = Log::new();
    let mut all = Vec::new();
    for number in 0..TOMBSTONES_LIMIT + 2 {
        let vm = log.create(&operator(0), &format!("vm-{number}"));
        assert!(log.submit(&operator(0), Command::DeleteVm { vm }).result.is_ok());
        all.push(vm);
    }
    let tree = log.control.tree();
    assert_eq!(log.control.commitment().size as usize, TOMBSTONES_LIMIT + 3);
    let remembered = |vm| tree.membership(&vm_key(vm)).is_some();
    assert_eq!((remembered(&all[1]), remembered(&all[2])), (false, true));
    assert_eq!(Control::decode(&log.control.encode()).unwrap(), log.control);
}

#[test]
fn test_vm_that_is_moving_or_granted_is_not_deleted() {
    let (mut log, vm) = Log::with_vm();
    let migration = log.begin(vm, 1);
    assert_eq!(log.refused(&operator(0), Command::DeleteVm { vm }).code, status::CONFLICT);
    let relinquish = log.relinquish(vm, 5, 1);
    let grant = log.decided(&host(1), Command::Handover { migration, relinquish });
    let failure = log.refused(&operator(0), Command::DeleteVm { vm });
    assert_eq!(failure.winner.as_deref(), Some(&grant));
    assert!(log.activate(&grant).result.is_ok());
    assert!(log.submit(&operator(0), Command::DeleteVm { vm }).result.is_ok());
}

#[test]
fn test_strangers_and_hosts_cannot_create_delete_begin_or_recover() {
    let (mut log, vm) = Log::with_vm();
    let slot = log.certificate(vm, 5);
    let (destination, generation) = (host(1).public(), Generation(1));
    let commands = [
        Command::CreateVm { spec: spec("other", 0) },
        Command::DeleteVm { vm },
        Command::Begin { vm, destination, generation },
        Command::Recover { vm, host: destination, generation, slot },
        Command::RegisterClient { key: client(0).public(), quota: Quota::default(), revision: 0 },
        Command::RevokeClient { key: client(0).public() },
    ];
    for command in commands {
        for author in [stranger(), host(0), verifier_key(0), orchestrator_key(0)] {
            let failure = log.refused(&author, command.clone());
            assert_eq!(code(&failure), (status::NOT_AUTHORIZED, "NotAuthorized"), "{}", command.name());
        }
    }
}
