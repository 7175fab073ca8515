//! Forks of real machines. All of it needs /dev/kvm and fails without it.

use quorate_attest::encoding::Bounded;
use quorate_attest::id::{ImageDigest, Nonce};
use quorate_attest::key::SecretKey;
use quorate_attest::vm::{InputPolicy, OutputPolicy, VmSpec};
use quorate_guest_images::{KV, STRESS};
use quorate_kv::Operation;
use quorate_kv::client::{Client, genesis};
use quorate_stress::{Command, Misbehaviour, Work};

use super::*;
use crate::execution::{Cut, Execution, Stop};
use crate::image::Image;
use crate::snapshot::PageSnapshot;
use crate::tests::fixture::{KVM_NEEDED, command, work_input, worker};

const MEMORY: u64 = 32 << 20;
const SEED: u64 = 0xf04c_0001;
const BUDGET: Budget =
    Budget { doorbells: 10_000, time: Duration::from_secs(20), outputs: 64, output_bytes: 1 << 20 };

fn start(image: &Image) -> Execution {
    let mut execution = Execution::genesis(image, MEMORY).expect(KVM_NEEDED);
    to_idle(&mut execution);
    execution
}

fn stress() -> Execution {
    let image = Image::admit(STRESS.elf).expect("the stress image is admissible");
    let mut execution = start(&image);
    let work = Work {
        working_set_bytes: 1 << 20,
        pages_per_step: 30,
        integer_rounds: 200,
        float_rounds: 200,
        chase_steps: 200,
    };
    feed(&mut execution, Command::Configure(work).encode());
    execution
}

fn to_idle(execution: &mut Execution) {
    loop {
        match execution.run().unwrap() {
            Stop::Idle => return,
            Stop::Yielded => {}
            other => panic!("{other:?}"),
        }
    }
}

fn feed(execution: &mut Execution, input: Vec<u8>) {
    execution.feed(input).unwrap();
    to_idle(execution);
}

/// A kv service with some entries, and the client that wrote them.
struct Service {
    execution: Execution,
    client: Client,
}

impl Service {
    fn start() -> Self {
        let image = Image::admit(KV.elf).expect("the kv image is admissible");
        let key = SecretKey::from_seed([7; 32]);
        let spec = VmSpec {
            name: "kv".into(),
            image: ImageDigest::from_bytes(KV.digest()),
            machine_version: 1,
            memory_bytes: MEMORY,
            input_policy: InputPolicy::ClientSigned,
            output_policy: OutputPolicy::Immediate,
            host: key.public(),
            nonce: Nonce::from_bytes([1; 16]),
        };
        let mut execution = start(&image);
        feed(&mut execution, genesis(&spec));
        Self { execution, client: Client::new(key, spec.id(), 0) }
    }

    fn request(&mut self, operation: &Operation) -> Vec<u8> {
        self.client.request(operation, Nonce::from_bytes([2; 16])).encoded()
    }

    fn put(&mut self, number: u64) -> Vec<u8> {
        let key = format!("key {}", number % 50).into_bytes();
        self.request(&Operation::Put { key, value: vec![number as u8; 100] })
    }

    fn get(&mut self, number: u64) -> Vec<u8> {
        self.request(&Operation::Get { key: format!("key {}", number % 60).into_bytes() })
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 16
    }
}

impl Fork {
    /// The fork's own digests are those of the main machine, which was just cut.
    fn assert_stands_at(&mut self, cut: &Cut) {
        let twin = self.twin.as_mut().expect("the last query was answered");
        assert_eq!(twin.machine.measure().unwrap().measurement, cut.pages.measurement);
    }
}

#[test]
fn fork_answers_as_the_main_machine_would() {
    let mut service = Service::start();
    let mut fork = Fork::new(BUDGET);
    for number in 0..20 {
        let put = service.put(number);
        feed(&mut service.execution, put);
    }
    for number in 0..60 {
        let get = if number % 7 == 0 { service.put(number) } else { service.get(number) };
        let answer = fork.query(service.execution.machine_mut(), &get).unwrap();
        service.execution.cut().unwrap();
        feed(&mut service.execution, get);
        assert_eq!(answer, service.execution.cut().unwrap().outputs, "request {number}");
        assert_eq!(answer.len(), 1);
    }
}

