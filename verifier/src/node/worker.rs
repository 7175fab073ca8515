//! The thread of one VM: takes one request after another and performs what the rules say.

mod handout;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

use quorate_attest::encoding::to_bytes;
use quorate_attest::id::VmId;
use quorate_attest::key::PublicKey;
use quorate_transport::{Role, TransportError, bulk};
use quorate_vmm::state_stream::{self, Expected};
use quorate_vmm::{Execution, Image, Position};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::conduct::{Conduct, Step, Taken};
use super::counters::is_logged;
use super::writer::Closed;
use super::{Fatal, Shared};
use crate::core::{Effect, Evidence, Input, Observed, Pull, Refusal, VmCore};
use crate::protocol::{FromVerifier, Pages, ToVerifier};

/// How long a host may take to send the pages of a challenge. Its VM waits meanwhile.
pub(super) const CHALLENGE_WAIT: Duration = Duration::from_secs(10);
/// A guest that rings no doorbell for so long is given up. Hosts must not be more patient than this.
const WATCHDOG: Duration = Duration::from_secs(20);
/// Time for a pull of any size.
const PULL_GRACE: Duration = Duration::from_secs(30);
/// Bytes a second that a pull must reach beyond that.
const PULL_BYTES_PER_SECOND: u64 = 16 << 20;

/// One request on its way to a VM.
pub(super) struct Job {
    pub(super) request: ToVerifier,
    pub(super) role: Role,
    pub(super) caller: Caller,
}

/// Who asked, and how to answer.
pub(super) struct Caller {
    pub(super) peer: PublicKey,
    pub(super) answers: mpsc::Sender<FromVerifier>,
    /// Pages that follow a challenge.
    pub(super) pages: Receiver<Pages>,
    /// Given back when the request has been handled.
    pub(super) room: Option<OwnedSemaphorePermit>,
}

/// One VM.
pub(super) struct Worker<C> {
    shared: Arc<Shared<C>>,
    core: VmCore,
    image: Image,
    execution: Option<Execution>,
    /// Why the machine could not be started, until somebody asks.
    boot_failure: Option<Refusal>,
}

impl<C: Conduct> Worker<C> {
    pub(super) fn new(shared: Arc<Shared<C>>, core: VmCore, image: Image) -> Self {
        Self { shared, core, image, execution: None, boot_failure: None }
    }

    /// Serves the queue until it is closed or nothing can be made durable any more.
    pub(super) fn serve(mut self, mut jobs: mpsc::Receiver<Job>) {
        while let Some(job) = jobs.blocking_recv() {
            self.shared.conduct.step(Step::RequestTaken);
            if self.perform(job).is_err() {
                return;
            }
        }
    }

    fn perform(&mut self, job: Job) -> Result<(), Closed> {
        let Job { request, role, caller } = job;
        match self.shared.conduct.take(&request, role, &self.shared.context.signer) {
            Taken::ByTheRules => {}
            Taken::Silence => return Ok(()),
            Taken::Instead(answer) => {
                self.send(&caller, *answer);
                return Ok(());
            }
        }
        if let ToVerifier::StateRequest(request) = request {
            self.hand_out(&request, &caller);
            return Ok(());
        }
        let mut effects = self.step(Input::Message(Box::new(request)));
        while let Some(effect) = effects.pop_front() {
            if let Some(input) = self.apply(effect, &caller)? {
                effects.extend(self.step(input));
            }
        }
        Ok(())
    }

    fn step(&mut self, input: Input) -> VecDeque<Effect> {
        // Before 1970 there is no time worth signing; the core signs without a cosignature then.
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(u64::MAX, |since| since.as_secs());
        self.core.step(now, input).into()
    }

