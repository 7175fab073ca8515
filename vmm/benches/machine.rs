//! What the machine costs. Prints medians and, where it makes sense, the ratio to a baseline of the same run.
//!
//! `cargo bench --profile release -p quorate-vmm --bench machine`

use std::time::{Duration, Instant};

use quorate_guest_images::STRESS;
use quorate_stress::{Command, Misbehaviour, Work};
use quorate_vmm::page_tree::hash_page;
use quorate_vmm::{Budget, Execution, Fork, Image, Stop};

fn median(mut samples: Vec<Duration>) -> Duration {
    samples.sort_unstable();
    samples[samples.len() / 2]
}

fn timed<T>(work: impl FnOnce() -> T) -> (Duration, T) {
    let start = Instant::now();
    let result = work();
    (start.elapsed(), result)
}

fn to_idle(execution: &mut Execution) {
    while execution.run().expect("the guest runs") != Stop::Idle {}
}

fn ask(execution: &mut Execution, command: Command) {
    execution.feed(command.encode()).expect("the guest waits");
    to_idle(execution);
}

fn boot(image: &Image) {
    for megabytes in [8, 64, 1024] {
        let samples = (0..40).map(|_| {
            let (elapsed, execution) = timed(|| {
                let mut execution = Execution::genesis(image, megabytes << 20).expect("KVM");
                execution.run().expect("the guest runs");
                execution
            });
            let (_, teardown) = (elapsed, timed(|| drop(execution)).0);
            (elapsed, teardown)
        });
        let (up, down): (Vec<_>, Vec<_>) = samples.unzip();
        println!("boot {megabytes} MiB to the first doorbell: {:?}, teardown {:?}", median(up), median(down));
    }
}

fn doorbell(image: &Image) {
    const YIELDS: u32 = 20_000;
    let mut execution = Execution::genesis(image, 32 << 20).expect("KVM");
    to_idle(&mut execution);
    let misbehaviour = Misbehaviour::FloodYields { count: YIELDS };
    let (elapsed, ()) = timed(|| ask(&mut execution, Command::Misbehave(misbehaviour)));
    println!("doorbell round trip: {:?}", elapsed / YIELDS);
}

fn measure(image: &Image) {
    let page = [7u8; 4096];
    let (baseline, _) =
        timed(|| (0..10_000).fold(0u8, |sum, _| sum ^ hash_page(std::hint::black_box(&page))[0]));
    let per_page = baseline / 10_000;
    println!("baseline: hashing one page {per_page:?}");
    let mut execution = Execution::genesis(image, 256 << 20).expect("KVM");
    to_idle(&mut execution);
    println!("slot 0 of 256 MiB: {:?}", timed(|| execution.cut().expect("measurable")).0);
    let set = 200 << 20;
    let work = Work { working_set_bytes: set, pages_per_step: 655, ..Work::default() };
    ask(&mut execution, Command::Configure(work));
    ask(&mut execution, Command::Fill { bytes: set, seed: 1 });
    let (elapsed, cut) = timed(|| execution.cut().expect("measurable"));
    println!("first measure, {} pages changed: {elapsed:?}", cut.pages.changed.len());
    let samples = (0..30).map(|_| {
        let (run, ()) = timed(|| ask(&mut execution, Command::Step { count: 1 }));
        let (elapsed, cut) = timed(|| execution.cut().expect("measurable"));
        (elapsed, run, cut.pages.changed.len())
    });
    let samples: Vec<_> = samples.collect();
    let cost = median(samples.iter().map(|sample| sample.0).collect());
    let run = median(samples.iter().map(|sample| sample.1).collect());
    let pages = samples[samples.len() - 1].2 as u32;
    println!(
        "measure, {pages} pages changed (1 %): {cost:?} = {:.1} x hashing them; the step itself {run:?}",
        cost.as_secs_f64() / (per_page * pages).as_secs_f64()
    );
    let quiet = (0..30).map(|_| timed(|| execution.cut().expect("measurable")).0).collect();
    println!("measure, nothing changed: {:?}", median(quiet));
}

fn fork(image: &Image) {
    let budget = Budget { doorbells: 1000, time: Duration::from_secs(5), outputs: 16, output_bytes: 1 << 20 };
    let mut execution = Execution::genesis(image, 64 << 20).expect("KVM");
    to_idle(&mut execution);
    let work = Work { working_set_bytes: 32 << 20, pages_per_step: 10, ..Work::default() };
    ask(&mut execution, Command::Configure(work));
    ask(&mut execution, Command::Fill { bytes: 32 << 20, seed: 1 });
    let step = Command::Step { count: 1 };
    let mut fork = Fork::new(budget);
    let mut query = |execution: &mut Execution| {
        timed(|| fork.query(execution.machine_mut(), &step.encode()).expect("an answer")).0
    };
    println!("first query to a fork of 32 MiB: {:?}", query(&mut execution));
    let feeds = (0..200).map(|_| timed(|| ask(&mut execution, step.clone())).0).collect();
    let fed = median(feeds);
    let still = median((0..200).map(|_| query(&mut execution)).collect());
    let after = (0..200).map(|_| {
        ask(&mut execution, step.clone());
        query(&mut execution)
    });
    let after = median(after.collect());
    println!(
        "query that writes 10 pages: {still:?} = {:.1} x feeding it ({fed:?}); after an input {after:?}",
        still.as_secs_f64() / fed.as_secs_f64()
    );
}

fn main() {
    let (admission, image) = timed(|| Image::admit(STRESS.elf).expect("the stress image is admissible"));
    println!("admission of {} bytes: {admission:?}", STRESS.elf.len());
    boot(&image);
    doorbell(&image);
    measure(&image);
    fork(&image);
}
