//! Whatever the bytes are, there is an outcome, and it is the same everywhere.

use crate::world::*;
use proptest::prelude::*;
use quorate_attest::encoding::Bounded;
use quorate_attest::id::*;
use quorate_attest::operation::{OPERATION_LIMIT, Operation};
use quorate_attest::request::status;
use quorate_attest::state_tree::StateTree;
use quorate_control::*;

fn commands(log: &Log, vm: VmId) -> Vec<Command> {
    let (migration, generation) = (OperationId::ZERO, Generation(1));
    let link = log.link(Which::Verifiers, |config| config.hosts.truncate(3));
    vec![
        Command::CreateVm { spec: spec("other", 0) },
        Command::DeleteVm { vm },
        Command::Begin { vm, destination: host(1).public(), generation },
        Command::Handover { migration, relinquish: log.relinquish(vm, 5, 1) },
        Command::Abort { vm, migration, evidence: AbortEvidence::Relinquished(log.relinquish(vm, 5, 0)) },
        Command::Recover { vm, host: host(2).public(), generation, slot: log.certificate(vm, 5) },
        Command::Head { certificate: log.certificate(vm, 5) },
        Command::RegisterClient { key: client(0).public(), quota: Quota::default(), revision: 0 },
        Command::RevokeClient { key: client(0).public() },
        Command::ChangeGroup { which: Which::Verifiers, link },
        Command::CreateService { spec: service_spec("service") },
        Command::CallService { service: service_spec("service").id(), request: vec![1, 2, 3] },
        Command::UpgradeService {
            service: service_spec("service").id(),
            image: ImageDigest::from_bytes([9; 32]),
            number: 7,
        },
    ]
}

#[test]
fn test_every_command_decodes_to_itself_and_no_prefix_of_it_does() {
    let (log, vm) = Log::with_vm();
    for command in commands(&log, vm) {
        let bytes = command.encoded();
        assert_eq!(Command::decoded(&bytes), Ok(command.clone()));
        for length in 0..bytes.len() {
            assert!(Command::decoded(&bytes[..length]).is_err(), "{} cut at {length}", command.name());
        }
    }
}

#[test]
fn test_malformed_oversize_unsigned_and_foreign_operations_are_outcomes() {
    let (mut log, vm) = Log::with_vm();
    let good = log.operation(&operator(0), &Command::DeleteVm { vm });
    let before = log.control.commitment();
    let mut check = |bytes: &[u8], want: u16| {
        let failure = log.apply(bytes).result.unwrap_err();
        assert_eq!(failure.code, want, "{failure}");
    };
    check(&[], status::MALFORMED);
    check(&good[..good.len() - 1], status::MALFORMED);
    check(&vec![0; OPERATION_LIMIT + 1], status::TOO_LARGE);
    let mut forged = good.clone();
    *forged.last_mut().unwrap() ^= 1;
    check(&forged, status::BAD_SIGNATURE);
    let elsewhere = Command::DeleteVm { vm }.to_operation(&operator(0), GroupId::ZERO, Nonce::ZERO);
    check(&elsewhere.encoded(), status::BAD_SIGNATURE);
    let nonsense = Operation::new(&operator(0), orchestrators().id(), Nonce::ZERO, vec![99]);
    check(&nonsense.encoded(), status::MALFORMED);
    assert_eq!(log.control.commitment(), before);
}

#[test]
fn test_copy_with_a_spoilt_signature_does_not_take_the_identity_of_the_operation() {
    let (mut log, vm) = Log::with_vm();
    let good = log.operation(&operator(0), &Command::DeleteVm { vm });
    let mut spoilt = good.clone();
    *spoilt.last_mut().unwrap() ^= 1;
    let group = log.control.group();
    let read = |bytes: &[u8]| Submission::read(bytes, &group);
    assert_eq!(read(&good).id(), Operation::decoded(&good).unwrap().id());
    assert_ne!(read(&spoilt).id(), read(&good).id());
    assert_ne!(read(&spoilt).id(), read(&good[1..]).id());
    assert_eq!(read(&spoilt).operation().unwrap_err().kind(), "BadSignature");
}

#[test]
fn test_what_is_not_admitted_would_be_refused_by_the_log_with_the_same_failure() {
    let (mut log, vm) = Log::with_vm();
    let all = commands(&log, vm);
    for author in [operator(0), host(0), client(0), stranger(), verifier_key(0)] {
        for command in &all {
            let operation = log.operation(&author, command);
            let submission = Submission::read(&operation, &log.control.group());
            if let Err(failure) = log.control.admit(&submission, log.index) {
                assert_eq!(log.clone().apply(&operation).result, Err(failure), "{}", command.name());
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn test_random_bytes_have_an_outcome(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
        let (mut log, _) = Log::with_vm();
        prop_assert!(log.apply(&bytes).result.is_err());
    }

    #[test]
    fn test_random_commands_of_an_operator_have_an_outcome(
        kind in 0u8..15,
        rest in proptest::collection::vec(any::<u8>(), 0..400),
    ) {
        let (mut log, _) = Log::with_vm();
        let command = [&[kind][..], &rest].concat();
        let operation = Operation::new(&operator(0), log.control.group(), Nonce::ZERO, command);
        log.apply(&operation.encoded());
    }

    #[test]
    fn test_changed_commands_of_an_operator_have_an_outcome_and_keep_the_root_right(
        which in any::<prop::sample::Index>(),
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..3),
    ) {
        let (mut log, vm) = Log::with_vm();
        log.service("service");
        let all = commands(&log, vm);
        let mut bytes = all[which.index(all.len())].encoded();
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        let operation = Operation::new(&operator(0), log.control.group(), Nonce::ZERO, bytes);
        log.apply(&operation.encoded());
        prop_assert_eq!(StateTree::from_sorted(log.control.tree().entries().to_vec()).commitment(), log.control.commitment());
        prop_assert_eq!(Control::decode(&log.control.encode()).unwrap(), log.control);
    }

    #[test]
    fn test_random_bytes_are_no_outcome_or_decode_to_what_encodes_so(
        bytes in proptest::collection::vec(any::<u8>(), 0..300)
    ) {
        if let Ok(outcome) = decode_outcome(&bytes) {
            prop_assert_eq!(encode_outcome(&outcome), bytes);
        }
    }
}
