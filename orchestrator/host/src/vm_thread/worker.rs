//! The loop of the VM thread.

use quorate_attest::merkle::Frontier;
use quorate_verifier::protocol::{SLOT_DOORBELLS_MAX, SLOT_INPUT_BYTES_MAX, SLOT_INPUTS_MAX};
use quorate_vmm::Position;
use quorate_vmm::checkpoint::Checkpoint;
use quorate_vmm::execution::{Execution, ExecutionError, Stop};
use quorate_vmm::fork::{Budget, Fork};
use quorate_vmm::snapshot::PageSnapshot;
use std::time::Duration;
use tokio::sync::mpsc;

use super::{Control, Emitted, Inbox, Query, SlotState, VmEvent, VmFailure};
use crate::clock::monotonic_ns;
use crate::mailbox::{Next, Wanted};
use crate::protocol::{CALL_BYTES_MAX, QUERIED_OUTPUTS_MAX, Queried};

/// A guest that has a processor for this long and rings no doorbell is killed.
const WATCHDOG: Duration = Duration::from_secs(5);
/// What one query may use. A freeze waits for the query that is under way.
const QUERY_BUDGET: Budget = Budget {
    doorbells: 65_536,
    time: Duration::from_secs(1),
    outputs: QUERIED_OUTPUTS_MAX,
    output_bytes: CALL_BYTES_MAX,
};

pub(super) struct Worker {
    execution: Execution,
    pages: PageSnapshot,
    events: mpsc::UnboundedSender<VmEvent>,
    running: bool,
    /// Whether the guest waits for an input.
    idle: bool,
    ended: Option<VmFailure>,
    /// The slot can hold no more; the guest waits for the next cut.
    full: bool,
    /// Doorbells rung at the last cut.
    cut_at: u64,
    fed_bytes: usize,
    fed: usize,
    /// Whether outputs are told as soon as they are emitted.
    immediate: bool,
    /// Outputs since the last cut that were told.
    told: usize,
    fork: Fork,
}

impl Worker {
    pub(super) fn new(
        execution: Execution,
        pages: PageSnapshot,
        events: mpsc::UnboundedSender<VmEvent>,
        immediate: bool,
    ) -> Self {
        let cut_at = execution.position().doorbells;
        Self {
            execution,
            pages,
            events,
            running: false,
            idle: false,
            ended: None,
            full: false,
            cut_at,
            fed_bytes: 0,
            fed: 0,
            immediate,
            told: 0,
            fork: Fork::new(QUERY_BUDGET),
        }
    }

    pub(super) fn run(mut self, mailbox: &Inbox) {
        if let Err(error) = self.execution.set_watchdog(Some(WATCHDOG)) {
            self.end(VmFailure::of(error.kind(), error));
        }
        loop {
            match mailbox.next(self.wanted()) {
                Next::Closed => return,
                Next::Control(message) => self.obey(message, mailbox),
                Next::Input(bytes) => self.feed(bytes, mailbox),
                Next::Query(query) => self.query(query),
            }
        }
    }

    /// A full slot holds inputs back, but no queries. An ended guest has an answer to queries: that it has ended.
    fn wanted(&self) -> Wanted {
        let alive = self.running && self.ended.is_none();
        Wanted { inputs: alive && !self.full, queries: self.ended.is_some() || (alive && self.idle) }
    }

    fn query(&mut self, query: Query) {
        let answer = match &self.ended {
            Some(failure) => Err(failure.clone()),
            None => self
                .fork
                .query(self.execution.machine_mut(), &query.bytes)
                .map(|outputs| Queried { outputs, inputs: self.execution.position().inputs })
                .map_err(|error| VmFailure::of(error.kind(), error)),
        };
        // Whoever asked may have gone away.
        drop(query.answer.send(answer));
    }

    fn obey(&mut self, message: Control, mailbox: &Inbox) {
        match message {
            Control::RunOn => {
                self.running = true;
                self.advance(mailbox);
            }
            Control::Cut(answer) => {
                drop(answer.send(self.cut()));
                if std::mem::take(&mut self.full) {
                    self.advance(mailbox);
                }
            }
            Control::Freeze(answer) => {
                self.running = false;
                mailbox.drop_requests();
                self.forget_fork();
                drop(answer.send(self.cut()));
            }
            Control::Replay { inputs, until, answer } => drop(answer.send(self.replay(&inputs, until))),
        }
    }