    /// Performs one effect. What it found is the next input.
    fn apply(&mut self, effect: Effect, caller: &Caller) -> Result<Option<Input>, Closed> {
        let conduct = &self.shared.conduct;
        match effect {
            Effect::Persist(record) => {
                self.shared.writer.persist(self.core.vm(), *record)?;
                conduct.step(Step::AfterPersist);
            }
            Effect::Send(answer) => return Ok(self.answer(caller, *answer)),
            Effect::Boot => self.boot(),
            Effect::Replay { inputs, until } => {
                return Ok(Some(Input::Replayed(self.replay(&inputs, until))));
            }
            Effect::Unload => self.execution = None,
            Effect::Pull(pull) => return Ok(Some(Input::StateLoaded(self.pull(&pull, &caller.peer)))),
            Effect::Draw { page_count, count } => return self.draw(page_count, count).map(Some),
            Effect::StoreEvidence(evidence) => self.keep(&evidence),
            Effect::Stop(refusal) => {
                self.shared.end(Fatal::of_safety(&refusal));
                return Err(Closed);
            }
        }
        Ok(None)
    }

    /// Answers; after a challenge, waits for its pages.
    fn answer(&mut self, caller: &Caller, answer: FromVerifier) -> Option<Input> {
        let challenge = matches!(answer, FromVerifier::Challenge(_));
        self.send(caller, answer);
        if !challenge {
            return None;
        }
        Some(match caller.pages.recv_timeout(CHALLENGE_WAIT) {
            Ok(pages) => Input::Message(Box::new(ToVerifier::Pages(pages))),
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => Input::Abandoned,
        })
    }

    fn send(&self, caller: &Caller, answer: FromVerifier) {
        let shared = &self.shared;
        match &answer {
            FromVerifier::Attested(_) => {
                shared.counters.attested.fetch_add(1, Ordering::Relaxed);
            }
            FromVerifier::Refused(refused) => {
                shared.note_refusal(&self.core.vm(), &refused.kind, &refused.detail)
            }
            _ => {}
        }
        if let Some(answer) = shared.conduct.release(answer, &shared.context.signer) {
            // A host that went away does not want it any more.
            let _ = caller.answers.blocking_send(answer);
        }
    }

    fn boot(&mut self) {
        self.shared.conduct.step(Step::BeforeBoot);
        let booted =
            Execution::genesis(&self.image, self.core.state().spec.memory_bytes).and_then(|mut execution| {
                execution.set_watchdog(Some(WATCHDOG))?;
                Ok(execution)
            });
        match booted {
            Ok(execution) => self.execution = Some(execution),
            Err(error) => {
                self.execution = None;
                self.boot_failure = Some(Refusal::Replay { kind: error.kind(), detail: error.to_string() });
            }
        }
    }

    fn replay(&mut self, inputs: &[Vec<u8>], until: Position) -> Result<Observed, Refusal> {
        if let Some(failure) = self.boot_failure.take() {
            return Err(failure);
        }
        let shared = Arc::clone(&self.shared);
        let Some(execution) = &mut self.execution else {
            return Err(Refusal::Replay {
                kind: "MachineMissing",
                detail: "no machine is loaded".to_owned(),
            });
        };
        shared.conduct.step(Step::BeforeReplay);
        let started = Instant::now();
        execution
            .replay(inputs, until)
            .map_err(|error| Refusal::Replay { kind: error.kind(), detail: error.to_string() })?;
        let cut = execution
            .cut()
            .map_err(|error| Refusal::Replay { kind: error.kind(), detail: error.to_string() })?;
        shared.counters.replayed.add(started.elapsed());
        shared.conduct.step(Step::AfterReplay);
        Ok(Observed {
            measurement: cut.pages.measurement,
            output_root: cut.output_root,
            output_count: cut.outputs.len() as u64,
        })
    }

    fn pull(&mut self, pull: &Pull, host: &PublicKey) -> Result<(), Refusal> {
        self.shared.conduct.step(Step::BeforePull);
        let started = Instant::now();
        let execution = self.receive(pull, host)?;
        self.shared.counters.pulled.add(started.elapsed());
        self.shared.conduct.step(Step::AfterPull);
        self.execution = Some(execution);
        Ok(())
    }

