//! Streams the state of the newest slot to the host that was granted the next generation.
//!
//! The machine is copied while its thread holds it between two requests; the copy then leaves on a thread of its own, and
//! attestation goes on. How many copies there are at once is bounded for the whole node.

use std::io::{self, Write};
use std::sync::Arc;

use quorate_attest::id::Slot;
use quorate_attest::key::PublicKey;
use quorate_vmm::checkpoint::Checkpoint;
use quorate_vmm::snapshot::PageSnapshot;
use quorate_vmm::{Execution, Image, state_stream};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::{Caller, Worker};
use crate::core::handout::Handout;
use crate::core::{Measurement, Refusal, answer_of, measurement_of};
use crate::node::Shared;
use crate::node::conduct::Conduct;
use crate::node::router::IMAGES;
use crate::protocol::{
    FromVerifier, IMAGE_BYTES_MAX, Register, STATE_PART_BYTES_MAX, StateHead, StatePart, StateRequest,
};

impl<C: Conduct> Worker<C> {
    pub(super) fn hand_out(&mut self, request: &StateRequest, caller: &Caller) {
        if let Err(refusal) = self.begin_stream(request, caller) {
            self.send(caller, FromVerifier::Refused(answer_of(&refusal)));
        }
    }

    fn begin_stream(&mut self, request: &StateRequest, caller: &Caller) -> Result<(), Refusal> {
        let handout = self.core.hand_out(request, &caller.peer)?;
        let full = |queue| Refusal::QueueFull { queue };
        let room = Arc::clone(&self.shared.streams).try_acquire_owned().map_err(|_| full("states"))?;
        let checkpoint = self.copy(&handout)?;
        let stream = Stream {
            shared: Arc::clone(&self.shared),
            answers: caller.answers.clone(),
            part: Vec::with_capacity(STATE_PART_BYTES_MAX),
            _room: room,
        };
        let (vm, spec, peer) = (self.core.vm(), self.core.state().spec.clone(), caller.peer);
        let image = Arc::clone(&self.shared);
        let thread = std::thread::Builder::new().name("state".to_owned()).spawn(move || {
            let elf = image.data.read(IMAGES, &spec.image.to_string(), IMAGE_BYTES_MAX as u64);
            let sent = elf.and_then(|elf| stream.send(handout, Register { spec, image: elf }, &checkpoint));
            report(&vm, &peer, sent);
        });
        thread.map(drop).map_err(|_| full("threads"))
    }

    /// The state as it is now; later requests do not change it.
    fn copy(&mut self, handout: &Handout) -> Result<Checkpoint, Refusal> {
        let measurement = measurement_of(&handout.statement);
        if handout.statement.slot == Slot::ZERO {
            let memory_bytes = self.core.state().spec.memory_bytes;
            return genesis(&self.image, memory_bytes, &measurement);
        }
        let Some(execution) = &mut self.execution else {
            return Err(failed("MachineMissing", &"no machine is loaded"));
        };
        let pages = PageSnapshot::of_machine(execution.machine());
        Checkpoint::take(execution, &measurement, &pages).map_err(|error| failed(error.kind(), &error))
    }
}

fn failed(kind: &'static str, detail: &dyn std::fmt::Display) -> Refusal {
    Refusal::Replay { kind, detail: detail.to_string() }
}

/// The state before the first instruction, which needs no machine that has followed the VM.
fn genesis(image: &Image, memory_bytes: u64, measurement: &Measurement) -> Result<Checkpoint, Refusal> {
    let mut execution =
        Execution::genesis(image, memory_bytes).map_err(|error| failed(error.kind(), &error))?;
    execution.cut().map_err(|error| failed(error.kind(), &error))?;
    let pages = PageSnapshot::of_machine(execution.machine());
    Checkpoint::take(&mut execution, measurement, &pages).map_err(|error| failed(error.kind(), &error))
}

fn report(vm: &quorate_attest::id::VmId, peer: &PublicKey, sent: io::Result<state_stream::Moved>) {
    match sent {
        Ok(moved) => tracing::info!(vm_id = %vm, %peer, pages = moved.pages, "a state was handed out"),
        Err(error) => tracing::warn!(vm_id = %vm, %peer, %error, "a state was not taken"),
    }
}

/// The frames of one state on their way to its host.
struct Stream<C: Conduct> {
    shared: Arc<Shared<C>>,
    answers: mpsc::Sender<FromVerifier>,
    part: Vec<u8>,
    _room: OwnedSemaphorePermit,
}

impl<C: Conduct> Stream<C> {
    fn send(
        mut self,
        handout: Handout,
        register: Register,
        checkpoint: &Checkpoint,
    ) -> io::Result<state_stream::Moved> {
        let Handout { statement, certificate, input_log, statements, history, activation } = handout;
        let head = StateHead { register, statement, certificate, input_log, statements, history, activation };
        self.answer(head.into())?;
        state_stream::send(&mut self, checkpoint, None)
    }

    /// Waits while the host is slower than this thread.
    fn answer(&self, answer: FromVerifier) -> io::Result<()> {
        match self.shared.conduct.release(answer, &self.shared.context.signer) {
            None => Ok(()),
            Some(answer) => self.answers.blocking_send(answer).map_err(|_| io::ErrorKind::BrokenPipe.into()),
        }
    }
}

impl<C: Conduct> Write for Stream<C> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(STATE_PART_BYTES_MAX - self.part.len());
        self.part.extend_from_slice(&bytes[..taken]);
        if self.part.len() == STATE_PART_BYTES_MAX {
            self.flush()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.part.is_empty() {
            return Ok(());
        }
        let bytes = std::mem::replace(&mut self.part, Vec::with_capacity(STATE_PART_BYTES_MAX));
        self.answer(StatePart { bytes }.into())
    }
}
