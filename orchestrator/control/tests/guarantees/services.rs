use crate::world::*;
use quorate_attest::encoding::Bounded;
use quorate_attest::id::*;
use quorate_attest::operation::COMMAND_LIMIT;
use quorate_attest::request::status;
use quorate_attest::service::{CONFIG_LIMIT, ServiceSpec};
use quorate_attest::state_tree::VALUE_LIMIT;
use quorate_control::*;

const IMAGE: ImageDigest = ImageDigest::from_bytes([0x2b; 32]);

fn call(service: ServiceId) -> Command {
    Command::CallService { service, request: b"anything".to_vec() }
}

fn upgrade(service: ServiceId, number: u64) -> Command {
    Command::UpgradeService { service, image: IMAGE, number }
}

#[test]
fn test_requests_get_consecutive_numbers_whoever_asks_and_whatever_they_hold() {
    let mut log = Log::new();
    let (a, b) = (log.service("a"), log.service("b"));
    let quota = Quota { operations: 9, ..Quota::default() };
    let register = Command::RegisterClient { key: client(0).public(), quota, revision: 0 };
    assert!(log.submit(&operator(0), register).result.is_ok());
    let authors = [operator(1), orchestrator_key(2), client(0)];
    for (number, author) in (1u64..).zip(&authors) {
        for service in [a, b] {
            let applied =
                log.submit(author, Command::CallService { service, request: vec![7; number as usize] });
            assert_eq!(applied.result, Ok(Answer::Numbered { service, number }));
        }
    }
    assert_eq!(log.control.service(&a).unwrap().progress.ordered, 4);
}

#[test]
fn test_requests_and_configurations_do_not_grow_the_state() {
    let mut log = Log::new();
    let service = log.service("a");
    let size = log.control.encode().len();
    let request = vec![7; COMMAND_LIMIT - 64];
    assert!(log.submit(&operator(0), Command::CallService { service, request }).result.is_ok());
    assert_eq!(log.control.encode().len(), size);
}

#[test]
fn test_strangers_hosts_verifiers_and_revoked_clients_order_nothing_of_a_service() {
    let mut log = Log::new();
    let service = log.service("a");
    let key = client(0).public();
    let quota = Quota { operations: 9, ..Quota::default() };
    let register = Command::RegisterClient { key, quota, revision: 0 };
    assert!(log.submit(&operator(0), register).result.is_ok());
    assert!(log.submit(&operator(0), Command::RevokeClient { key }).result.is_ok());
    for author in [stranger(), host(0), verifier_key(0), client(0)] {
        assert_eq!(log.refused(&author, call(service)).code, status::NOT_AUTHORIZED);
    }
    for author in [stranger(), host(0), verifier_key(0), client(0), orchestrator_key(0)] {
        let create = Command::CreateService { spec: service_spec("b") };
        assert_eq!(log.refused(&author, create).code, status::NOT_AUTHORIZED);
        assert_eq!(log.refused(&author, upgrade(service, 9)).code, status::NOT_AUTHORIZED);
    }
}

#[test]
fn test_client_keeps_to_its_rate_with_requests_to_services() {
    let mut log = Log::new();
    let service = log.service("a");
    let quota = Quota { operations: 2, ..Quota::default() };
    let register = Command::RegisterClient { key: client(0).public(), quota, revision: 0 };
    assert!(log.submit(&operator(0), register).result.is_ok());
    for number in 1..=2 {
        let applied = log.submit(&client(0), call(service));
        assert_eq!(applied.result, Ok(Answer::Numbered { service, number }));
    }
    let failure = log.submit(&client(0), call(service)).result.unwrap_err();
    assert_eq!(code(&failure), (status::LIMIT, "QuotaExceeded"));
    assert_eq!(log.control.service(&service).unwrap().progress.ordered, 3, "no number is used up by it");
}

#[test]
fn test_no_two_services_have_one_name_or_one_identity() {
    let mut log = Log::new();
    let service = log.service("a");
    let again = Command::CreateService { spec: service_spec("a") };
    assert_eq!(log.refused(&operator(0), again).code, status::CONFLICT);
    let other = ServiceSpec { nonce: Nonce::from_bytes([1; 16]), ..service_spec("a") };
    assert_eq!(log.refused(&operator(0), Command::CreateService { spec: other }).code, status::CONFLICT);
    assert_eq!(log.control.service_named("a"), Some(service));
    assert_eq!(log.control.service_named("b"), None);
}

