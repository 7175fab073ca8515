//! An execution: a machine, the log of its inputs, and what it emitted since the last cut.
//!
//! The same type records and replays. A recorder calls [`run`](Execution::run), [`feed`](Execution::feed) and
//! [`cut`](Execution::cut); a replayer calls [`replay`](Execution::replay) with the inputs and the end position of a
//! cut, cuts there too, and compares. Cuts are possible behind every ring: blocked in a receive, after a yield, after
//! an output. Position and digests of a cut are functions of the start state and the inputs alone.
//!
//! What an interval can hold in memory is bounded: its outputs ([`OUTPUT_BYTES_PER_INTERVAL`], [`Stop::Full`]) and the
//! console ([`CONSOLE_BYTES`], oldest lines dropped and counted). The inputs are the caller's own.
//!
//! Not provided: any limit on how long a replay takes besides the watchdog's between two rings; a verifier bounds the
//! doorbells of a transition it accepts.

use std::collections::VecDeque;
use std::time::Duration;

use quorate_attest::id::{InputRoot, OutputRoot};
use quorate_attest::merkle::{Frontier, Sha256Tree, root_of_data};

use crate::crash::CrashReport;
use crate::image::Image;
use crate::machine::{Delivery, Exit, Machine, MachineError};
use crate::measurement::{MeasuredPages, Position};

/// Bytes of outputs at which an interval is full.
pub const OUTPUT_BYTES_PER_INTERVAL: usize = 64 << 20;
/// Outputs at which an interval is full.
pub const OUTPUTS_PER_INTERVAL: usize = 65_536;
/// Console bytes kept; older lines are dropped.
pub const CONSOLE_BYTES: usize = 64 << 10;
/// Doorbells after which [`Execution::run`] returns as if the guest had yielded.
pub const DOORBELLS_PER_RUN: u32 = 65_536;

/// Why [`Execution::run`] came back. All but the last allow a cut.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Stop {
    /// The guest waits for an input: feed it.
    Idle,
    /// The guest lets the host stop here, or has rung very often without waiting for anything.
    Yielded,
    /// The outputs of this interval have reached the limit: it must be cut before the guest runs on.
    Full,
    /// The guest has exited.
    Finished {
        /// Its exit code.
        code: u64,
    },
    /// The guest was stopped; nothing after the last cut can be certified.
    Crashed(Box<CrashReport>),
}

/// What an execution refuses to record.
#[derive(Debug, thiserror::Error)]
pub enum ExecutionError {
    /// The machine.
    #[error(transparent)]
    Machine(#[from] MachineError),
    /// The input log handed over does not end where the machine stands.
    #[error("the input log has {log} records, but the machine has consumed {machine}")]
    LogPosition {
        /// Records of the log.
        log: u64,
        /// Inputs of the machine.
        machine: u64,
    },
    /// The guest was told the length of an input it has not consumed yet.
    #[error("an input is refused but not consumed; the guest must ask again first")]
    InputOutstanding,
}

impl ExecutionError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Machine(error) => error.kind(),
            Self::LogPosition { .. } => "SnapshotInvalid",
            Self::InputOutstanding => "InputOutstanding",
        }
    }
}

/// Inputs and end position do not fit together, or do not fit the machine.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// Fewer inputs than the end position says.
    #[error("the log is truncated: {want} inputs to replay, got {got}")]
    LogTruncated {
        /// Inputs up to the end position.
        want: u64,
        /// Inputs given.
        got: u64,
    },
    /// More inputs than the end position says.
    #[error("{n} inputs follow the end of the transition")]
    LogTrailingRecords {
        /// How many.
        n: u64,
    },
    /// The machine does not come to the end position.
    #[error("the execution diverges: it stands at {at} and cannot end at {until}")]
    ReplayDivergence {
        /// Where it stands.
        at: Position,
        /// Where it was to end.
        until: Position,
    },
    /// The guest exits or crashes before the end position.
    #[error("the guest ends before the transition does: {kind}")]
    GuestTerminal {
        /// How, see [`CrashReport::kind`]; `Finished` for an exit.
        kind: &'static str,
    },
    /// An input that no guest can receive, or a failure of this host.
    #[error(transparent)]
    Machine(#[from] MachineError),
}

impl ReplayError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::LogTruncated { .. } => "LogTruncated",
            Self::LogTrailingRecords { .. } => "LogTrailingRecords",
            Self::ReplayDivergence { .. } => "ReplayDivergence",
            Self::GuestTerminal { .. } => "GuestTerminal",
            Self::Machine(error) => error.kind(),
        }
    }
}