#[test]
fn thousand_random_queries_between_two_inputs_leave_digests_and_changed_pages_as_in_a_run_without_them() {
    let mut random = Random(SEED);
    let (mut asked, mut twin) = (Service::start(), Service::start());
    let mut fork = Fork::new(BUDGET);
    let (mut kept, mut expected): (Option<PageSnapshot>, Option<PageSnapshot>) = (None, None);
    for round in 0..4u64 {
        for _ in 0..250 {
            let query = match random.next() % 4 {
                0 => (0..random.next() % 300).map(|_| random.next() as u8).collect(),
                1 => asked.put(random.next()),
                2 => asked.request(&Operation::Fill { bytes: random.next() % 500_000, seed: round }),
                _ => asked.get(random.next()),
            };
            fork.query(asked.execution.machine_mut(), &query).unwrap();
        }
        // Queries raise the sequence of their own client object only; the ordered requests are those of the twin.
        for number in 0..3 {
            let put = twin.put(round * 3 + number);
            feed(&mut twin.execution, put.clone());
            feed(&mut asked.execution, put);
        }
        let (cut, want) = (asked.execution.cut().unwrap(), twin.execution.cut().unwrap());
        assert_eq!(cut, want, "round {round} of seed {SEED:#x}");
        for (service, snapshot) in [(&asked, &mut kept), (&twin, &mut expected)] {
            let machine = service.execution.machine();
            match snapshot {
                Some(snapshot) => snapshot.apply(machine, &cut.pages.changed),
                None => *snapshot = Some(PageSnapshot::of_machine(machine)),
            }
        }
        let (kept, expected) = (kept.as_ref().unwrap(), expected.as_ref().unwrap());
        assert_eq!(kept.tree().root(), expected.tree().root());
        assert!((0..kept.tree().count()).all(|index| kept.page(index) == expected.page(index)));
    }
}

#[test]
fn fork_that_comes_and_goes_amid_an_interval_hides_no_changed_page_from_the_next_cut() {
    for moments in 0..32u32 {
        let (mut asked, mut twin) = (stress(), stress());
        let mut fork = None;
        for step in 0..5 {
            if moments & 1 << step != 0 {
                let fork = fork.get_or_insert_with(|| Fork::new(BUDGET));
                fork.query(asked.machine_mut(), &Command::Step { count: 2 }.encode()).unwrap();
            } else {
                fork = None;
            }
            for execution in [&mut asked, &mut twin] {
                feed(execution, Command::Step { count: 1 }.encode());
            }
            if step % 2 == 1 {
                assert_eq!(asked.cut().unwrap(), twin.cut().unwrap(), "moments {moments:#b}, step {step}");
            }
        }
        assert_eq!(asked.cut().unwrap(), twin.cut().unwrap(), "moments {moments:#b}");
    }
}

#[test]
fn query_that_writes_memory_is_undone_completely() {
    let mut execution = stress();
    let cut = execution.cut().unwrap();
    let mut fork = Fork::new(BUDGET);
    let mut first = None;
    for count in [1, 7, 3, 1] {
        let outputs = fork.query(execution.machine_mut(), &Command::Step { count }.encode()).unwrap();
        fork.assert_stands_at(&cut);
        if count == 1 {
            assert_eq!(&outputs, first.get_or_insert(outputs.clone()), "a query left something behind");
        }
    }
    let bigger = Work { working_set_bytes: 8 << 20, ..Work::default() };
    fork.query(execution.machine_mut(), &Command::Configure(bigger).encode()).unwrap();
    fork.query(execution.machine_mut(), &Command::Fill { bytes: 1 << 20, seed: 3 }.encode()).unwrap();
    fork.assert_stands_at(&cut);
}

#[test]
fn floating_point_and_vector_registers_are_taken_back_too() {
    let mut execution = start(&worker());
    feed(&mut execution, work_input(1, 40));
    let cut = execution.cut().unwrap();
    let mut fork = Fork::new(BUDGET);
    for seed in 2..20 {
        fork.query(execution.machine_mut(), &work_input(seed, 30)).unwrap();
        fork.assert_stands_at(&cut);
    }
}

#[test]
fn fork_follows_across_inputs_and_cuts() {
    let mut execution = stress();
    let mut fork = Fork::new(BUDGET);
    let mut random = Random(SEED + 1);
    for round in 0..40 {
        for _ in 0..random.next() % 3 {
            feed(&mut execution, Command::Step { count: 1 + (random.next() % 5) as u32 }.encode());
        }
        if random.next().is_multiple_of(2) {
            execution.cut().unwrap();
        }
        let query = Command::Step { count: 1 }.encode();
        let answer = fork.query(execution.machine_mut(), &query).unwrap();
        let cut = execution.cut().unwrap();
        fork.assert_stands_at(&cut);
        if round % 5 == 0 {
            feed(&mut execution, query);
            let cut = execution.cut().unwrap();
            assert_eq!(cut.outputs, answer, "round {round}");
        }
    }
}

