//! Connections to hosts, and what an operator asks of them.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::limits;
use quorate_attest::id::Slot;
use quorate_attest::key::{PublicKey, SecretKey};
use quorate_attest::vm::{ActivationCertificate, DecisionCertificate, SlotCertificate, VmSpec};
use quorate_transport::{Connection, Endpoint, Exchange, Members, Role, TransportError};
use quorate_verifier::protocol::Refused;
use tokio::sync::Mutex;

use crate::protocol::{
    Export, FromHost, Migrate, Progress, Recover, Report, Start, Status, StatusQuery, ToHost,
};

/// How long an operator's question may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// Silence that a migration may bear between two progress messages, on top of its own timeout.
const MIGRATION_GRACE: Duration = Duration::from_secs(30);

/// A host as clients and operators see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPeer {
    /// Name in the group.
    pub name: String,
    /// Its key.
    pub key: PublicKey,
    /// Where it listens.
    pub address: SocketAddr,
}

/// Why a host did not do what it was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub enum HostError {
    /// It cannot be reached, or the connection failed.
    #[error("{host}: {error}")]
    Transport {
        /// Name of the host.
        host: String,
        /// What happened.
        error: TransportError,
    },
    /// It refused.
    #[error("{host} refused: {}: {}", .refused.kind, .refused.detail)]
    Refused {
        /// Name of the host.
        host: String,
        /// Kind and detail.
        refused: Refused,
    },
    /// It answered something else.
    #[error("{host} gave an answer to another question")]
    Unexpected {
        /// Name of the host.
        host: String,
    },
    /// It did not answer in time.
    #[error("{host} did not answer within {limit:?}")]
    Timeout {
        /// Name of the host.
        host: String,
        /// How long it had.
        limit: Duration,
    },
}

impl HostError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &str {
        match self {
            Self::Transport { error, .. } => error.kind(),
            Self::Refused { refused, .. } => &refused.kind,
            Self::Unexpected { .. } => "DecodeError",
            Self::Timeout { .. } => "PeerTimeout",
        }
    }
}

/// Connections of one key to a fixed set of hosts, made when first needed and again after a loss.
#[derive(Debug)]
pub struct Dialler {
    endpoint: Endpoint,
    hosts: Vec<HostPeer>,
    connections: Vec<Mutex<Option<Connection>>>,
}

impl Dialler {
    /// Binds a socket for `key`.
    ///
    /// # Errors
    /// The system has no socket to give.
    pub fn new(key: &SecretKey, role: Role, hosts: Vec<HostPeer>) -> Result<Self, TransportError> {
        let members = hosts.iter().fold(Members::new(), |members, host| members.with(host.key, Role::Host));
        let any = SocketAddr::from(([0, 0, 0, 0], 0));
        let endpoint = Endpoint::bind_as(any, key, role, Arc::new(members), limits())?;
        let connections = hosts.iter().map(|_| Mutex::default()).collect();
        Ok(Self { endpoint, hosts, connections })
    }

    /// The hosts, in the order of their indexes.
    pub fn hosts(&self) -> &[HostPeer] {
        &self.hosts
    }

    /// Opens an exchange with a host.
    ///
    /// # Errors
    /// The host cannot be reached.
    pub async fn open(&self, host: usize) -> Result<Exchange, TransportError> {
        let unknown = TransportError::PeerUnknown { key: None };
        let (Some(peer), Some(slot)) = (self.hosts.get(host), self.connections.get(host)) else {
            return Err(unknown);
        };
        let mut slot = slot.lock().await;
        if let Some(connection) = slot.as_ref().filter(|connection| !connection.is_closed()) {
            return connection.open().await;
        }
        let connection = self.endpoint.connect(peer.address, &peer.key).await?;
        let exchange = connection.open().await;
        *slot = Some(connection);
        exchange
    }

    /// Gives up the connection to a host; the next exchange dials again.
    pub async fn forget(&self, host: usize) {
        if let Some(slot) = self.connections.get(host) {
            slot.lock().await.take();
        }
    }

    /// Tells the hosts that nothing more will come.
    pub async fn close(&self) {
        self.endpoint.close().await;
    }
}

/// The operator's side of hosts.
#[derive(Debug)]
pub struct Operator {
    dialler: Dialler,
}

/// Everything a host told about the slots of its VM.
#[derive(Clone, Debug, Default)]
pub struct SlotRecords {
    /// Certificates in slot order.
    pub certificates: Vec<SlotCertificate>,
    /// Activation certificates in order.
    pub activations: Vec<ActivationCertificate>,
    /// Cosignature lines over the head at the last certificate.
    pub cosignatures: Vec<String>,
}

impl Operator {
    /// Acts with an operator's key.
    ///
    /// # Errors
    /// The system has no socket to give.
    pub fn new(key: &SecretKey, hosts: Vec<HostPeer>) -> Result<Self, TransportError> {
        Ok(Self { dialler: Dialler::new(key, Role::Operator, hosts)? })
    }

