//! Takes the state of a certified slot from a verifier that replayed it, and believes nothing that it says.
//!
//! ```text
//! host ── StateRequest{grant} ──▶ verifier
//!      ◀── State{spec, image, logs, history} ──   compared with the certificate before a page is taken
//!      ◀── StatePart* ──────────────────────────   registers, leaves, then each page hashed at its final address
//! ```
//!
//! What cannot be compared with anything certified is the statement log of a long chain, a frontier. Nothing that this host
//! signs depends on it; a wrong one shows when it is compared with the cosigned head.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use quorate_attest::epoch::GroupChain;
use quorate_attest::id::Generation;
use quorate_attest::merkle::{Frontier, Sha256Tree};
use quorate_attest::statement::Kind;
use quorate_attest::vm::{DecisionCertificate, SlotCertificate, statement_leaf};
use quorate_transport::{Exchange, TransportError};
use quorate_verifier::core::measurement_of;
use quorate_verifier::protocol::{FromVerifier, Refused, Register, StateHead, StateRequest, ToVerifier};
use quorate_vmm::execution::Execution;
use quorate_vmm::state_stream::{Expected, receive};
use tokio::runtime::Handle;
use tokio::time::Instant;

use super::agent::{Arrived, admit, leads_to};
use super::journal::Base;
use super::link::Asker;

/// How long a verifier may be silent.
const PATIENCE: Duration = Duration::from_secs(15);
/// Time for a state of any size.
const GRACE: Duration = Duration::from_secs(60);
/// Bytes of memory a second that a state must reach beyond that.
const BYTES_PER_SECOND: u64 = 8 << 20;

/// What is to be taken, and how it is recognised.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The verifiers' group.
    pub group: Arc<GroupChain>,
    /// Lets this host have the state. Its signatures have been checked.
    pub grant: DecisionCertificate,
    /// The granted slot. Its signatures have been checked.
    pub certificate: SlotCertificate,
    /// Where a copy is made durable.
    pub path: PathBuf,
}

/// A state that is what was certified. A copy of it is durable.
#[derive(Debug)]
pub struct HandedOut {
    /// The VM and its image.
    pub register: Arc<Register>,
    /// The slot and what leads to it.
    pub base: Base,
    /// The machine.
    pub arrived: Arrived,
}

fn refuse(kind: &str, detail: &dyn std::fmt::Display) -> Refused {
    Refused { kind: kind.to_owned(), detail: detail.to_string() }
}

/// Takes the state from the first verifier that gives the right one. `refused` hears what is wrong with the others.
///
/// # Errors
/// What was wrong with the last one, when none gives it.
pub async fn take(
    askers: &[Asker],
    wanted: &Wanted,
    refused: impl Fn(u16, &Refused),
) -> Result<HandedOut, Refused> {
    let mut last = refuse("QuorumUnreachable", &"there is no verifier to ask");
    for asker in askers {
        match take_from(asker, wanted).await {
            Ok(taken) => return Ok(taken),
            Err(why) => {
                refused(asker.index(), &why);
                last = why;
            }
        }
    }
    Err(last)
}

async fn take_from(asker: &Asker, wanted: &Wanted) -> Result<HandedOut, Refused> {
    let exchange = asker.open().await.map_err(|error| refuse("PeerTimeout", &error))?;
    receive_on(exchange, wanted.clone()).await
}

/// Asks for the state on a fresh exchange and takes it.
async fn receive_on(mut exchange: Exchange, wanted: Wanted) -> Result<HandedOut, Refused> {
    let transport = |error: TransportError| refuse(error.kind(), &error);
    exchange.set_patience(PATIENCE);
    let slot = wanted.certificate.statement.slot;
    let request = ToVerifier::StateRequest(StateRequest { grant: wanted.grant.clone(), slot });
    exchange.send(&request).await.map_err(transport)?;
    let head = match exchange.recv::<FromVerifier>().await.map_err(transport)? {
        Some(FromVerifier::State(head)) => head,
        Some(FromVerifier::Refused(refused)) => return Err(refused),
        Some(other) => return Err(refuse("DecodeError", &format!("{} instead of a state", other.name()))),
        None => return Err(refuse("PeerTimeout", &"the verifier went away")),
    };
    let runtime = Handle::current();
    let received = tokio::task::spawn_blocking(move || receive_state(exchange, head, &wanted, runtime));
    received.await.unwrap_or_else(|error| Err(refuse("SystemRefused", &error)))
}

