//! What a state costs on its way from one machine to another, without a network between them. Prints medians, and the
//! ratio to a plain copy of the same bytes into fresh memory.
//!
//! `cargo bench --profile release -p quorate-vmm --bench transfer`

use std::hint::black_box;
use std::time::{Duration, Instant};

use quorate_guest_images::STRESS;
use quorate_stress::{Command, Work};
use quorate_vmm::checkpoint::Checkpoint;
use quorate_vmm::platform::PlatformClass;
use quorate_vmm::snapshot::PageSnapshot;
use quorate_vmm::state_stream::{Expected, Received, receive, receive_unverified_for_benchmark, send};
use quorate_vmm::{Execution, Image, Stop};

const MEMORY: u64 = 256 << 20;
const FILLED: u64 = 150 << 20;
const ROUNDS: usize = 7;

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let result = work();
    (start.elapsed(), result)
}

fn median(mut work: impl FnMut() -> Duration) -> Duration {
    let mut samples: Vec<_> = (0..ROUNDS).map(|_| work()).collect();
    samples.sort_unstable();
    samples[samples.len() / 2]
}

fn print(what: &str, took: Duration, baseline: Duration) {
    println!("{what}: {took:?} = {:.2} x a plain copy", took.as_secs_f64() / baseline.as_secs_f64());
}

fn ask(execution: &mut Execution, command: Command) -> Vec<u8> {
    let input = command.encode();
    execution.feed(input.clone()).expect("the guest waits");
    while execution.run().expect("the guest runs") != Stop::Idle {}
    input
}

fn main() {
    let image = Image::admit(STRESS.elf).expect("the stress image is admissible");
    let mut execution = Execution::genesis(&image, MEMORY).expect("KVM");
    while execution.run().expect("the guest runs") != Stop::Idle {}
    let work = Work { working_set_bytes: FILLED, pages_per_step: 200, ..Work::default() };
    ask(&mut execution, Command::Configure(work));
    ask(&mut execution, Command::Fill { bytes: FILLED, seed: 1 });
    let cut = execution.cut().expect("measurable");
    let pages = PageSnapshot::of_machine(execution.machine());
    let measurement = cut.pages.measurement;
    let state = Checkpoint::take(&mut execution, &measurement, &pages).expect("just cut");

    let mut stream = Vec::with_capacity(MEMORY as usize);
    println!(
        "sending into memory: {:?}",
        median(|| {
            stream.clear();
            timed(|| send(&mut stream, &state, None).expect("memory takes everything")).0
        })
    );
    let copy = median(|| {
        let (took, copied) = timed(|| stream.clone());
        black_box(copied);
        took
    });
    println!("plain copy of the {} MiB: {copy:?}", stream.len() >> 20);

    let expected = |keep_pages| Expected {
        image: &image,
        memory_bytes: MEMORY,
        measurement,
        input_log: state.input_log.clone(),
        keep_pages,
    };
    let arrive = |verified: bool, keep_pages: bool| -> (Duration, Received) {
        let (expected, mut input) = (expected(keep_pages), &stream[..]);
        timed(|| {
            match verified {
                true => receive(&mut input, &expected, &mut |_, _| {}),
                false => receive_unverified_for_benchmark(&mut input, &expected, &mut |_, _| {}),
            }
            .expect("the state is the expected one")
        })
    };
    print("receiving unverified", median(|| arrive(false, false).0), copy);
    print("receiving verified", median(|| arrive(true, false).0), copy);
    print("receiving verified, pages kept", median(|| arrive(true, true).0), copy);

    let inputs = [ask(&mut execution, Command::Step { count: 1 })];
    let first = execution.position();
    let second_inputs = [ask(&mut execution, Command::Step { count: 1 })];
    let second = execution.position();
    let mut costs = [Vec::new(), Vec::new(), Vec::new(), Vec::new()];
    for _ in 0..ROUNDS {
        let machine = arrive(true, false).1.machine;
        let mut follower = Execution::resume_at(machine, state.input_log.clone()).expect("it fits");
        costs[0].push(timed(|| follower.replay(&inputs, first).expect("it repeats")).0);
        costs[1].push(timed(|| follower.cut().expect("measurable")).0);
        costs[2].push(timed(|| follower.replay(&second_inputs, second).expect("it repeats")).0);
        costs[3].push(timed(|| follower.cut().expect("measurable")).0);
    }
    let names = ["first replay", "its cut", "second replay", "its cut"];
    for (name, cost) in names.iter().zip(&mut costs) {
        cost.sort_unstable();
        println!("after arrival, {name}: {:?}", cost[ROUNDS / 2]);
    }

    println!("platform class: {:?}", median(|| timed(PlatformClass::detect).0));
    println!("Checkpoint::take: {:?}", {
        let cut = execution.cut().expect("measurable");
        let pages = PageSnapshot::of_machine(execution.machine());
        median(|| timed(|| Checkpoint::take(&mut execution, &cut.pages.measurement, &pages).expect("cut")).0)
    });
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state");
    print("writing it durably", median(|| timed(|| state.write_full(&path).expect("room")).0), copy);
}
