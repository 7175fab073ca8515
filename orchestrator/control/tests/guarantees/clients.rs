use crate::world::*;
use quorate_attest::id::Generation;
use quorate_attest::request::status;
use quorate_control::*;

const QUOTA: Quota = Quota { vms: 2, memory_bytes: 80 << 20, operations: 6 };

fn with_client() -> Log {
    let mut log = Log::new();
    register(&mut log, 0, QUOTA, 0);
    log
}

fn register(log: &mut Log, number: u16, quota: Quota, revision: u64) {
    let key = client(number).public();
    let applied = log.submit(&operator(0), Command::RegisterClient { key, quota, revision });
    assert_eq!(applied.result, Ok(Answer::Registered { key, revision }));
}

#[test]
fn test_client_keeps_to_its_quota_of_vms_and_memory() {
    let mut log = with_client();
    let first = log.create(&client(0), "a");
    log.create(&client(0), "b");
    let third = log.submit(&client(0), Command::CreateVm { spec: spec("c", 0) }).result.unwrap_err();
    assert_eq!(code(&third), (status::LIMIT, "QuotaExceeded"));
    assert!(log.submit(&client(0), Command::DeleteVm { vm: first }).result.is_ok());
    let large = quorate_attest::vm::VmSpec { memory_bytes: 64 << 20, ..spec("d", 0) };
    let large = log.submit(&client(0), Command::CreateVm { spec: large }).result.unwrap_err();
    assert_eq!(large.code, status::LIMIT);
    log.create(&client(0), "e");
    // An operator is bound by none of it.
    for name in ["f", "g", "h"] {
        log.create(&operator(0), name);
    }
}

#[test]
fn test_client_keeps_to_its_rate_and_failures_count() {
    let mut log = with_client();
    let vm = spec("none", 0).id();
    for number in 0..8 {
        let failure = log.submit(&client(0), Command::DeleteVm { vm }).result.unwrap_err();
        let want = if number < 6 { status::NOT_FOUND } else { status::LIMIT };
        assert_eq!(failure.code, want, "operation {number}");
    }
    let operation = log.operation(&client(0), &Command::DeleteVm { vm });
    let submission = Submission::read(&operation, &log.control.group());
    assert_eq!(log.control.admit(&submission, 999).unwrap_err().code, status::LIMIT);
    assert_eq!(log.control.admit(&submission, 1000), Ok(()));
    log.index = 1000;
    assert_eq!(log.apply(&operation).result.unwrap_err().code, status::NOT_FOUND);
}

#[test]
fn test_clients_cannot_touch_vms_of_others() {
    let mut log = with_client();
    register(&mut log, 1, QUOTA, 0);
    let vm = log.create(&client(0), "a");
    let begin = Command::Begin { vm, destination: host(1).public(), generation: Generation(1) };
    for command in [begin.clone(), Command::DeleteVm { vm }] {
        let failure = log.submit(&client(1), command).result.unwrap_err();
        assert_eq!(code(&failure), (status::NOT_AUTHORIZED, "NotAuthorized"));
    }
    let migration = log.decided(&client(0), begin).operation;
    let abort = Command::Abort { vm, migration, evidence: AbortEvidence::NotStopped };
    assert_eq!(log.submit(&client(1), abort.clone()).result.unwrap_err().code, status::NOT_AUTHORIZED);
    assert_eq!(log.submit(&client(0), abort).result, Ok(Answer::Aborted { vm, migration }));
}

#[test]
fn test_revoked_key_has_no_rights_and_never_gets_them_back() {
    let mut log = with_client();
    let vm = log.create(&client(0), "a");
    let key = client(0).public();
    let registration = Command::RegisterClient { key, quota: QUOTA, revision: 0 };
    assert!(log.submit(&operator(1), Command::RevokeClient { key }).result.is_ok());
    let failure = log.refused(&client(0), Command::DeleteVm { vm });
    assert_eq!(code(&failure), (status::NOT_AUTHORIZED, "KeyRevoked"));
    assert_eq!(code(&log.refused(&operator(0), registration)), (status::CONFLICT, "KeyRevoked"));
    assert!(log.control.client(&key).unwrap().revoked.is_some());
    assert!(log.submit(&operator(0), Command::RevokeClient { key }).result.is_ok(), "again is harmless");
    assert_eq!(log.vm(&vm).owner, key, "what it owned stays");
}

#[test]
fn test_old_registration_cannot_bring_an_old_quota_back() {
    let mut log = with_client();
    let key = client(0).public();
    let none = Quota::default();
    register(&mut log, 0, none, 1);
    let replay = log.refused(&operator(0), Command::RegisterClient { key, quota: QUOTA, revision: 0 });
    assert_eq!(replay.code, status::CONFLICT);
    register(&mut log, 0, none, 1);
    assert_eq!(log.control.client(&key).unwrap().quota, none);
    assert_eq!(log.control.clients().count(), 1);
}

#[test]
fn test_only_the_newest_revoked_clients_are_remembered() {
    let mut log = Log::new();
    let keys: Vec<_> = (0..TOMBSTONES_LIMIT as u16 + 2).map(|number| client(number).public()).collect();
    for key in &keys {
        let registration = Command::RegisterClient { key: *key, quota: QUOTA, revision: 0 };
        assert!(log.submit(&operator(0), registration).result.is_ok());
        assert!(log.submit(&operator(0), Command::RevokeClient { key: *key }).result.is_ok());
    }
    assert_eq!(log.control.clients().count(), TOMBSTONES_LIMIT);
    assert_eq!((log.control.client(&keys[1]), log.control.client(&keys[2]).is_some()), (None, true));
    assert_eq!(Control::decode(&log.control.encode()).unwrap(), log.control);
}

#[test]
fn test_key_of_a_client_cannot_get_another_role_in_the_next_epoch() {
    let mut log = with_client();
    let key = client(0).public();
    let link = log.link(Which::Orchestrators, |config| config.operators.push(key));
    let failure = log.refused(&operator(0), Command::ChangeGroup { which: Which::Orchestrators, link });
    assert_eq!(code(&failure), (status::NOT_AUTHORIZED, "KeyRoleMismatch"));
}

#[test]
fn test_key_of_another_role_cannot_be_a_client() {
    let mut log = Log::new();
    for key in [operator(1), host(0), verifier_key(0), orchestrator_key(0)] {
        let command = Command::RegisterClient { key: key.public(), quota: QUOTA, revision: 0 };
        assert_eq!(log.refused(&operator(0), command).kind(), "KeyRoleMismatch");
    }
}