fn receive_state(
    exchange: Exchange,
    head: StateHead,
    wanted: &Wanted,
    runtime: Handle,
) -> Result<HandedOut, Refused> {
    let base = check(&head, wanted)?;
    let StateHead { register, input_log, .. } = head;
    let image = admit(&register).map_err(|failure| refuse(&failure.kind, &failure.detail))?;
    let memory_bytes = register.spec.memory_bytes;
    let expected = Expected {
        image: &image,
        memory_bytes,
        measurement: measurement_of(&base.certificate.statement),
        input_log: input_log.clone(),
        keep_pages: true,
    };
    let deadline = Instant::now() + GRACE + Duration::from_secs(memory_bytes / BYTES_PER_SECOND);
    let mut parts = Parts { exchange, runtime, deadline, part: Vec::new(), at: 0 };
    let received =
        receive(&mut parts, &expected, &mut |_, _| {}).map_err(|error| refuse(error.kind(), &error))?;
    let Some(checkpoint) = received.checkpoint else {
        return Err(refuse("SnapshotInvalid", &"the copy of the state was not kept"));
    };
    let execution = Execution::resume_at(received.machine, input_log);
    let execution = execution.map_err(|error| refuse(error.kind(), &error))?;
    if let Some(folder) = wanted.path.parent() {
        std::fs::create_dir_all(folder).map_err(|error| refuse("StorageSyncFailed", &error))?;
    }
    checkpoint.write_full(&wanted.path).map_err(|error| refuse("StorageSyncFailed", &error))?;
    let arrived = Arrived { execution, checkpoint, moved: received.moved };
    Ok(HandedOut { register: Arc::new(register), base, arrived })
}

/// Compares everything but the state itself with the certificate.
fn check(head: &StateHead, wanted: &Wanted) -> Result<Base, Refused> {
    let statement = &wanted.certificate.statement;
    let body = &statement.body;
    if head.register.spec.id() != statement.vm {
        return Err(refuse("WrongVm", &"the specification is that of another VM"));
    }
    if head.statement != *statement {
        return Err(refuse("WrongSlot", &"the state is that of another slot"));
    }
    if head.input_log.size() != body.end_input || head.input_log.root() != *body.input_root.as_bytes() {
        return Err(refuse("LogChainBroken", &"the input log does not belong to the slot"));
    }
    if !leads_to(&head.history, statement) {
        return Err(refuse("LogChainBroken", &"the earlier statements do not lead to the slot"));
    }
    check_statement_log(head)?;
    check_activation(head, wanted)?;
    Ok(Base {
        certificate: wanted.certificate.clone(),
        activation: head.activation.clone(),
        statements: head.statements.clone(),
        history: head.history.clone(),
    })
}

fn check_statement_log(head: &StateHead) -> Result<(), Refused> {
    let size = head.statement.slot.0.saturating_add(1);
    let mut whole = Frontier::<Sha256Tree>::new();
    head.history.iter().chain([&head.statement]).for_each(|statement| whole.push(&statement_leaf(statement)));
    if head.statements.size() != size || (whole.size() == size && whole.root() != head.statements.root()) {
        return Err(refuse("LogChainBroken", &"the statement log does not end at the slot"));
    }
    Ok(())
}

/// The slot belongs to the present generation, or is the one that this generation began with.
fn check_activation(head: &StateHead, wanted: &Wanted) -> Result<(), Refused> {
    let statement = &wanted.certificate.statement;
    let generation = match &head.activation {
        None => Generation(0),
        Some(certificate) => {
            let activation = &certificate.activation;
            let members = wanted.group.past(activation.group, activation.epoch);
            let verified = members.and_then(|members| {
                certificate.verify(members, &members.expected(statement.vm, Kind::ACTIVATE), None)
            });
            verified.map_err(|error| refuse(error.kind(), &error))?;
            certificate.activation.generation
        }
    };
    let started_here = head.activation.as_ref().is_some_and(|certificate| {
        certificate.activation.slot == statement.slot
            && certificate.activation.statement == statement.digest()
    });
    let belongs =
        statement.body.generation == generation || (started_here && statement.body.generation < generation);
    if !belongs || generation >= wanted.grant.decision.generation {
        return Err(refuse("FencedGeneration", &"the slot does not belong to the generation shown"));
    }
    Ok(())
}

/// The bytes of a state, read by a thread that may block.
struct Parts {
    exchange: Exchange,
    runtime: Handle,
    deadline: Instant,
    part: Vec<u8>,
    at: usize,
}

impl Parts {
    /// The next part; none at the end.
    fn next(&mut self) -> io::Result<Vec<u8>> {
        let (exchange, deadline) = (&mut self.exchange, self.deadline);
        let received = self
            .runtime
            .block_on(async { tokio::time::timeout_at(deadline, exchange.recv::<FromVerifier>()).await });
        match received {
            Err(_) => Err(io::ErrorKind::TimedOut.into()),
            Ok(Err(error)) => Err(io::Error::other(error.to_string())),
            Ok(Ok(None)) => Ok(Vec::new()),
            Ok(Ok(Some(FromVerifier::StatePart(part)))) if !part.bytes.is_empty() => Ok(part.bytes),
            Ok(Ok(Some(other))) => Err(io::Error::other(format!("{} amid a state", other.name()))),
        }
    }
}

impl Read for Parts {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.at == self.part.len() {
            self.part = self.next()?;
            self.at = 0;
        }
        let rest = self.part.get(self.at..).unwrap_or_default();
        let count = rest.len().min(into.len());
        into[..count].copy_from_slice(&rest[..count]);
        self.at += count;
        Ok(count)
    }
}

#[cfg(test)]
mod tests;
