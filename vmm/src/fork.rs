//! A throw-away copy of a machine that answers questions about its state.
//!
//! Whatever a guest does changes its memory: the stack, a buffer, the allocator. A question that is put to an attested
//! machine would therefore become part of its state. A [`Fork`] puts it to a second machine instead:
//!
//! ```text
//! main   ──input──▶ … ──waits──────────────────────────▶ input ──▶ …       measured, cut, attested
//!                       │ pages changed since last time    ▲ nothing
//!                       ▼                                  │
//! fork   ─────────── the same state ──query──▶ outputs ──▶ changed pages, CPU and device back to main's
//! ```
//!
//! The first query copies the main machine's non-zero pages; every later one costs the pages that main changed in
//! between and twice the pages that the query itself writes. A fork takes as much memory as the main machine has touched.
//!
//! # Why the main machine is not affected
//!
//! It is read only. To know what it changes, KVM's log of written pages stays on while there is a fork; what a fork takes
//! from the log is kept for the next measurement. So digests, positions and the changed pages of the next cut are
//! those of a machine without a fork.
//!
//! # What it does not promise
//!
//! An answer is as good as the host that gives it: nothing certifies it, and it is in no log. What depends on time (the
//! [`Budget`]) may differ from host to host.

use std::time::Duration;

use crate::cpu::CpuState;
use crate::crash::{CrashKind, CrashReport};
use crate::device::DeviceState;
use crate::machine::{Delivery, Exit, FollowToken, Machine, MachineError};
use crate::watchdog::processor_time;

/// What one query may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// Doorbells rung.
    pub doorbells: u64,
    /// Processor time from the first instruction to the last doorbell; a guest that rings none is stopped after it, too.
    pub time: Duration,
    /// Number of outputs.
    pub outputs: usize,
    /// Bytes of all outputs together.
    pub output_bytes: usize,
}

/// Why a query has no answer. The main machine stands where it stood, and the next query begins from its state.
#[derive(Debug, thiserror::Error)]
pub enum ForkError {
    /// The main machine does not stand at a state that can be asked.
    #[error("the guest does not wait for an input")]
    NotWaiting,
    /// An input no guest can ever receive.
    #[error("a query of {bytes} bytes exceeds the limit of {limit}", limit = quorate_guest_abi::INPUT_BYTES_MAX)]
    Oversize {
        /// Its length.
        bytes: usize,
    },
    /// The guest crashed over it.
    #[error("the query crashes the guest: {0}")]
    Crashed(Box<CrashReport>),
    /// The guest exited over it.
    #[error("the query makes the guest exit with code {code}")]
    Finished {
        /// The exit code.
        code: u64,
    },
    /// It used more than it may.
    #[error("the query exceeds its budget of {what}")]
    Overrun {
        /// `doorbells`, `time`, `outputs` or `output bytes`.
        what: &'static str,
    },
    /// A failure of this host.
    #[error(transparent)]
    Machine(#[from] MachineError),
}

impl ForkError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotWaiting => "NotWaiting",
            Self::Oversize { .. } => "MessageTooLarge",
            Self::Crashed(_) | Self::Finished { .. } => "GuestTerminal",
            Self::Overrun { .. } => "ResourceExhausted",
            Self::Machine(error) => error.kind(),
        }
    }
}

/// Answers queries from the state of a main machine. Made when it is first asked, and anew after a query that failed.
#[derive(Debug)]
pub struct Fork {
    budget: Budget,
    twin: Option<Twin>,
}

/// A machine in the state in which the main one was last seen.
#[derive(Debug)]
struct Twin {
    machine: Machine,
    cpu: CpuState,
    device: DeviceState,
    /// Asks the main machine for its changes.
    follows: FollowToken,
    /// Asks `machine` for what a query changed.
    watches: FollowToken,
}

impl Fork {
    /// A fork of no machine yet; each query may use this much.
    pub fn new(budget: Budget) -> Self {
        Self { budget, twin: None }
    }