#[test]
fn test_services_that_cannot_exist_are_refused() {
    let mut log = Log::new();
    let refused = |log: &mut Log, spec| log.refused(&operator(0), Command::CreateService { spec }).code;
    assert_eq!(
        refused(&mut log, service_spec(&"n".repeat(60))),
        status::BAD_CONFIG,
        "its VMs need longer names"
    );
    assert_eq!(refused(&mut log, ServiceSpec { memory_bytes: 1, ..service_spec("a") }), status::BAD_CONFIG);
    let config = vec![0; CONFIG_LIMIT];
    assert_eq!(refused(&mut log, ServiceSpec { config, ..service_spec("a") }), status::TOO_LARGE);
    let config = vec![0; VALUE_LIMIT - 512];
    let spec = ServiceSpec { config, ..service_spec("a") };
    assert!(log.submit(&operator(0), Command::CreateService { spec }).result.is_ok());
    let nobody = ServiceId::from_bytes([9; 32]);
    assert_eq!(log.refused(&operator(0), call(nobody)).code, status::NOT_FOUND);
    assert_eq!(log.refused(&operator(0), upgrade(nobody, 5)).code, status::NOT_FOUND);
}

#[test]
fn test_number_of_services_is_bounded() {
    let mut log = Log::new();
    for number in 0..SERVICES_LIMIT {
        log.service(&format!("s-{number}"));
    }
    let more = Command::CreateService { spec: service_spec("more") };
    assert_eq!(code(&log.refused(&operator(0), more)), (status::LIMIT, "QuotaExceeded"));
    assert_eq!(log.control.services().count(), SERVICES_LIMIT);
    assert_eq!(Control::decode(&log.control.encode()).unwrap(), log.control);
}

#[test]
fn test_image_changes_at_a_number_that_has_no_request_yet_and_never_back() {
    let mut log = Log::new();
    let service = log.service("a");
    for _ in 0..3 {
        assert!(log.submit(&operator(0), call(service)).result.is_ok());
    }
    assert_eq!(log.refused(&operator(0), upgrade(service, 3)).code, status::STALE);
    let done = log.submit(&operator(0), upgrade(service, 6));
    assert_eq!(done.result, Ok(Answer::ServiceUpgraded { service, image: IMAGE, number: 6 }));
    assert_eq!(log.submit(&operator(1), upgrade(service, 6)).result, done.result, "again is harmless");
    let other = |number| Command::UpgradeService { service, image: ImageDigest::from_bytes([3; 32]), number };
    assert_eq!(log.refused(&operator(0), upgrade(service, 8)).code, status::CONFLICT, "the same image");
    assert_eq!(log.refused(&operator(0), other(5)).code, status::CONFLICT, "before the one that is ordered");
    assert!(log.submit(&operator(0), other(7)).result.is_ok());
    let known = log.control.service(&service).unwrap();
    let images = [0, 5, 6, 7, 900].map(|number| known.image_at(number));
    let (first, last) = (service_spec("a").image, ImageDigest::from_bytes([3; 32]));
    assert_eq!(images, [(first, 0), (first, 0), (IMAGE, 1), (last, 2), (last, 2)]);
    let names = [0, 1, 2].map(|before| service_vm_name(&known.record.spec, 3, before));
    assert_eq!(names, ["a-3", "a-3-v1", "a-3-v2"]);
}

#[test]
fn test_number_of_upgrades_is_bounded() {
    let mut log = Log::new();
    let service = log.service("a");
    for number in 0..UPGRADES_LIMIT as u8 {
        let image = ImageDigest::from_bytes([number; 32]);
        let command = Command::UpgradeService { service, image, number: u64::from(number) + 1 };
        assert!(log.submit(&operator(0), command).result.is_ok());
    }
    assert_eq!(log.refused(&operator(0), upgrade(service, 1000)).code, status::LIMIT);
    let progress = &log.control.service(&service).unwrap().progress;
    assert_eq!(ServiceProgress::decoded(&progress.encoded()).as_ref(), Ok(progress));
}

#[test]
fn test_progress_of_a_service_can_be_proved_and_a_snapshot_without_it_is_refused() {
    let mut log = Log::new();
    let service = log.service("a");
    assert!(log.submit(&operator(0), call(service)).result.is_ok());
    let tree = log.control.tree();
    for key in [service_key(&service), service_progress_key(&service)] {
        assert!(tree.membership(&key).unwrap().verify(&log.control.commitment()).is_ok());
    }
    let bytes = log.control.encode();
    assert_eq!(Control::decode(&bytes).unwrap(), log.control);
    let place = bytes.windows(17).position(|window| window == b"service-progress/").unwrap();
    let mut spoilt = bytes;
    spoilt[place + 17] ^= 1;
    assert!(Control::decode(&spoilt).is_err());
}
