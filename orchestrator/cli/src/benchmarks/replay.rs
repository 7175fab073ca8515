//! Replay against the run that was recorded.

use std::time::{Duration, Instant};

use quorate_guest_images::STRESS;
use quorate_stress::{Command, Work};
use quorate_vmm::{Execution, Image, Position, Stop};

use super::report::{Figure, Row};
use super::stats::{Samples, timed};
use super::{BenchError, Context};

const MEMORY_BYTES: u64 = 64 << 20;
/// Time between two doorbells of the second guest.
const DOORBELL_EVERY: Duration = Duration::from_micros(50);
/// Steps that are run to find out how long one takes.
const TRIAL_STEPS: u32 = 400;

pub(super) fn measure(context: &Context) -> Result<Figure, BenchError> {
    let image = Image::admit(STRESS.elf)?;
    let compute = Work {
        working_set_bytes: 32 << 20,
        pages_per_step: 64,
        integer_rounds: 1_000_000,
        float_rounds: 10_000,
        chase_steps: 50_000,
    };
    let chatty = Work { integer_rounds: rounds_between_doorbells(&image)?, ..Work::default() };
    let mut rows = Vec::new();
    for (what, work, aim) in [("compute-bound", compute, 0.95), ("a doorbell every", chatty, 0.8)] {
        let (mut recorded, mut replayed, mut gap) = (Samples::new(), Samples::new(), Samples::new());
        for _ in 0..context.effort.recordings {
            let recording = record(&image, work, context.effort.recording)?;
            let took = replay(&image, &recording)?;
            let steps = recording.inputs.len() as f64;
            recorded.push(steps / recording.took.as_secs_f64());
            replayed.push(steps / took.as_secs_f64());
            let doorbells = (recording.until.doorbells - recording.from.doorbells) as f64;
            gap.push(recording.took.as_secs_f64() * 1e6 / doorbells);
        }
        let what = format!("replay, {what} ({:.0} us a doorbell)", gap.p50());
        let row = Row::new(what, "steps/s", &replayed).against("the recorded run", recorded.p50());
        rows.push(Row { p99: None, ..row.aim_ratio_at_least(aim) });
    }
    Ok(Figure {
        title: "replay of a recorded execution, in the same process".into(),
        rows,
        notes: vec!["the digests of both ends are compared; measuring them is not timed".into()],
        ..Figure::default()
    })
}

/// One interval of an execution, after the guest was set up.
struct Recording {
    work: Work,
    from: Position,
    until: Position,
    inputs: Vec<Vec<u8>>,
    took: Duration,
    end: quorate_vmm::Measurement,
}

/// A guest that has been told what to do, and its state measured.
fn prepared(image: &Image, work: Work) -> Result<Execution, BenchError> {
    let mut execution = Execution::genesis(image, MEMORY_BYTES)?;
    to_idle(&mut execution)?;
    ask(&mut execution, &Command::Configure(work))?;
    ask(&mut execution, &Command::Fill { bytes: work.working_set_bytes, seed: 1 })?;
    execution.cut()?;
    Ok(execution)
}

fn record(image: &Image, work: Work, length: Duration) -> Result<Recording, BenchError> {
    let mut execution = prepared(image, work)?;
    let from = execution.position();
    let started = Instant::now();
    while started.elapsed() < length {
        ask(&mut execution, &Command::Step { count: 1 })?;
    }
    let took = started.elapsed();
    let cut = execution.cut()?;
    let end = cut.pages.measurement;
    Ok(Recording { work, from, until: end.position, inputs: cut.inputs, took, end })
}

fn replay(image: &Image, recording: &Recording) -> Result<Duration, BenchError> {
    let mut execution = prepared(image, recording.work)?;
    let (took, result) = timed(|| execution.replay(&recording.inputs, recording.until));
    result?;
    if execution.cut()?.pages.measurement != recording.end {
        return Err(BenchError::unexpected("a replay ended in other digests than its recording"));
    }
    Ok(took)
}

/// Rounds of integer work that put the doorbells of a step, two of them, the wanted time apart.
fn rounds_between_doorbells(image: &Image) -> Result<u32, BenchError> {
    const ROUNDS: u32 = 50_000;
    let step = |integer_rounds| -> Result<f64, BenchError> {
        let mut execution = prepared(image, Work { integer_rounds, ..Work::default() })?;
        let mut steps = Samples::new();
        for _ in 0..TRIAL_STEPS {
            let (took, result) = timed(|| ask(&mut execution, &Command::Step { count: 1 }));
            result?;
            steps.push(took.as_secs_f64());
        }
        Ok(steps.p50())
    };
    let (idle, busy) = (step(0)?, step(ROUNDS)?);
    let round = ((busy - idle) / f64::from(ROUNDS)).max(1e-11);
    let wanted = 2.0 * DOORBELL_EVERY.as_secs_f64();
    Ok(((wanted - idle) / round).clamp(0.0, 1e6) as u32)
}

fn ask(execution: &mut Execution, command: &Command) -> Result<(), BenchError> {
    execution.feed(command.encode())?;
    to_idle(execution)
}

/// Runs until the guest waits for an input.
pub(super) fn to_idle(execution: &mut Execution) -> Result<(), BenchError> {
    loop {
        match execution.run()? {
            Stop::Idle => return Ok(()),
            Stop::Yielded => {}
            other => return Err(BenchError::Unexpected(format!("the guest stopped: {other:?}"))),
        }
    }
}