    /// Creates a VM on a host.
    ///
    /// # Errors
    /// The host refuses or cannot be reached.
    pub async fn start(&self, host: usize, spec: VmSpec, image: Vec<u8>) -> Result<(), HostError> {
        match self.ask(host, &ToHost::Start(Start { spec, image })).await? {
            FromHost::Done(_) => Ok(()),
            other => Err(self.unexpected(host, other)),
        }
    }

    /// What a host is doing.
    ///
    /// # Errors
    /// The host cannot be reached.
    pub async fn status(&self, host: usize) -> Result<Status, HostError> {
        match self.ask(host, &ToHost::Status(StatusQuery {})).await? {
            FromHost::Status(status) => Ok(status),
            other => Err(self.unexpected(host, other)),
        }
    }

    /// Shows a host the grant to go on with a VM whose host is lost.
    ///
    /// # Errors
    /// The host refuses or cannot be reached.
    pub async fn recover(&self, host: usize, order: Recover) -> Result<(), HostError> {
        match self.ask(host, &ToHost::Recover(order)).await? {
            FromHost::Done(_) => Ok(()),
            other => Err(self.unexpected(host, other)),
        }
    }

    /// Shows a VM's host the order to move it; `progress` is told how far it is. Returns the report of either end, activated
    /// or aborted.
    ///
    /// # Errors
    /// The source refuses, cannot be reached or falls silent.
    pub async fn migrate(
        &self,
        source: usize,
        order: DecisionCertificate,
        timeout_ms: u32,
        mut progress: impl FnMut(Progress),
    ) -> Result<Report, HostError> {
        let transport = |error| self.transport(source, error);
        let mut exchange = self.dialler.open(source).await.map_err(transport)?;
        let limit = Duration::from_millis(timeout_ms.into()) + MIGRATION_GRACE;
        exchange.set_patience(limit);
        exchange.send(&ToHost::Migrate(Migrate { order, timeout_ms })).await.map_err(transport)?;
        loop {
            match exchange.recv::<FromHost>().await.map_err(transport)? {
                Some(FromHost::Progress(step)) => progress(step),
                Some(FromHost::Report(report)) => return Ok(report),
                Some(other) => return Err(self.unexpected(source, other)),
                None => return Err(HostError::Unexpected { host: self.name(source) }),
            }
        }
    }

    /// All certificates a host holds from `from` on.
    ///
    /// # Errors
    /// The host cannot be reached.
    pub async fn export(&self, host: usize, from: Slot) -> Result<SlotRecords, HostError> {
        let mut records = SlotRecords::default();
        let mut next = from;
        loop {
            let exported = match self.ask(host, &ToHost::Export(Export { from: next })).await? {
                FromHost::Exported(exported) => exported,
                other => return Err(self.unexpected(host, other)),
            };
            let last = exported.certificates.last().map(|certificate| certificate.statement.slot);
            records.certificates.extend(exported.certificates);
            records.activations = exported.activations;
            if last.is_some() {
                records.cosignatures = exported.cosignatures;
            }
            // A host that says "more" and shows nothing new has nothing more to show.
            match last.and_then(Slot::next).filter(|after| exported.more && *after > next) {
                Some(after) => next = after,
                None => return Ok(records),
            }
        }
    }

    /// Tells the hosts that nothing more will come.
    pub async fn close(&self) {
        self.dialler.close().await;
    }

    async fn ask(&self, host: usize, question: &ToHost) -> Result<FromHost, HostError> {
        let limit = ANSWER_TIMEOUT;
        let exchange = async {
            let mut exchange = self.dialler.open(host).await?;
            exchange.ask::<ToHost, FromHost>(question).await
        };
        match tokio::time::timeout(limit, exchange).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => {
                self.dialler.forget(host).await;
                Err(self.transport(host, error))
            }
            Err(_) => {
                self.dialler.forget(host).await;
                Err(HostError::Timeout { host: self.name(host), limit })
            }
        }
    }

    fn name(&self, host: usize) -> String {
        self.dialler.hosts.get(host).map_or_else(|| format!("host {host}"), |peer| peer.name.clone())
    }

    fn transport(&self, host: usize, error: TransportError) -> HostError {
        HostError::Transport { host: self.name(host), error }
    }

    pub(super) fn refused(&self, host: usize, refused: Refused) -> HostError {
        HostError::Refused { host: self.name(host), refused }
    }

    pub(super) fn late(&self, host: usize, limit: Duration) -> HostError {
        HostError::Timeout { host: self.name(host), limit }
    }

    fn unexpected(&self, host: usize, answer: FromHost) -> HostError {
        match answer {
            FromHost::Refused(refused) => self.refused(host, refused),
            _ => HostError::Unexpected { host: self.name(host) },
        }
    }
}
