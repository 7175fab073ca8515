//! A VM as the one who owns its inputs sees it: feeds requests, gets replies as soon as the guest has sent them, and asks
//! forks of it.
//!
//! ```text
//! feed(signed request) ──▶ host thought active ──▶ Answer, certified or not ──▶ reply
//! query(input)         ──▶        "            ──▶ Queried ──────────────────▶ outputs, inputs consumed
//! rewind()             ──▶        "            ──▶ Done ─────────────────────▶ back at its newest slot
//!                              │ Moved, Busy, timeout
//!                              ▼
//!                          the same again, at the next host
//! ```
//!
//! # What it does not promise
//!
//! Nothing here is checked but that a reply belongs to its request: who uses it trusts the host as far as itself, and gives
//! others only what more than one such replica agree on. A host that lies about where the VM is can keep it busy until its
//! patience ends. A request that was answered may be lost with the host; it is fed again in its order.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use quorate_attest::encoding::Bounded;
use quorate_attest::id::VmId;
use quorate_attest::key::SecretKey;
use quorate_attest::request::{Reply, Request};
use quorate_transport::{Role, TransportError};
use quorate_verifier::protocol::Refused;
use tokio::time::{Instant, sleep, timeout};

use super::hosts::{Dialler, HostPeer};
use super::repeat::{BUSY_PAUSE_MAX, NEXT_HOST_PAUSE, Patience};
use crate::protocol::{Call, FromHost, Moved, Queried, Query, Rewind, ToHost};

/// Refusals that another host, or the same one later, would not give.
const PASSING: [&str; 2] = ["WrongVm", "NotWaiting"];

/// Why there is no answer. A request that was fed may still have been executed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ReplicaError {
    /// No host answered in time.
    #[error("no answer within {limit:?}; last: {last}")]
    NoAnswer {
        /// How long was waited.
        limit: Duration,
        /// Error kind met last.
        last: String,
    },
    /// The host that holds the VM refuses it, and would again.
    #[error("refused: {}: {}", .0.kind, .0.detail)]
    Refused(Refused),
    /// What is to be fed is no request.
    #[error("not a request: {0}")]
    NotARequest(#[from] quorate_attest::encoding::DecodeError),
}

impl ReplicaError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &str {
        match self {
            Self::NoAnswer { .. } => "QuorumUnreachable",
            Self::Refused(refused) => &refused.kind,
            Self::NotARequest(error) => error.kind(),
        }
    }
}

/// One VM and the hosts that may run it, with a connection to each that is used.
#[derive(Debug)]
pub struct Replica {
    vm: VmId,
    dialler: Dialler,
    active: AtomicUsize,
    patience: Patience,
}

/// What one attempt led to.
enum Next<T> {
    Answered(T),
    Refused(Refused),
    Host(usize, String),
    Wait(Duration),
}

impl Replica {
    /// Connects as a client with a key that hosts know in no other role. The first of `hosts` is asked first.
    ///
    /// # Errors
    /// The system has no socket to give.
    pub fn new(key: &SecretKey, vm: VmId, hosts: Vec<HostPeer>) -> Result<Self, TransportError> {
        let dialler = Dialler::new(key, Role::Client, hosts)?;
        Ok(Self { vm, dialler, active: AtomicUsize::new(0), patience: Patience::default() })
    }

    /// Waits differently.
    #[must_use]
    pub fn with_patience(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }

    /// The VM.
    pub fn vm(&self) -> VmId {
        self.vm
    }

    /// The host that answered last.
    pub fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    /// Feeds a signed request, again and again if need be, and gives the encoded reply to it. Safe where the service
    /// answers a repeated sequence with the stored reply.
    ///
    /// # Errors
    /// The bytes are no request, the host refuses it for good, or nobody answers in time.
    pub async fn feed(&self, request: &[u8]) -> Result<Vec<u8>, ReplicaError> {
        let expected = Request::decoded(request)?;
        let call = ToHost::Call(Call { vm: self.vm, request: request.to_vec() });
        self.repeat(&call, |answer| match answer {
            FromHost::Answer(answer) => {
                let reply = Reply::decoded(&answer.output).ok()?;
                reply.answers(&expected).then_some(answer.output)
            }
            _ => None,
        })
        .await
    }