    fn receive(&self, pull: &Pull, host: &PublicKey) -> Result<Execution, Refusal> {
        let failed = |kind, detail: String| Refusal::Transfer { kind, detail };
        let refused = |error: TransportError| failed(error.kind(), error.to_string());
        let address =
            pull.address.parse().map_err(|e| failed("DecodeError", format!("{:?}: {e}", pull.address)))?;
        let purpose = bulk::Purpose::new(pull.token).map_err(refused)?;
        let mut stream = self.shared.bulk.connect(address, host, purpose).map_err(refused)?;
        let memory_bytes = self.core.state().spec.memory_bytes;
        let limit = PULL_GRACE + Duration::from_secs(memory_bytes / PULL_BYTES_PER_SECOND);
        stream.set_deadline(Some(Instant::now() + limit));
        let expected = Expected {
            image: &self.image,
            memory_bytes,
            measurement: pull.expected,
            input_log: pull.input_log.clone(),
            keep_pages: false,
        };
        let conduct = &self.shared.conduct;
        let received =
            state_stream::receive(&mut stream, &expected, &mut |_, _| conduct.step(Step::DuringPull))
                .map_err(|error| failed(error.kind(), error.to_string()))?;
        let machine_failed =
            |error: quorate_vmm::execution::ExecutionError| failed(error.kind(), error.to_string());
        let mut execution =
            Execution::resume_at(received.machine, pull.input_log.clone()).map_err(machine_failed)?;
        execution.set_watchdog(Some(WATCHDOG)).map_err(machine_failed)?;
        Ok(execution)
    }

    fn draw(&self, page_count: u64, count: usize) -> Result<Input, Closed> {
        draw_pages(page_count, count).map(Input::Drawn).map_err(|error| {
            self.shared.end(Fatal::of_randomness(&error.to_string()));
            Closed
        })
    }

    /// Evidence accuses others. That it could not be kept is no reason to stop being honest.
    fn keep(&self, evidence: &Evidence) {
        self.shared.conduct.step(Step::BeforeEvidence);
        let bytes = to_bytes(evidence);
        let name = format!("{}.bin", blake3::hash(&bytes).to_hex());
        tracing::error!(vm_id = %self.core.vm(), evidence = %name, "evidence of Byzantine behaviour");
        if let Err(error) = self.shared.keep_evidence(&name, &bytes) {
            tracing::error!(%error, evidence = %name, "evidence could not be stored");
        }
    }
}

/// Distinct page numbers that nobody can foresee, ascending.
fn draw_pages(page_count: u64, count: usize) -> Result<Vec<u32>, getrandom::Error> {
    let page_count = page_count.min(u64::from(u32::MAX));
    if page_count <= count as u64 {
        return Ok((0..page_count as u32).collect());
    }
    let mut drawn = std::collections::BTreeSet::new();
    while drawn.len() < count {
        // 2^64 modulo at most 2^32 pages: a bias below one in four billion.
        drawn.insert((getrandom::u64()? % page_count) as u32);
    }
    Ok(drawn.into_iter().collect())
}

/// Whether a line about the `count`-th refusal of a kind is written, and the line.
pub(super) fn log_refusal(vm: &VmId, kind: &str, detail: &str, count: u64) {
    if is_logged(count) {
        tracing::warn!(vm_id = %vm, error_kind = kind, count, "refused: {detail}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drawn_pages_are_distinct_ascending_and_in_range() {
        for (page_count, count) in
            [(0, 16), (1, 16), (16, 16), (17, 16), (2048, 16), (2048, 64), (u64::MAX, 4)]
        {
            let pages = draw_pages(page_count, count).unwrap();
            assert_eq!(pages.len() as u64, page_count.min(count as u64));
            assert!(pages.windows(2).all(|pair| pair[0] < pair[1]));
            assert!(pages.iter().all(|page| u64::from(*page) < page_count));
        }
    }

    #[test]
    fn two_draws_differ() {
        assert_ne!(draw_pages(1 << 22, 16).unwrap(), draw_pages(1 << 22, 16).unwrap());
    }
}
