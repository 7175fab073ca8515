//! Heads of the other orchestrators, compared with one's own log every few seconds.
//!
//! Connections between orchestrators carry the engine's channels when the one with the lower transport key has dialled. Those that the one
//! with the higher key dials carry heads: it sends its own and gets those of the other, so that one such connection serves both.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use quorate_attest::encoding::to_bytes;
use quorate_attest::group::Member;
use quorate_attest::id::to_hex;
use quorate_attest::key::PublicKey;
use quorate_ordering::protocol::{ANSWER_BYTES_MAX, CosignedHeads};
use quorate_transport::{Connection, Exchange, TransportError, wire_enum};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{EVIDENCE, Fatal, Refusal, Shared};
use crate::exit;
use crate::replica::heads::{Divergence, HeadComparison, Verdict};
use crate::services::peers::{AskEntries, TOLD_BYTES_MAX, Told};

/// Time between two comparisons.
const INTERVAL: Duration = Duration::from_secs(2);
/// Time for one of them.
const LIMIT: Duration = Duration::from_secs(5);

wire_enum! {
    /// What orchestrators tell each other about the executed log and the services beside it.
    #[derive(Clone, Debug, PartialEq, Eq)]
    enum Compare {
        /// Heads that the sender cosigned.
        1 => Heads(CosignedHeads) <= ANSWER_BYTES_MAX,
        /// A question about entries of a service's log.
        2 => AskEntries(AskEntries) <= 64,
        /// The answer to it.
        3 => Told(Told) <= TOLD_BYTES_MAX,
    }
}

/// The messages, for a fuzz target.
#[cfg(feature = "fuzzing")]
pub fn fuzz_frames(target: impl quorate_transport::fuzzing::Frames) {
    target.of::<Compare>();
}

/// The connections on which members compare, one for each, whoever made it. Each side may ask on it.
#[derive(Debug, Default)]
pub(super) struct Links(Mutex<BTreeMap<PublicKey, Connection>>);

impl Links {
    fn keep(&self, connection: &Connection) {
        let mut links = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        links.retain(|_, link| !link.is_closed());
        links.insert(*connection.peer(), connection.clone());
    }
}

/// Contradictions found by this node so far.
#[derive(Debug, Default)]
pub(super) struct Comparison(std::sync::Mutex<HeadComparison>);

impl Shared {
    /// Hands a connection of another member to the log, or compares heads on it.
    pub(super) fn take_member(self: Arc<Self>, connection: Connection, connections: &mut JoinSet<()>) {
        if connection.peer() > self.endpoint.public() {
            connections.spawn(answer(self, connection));
        } else if let Err(error) = self.log.attach(connection) {
            tracing::debug!(error_kind = error.kind(), "connection of an orchestrator refused: {error}");
        }
    }

    async fn dial(&self, member: &Member) -> Result<Connection, TransportError> {
        let address = self.addresses.get(&member.name).copied();
        let address = address.ok_or(TransportError::PeerUnknown { key: Some(member.transport_key) })?;
        self.endpoint.connect(address, &member.transport_key).await
    }

    fn own_heads(&self) -> Result<CosignedHeads, Refusal> {
        Ok(CosignedHeads(self.view()?.heads()?))
    }

    /// Compares what a member says with the log executed here. Ends the node if more than `f` contradict it.
    fn compare(&self, member: &PublicKey, heads: &CosignedHeads) -> Result<(), Refusal> {
        let group = self.replica().group().clone();
        let Some(index) = group.members.iter().position(|known| known.transport_key == *member) else {
            return Ok(());
        };
        let view = self.view()?;
        let size = view.size()?;
        let our_root = |at| if at <= size { view.root(at).map(Some) } else { Ok(None) };
        let verdict = {
            let mut found = self.comparison.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            found.compare(&group, index as u16, &heads.0, our_root)?
        };
        match verdict {
            Verdict::Agree => {}
            Verdict::Suspect(found) => self.keep(&found),
            Verdict::WeDiverge(found) => {
                self.keep(&found);
                let detail = format!(
                    "{} orchestrators cosigned another log; the evidence is in {}",
                    found.len(),
                    self.data.path().join(EVIDENCE).display()
                );
                let fatal = Fatal::new("ConflictingCertificates", detail, exit::SAFETY);
                self.never_sign_again(&fatal);
                self.end(fatal);
            }
        }
        Ok(())
    }