    fn feed(&mut self, bytes: Vec<u8>, mailbox: &Inbox) {
        self.fed_bytes = self.fed_bytes.saturating_add(bytes.len());
        self.fed = self.fed.saturating_add(1);
        if let Err(error) = self.execution.feed(bytes) {
            return self.end(VmFailure::of(error.kind(), error));
        }
        self.advance(mailbox);
        self.full |= self.fed_bytes > SLOT_INPUT_BYTES_MAX / 4 || self.fed > SLOT_INPUTS_MAX / 2;
        self.tell(if self.full { VmEvent::SlotFull } else { VmEvent::Progress });
    }

    /// Runs the guest until it waits for an input. A guest that works long yields now and then, which is when control
    /// messages are served.
    fn advance(&mut self, mailbox: &Inbox) {
        while self.running && self.ended.is_none() {
            self.idle = false;
            let stop = match self.turn() {
                Ok(stop) => stop,
                Err(error) => return self.end(VmFailure::of(error.kind(), error)),
            };
            self.report();
            let Some(stop) = stop else { continue };
            match stop {
                Stop::Idle => {
                    self.idle = true;
                    return;
                }
                Stop::Full => {
                    self.full = true;
                    return self.tell(VmEvent::SlotFull);
                }
                Stop::Yielded => {
                    if let Some(message) = mailbox.try_control() {
                        self.obey(message, mailbox);
                    }
                    let rung = self.execution.position().doorbells.saturating_sub(self.cut_at);
                    if rung > SLOT_DOORBELLS_MAX / 2 {
                        self.full = true;
                        return self.tell(VmEvent::SlotFull);
                    }
                }
                Stop::Finished { code } => {
                    return self
                        .end(VmFailure::of("GuestTerminal", format!("the guest exited with code {code}")));
                }
                Stop::Crashed(report) => return self.end(VmFailure::of("GuestTerminal", report)),
            }
        }
    }

    /// `None`: there is an output to be told first.
    fn turn(&mut self) -> Result<Option<Stop>, ExecutionError> {
        if self.immediate { self.execution.run_to_output() } else { self.execution.run().map(Some) }
    }

    fn report(&mut self) {
        if self.immediate {
            let outputs = self.execution.outputs();
            for (index, bytes) in (0u64..).zip(outputs).skip(self.told) {
                self.tell(VmEvent::Output(Emitted { since: self.cut_at, index, bytes: bytes.clone() }));
            }
            self.told = outputs.len();
        }
        for line in self.execution.take_console().lines {
            self.tell(VmEvent::Log(String::from_utf8_lossy(&line).into_owned()));
        }
    }

    fn cut(&mut self) -> Result<SlotState, VmFailure> {
        if let Some(failure) = &self.ended {
            return Err(failure.clone());
        }
        let stopped_ns = monotonic_ns();
        let cut = self.execution.cut().map_err(|error| VmFailure::of(error.kind(), error))?;
        self.pages.apply(self.execution.machine(), &cut.pages.changed);
        let measurement = cut.pages.measurement;
        let checkpoint = Checkpoint::take(&mut self.execution, &measurement, &self.pages)
            .map_err(|error| VmFailure::of(error.kind(), error))?;
        (self.fed, self.fed_bytes, self.told) = (0, 0, 0);
        self.cut_at = measurement.position.doorbells;
        Ok(SlotState {
            measurement,
            input_root: cut.input_root,
            first_input: cut.first_input,
            end_input: cut.end_input,
            inputs: cut.inputs,
            outputs: cut.outputs,
            output_root: cut.output_root,
            checkpoint,
            stopped_ns,
            pause_ns: monotonic_ns().saturating_sub(stopped_ns),
            replay_ns: 0,
            statements: Frontier::new(),
        })
    }

    fn replay(&mut self, inputs: &[Vec<u8>], until: Position) -> Result<SlotState, VmFailure> {
        if let Some(failure) = &self.ended {
            return Err(failure.clone());
        }
        let started_ns = monotonic_ns();
        if let Err(error) = self.execution.replay(inputs, until) {
            let failure = VmFailure::of(error.kind(), error);
            self.end(failure.clone());
            return Err(failure);
        }
        let mut state = self.cut()?;
        state.replay_ns = monotonic_ns().saturating_sub(started_ns);
        Ok(state)
    }

    /// Frees a fork's memory; the next query makes one anew.
    fn forget_fork(&mut self) {
        self.fork = Fork::new(QUERY_BUDGET);
    }

    fn end(&mut self, failure: VmFailure) {
        self.running = false;
        self.forget_fork();
        self.ended = Some(failure.clone());
        self.tell(VmEvent::Ended(failure));
    }

    fn tell(&self, event: VmEvent) {
        // The host agent may already be gone; then nobody needs to know.
        let _ = self.events.send(event);
    }
}
