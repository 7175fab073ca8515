//! The thread that owns a VM's execution.
//!
//! It runs the guest between doorbells, feeds it inputs, and ends slots when asked. Everything else in the host agent
//! talks to it through a [`Mailbox`]. Control messages are taken between doorbells only, which is where the machine may be
//! stopped, measured and resumed.

use std::sync::Arc;
use std::time::Duration;

use quorate_attest::id::{InputRoot, OutputRoot};
use quorate_attest::merkle::{Frontier, Sha256Tree};
use quorate_attest::vm::SlotStatement;
use quorate_verifier::core::{Observed, Refusal, compare};
use quorate_verifier::protocol::{SLOT_DOORBELLS_MAX, SLOT_INPUT_BYTES_MAX, SLOT_INPUTS_MAX};
use quorate_vmm::checkpoint::Checkpoint;
use quorate_vmm::execution::{Execution, Stop};
use quorate_vmm::snapshot::PageSnapshot;
use quorate_vmm::{Measurement, Position};
use tokio::sync::{mpsc, oneshot};

use super::clock::monotonic_ns;
use super::mailbox::{Mailbox, Next};

/// Inputs that may wait for the guest.
const INPUTS_WAITING_MAX: usize = 1024;
/// A guest that rings no doorbell for this long is killed.
const WATCHDOG: Duration = Duration::from_secs(5);

/// Everything that describes one slot, taken while the guest stood at a doorbell.
#[derive(Clone, Debug)]
pub struct SlotState {
    /// Digests and position.
    pub measurement: Measurement,
    /// Root of the whole input log.
    pub input_root: InputRoot,
    /// First input of the transition.
    pub first_input: u64,
    /// One past its last input.
    pub end_input: u64,
    /// The inputs of the transition.
    pub inputs: Vec<Vec<u8>>,
    /// The outputs of the transition.
    pub outputs: Vec<Vec<u8>>,
    /// Their root.
    pub output_root: OutputRoot,
    /// The complete state; stays as it is while the guest runs on.
    pub checkpoint: Checkpoint,
    /// When the guest was stopped, monotonic nanoseconds.
    pub stopped_ns: u64,
    /// How long it stood still, nanoseconds.
    pub pause_ns: u64,
    /// How long the replay to this slot took, nanoseconds; 0 where the slot was recorded.
    pub replay_ns: u64,
    /// The VM's statement log up to and including this slot. Filled in by the agent.
    pub statements: Frontier<Sha256Tree>,
}

impl SlotState {
    /// Compares a replayed state with the statement about it.
    ///
    /// # Errors
    /// `RootMismatch` naming the first component that differs.
    pub fn compare(&self, statement: &SlotStatement) -> Result<(), Refusal> {
        let observed = Observed {
            measurement: self.measurement,
            output_root: self.output_root,
            output_count: self.outputs.len() as u64,
        };
        compare(&statement.body, &observed)
    }
}

/// A failure on the VM thread, with a stable kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{kind}: {detail}")]
pub struct VmFailure {
    /// Stable identifier of threats.md.
    pub kind: String,
    /// What was found.
    pub detail: String,
}

impl VmFailure {
    /// A failure of a kind.
    pub fn of(kind: &str, detail: impl ToString) -> Self {
        Self { kind: kind.to_owned(), detail: detail.to_string() }
    }

    fn gone() -> Self {
        Self::of("VmStopped", "the VM's thread has ended")
    }
}

/// What the VM thread tells on its own account.
#[derive(Clone, Debug)]
pub enum VmEvent {
    /// Something was fed to the guest since the last slot.
    Progress,
    /// The slot must end now, or it would exceed what one proposal may carry.
    SlotFull,
    /// A line the guest logged.
    Log(String),
    /// The guest exited or crashed; it will not run again.
    Ended(VmFailure),
}

type Answer<T> = oneshot::Sender<Result<T, VmFailure>>;

enum Control {
    Cut(Answer<SlotState>),
    Freeze(Answer<SlotState>),
    RunOn,
    Replay { inputs: Vec<Vec<u8>>, until: Position, answer: Answer<SlotState> },
}

/// Owner of a VM thread. Dropping it ends the thread and frees the machine.
#[derive(Debug)]
pub struct VmThread {
    remote: VmRemote,
}

/// Asks the VM thread for things that take time. Cheap to clone.
#[derive(Clone, Debug)]
pub struct VmRemote {
    mailbox: Arc<Mailbox<Control>>,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.write_str(match self {
            Self::Cut(_) => "Cut",
            Self::Freeze(_) => "Freeze",
            Self::RunOn => "RunOn",
            Self::Replay { .. } => "Replay",
        })
    }
}

impl Drop for VmThread {
    fn drop(&mut self) {
        self.remote.mailbox.close();
    }
}