/// One interval of an execution, ended and measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Digests at its end, and the pages it changed.
    pub pages: MeasuredPages,
    /// Root over all inputs since genesis.
    pub input_root: InputRoot,
    /// Number of the first input consumed in the interval.
    pub first_input: u64,
    /// Number behind the last input consumed in it.
    pub end_input: u64,
    /// Those inputs.
    pub inputs: Vec<Vec<u8>>,
    /// What the guest emitted in it.
    pub outputs: Vec<Vec<u8>>,
    /// Root over the outputs.
    pub output_root: OutputRoot,
}

/// Console lines, the newest [`CONSOLE_BYTES`] of them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Console {
    /// Lines in order.
    pub lines: VecDeque<Vec<u8>>,
    /// Bytes of lines dropped since it was last taken.
    pub dropped_bytes: u64,
    bytes: usize,
}

impl Console {
    /// What a line costs besides its bytes, so that empty lines are bounded too.
    const LINE: usize = 32;

    fn push(&mut self, line: Vec<u8>) {
        self.bytes += line.len() + Self::LINE;
        self.lines.push_back(line);
        while self.bytes > CONSOLE_BYTES {
            let Some(oldest) = self.lines.pop_front() else { break };
            self.bytes -= oldest.len() + Self::LINE;
            self.dropped_bytes += oldest.len() as u64;
        }
    }
}

/// A machine that is recorded or replayed.
#[derive(Debug)]
pub struct Execution {
    machine: Machine,
    log: Frontier<Sha256Tree>,
    first_input: u64,
    inputs: Vec<Vec<u8>>,
    outputs: Vec<Vec<u8>>,
    output_bytes: usize,
    console: Console,
    /// Refused by the guest's buffer and still first in line.
    held: Option<Vec<u8>>,
}

/// How far [`Execution::step`] came.
enum Step {
    Running,
    Stopped(Stop),
}

impl Execution {
    /// An execution before its first instruction. Cut now, it is slot 0.
    pub fn genesis(image: &Image, memory_bytes: u64) -> Result<Self, ExecutionError> {
        Self::resume_at(Machine::boot(image, memory_bytes)?, Frontier::new())
    }

    /// Continues a machine whose consumed inputs make up this log.
    pub fn resume_at(machine: Machine, input_log: Frontier<Sha256Tree>) -> Result<Self, ExecutionError> {
        let (log, inputs) = (input_log.size(), machine.position().inputs);
        if log != inputs {
            return Err(ExecutionError::LogPosition { log, machine: inputs });
        }
        Ok(Self {
            machine,
            log: input_log,
            first_input: log,
            inputs: Vec::new(),
            outputs: Vec::new(),
            output_bytes: 0,
            console: Console::default(),
            held: None,
        })
    }

    /// Runs until the guest waits for an input or lets the host stop, collecting outputs and console lines.
    ///
    /// While an input is refused and not yet consumed, a yield does not stop the run, because it could not be cut.
    pub fn run(&mut self) -> Result<Stop, ExecutionError> {
        for _ in 0..DOORBELLS_PER_RUN {
            if let Some(stop) = self.advance()? {
                return Ok(stop);
            }
        }
        Ok(Stop::Yielded)
    }

    /// As [`run`](Self::run), but comes back after each output, too: with `None`.
    pub fn run_to_output(&mut self) -> Result<Option<Stop>, ExecutionError> {
        let known = self.outputs.len();
        for _ in 0..DOORBELLS_PER_RUN {
            let stop = self.advance()?;
            if stop.is_some() || self.outputs.len() > known {
                return Ok(stop);
            }
        }
        Ok(Some(Stop::Yielded))
    }

    /// Runs to the next ring; a stop if the run ends there.
    fn advance(&mut self) -> Result<Option<Stop>, MachineError> {
        Ok(match self.step()? {
            Step::Stopped(Stop::Yielded) if self.held.is_some() => None,
            Step::Stopped(stop) => Some(stop),
            Step::Running => None,
        })
    }

    /// Runs to the next ring of any kind.
    fn step(&mut self) -> Result<Step, MachineError> {
        if self.is_full() {
            return Ok(Step::Stopped(Stop::Full));
        }
        let stop = match self.machine.ring()? {
            None => return Ok(Step::Running),
            Some(Exit::Output(output)) => {
                self.output_bytes += output.len();
                self.outputs.push(output);
                return Ok(Step::Running);
            }
            Some(Exit::Log(line)) => {
                self.console.push(line);
                return Ok(Step::Running);
            }
            Some(Exit::WantsInput { .. }) => match self.held.take() {
                Some(input) => {
                    self.deliver(input)?;
                    return Ok(Step::Running);
                }
                None => Stop::Idle,
            },
            Some(Exit::Yielded) => Stop::Yielded,
            Some(Exit::Finished { code }) => Stop::Finished { code },
            Some(Exit::Crashed(report)) => Stop::Crashed(report),
        };
        Ok(Step::Stopped(stop))
    }

