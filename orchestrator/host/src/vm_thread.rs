//! The thread that owns a VM's execution.
//!
//! It runs the guest between doorbells, feeds it inputs, and ends slots when asked. Everything else in the host agent
//! talks to it through a [`Mailbox`]. Control messages are taken between doorbells only, which is where the machine may be
//! stopped, measured and resumed.
//!
//! Queries are put to a [fork](quorate_vmm::fork) of the VM, which the thread makes when it is first asked and gives up
//! when the VM is frozen. Nothing that is certified depends on them.

mod worker;

use std::sync::Arc;

use quorate_attest::id::{InputRoot, OutputRoot};
use quorate_attest::merkle::{Frontier, Sha256Tree};
use quorate_attest::vm::SlotStatement;
use quorate_verifier::core::{Observed, Refusal, compare};
use quorate_vmm::checkpoint::Checkpoint;
use quorate_vmm::execution::Execution;
use quorate_vmm::snapshot::PageSnapshot;
use quorate_vmm::{Measurement, Position};
use tokio::sync::{mpsc, oneshot};

use super::mailbox::Mailbox;
use crate::protocol::Queried;
use worker::Worker;

/// Inputs that may wait for the guest.
const INPUTS_WAITING_MAX: usize = 1024;
/// Queries that may wait for their answers.
const QUERIES_WAITING_MAX: usize = 64;

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
        Self::of(Self::STOPPED, "the VM's thread does not serve this any more")
    }

    /// Kind of the answer to a question that was dropped: the thread has ended, or the VM was frozen meanwhile.
    pub const STOPPED: &'static str = "VmStopped";
}

/// What the VM thread tells on its own account.
#[derive(Clone, Debug)]
pub enum VmEvent {
    /// Something was fed to the guest since the last slot.
    Progress,
    /// The slot must end now, or it would exceed what one proposal may carry.
    SlotFull,
    /// The guest emitted an output; told by threads of [`VmThread::spawn_immediate`] only.
    Output(Emitted),
    /// A line the guest logged.
    Log(String),
    /// The guest exited or crashed; it will not run again.
    Ended(VmFailure),
}

/// An output of a slot that is not cut yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Emitted {
    /// Doorbells rung when the slot before it was cut, which tells that slot.
    pub since: u64,
    /// Its number among the outputs of its slot.
    pub index: u64,
    /// The bytes the guest sent.
    pub bytes: Vec<u8>,
}

type Answer<T> = oneshot::Sender<Result<T, VmFailure>>;

enum Control {
    Cut(Answer<SlotState>),
    Freeze(Answer<SlotState>),
    RunOn,
    Replay { inputs: Vec<Vec<u8>>, until: Position, answer: Answer<SlotState> },
}

struct Query {
    bytes: Vec<u8>,
    answer: Answer<Queried>,
}

type Inbox = Mailbox<Control, Query>;

/// Owner of a VM thread. Dropping it ends the thread and frees the machine.
#[derive(Debug)]
pub struct VmThread {
    remote: VmRemote,
}

/// Asks the VM thread for things that take time. Cheap to clone.
#[derive(Clone, Debug)]
pub struct VmRemote {
    mailbox: Arc<Inbox>,
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

impl std::fmt::Debug for Query {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Query").field("bytes", &self.bytes.len()).finish_non_exhaustive()
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
        Self::start(Worker::new(execution, pages, events, false))
    }

    /// As [`Self::spawn`], and each output is told as soon as the guest has emitted it.
    ///
    /// # Errors
    /// The operating system refuses a thread.
    pub fn spawn_immediate(
        execution: Execution,
        pages: PageSnapshot,
        events: mpsc::UnboundedSender<VmEvent>,
    ) -> std::io::Result<Self> {
        Self::start(Worker::new(execution, pages, events, true))
    }

    fn start(worker: Worker) -> std::io::Result<Self> {
        let mailbox = Arc::new(Mailbox::new(INPUTS_WAITING_MAX, QUERIES_WAITING_MAX));
        let inbox = Arc::clone(&mailbox);
        std::thread::Builder::new().name("vm".into()).spawn(move || worker.run(&inbox))?;
        Ok(Self { remote: VmRemote { mailbox } })
    }

    /// Queues an input; `false` when the VM cannot take more at the moment.
    pub fn input(&self, bytes: Vec<u8>) -> bool {
        self.remote.mailbox.input(bytes)
    }

    /// Asks a fork of the VM, between two inputs; `None` when too many queries wait. [`VmFailure::STOPPED`] when the VM
    /// is frozen before it is answered.
    pub fn query(&self, bytes: Vec<u8>) -> Option<Pending<Queried>> {
        let (answer, result) = oneshot::channel();
        self.remote.mailbox.query(Query { bytes, answer }).then(|| answered(result))
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
        answered(result)
    }
}

fn answered<T: Send + 'static>(result: oneshot::Receiver<Result<T, VmFailure>>) -> Pending<T> {
    Box::pin(async move { result.await.unwrap_or_else(|_| Err(VmFailure::gone())) })
}

#[cfg(test)]
mod tests;
