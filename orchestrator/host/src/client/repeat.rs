//! One request, repeated until a believable answer comes.

use std::sync::Arc;
use std::time::Duration;

use quorate_attest::encoding::Bounded;
use quorate_attest::id::{Nonce, Slot};
use quorate_attest::key::SecretKey;
use quorate_attest::request::{Call as Asked, Request};
use quorate_transport::{Role, TransportError};
use tokio::time::{Instant, sleep, timeout};

use super::hosts::Dialler;
use super::{Believed, Target};
use crate::protocol::{Call, FromHost, ToHost};

/// Pause before the next host is asked, so that a VM in flight is not polled without end.
pub(super) const NEXT_HOST_PAUSE: Duration = Duration::from_millis(5);
/// Longest pause that a host may ask for.
pub(super) const BUSY_PAUSE_MAX: Duration = Duration::from_millis(250);

/// How long a client waits.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// For one answer of one host.
    pub attempt: Duration,
    /// For the whole call, over all hosts.
    pub call: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self { attempt: Duration::from_secs(2), call: Duration::from_secs(30) }
    }
}

/// Why a call ended without a believed reply. The request may still have been executed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// No host gave a believable answer in time.
    #[error("no believable answer within {limit:?}; last: {last}")]
    NoAnswer {
        /// How long was waited.
        limit: Duration,
        /// Error kind met last.
        last: String,
    },
    /// The system gives no random bytes.
    #[error("no random bytes for a nonce: {0}")]
    NoNonce(String),
}

impl CallError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NoAnswer { .. } => "QuorumUnreachable",
            Self::NoNonce(_) => "ResourceExhausted",
        }
    }
}

/// One client of a VM: its key and how many requests it has made.
#[derive(Debug)]
pub struct VmClient {
    target: Arc<Target>,
    key: SecretKey,
    dialler: Dialler,
    sequence: u64,
    patience: Patience,
}

/// What to do after one attempt.
enum Next {
    Believe(Believed),
    Host(usize, String),
    Wait(Duration),
}

impl VmClient {
    /// A client whose key has been used for `sequence` requests before (0 for a new key).
    ///
    /// # Errors
    /// The system has no socket to give.
    pub fn new(target: Arc<Target>, key: SecretKey, sequence: u64) -> Result<Self, TransportError> {
        let dialler = Dialler::new(&key, Role::Client, target.hosts().to_vec())?;
        Ok(Self { target, key, dialler, sequence, patience: Patience::default() })
    }

    /// Waits differently.
    #[must_use]
    pub fn with_patience(self, patience: Patience) -> Self {
        Self { patience, ..self }
    }

    /// The last sequence number used. Who keeps the key beyond this process keeps this too.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Asks the service for an operation and waits for a certified reply.
    ///
    /// # Errors
    /// No host gave a believable answer in time.
    pub async fn call(&mut self, op: u16, body: Vec<u8>) -> Result<Believed, CallError> {
        let request = self.sign(op, body)?;
        self.repeat(&request).await
    }

    /// Signs the next request.
    ///
    /// # Errors
    /// The system gives no random bytes.
    pub fn sign(&mut self, op: u16, body: Vec<u8>) -> Result<Request, CallError> {
        let mut nonce = [0; Nonce::LENGTH];
        getrandom::fill(&mut nonce).map_err(|error| CallError::NoNonce(error.to_string()))?;
        self.sequence = self.sequence.saturating_add(1);
        let (sequence, nonce) = (self.sequence, Nonce::from_bytes(nonce));
        Ok(Request::sign(&self.key, self.target.vm(), Asked { op, sequence, nonce, epoch: 0, body }))
    }

    /// Sends one signed request to host after host until one gives a believable answer.
    ///
    /// # Errors
    /// None did in time.
    pub async fn repeat(&mut self, request: &Request) -> Result<Believed, CallError> {
        let limit = self.patience.call;
        let deadline = Instant::now() + limit;
        // The answer must come from a slot after everything that was known before the question was asked.
        let floor = self.target.head().slot;
        let mut host = self.target.active();
        let mut last = String::from("nothing was tried");
        while Instant::now() < deadline {
            match self.attempt(host, floor, request).await {
                Next::Believe(believed) => {
                    self.target.set_active(host);
                    return Ok(believed);
                }
                Next::Host(next, kind) => {
                    if next == host || self.target.hosts().len() == 1 {
                        sleep(NEXT_HOST_PAUSE).await;
                    }
                    sleep(NEXT_HOST_PAUSE).await;
                    (host, last) = (next, kind);
                }
                Next::Wait(pause) => {
                    sleep(pause).await;
                    last = String::from("Busy");
                }
            }
        }
        Err(CallError::NoAnswer { limit, last })
    }

    /// Asks one host only and never another: shows whether that host serves the VM.
    ///
    /// # Errors
    /// It gave no believable answer in time.
    pub async fn call_at(&mut self, host: usize, op: u16, body: Vec<u8>) -> Result<Believed, CallError> {
        let request = self.sign(op, body)?;
        let limit = self.patience.call;
        let deadline = Instant::now() + limit;
        let floor = self.target.head().slot;
        let mut last = String::from("nothing was tried");
        while Instant::now() < deadline {
            match self.attempt(host, floor, &request).await {
                Next::Believe(believed) => return Ok(believed),
                // That the VM is elsewhere is an answer as well.
                Next::Host(_, kind) if kind == "Moved" => {
                    return Err(CallError::NoAnswer { limit, last: kind });
                }
                Next::Host(_, kind) => {
                    last = kind;
                    sleep(NEXT_HOST_PAUSE * 4).await;
                }
                Next::Wait(pause) => sleep(pause).await,
            }
        }
        Err(CallError::NoAnswer { limit, last })
    }

    async fn attempt(&self, host: usize, floor: Option<Slot>, request: &Request) -> Next {
        let call = ToHost::Call(Call { vm: self.target.vm(), request: request.encoded() });
        let exchange = async {
            let mut exchange = self.dialler.open(host).await?;
            exchange.ask::<ToHost, FromHost>(&call).await
        };
        let answer = match timeout(self.patience.attempt, exchange).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(error)) => {
                self.dialler.forget(host).await;
                return self.elsewhere(host, error.kind());
            }
            Err(_) => {
                // The host may have been restarted under a connection that nobody closed.
                self.dialler.forget(host).await;
                return self.elsewhere(host, "PeerTimeout");
            }
        };
        match answer {
            FromHost::Answer(answer) => match self.target.accept(request, floor, &answer) {
                Ok(believed) => Next::Believe(believed),
                Err(refused) => self.elsewhere(host, refused.kind()),
            },
            FromHost::Busy(busy) => {
                Next::Wait(Duration::from_millis(busy.retry_after_ms.into()).min(BUSY_PAUSE_MAX))
            }
            FromHost::Moved(moved) => {
                let place = moved.activation.map(|activation| self.target.follow(&activation));
                match place {
                    Some(Ok(Some(next))) if next != host => Next::Host(next, String::from("Moved")),
                    Some(Err(refused)) => self.elsewhere(host, refused.kind()),
                    _ => Next::Host(self.after(host), String::from("Moved")),
                }
            }
            FromHost::Refused(refused) => self.elsewhere(host, &refused.kind),
            _ => self.elsewhere(host, "DecodeError"),
        }
    }

    fn elsewhere(&self, host: usize, kind: &str) -> Next {
        self.target.count(kind);
        Next::Host(self.after(host), kind.to_owned())
    }

    fn after(&self, host: usize) -> usize {
        (host + 1) % self.target.hosts().len().max(1)
    }
}