    fn is_full(&self) -> bool {
        self.output_bytes >= OUTPUT_BYTES_PER_INTERVAL || self.outputs.len() >= OUTPUTS_PER_INTERVAL
    }

    /// Hands over the next input and appends it to the log once the guest has it. Only valid at [`Stop::Idle`].
    pub fn feed(&mut self, input: Vec<u8>) -> Result<(), ExecutionError> {
        Ok(self.deliver(input)?)
    }

    fn deliver(&mut self, input: Vec<u8>) -> Result<(), MachineError> {
        match self.machine.deliver(&input)? {
            Delivery::Consumed => {
                self.log.push(&input);
                self.inputs.push(input);
            }
            Delivery::Refused => self.held = Some(input),
        }
        Ok(())
    }

    /// Feeds exactly these inputs and stops exactly at `until`, which may lie behind any ring.
    ///
    /// On failure the execution stands somewhere in between and is of no further use.
    pub fn replay(&mut self, inputs: &[Vec<u8>], until: Position) -> Result<(), ReplayError> {
        let start = self.machine.position();
        let diverged = |at| ReplayError::ReplayDivergence { at, until };
        let want = until.inputs.checked_sub(start.inputs).ok_or(diverged(start))?;
        let got = inputs.len() as u64;
        if got < want {
            return Err(ReplayError::LogTruncated { want, got });
        }
        if got > want {
            return Err(ReplayError::LogTrailingRecords { n: got - want });
        }
        let mut inputs = inputs.iter();
        loop {
            let at = self.machine.position();
            if at == until && self.held.is_none() {
                return Ok(());
            }
            if at.doorbells > until.doorbells {
                return Err(diverged(at));
            }
            match self.step()? {
                Step::Running | Step::Stopped(Stop::Yielded) => {}
                Step::Stopped(Stop::Idle) if self.machine.position() == until => {}
                Step::Stopped(Stop::Idle) => {
                    let input = inputs.next().ok_or(diverged(self.machine.position()))?;
                    self.deliver(input.clone())?;
                }
                Step::Stopped(Stop::Full) => return Err(diverged(self.machine.position())),
                Step::Stopped(Stop::Finished { .. }) if self.machine.position() == until => {}
                Step::Stopped(Stop::Finished { .. }) => {
                    return Err(ReplayError::GuestTerminal { kind: "Finished" });
                }
                Step::Stopped(Stop::Crashed(report)) => {
                    return Err(ReplayError::GuestTerminal { kind: report.kind() });
                }
            }
        }
    }

    /// Ends the interval here: measures the machine and hands over inputs and outputs since the last cut.
    pub fn cut(&mut self) -> Result<Cut, ExecutionError> {
        if self.held.is_some() {
            return Err(ExecutionError::InputOutstanding);
        }
        let pages = self.machine.measure()?;
        let first_input = std::mem::replace(&mut self.first_input, self.log.size());
        let inputs = std::mem::take(&mut self.inputs);
        let outputs = std::mem::take(&mut self.outputs);
        self.output_bytes = 0;
        assert_eq!(
            first_input + inputs.len() as u64,
            pages.measurement.position.inputs,
            "log and machine agree"
        );
        Ok(Cut {
            pages,
            input_root: InputRoot::from_bytes(self.log.root()),
            first_input,
            end_input: self.log.size(),
            inputs,
            output_root: OutputRoot::from_bytes(root_of_data::<Sha256Tree, _>(&outputs)),
            outputs,
        })
    }

    /// Where the execution stands.
    pub fn position(&self) -> Position {
        self.machine.position()
    }

    /// The log of all inputs since genesis.
    pub fn input_log(&self) -> &Frontier<Sha256Tree> {
        &self.log
    }

    /// What the guest emitted since the last cut.
    pub fn outputs(&self) -> &[Vec<u8>] {
        &self.outputs
    }

    /// Takes the console lines collected so far.
    pub fn take_console(&mut self) -> Console {
        std::mem::take(&mut self.console)
    }

    /// The machine, for snapshots and challenges.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The machine, for its CPU state and for queries to a fork of it. Running or feeding it behind the execution's back breaks the log.
    pub fn machine_mut(&mut self) -> &mut Machine {
        &mut self.machine
    }

    /// See [`Machine::set_watchdog`].
    pub fn set_watchdog(&mut self, budget: Option<Duration>) -> Result<(), ExecutionError> {
        Ok(self.machine.set_watchdog(budget)?)
    }

    /// Gives the machine back.
    pub fn into_machine(self) -> Machine {
        self.machine
    }
}

#[cfg(test)]
mod tests;