#[test]
fn crash_exit_or_endless_query_ends_the_fork_and_never_the_main_machine() {
    let mut execution = stress();
    let mut twin = stress();
    let budget = Budget { doorbells: 2000, time: Duration::from_secs(1), outputs: 4, output_bytes: 1000 };
    let mut fork = Fork::new(budget);
    let emit = |count, bytes| Command::Emit { count, bytes };
    let cases = [
        (Command::Misbehave(Misbehaviour::InvalidOpcode), "GuestTerminal", "crashes"),
        (Command::Misbehave(Misbehaviour::StackOverflow), "GuestTerminal", "crashes"),
        (Command::Misbehave(Misbehaviour::Panic), "GuestTerminal", "exit with code 101"),
        (Command::Exit { code: 3 }, "GuestTerminal", "exit with code 3"),
        (Command::Misbehave(Misbehaviour::Spin), "ResourceExhausted", "time"),
        (Command::Misbehave(Misbehaviour::FloodYields { count: 3000 }), "ResourceExhausted", "doorbells"),
        (emit(5, 10), "ResourceExhausted", "outputs"),
        (emit(2, 600), "ResourceExhausted", "output bytes"),
    ];
    for (query, kind, text) in cases {
        let error = fork.query(execution.machine_mut(), &query.encode()).unwrap_err();
        assert_eq!(error.kind(), kind, "{query:?}: {error}");
        assert!(error.to_string().contains(text), "{query:?}: {error}");
        let answer = fork.query(execution.machine_mut(), &Command::Step { count: 1 }.encode()).unwrap();
        for execution in [&mut execution, &mut twin] {
            feed(execution, Command::Step { count: 1 }.encode());
        }
        let cut = execution.cut().unwrap();
        assert_eq!(cut, twin.cut().unwrap(), "{query:?}");
        assert_eq!(cut.outputs.last(), answer.last(), "{query:?}");
    }
}

#[test]
fn query_that_no_guest_can_receive_or_that_comes_too_early_or_late_is_refused() {
    let mut fork = Fork::new(BUDGET);
    let image = Image::admit(STRESS.elf).unwrap();
    let mut young = Execution::genesis(&image, MEMORY).expect(KVM_NEEDED);
    assert_eq!(fork.query(young.machine_mut(), b"").unwrap_err().kind(), "NotWaiting");
    let mut execution = stress();
    let limit = quorate_guest_abi::INPUT_BYTES_MAX as usize;
    assert_eq!(
        fork.query(execution.machine_mut(), &vec![0; limit + 1]).unwrap_err().kind(),
        "MessageTooLarge"
    );
    fork.query(execution.machine_mut(), &vec![0; limit]).unwrap();
    execution.feed(Command::Exit { code: 0 }.encode()).unwrap();
    assert_eq!(fork.query(execution.machine_mut(), b"").unwrap_err().kind(), "NotWaiting");
    assert_eq!(execution.run().unwrap(), Stop::Finished { code: 0 });
    assert_eq!(fork.query(execution.machine_mut(), b"").unwrap_err().kind(), "NotWaiting");
}

#[test]
fn query_that_the_guests_buffer_refuses_at_first_is_delivered_once_it_asks_again() {
    let mut execution = start(&worker());
    feed(&mut execution, vec![command::SMALL_RECV]);
    let mut fork = Fork::new(BUDGET);
    let query = vec![command::YIELD; 9];
    let answer = fork.query(execution.machine_mut(), &query).unwrap();
    execution.cut().unwrap();
    feed(&mut execution, query);
    assert_eq!(answer, execution.cut().unwrap().outputs);
}

#[test]
fn two_forks_of_one_machine_and_one_fork_of_two_answer_rightly() {
    let (mut first, mut second) = (stress(), stress());
    feed(&mut second, Command::Step { count: 9 }.encode());
    let mut forks = [Fork::new(BUDGET), Fork::new(BUDGET)];
    let query = Command::Step { count: 1 }.encode();
    for _ in 0..3 {
        for fork in &mut forks {
            let answers =
                [&mut first, &mut second].map(|main| fork.query(main.machine_mut(), &query).unwrap());
            assert_ne!(answers[0], answers[1]);
            for (main, answer) in [&mut first, &mut second].into_iter().zip(answers) {
                let (cut, fresh) =
                    (main.cut().unwrap(), Fork::new(BUDGET).query(main.machine_mut(), &query).unwrap());
                assert_eq!(answer, fresh);
                fork.query(main.machine_mut(), &query).unwrap();
                fork.assert_stands_at(&cut);
            }
        }
        feed(&mut first, query.clone());
    }
}
