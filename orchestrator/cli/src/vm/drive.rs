//! Feeds a guest and cuts slots.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use quorate_vmm::{Cut, Execution, Stop};

use super::super::failure::Failure;

/// A guest that has a processor for so long and rings no doorbell is stopped.
const WATCHDOG: Duration = Duration::from_secs(10);

/// How a drive ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// All inputs are consumed and the guest waits for more.
    Idle,
    /// The guest has exited.
    Finished(u64),
}

/// One guest with the inputs it will get.
pub struct Drive {
    execution: Execution,
    inputs: VecDeque<Vec<u8>>,
    slot_inputs: u64,
    fed: u64,
    /// Time the guest has run, without measuring.
    pub ran: Duration,
    /// Time spent measuring.
    pub measured: Duration,
}

impl Drive {
    /// Cuts a slot each time `slot_inputs` inputs were consumed.
    pub fn new(mut execution: Execution, inputs: Vec<Vec<u8>>, slot_inputs: u64) -> Result<Self, Failure> {
        execution.set_watchdog(Some(WATCHDOG))?;
        let (ran, measured) = (Duration::ZERO, Duration::ZERO);
        Ok(Self { execution, inputs: inputs.into(), slot_inputs: slot_inputs.max(1), fed: 0, ran, measured })
    }

    /// Measures the machine where it stands.
    pub fn cut(&mut self) -> Result<Cut, Failure> {
        let start = Instant::now();
        let cut = self.execution.cut()?;
        self.measured += start.elapsed();
        self.fed = 0;
        Ok(cut)
    }

    /// Runs to the end of the next slot; none when nothing happened since the last one.
    pub fn next_slot(&mut self) -> Result<(Option<Cut>, Option<End>), Failure> {
        let position = self.execution.position();
        let start = Instant::now();
        let end = self.run();
        self.ran += start.elapsed();
        let end = end?;
        let cut = if self.execution.position() == position { None } else { Some(self.cut()?) };
        Ok((cut, end))
    }

    /// The execution, for checkpoints and console lines.
    pub fn execution(&mut self) -> &mut Execution {
        &mut self.execution
    }

    fn run(&mut self) -> Result<Option<End>, Failure> {
        loop {
            match self.execution.run()? {
                Stop::Idle if self.fed >= self.slot_inputs => return Ok(None),
                Stop::Idle => match self.inputs.pop_front() {
                    Some(input) => {
                        self.execution.feed(input)?;
                        self.fed += 1;
                    }
                    None => return Ok(Some(End::Idle)),
                },
                Stop::Yielded => {}
                Stop::Full => return Ok(None),
                Stop::Finished { code } => return Ok(Some(End::Finished(code))),
                Stop::Crashed(report) => {
                    let failure = Failure::refused(report.kind(), report.to_string());
                    return Err(failure.next("the last slot stands; nothing after it can be certified"));
                }
            }
        }
    }
}