impl VmThread {
    /// Takes over an execution at a slot whose memory is `pages`. The guest does not run before [`Self::run_on`].
    ///
    /// # Errors
    /// The operating system refuses a thread.
    pub fn spawn(
        execution: Execution,
        pages: PageSnapshot,
        events: mpsc::UnboundedSender<VmEvent>,
    ) -> std::io::Result<Self> {
        let mailbox = Arc::new(Mailbox::new(INPUTS_WAITING_MAX));
        let worker = Worker {
            execution,
            pages,
            events,
            running: false,
            ended: None,
            full: false,
            cut_at: 0,
            fed_bytes: 0,
            fed: 0,
        };
        let inbox = Arc::clone(&mailbox);
        std::thread::Builder::new().name("vm".into()).spawn(move || worker.run(&inbox))?;
        Ok(Self { remote: VmRemote { mailbox } })
    }

    /// Queues an input; `false` when the VM cannot take more at the moment.
    pub fn input(&self, bytes: Vec<u8>) -> bool {
        self.remote.mailbox.input(bytes)
    }

    /// Lets the guest run.
    pub fn run_on(&self) {
        self.remote.mailbox.control(Control::RunOn);
    }

    /// Ends the thread and frees the machine. Questions are answered with a failure from then on.
    pub fn end(&self) {
        self.remote.mailbox.close();
    }

    /// A handle for the questions below.
    pub fn remote(&self) -> VmRemote {
        self.remote.clone()
    }
}

/// What the VM thread will answer. The question is in its queue when this value exists, whether or not it is awaited:
/// questions are served in the order in which they were asked.
pub type Pending<T> = std::pin::Pin<Box<dyn Future<Output = Result<T, VmFailure>> + Send>>;

impl VmRemote {
    /// Ends the slot at the next doorbell; the guest runs on. Fails when the guest has ended or the machine failed.
    pub fn cut(&self) -> Pending<SlotState> {
        self.ask(Control::Cut)
    }

    /// Stops the guest at the next doorbell and ends the slot there. Inputs still queued are forgotten: their clients
    /// repeat them where the VM runs next. Fails when the guest has ended or the machine failed.
    pub fn freeze(&self) -> Pending<SlotState> {
        self.ask(Control::Freeze)
    }

    /// Replays inputs to exactly the position and ends the slot there. When it fails the instance is of no further use.
    pub fn replay(&self, inputs: Vec<Vec<u8>>, until: Position) -> Pending<SlotState> {
        self.ask(|answer| Control::Replay { inputs, until, answer })
    }

    fn ask<T: Send + 'static>(&self, message: impl FnOnce(Answer<T>) -> Control) -> Pending<T> {
        let (answer, result) = oneshot::channel();
        // A question to a thread that has ended is dropped, and so is its answer channel.
        self.mailbox.control(message(answer));
        Box::pin(async move { result.await.unwrap_or_else(|_| Err(VmFailure::gone())) })
    }
}

struct Worker {
    execution: Execution,
    pages: PageSnapshot,
    events: mpsc::UnboundedSender<VmEvent>,
    running: bool,
    ended: Option<VmFailure>,
    /// The slot can hold no more; the guest waits for the next cut.
    full: bool,
    /// Doorbells rung at the last cut.
    cut_at: u64,
    fed_bytes: usize,
    fed: usize,
}

impl Worker {
    fn run(mut self, mailbox: &Mailbox<Control>) {
        if let Err(error) = self.execution.set_watchdog(Some(WATCHDOG)) {
            self.end(VmFailure::of(error.kind(), error));
        }
        loop {
            match mailbox.next(self.running && self.ended.is_none() && !self.full) {
                Next::Closed => return,
                Next::Control(message) => self.obey(message, mailbox),
                Next::Input(bytes) => self.feed(bytes, mailbox),
            }
        }
    }

    fn obey(&mut self, message: Control, mailbox: &Mailbox<Control>) {
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
                mailbox.drop_inputs();
                drop(answer.send(self.cut()));
            }
            Control::Replay { inputs, until, answer } => drop(answer.send(self.replay(&inputs, until))),
        }
    }

    fn feed(&mut self, bytes: Vec<u8>, mailbox: &Mailbox<Control>) {
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
    fn advance(&mut self, mailbox: &Mailbox<Control>) {
        while self.running && self.ended.is_none() {
            let stop = match self.execution.run() {
                Ok(stop) => stop,
                Err(error) => return self.end(VmFailure::of(error.kind(), error)),
            };
            self.report();
            match stop {
                Stop::Idle => return,
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

    fn report(&mut self) {
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
        (self.fed, self.fed_bytes, self.cut_at) = (0, 0, measurement.position.doorbells);
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

    fn end(&mut self, failure: VmFailure) {
        self.running = false;
        self.ended = Some(failure.clone());
        self.tell(VmEvent::Ended(failure));
    }

    fn tell(&self, event: VmEvent) {
        // The host agent may already be gone; then nobody needs to know.
        let _ = self.events.send(event);
    }
}
