use crate::world::*;
use proptest::prelude::*;
use quorate_attest::id::ImageDigest;
use quorate_control::*;

/// A state with every kind of record.
fn busy() -> Log {
    let (mut log, vm) = Log::with_vm();
    log.migrate(vm, 5, 1);
    let migration = log.begin(vm, 2);
    let abort = Command::Abort { vm, migration, evidence: AbortEvidence::NotStopped };
    assert!(log.submit(&operator(0), abort).result.is_ok());
    log.begin(vm, 3);
    let gone = log.create(&operator(0), "gone");
    assert!(log.submit(&operator(0), Command::DeleteVm { vm: gone }).result.is_ok());
    for number in 0..2 {
        let (key, quota) = (client(number).public(), Quota { vms: 1, memory_bytes: 1 << 30, operations: 9 });
        let command = Command::RegisterClient { key, quota, revision: 0 };
        assert!(log.submit(&operator(0), command).result.is_ok());
    }
    log.create(&client(0), "owned");
    let key = client(1).public();
    assert!(log.submit(&operator(0), Command::RevokeClient { key }).result.is_ok());
    let service = log.service("service");
    log.service("another");
    for command in [
        Command::CallService { service, request: vec![1] },
        Command::UpgradeService { service, image: ImageDigest::from_bytes([9; 32]), number: 7 },
    ] {
        assert!(log.submit(&operator(0), command).result.is_ok());
    }
    let link = log.link(Which::Orchestrators, |config| config.operators.truncate(1));
    assert!(
        log.submit(&operator(0), Command::ChangeGroup { which: Which::Orchestrators, link }).result.is_ok()
    );
    log
}

#[test]
fn test_snapshot_restores_the_same_state_which_goes_on_alike() {
    let mut log = busy();
    let bytes = log.control.encode();
    let restored = Control::decode(&bytes).unwrap();
    assert_eq!(restored, log.control);
    assert_eq!(restored.commitment(), log.control.commitment());
    let mut other = Log { control: restored, ..log.clone() };
    for name in ["x", "y"] {
        assert_eq!(other.create(&operator(0), name), log.create(&operator(0), name));
    }
    let over = Command::CreateVm { spec: spec("z", 0) };
    let (a, b) = (log.submit(&client(0), over.clone()), other.submit(&client(0), over));
    assert_eq!((a.result.as_ref().unwrap_err().kind(), &a), ("QuotaExceeded", &b));
    assert_eq!(other.control, log.control);
}

#[test]
fn test_records_can_be_proved_by_the_root() {
    let log = busy();
    let tree = log.control.tree();
    let state = log.control.commitment();
    assert_eq!(tree.commitment(), state);
    let vm = log.control.vm_named("vm").unwrap();
    assert!(tree.membership(&vm_key(&vm)).unwrap().verify(&state).is_ok());
    let nobody = client_key(&stranger().public());
    assert!(tree.absence(&nobody).unwrap().verify(&state, &nobody).is_ok());
}

#[test]
fn test_truncated_lengthened_and_foreign_snapshots_are_refused() {
    let bytes = busy().control.encode();
    for length in (0..bytes.len()).step_by(37) {
        assert!(Control::decode(&bytes[..length]).is_err(), "{length}");
    }
    assert!(Control::decode(&[&bytes[..], &[0]].concat()).is_err());
    let mut foreign = bytes;
    foreign[0] ^= 1;
    assert_eq!(Control::decode(&foreign).unwrap_err().kind(), "DecodeError");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// A changed snapshot is refused, or it is another state with another root: never the same root.
    #[test]
    fn test_changed_snapshot_is_refused_or_has_another_root(
        at in any::<prop::sample::Index>(),
        flip in 1u8..,
    ) {
        let log = busy();
        let mut bytes = log.control.encode();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(other) = Control::decode(&bytes) {
            let groups = |control: &Control| {
                [Which::Orchestrators, Which::Verifiers].map(|which| control.groups(which).current().digest())
            };
            let same = other.commitment() == log.control.commitment();
            prop_assert!(!same || groups(&other) == groups(&log.control), "byte {}", at);
            prop_assert_eq!(Control::decode(&other.encode()).unwrap(), other);
        }
    }
}