    fn keep(&self, found: &[Divergence]) {
        for divergence in found {
            let Divergence { orchestrator, theirs, ours } = divergence;
            self.metrics.evidence("ConflictingHeads");
            tracing::error!(
                error_kind = "ConflictingHeads",
                orchestrator,
                size = theirs.size,
                theirs = to_hex(&theirs.root),
                ours = to_hex(ours),
                "another orchestrator cosigned another log"
            );
            let name = format!("head-{orchestrator}-{}", theirs.size);
            self.write_evidence(&name, &to_bytes(divergence));
        }
    }

    /// Counts and keeps evidence.
    pub(crate) fn keep_evidence(&self, kind: &str, name: &str, bytes: &[u8]) {
        self.metrics.evidence(kind);
        self.write_evidence(name, bytes);
    }

    fn write_evidence(&self, name: &str, bytes: &[u8]) {
        if let Err(error) = self.data.write(EVIDENCE, name, bytes) {
            tracing::error!(%error, name, "evidence is not kept");
        }
    }

    /// Connections to other members on which questions can be asked.
    pub(crate) fn links(&self) -> Vec<Connection> {
        let links = self.links.0.lock().unwrap_or_else(PoisonError::into_inner);
        links.values().filter(|link| !link.is_closed()).cloned().collect()
    }

    /// Asks another member about entries of a service.
    pub(crate) async fn ask_entries(
        connection: Connection,
        asked: AskEntries,
    ) -> Result<Told, TransportError> {
        let mut exchange = connection.open().await?;
        match exchange.ask::<Compare, Compare>(&Compare::AskEntries(asked)).await? {
            Compare::Told(told) => Ok(told),
            _ => Ok(Told::default()),
        }
    }
}

/// Answers a member that compares, or with whom this node does.
async fn answer(shared: Arc<Shared>, connection: Connection) {
    shared.links.keep(&connection);
    while let Ok(exchange) = connection.accept().await {
        if let Ok(Err(error)) = timeout(LIMIT, answer_one(&shared, exchange)).await {
            tracing::debug!(peer = %connection.peer(), error_kind = error.kind(), "heads not compared: {error}");
        }
    }
}

async fn answer_one(shared: &Shared, mut exchange: Exchange) -> Result<(), Refusal> {
    match exchange.recv().await? {
        Some(Compare::Heads(theirs)) => {
            exchange.send(&Compare::Heads(shared.own_heads()?)).await?;
            shared.compare(exchange.peer(), &theirs)
        }
        Some(Compare::AskEntries(asked)) => {
            let told = shared.services().ok().map(|host| host.tell(&asked)).transpose()?;
            exchange.send(&Compare::Told(told.unwrap_or_default())).await?;
            Ok(())
        }
        Some(Compare::Told(_)) | None => Ok(()),
    }
}

/// Compares with every member of a lower key until the task is ended.
pub(super) async fn compare_all(shared: Arc<Shared>) {
    let mut connections: BTreeMap<PublicKey, Connection> = BTreeMap::new();
    let mut answering = JoinSet::new();
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let members = shared.replica().group().members.clone();
        let lower = members.iter().filter(|member| member.transport_key < *shared.endpoint.public());
        for member in lower {
            let connection = connections.remove(&member.transport_key);
            match timeout(LIMIT, compare_one(&shared, member, connection, &mut answering)).await {
                Ok(Ok(connection)) => drop(connections.insert(member.transport_key, connection)),
                Ok(Err(error)) => {
                    tracing::debug!(peer = member.name, error_kind = error.kind(), "not compared: {error}");
                }
                Err(_) => tracing::debug!(peer = member.name, "not compared in time"),
            }
        }
    }
}

async fn compare_one(
    shared: &Arc<Shared>,
    member: &Member,
    connection: Option<Connection>,
    answering: &mut JoinSet<()>,
) -> Result<Connection, Refusal> {
    let connection = match connection.filter(|connection| !connection.is_closed()) {
        Some(connection) => connection,
        None => {
            let connection = shared.dial(member).await?;
            while answering.try_join_next().is_some() {}
            answering.spawn(answer(Arc::clone(shared), connection.clone()));
            connection
        }
    };
    let mut exchange = connection.open().await?;
    if let Compare::Heads(theirs) = exchange.ask(&Compare::Heads(shared.own_heads()?)).await? {
        shared.compare(&member.transport_key, &theirs)?;
    }
    Ok(connection)
}
