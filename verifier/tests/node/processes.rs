use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use quorate_attest::id::{Generation, Nonce, PageRoot, Slot};
use quorate_attest::statement::Kind;
use quorate_attest::vm::{ActivationTally, HeadAnswer, Mode};
use quorate_transport::Role;
use quorate_verifier::protocol::*;

use super::cluster::*;
use super::vm::*;

const SECONDS: Duration = Duration::from_secs(10);

/// A running verifier that knows a VM, with the connection of host a.
async fn running(
    cluster: &Cluster,
    mode: &str,
    vm: &Vm,
) -> (Process, quorate_transport::Endpoint, quorate_transport::Connection) {
    let process = Process::start(&cluster.init(0, mode), 0);
    let endpoint = endpoint(&host_key('a'), Role::Host);
    let connection = connect(&endpoint, &process).await;
    assert_eq!(kind(&vm.propose(&connection).await), "(NeedRegistration)");
    assert_eq!(kind(&vm.ask(&connection, vm.register()).await), "(Done)");
    (process, endpoint, connection)
}

#[tokio::test(flavor = "multi_thread")]
async fn chain_of_a_real_guest_is_attested_in_both_modes() {
    for (name, mode) in [("replayed", Mode::Replayed), ("sampled", Mode::Sampled)] {
        let cluster = Cluster::new();
        let mut vm = Vm::boot(&cluster.group, 1);
        let (_process, _endpoint, connection) = running(&cluster, name, &vm).await;
        for slot in 0..6 {
            if slot > 0 {
                vm.next(slot);
            }
            let answer = attested(vm.propose(&connection).await);
            assert_eq!((answer.slot, answer.attestation.mode), (Slot(slot as u64), mode));
            answer.attestation.verify(&vm.group, vm.chain.last().unwrap()).unwrap();
            assert!(answer.cosignature.starts_with("— test/verifier-0 "), "{}", answer.cosignature);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn spliced_memory_of_a_real_guest_is_refused_in_both_modes() {
    let cluster = Cluster::new();
    let mut vm = Vm::boot(&cluster.group, 2);
    let (_process, endpoint, connection) = running(&cluster, "replayed", &vm).await;
    attested(vm.propose(&connection).await);
    let before = vm.chain[0].body.page_root;
    vm.next(2);
    let spliced = vm.forged(|s| s.body.page_root = before);
    assert_eq!(kind(&vm.ask(&connection, ToVerifier::Propose(spliced)).await), "RootMismatch");
    // At slot 0 the machine comes from the image again.
    attested(vm.propose(&connection).await);
    vm.next(1);
    let spliced = vm.forged(|s| s.body.page_root = PageRoot::from_bytes([1; 32]));
    assert_eq!(kind(&vm.ask(&connection, ToVerifier::Propose(spliced)).await), "RootMismatch");
    let answer = vm.propose(&connection).await;
    assert_eq!(answer, FromVerifier::NeedState(NeedState { next: Slot(2) }));
    drop((endpoint, connection));

    let cluster = Cluster::new();
    let mut vm = Vm::boot(&cluster.group, 2);
    let (_process, _endpoint, connection) = running(&cluster, "sampled", &vm).await;
    attested(vm.propose(&connection).await);
    vm.next(2);
    let spliced = vm.forged(|s| s.body.page_root = before);
    assert_eq!(kind(&vm.ask(&connection, ToVerifier::Propose(spliced)).await), "ProofInvalid");
    attested(vm.propose(&connection).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_verifier_answers_the_same_and_continues_with_its_state_back() {
    let cluster = Cluster::new();
    let mut vm = Vm::boot(&cluster.group, 3);
    let (process, _endpoint, connection) = running(&cluster, "replayed", &vm).await;
    attested(vm.propose(&connection).await);
    vm.next(3);
    attested(vm.propose(&connection).await);
    vm.next(2);
    let before = attested(vm.propose(&connection).await);
    process.kill();

    let process = Process::start(&cluster.path("verifier-0.toml"), 0);
    let endpoint = endpoint(&host_key('a'), Role::Host);
    let connection = connect(&endpoint, &process).await;
    assert_eq!(attested(vm.propose(&connection).await), before, "same question, same answer");
    let rollback = ToVerifier::Propose(vm.proposals[1].clone());
    assert_eq!(kind(&vm.ask(&connection, rollback).await), "StaleSlot");

    // Its own slot comes back without a certificate; then the chain goes on.
    let at_head = vm.offer(&endpoint, &connection, 0, 3, None).await;
    assert_eq!(kind(&at_head), "(Done)");
    vm.next(2);
    attested(vm.propose(&connection).await);
    process.kill();

    // Left behind by three slots, it adopts what the others certified.
    vm.next(1);
    vm.next(1);
    let process = Process::start(&cluster.path("verifier-0.toml"), 0);
    let connection = connect(&endpoint, &process).await;
    let answer = vm.propose(&connection).await;
    assert_eq!(answer, FromVerifier::Behind(Behind { next: Slot(4) }));
    let certificate = vm.certificate(5);
    let offered = vm.offer(&endpoint, &connection, 0, 4, Some(certificate)).await;
    assert_eq!(kind(&offered), "(Done)");
    vm.next(4);
    attested(vm.propose(&connection).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn hand_over_is_voted_activated_and_survives_a_kill() {
    let cluster = Cluster::new();
    let mut vm = Vm::boot(&cluster.group, 4);
    let (process, _endpoint, connection) = running(&cluster, "sampled", &vm).await;
    attested(vm.propose(&connection).await);
    vm.next(1);
    attested(vm.propose(&connection).await);
    let ask = vm.hand_over(&host_key('b'));
    let voted = vm.ask(&connection, ToVerifier::Activate(ask.clone())).await;
    assert!(matches!(&voted, FromVerifier::Voted(voted) if voted.generation == Generation(1)), "{voted:?}");
    process.kill();

    let process = Process::start(&cluster.path("verifier-0.toml"), 0);
    let endpoint = endpoint(&host_key('b'), Role::Host);
    let connection = connect(&endpoint, &process).await;
    assert_eq!(vm.ask(&connection, ToVerifier::Activate(ask.clone())).await, voted);
    let nonce = Nonce::from_bytes([5; 16]);
    let head = vm.ask(&connection, ToVerifier::HeadQuery(HeadQuery { vm: vm.id(), nonce })).await;
    let FromVerifier::Head(head) = head else { panic!("{head:?}") };
    let head: HeadAnswer = head;
    head.verify(&vm.group, &vm.group.expected(vm.id(), Kind::HEAD), &nonce).unwrap();
    assert_eq!((head.generation, head.vote.as_ref()), (Generation(1), Some(&ask.activation)));
    vm.next(1);
    assert_eq!(kind(&vm.propose(&connection).await), "FencedGeneration", "the source runs on");

    let mut tally = ActivationTally::new(&vm.group, ask.activation.clone(), ask.grant.clone()).unwrap();
    for index in 1..4 {
        tally.add(index, ask.activation.sign(&vote_key(index))).unwrap();
    }
    let certificate = tally.certificate().unwrap();
    assert_eq!(kind(&vm.ask(&connection, ToVerifier::Activated(certificate)).await), "(Done)");
    // The destination executes the same transition under its own generation.
    vm.chain.pop();
    let taken = vm.forged(|s| {
        s.body.generation = Generation(1);
        s.body.host = host_key('b').public();
    });
    let signed = quorate_attest::vm::Proposal::sign(taken.proposal.statement, &host_key('b'));
    let propose = Propose { proposal: signed, inputs: taken.inputs };
    attested(vm.ask(&connection, ToVerifier::Propose(propose)).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_image_is_asked_for_again_and_the_state_is_kept() {
    let cluster = Cluster::new();
    let mut vm = Vm::boot(&cluster.group, 5);
    let (process, endpoint, connection) = running(&cluster, "sampled", &vm).await;
    attested(vm.propose(&connection).await);
    vm.next(1);
    let before = attested(vm.propose(&connection).await);
    process.kill();
    fs::remove_dir_all(cluster.path("data-0/images")).unwrap();
    let process = Process::start(&cluster.path("verifier-0.toml"), 0);
    let connection = connect(&endpoint, &process).await;
    assert_eq!(kind(&vm.propose(&connection).await), "(NeedRegistration)");
    assert_eq!(kind(&vm.ask(&connection, vm.register()).await), "(Done)");
    assert_eq!(attested(vm.propose(&connection).await), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn registration_of_a_foreign_image_or_by_a_non_host_is_refused() {
    let cluster = Cluster::new();
    let vm = Vm::boot(&cluster.group, 6);
    let (process, _endpoint, connection) = running(&cluster, "sampled", &vm).await;
    let other = Vm::boot(&cluster.group, 7);
    let ToVerifier::Register(mut register) = other.register() else { panic!() };
    register.image = quorate_guest_images::STRESS.elf.to_vec();
    assert_eq!(kind(&vm.ask(&connection, ToVerifier::Register(register.clone())).await), "PlatformMismatch");
    register.image = vec![0; 100];
    assert_eq!(kind(&vm.ask(&connection, ToVerifier::Register(register)).await), "ImageInvalid");
    // Operators may carry slots of a dead host, which recovery needs; another verifier may not.
    let verifier = endpoint(&transport_key(1), Role::Verifier);
    let connection = connect(&verifier, &process).await;
    assert_eq!(kind(&vm.propose(&connection).await), "KeyRoleMismatch");
    let stranger = endpoint(&key(77), Role::Host);
    let refused = stranger.connect(process.address, &transport_key(0).public()).await;
    assert!(refused.is_err(), "a key that the group does not know gets no connection");
}

#[tokio::test(flavor = "multi_thread")]
async fn vms_beyond_the_limits_of_the_operator_are_refused() {
    for (limit, want) in [
        ("vms_max = 1\n".to_owned(), "QueueFull"),
        (format!("memory_total_bytes_max = {}\n", MEMORY * 2 - 1), "MessageTooLarge"),
    ] {
        let cluster = Cluster::new();
        let config = cluster.init(0, "replayed");
        let text = fs::read_to_string(&config).unwrap() + &limit;
        fs::write(&config, text).unwrap();
        let process = Process::start(&config, 0);
        let endpoint = endpoint(&host_key('a'), Role::Host);
        let connection = connect(&endpoint, &process).await;
        let (first, second) = (Vm::boot(&cluster.group, 10), Vm::boot(&cluster.group, 11));
        assert_eq!(kind(&first.ask(&connection, first.register()).await), "(Done)");
        assert_eq!(kind(&second.ask(&connection, second.register()).await), want);
        assert_eq!(kind(&first.ask(&connection, first.register()).await), "(Done)", "known already");
        assert_eq!(kind(&second.propose(&connection).await), "(NeedRegistration)");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn latency_of_an_attestation() {
    for mode in ["replayed", "sampled"] {
        let cluster = Cluster::new();
        let mut vm = Vm::boot(&cluster.group, 8);
        let (_process, _endpoint, connection) = running(&cluster, mode, &vm).await;
        attested(vm.propose(&connection).await);
        let mut took = Vec::new();
        for _ in 0..60 {
            vm.next(2);
            let started = Instant::now();
            attested(vm.propose(&connection).await);
            took.push(started.elapsed());
        }
        took.sort();
        println!("{mode}: attestation p50 {:?} p95 {:?} max {:?}", took[30], took[56], took[59]);
        assert!(took[30] < Duration::from_secs(2), "{took:?}");
    }
}

#[test]
fn second_process_on_one_data_directory_ends_at_once() {
    let cluster = Cluster::new();
    let config = cluster.init(0, "sampled");
    let process = Process::start(&config, 0);
    let (code, text) = ended(command(&config));
    assert_eq!(code, 75, "{text}");
    assert!(text.contains("DataDirLocked"), "{text}");
    process.kill();
    let _again = Process::start(&config, 0);
}

#[test]
fn sigterm_and_sigint_end_the_process_with_exit_code_0() {
    let cluster = Cluster::new();
    let config = cluster.init(0, "replayed");
    for signal in ["TERM", "INT"] {
        let mut process = Process::start(&config, 0);
        process.signal(signal);
        assert_eq!(process.wait(SECONDS).code(), Some(0), "{signal}");
    }
}

#[test]
fn unknown_configuration_key_is_refused_with_the_nearest_name() {
    let cluster = Cluster::new();
    let config = cluster.init(0, "replayed");
    let text = fs::read_to_string(&config).unwrap().replace("listen =", "lisen =");
    fs::write(&config, text).unwrap();
    let (code, text) = ended(command(&config));
    assert_eq!(code, 78);
    assert!(text.contains("unknown key `lisen`, did you mean `listen`?"), "{text}");
}

#[test]
fn check_config_prints_every_problem_and_starts_nothing() {
    let cluster = Cluster::new();
    let config = cluster.init(0, "replayed");
    let check = |config: &std::path::Path| {
        let mut command = command(config);
        command.arg("--check-config");
        ended(command)
    };
    assert_eq!(check(&config).0, 0);
    fs::remove_file(cluster.path("vote-0.key")).unwrap();
    fs::write(cluster.path("group.toml"), "name = 1").unwrap();
    let (code, text) = check(&config);
    assert_eq!((code, text.lines().count()), (78, 2), "{text}");
    let missing = cluster.configure(1, "sampled");
    fs::write(cluster.path("group.toml"), quorate_verifier::config::group_file::to_text(&cluster.group))
        .unwrap();
    let (code, text) = check(&missing);
    assert_eq!((code, text.contains("SignStateMissing")), (78, true), "{text}");
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    let cluster = Cluster::new();
    let config = cluster.init(0, "replayed");
    let mut environment = command(&config);
    environment.env("QUORATE_VERIFIER_DATA_DIR", cluster.path("nowhere"));
    let (code, text) = ended(environment);
    assert_eq!((code, text.contains("nowhere")), (78, true), "{text}");
    let mut flags = command(&config);
    flags
        .env("QUORATE_VERIFIER_DATA_DIR", cluster.path("nowhere"))
        .arg("--data-dir")
        .arg(cluster.path("data-0"));
    Process::spawn(flags, 0).kill();
}

#[test]
fn missing_sign_state_is_refused_and_init_never_replaces_one() {
    let cluster = Cluster::new();
    let config = cluster.configure(0, "replayed");
    let (code, text) = ended(command(&config));
    assert_eq!((code, text.contains("SignStateMissing")), (78, true), "{text}");
    let init = || {
        let mut command = command(&config);
        command.arg("init");
        ended(command)
    };
    assert_eq!(init().0, 0);
    let (code, text) = init();
    assert_eq!((code, text.contains("AlreadyInitialised")), (78, true), "{text}");
    fs::write(cluster.path("data-0/sign-log"), []).unwrap();
    assert_eq!(ended(command(&config)).0, 78);
    fs::remove_file(cluster.path("data-0/sign-log")).unwrap();
    assert_eq!(ended(command(&config)).0, 78);
}

#[test]
fn sign_log_of_another_verifier_is_refused() {
    let cluster = Cluster::new();
    let config = cluster.init(0, "replayed");
    cluster.init(1, "replayed");
    fs::copy(cluster.path("data-1/sign-log"), cluster.path("data-0/sign-log")).unwrap();
    let (code, text) = ended(command(&config));
    assert_eq!((code, text.contains("SignStateMissing")), (78, true), "{text}");
}

#[test]
fn key_file_that_others_can_read_is_refused() {
    let cluster = Cluster::new();
    let config = cluster.init(0, "replayed");
    fs::set_permissions(cluster.path("vote-0.key"), fs::Permissions::from_mode(0o644)).unwrap();
    let (code, text) = ended(command(&config));
    assert_eq!((code, text.contains("0644")), (77, true), "{text}");
}

#[test]
fn help_and_version_are_printed_and_wrong_flags_are_usage_errors() {
    let cluster = Cluster::new();
    let config = cluster.configure(0, "replayed");
    for (flag, code) in [("--help", 0), ("--version", 0), ("--no-such-flag", 2)] {
        let mut command = command(&config);
        command.arg(flag);
        assert_eq!(ended(command).0, code, "{flag}");
    }
}