    /// Delivers one input to a copy of `main`, which waits for one, and gives what the guest emits before it waits again.
    ///
    /// Calls may name different machines; each change costs a full copy.
    ///
    /// # Errors
    /// The query cannot be delivered, ends the guest or exceeds the budget, or the host fails.
    pub fn query(&mut self, main: &mut Machine, input: &[u8]) -> Result<Vec<Vec<u8>>, ForkError> {
        if !main.is_waiting() {
            return Err(ForkError::NotWaiting);
        }
        if input.len() as u64 > quorate_guest_abi::INPUT_BYTES_MAX {
            return Err(ForkError::Oversize { bytes: input.len() });
        }
        // Put back only when it stands where it stood: a twin in any other state is not used again.
        let mut twin = match self.twin.take().map(|twin| twin.follow(main)).transpose()?.flatten() {
            Some(twin) => twin,
            None => Twin::of(main, &self.budget)?,
        };
        let outputs = twin.run(input, &self.budget)?;
        twin.undo(main)?;
        self.twin = Some(twin);
        Ok(outputs)
    }
}

impl Twin {
    fn of(main: &mut Machine, budget: &Budget) -> Result<Self, MachineError> {
        let follows = main.begin_to_follow()?;
        let (cpu, device) = (main.cpu_state()?, main.device_state());
        let mut machine = main.duplicate(&cpu)?;
        machine.set_watchdog(Some(budget.time))?;
        let watches = machine.begin_to_follow()?;
        Ok(Self { machine, cpu, device, follows, watches })
    }

    /// Goes where the main machine is; `None` if this is a twin of another one.
    fn follow(mut self, main: &mut Machine) -> Result<Option<Self>, MachineError> {
        let Some(changed) = main.changes(&self.follows)? else { return Ok(None) };
        // One machine at one position that waits is in one state.
        if main.position() != self.device.position() {
            self.machine.copy_pages(main, &changed)?;
            (self.cpu, self.device) = (main.cpu_state()?, main.device_state());
            self.machine.reload(&self.cpu, self.device)?;
        }
        Ok(Some(self))
    }

    fn run(&mut self, input: &[u8], budget: &Budget) -> Result<Vec<Vec<u8>>, ForkError> {
        let began = processor_time();
        let (mut outputs, mut output_bytes) = (Vec::new(), 0);
        let mut consumed = self.machine.deliver(input)? == Delivery::Consumed;
        loop {
            let exit = self.machine.ring()?;
            let rung = self.machine.position().doorbells - self.device.doorbells;
            match exit {
                Some(Exit::WantsInput { .. }) if consumed => return Ok(outputs),
                // Its buffer was too small, and it was told the length.
                Some(Exit::WantsInput { .. }) => {
                    consumed = self.machine.deliver(input)? == Delivery::Consumed;
                }
                Some(Exit::Output(output)) => {
                    output_bytes += output.len();
                    outputs.push(output);
                }
                Some(Exit::Crashed(report)) => {
                    return Err(match report.kind {
                        CrashKind::Watchdog { .. } => ForkError::Overrun { what: "time" },
                        _ => ForkError::Crashed(report),
                    });
                }
                Some(Exit::Finished { code }) => return Err(ForkError::Finished { code }),
                Some(Exit::Log(_) | Exit::Yielded) | None => {}
            }
            let exceeded = [
                (rung >= budget.doorbells, "doorbells"),
                (processor_time().saturating_sub(began) > budget.time, "time"),
                (outputs.len() > budget.outputs, "outputs"),
                (output_bytes > budget.output_bytes, "output bytes"),
            ];
            if let Some((_, what)) = exceeded.into_iter().find(|(exceeded, _)| *exceeded) {
                return Err(ForkError::Overrun { what });
            }
        }
    }

    /// Takes back what a query did. The main machine has not moved meanwhile.
    fn undo(&mut self, main: &Machine) -> Result<(), MachineError> {
        let changed = self.machine.changes(&self.watches)?;
        let changed = changed.ok_or_else(|| MachineError::Inconsistent("a fork lost its log".into()))?;
        self.machine.copy_pages(main, &changed)?;
        self.machine.reload(&self.cpu, self.device)
    }
}

#[cfg(test)]
mod tests;