    /// Asks a fork of the VM; the VM itself stays as it is.
    ///
    /// # Errors
    /// The query ends the guest or uses more than it may, the host refuses it, or nobody answers in time.
    pub async fn query(&self, input: &[u8]) -> Result<Queried, ReplicaError> {
        let query = ToHost::Query(Query { vm: self.vm, request: input.to_vec() });
        self.repeat(&query, |answer| match answer {
            FromHost::Queried(queried) => Some(queried),
            _ => None,
        })
        .await
    }

    /// Has the VM taken back to its newest slot. Everything that was fed since then is to be fed again.
    ///
    /// # Errors
    /// The host refuses it, or nobody answers in time.
    pub async fn rewind(&self) -> Result<(), ReplicaError> {
        let rewind = ToHost::Rewind(Rewind { vm: self.vm });
        self.repeat(&rewind, |answer| matches!(answer, FromHost::Done(_)).then_some(())).await
    }

    /// Tells the hosts that nothing more will come.
    pub async fn close(&self) {
        self.dialler.close().await;
    }

    async fn repeat<T>(
        &self,
        question: &ToHost,
        read: impl Fn(FromHost) -> Option<T>,
    ) -> Result<T, ReplicaError> {
        let limit = self.patience.call;
        let deadline = Instant::now() + limit;
        let mut host = self.active();
        let mut last = String::from("nothing was tried");
        while Instant::now() < deadline {
            match self.attempt(host, question, &read).await {
                Next::Answered(answer) => {
                    self.active.store(host, Ordering::Relaxed);
                    return Ok(answer);
                }
                Next::Refused(refused) => return Err(ReplicaError::Refused(refused)),
                Next::Host(next, kind) => {
                    sleep(NEXT_HOST_PAUSE).await;
                    (host, last) = (next, kind);
                }
                Next::Wait(pause) => {
                    sleep(pause).await;
                    last = String::from("Busy");
                }
            }
        }
        Err(ReplicaError::NoAnswer { limit, last })
    }

    async fn attempt<T>(
        &self,
        host: usize,
        question: &ToHost,
        read: &impl Fn(FromHost) -> Option<T>,
    ) -> Next<T> {
        let exchange = async {
            let mut exchange = self.dialler.open(host).await?;
            exchange.ask::<ToHost, FromHost>(question).await
        };
        let answer = match timeout(self.patience.attempt, exchange).await {
            Ok(Ok(answer)) => answer,
            failed => {
                // The host may have been restarted under a connection that nobody closed.
                self.dialler.forget(host).await;
                let kind = failed.map_or("PeerTimeout", |result| result.err().map_or("", |e| e.kind()));
                return Next::Host(self.after(host), kind.to_owned());
            }
        };
        match answer {
            FromHost::Busy(busy) => {
                Next::Wait(Duration::from_millis(busy.retry_after_ms.into()).min(BUSY_PAUSE_MAX))
            }
            FromHost::Moved(moved) => Next::Host(self.shown(host, &moved), String::from("Moved")),
            FromHost::Refused(refused) if PASSING.contains(&refused.kind.as_str()) => {
                Next::Host(self.after(host), refused.kind)
            }
            FromHost::Refused(refused) => Next::Refused(refused),
            answer => match read(answer) {
                Some(answer) => Next::Answered(answer),
                None => Next::Host(self.after(host), String::from("DecodeError")),
            },
        }
    }

    /// The host that an activation names, as a hint where to ask next.
    fn shown(&self, host: usize, moved: &Moved) -> usize {
        let named = moved.activation.as_ref().map(|certificate| certificate.activation.host);
        let place = self.dialler.hosts().iter().position(|peer| Some(peer.key) == named);
        place.filter(|place| *place != host).unwrap_or_else(|| self.after(host))
    }

    fn after(&self, host: usize) -> usize {
        (host + 1) % self.dialler.hosts().len().max(1)
    }
}
