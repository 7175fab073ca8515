//! The process is ended at each step, and started again: what left it is never contradicted.

use std::process::{Command, ExitCode};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use quorate_transport::Role;
use quorate_verifier::cli;
use quorate_verifier::node::conduct::{Conduct, Step};
use quorate_verifier::protocol::*;

use super::cluster::*;
use super::vm::*;

const CRASH: &str = "QUORATE_TEST_CRASH";
const CONFIG: &str = "QUORATE_TEST_CONFIG";

/// Ends the process at the n-th time of one step.
struct CrashAt {
    step: Step,
    remaining: AtomicUsize,
}

impl Conduct for CrashAt {
    fn step(&self, step: Step) {
        if step == self.step && self.remaining.fetch_sub(1, Ordering::SeqCst) == 1 {
            // No destructors and no flushing, as with SIGKILL.
            std::process::abort();
        }
    }
}

/// Not a test: the other tests start this binary with [`CRASH`] set and get a verifier that crashes.
#[test]
fn crashing_verifier() {
    let (Ok(crash), Ok(config)) = (std::env::var(CRASH), std::env::var(CONFIG)) else { return };
    let (step, count) = crash.split_once(':').unwrap();
    let conduct =
        CrashAt { step: Step::parse(step).unwrap(), remaining: AtomicUsize::new(count.parse().unwrap()) };
    let code = cli::main(conduct, ["quorate-verifier", "--config", &config].map(Into::into));
    assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::SUCCESS));
}

fn crashing(config: &std::path::Path, step: Step, count: usize) -> Process {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["--exact", "crashes::crashing_verifier", "--nocapture"])
        .env(CRASH, format!("{}:{count}", step.name()))
        .env(CONFIG, config)
        .env("RUST_BACKTRACE", "0");
    Process::spawn(command, 0)
}

/// Asks, and answers `None` if the verifier went away.
async fn try_ask(process: &Process, message: ToVerifier) -> Option<FromVerifier> {
    let endpoint = endpoint(&host_key('a'), Role::Host);
    let connection = endpoint.connect(process.address, &transport_key(0).public()).await.ok()?;
    let mut exchange = connection.open().await.ok()?;
    exchange.set_patience(Duration::from_secs(2));
    exchange.send(&message).await.ok()?;
    exchange.recv().await.ok()?
}

/// Registration, slot 0, slot 1 of one branch; after the crash the other branch is proposed, too.
async fn crash_and_recover(step: Step, count: usize) -> bool {
    let cluster = Cluster::new();
    let config = cluster.init(0, "replayed");
    let mut left = Vm::boot(&cluster.group, 1);
    let mut right = Vm::boot(&cluster.group, 1);
    left.next(1);
    right.next(2);
    let questions = [
        left.register(),
        ToVerifier::Propose(left.proposals[0].clone()),
        ToVerifier::Propose(left.proposals[1].clone()),
    ];
    let mut process = crashing(&config, step, count);
    let mut answers = Vec::new();
    for question in &questions {
        let Some(answer) = try_ask(&process, question.clone()).await else { break };
        answers.push(answer);
    }
    if answers.len() == questions.len() && step != Step::AfterSend {
        return false;
    }
    process.wait(Duration::from_secs(10));

    let process = Process::start(&config, 0);
    for question in &questions[..2] {
        let answer = try_ask(&process, question.clone()).await.expect("an honest verifier answers");
        // Slot 0 is stale if the record of slot 1 was written: a kill, unlike a power cut, takes nothing back.
        let good = ["(Done)", "(Attested)", "StaleSlot"].contains(&&kind(&answer)[..]);
        assert!(good, "{step:?}: {answer:?}");
    }
    let fork = ToVerifier::Propose(right.proposals[1].clone());
    let forked = try_ask(&process, fork).await.unwrap();
    let again = try_ask(&process, questions[2].clone()).await.unwrap();
    let signed = [&forked, &again].map(|answer| matches!(answer, FromVerifier::Attested(_)));
    assert_eq!(
        signed.iter().filter(|signed| **signed).count(),
        1,
        "{step:?}: one branch is signed, never both"
    );
    if let Some(FromVerifier::Attested(before)) = answers.get(2) {
        assert_eq!(again, FromVerifier::Attested(before.clone()), "{step:?}: what had left stands");
    }
    if step == Step::AfterPersist && count == 2 {
        assert_eq!(kind(&forked), "EquivocationEvidence", "what was durable stands although it never left");
    }
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn crash_at_each_step_of_an_attestation_never_leads_to_a_second_signature() {
    let steps = [
        (Step::RequestTaken, 2),
        (Step::BeforeImage, 1),
        (Step::AfterImage, 1),
        (Step::BeforePersist, 1),
        (Step::BeforePersist, 3),
        (Step::BetweenWriteAndSync, 2),
        (Step::BetweenWriteAndSync, 3),
        (Step::AfterPersist, 1),
        (Step::AfterPersist, 2),
        (Step::AfterSend, 3),
        (Step::BeforeBoot, 1),
        (Step::BeforeReplay, 1),
        (Step::AfterReplay, 1),
    ];
    for (step, count) in steps {
        assert!(crash_and_recover(step, count).await, "{step:?} is never reached");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn crash_at_each_step_of_a_pull_leaves_the_chain_where_it_was() {
    for step in [Step::BeforePull, Step::DuringPull, Step::AfterPull] {
        let cluster = Cluster::new();
        let config = cluster.init(0, "replayed");
        let mut vm = Vm::boot(&cluster.group, 1);
        vm.next(1);
        let certificate = vm.certificate(1);
        let mut process = crashing(&config, step, 1);
        try_ask(&process, vm.register()).await.unwrap();
        let host = endpoint(&host_key('a'), Role::Host);
        let connection = connect(&host, &process).await;
        tokio::select! {
            // The answer never comes: a process that is gone does not even close its connection.
            answer = vm.offer(&host, &connection, 0, 0, Some(certificate.clone())) => panic!("{step:?}: {answer:?}"),
            () = process.ended() => {}
        }
        let process = Process::start(&config, 0);
        let connection = connect(&host, &process).await;
        assert_eq!(kind(&vm.offer(&host, &connection, 0, 0, Some(certificate)).await), "(Done)");
        vm.next(1);
        attested(vm.propose(&connection).await);
    }
}
