//! The host agent: one process that runs one VM, and moves it. It is trusted with nothing: what it claims about its VM
//! counts once a quorum of verifiers attested it.
//!
//! ```text
//! migration/   pure: source and destination of a live migration, freshness of heads
//! certify      pure: votes to certificates, certificates to released outputs
//! ordering     what the ordered log is asked and told
//! agent/       performs their effects: VM thread, journal, links to verifiers, exchanges
//! client/      calls a VM and believes only certified answers
//! ```

#![forbid(unsafe_code)]

pub mod agent;
pub mod certify;
pub mod client;
pub mod clock;
pub mod conduct;
pub mod config;
mod gateway;
mod handed_out;
pub mod inquiries;
pub mod journal;
pub mod link;
pub mod mailbox;
pub mod migration;
pub mod ordering;
pub mod process;
pub mod protocol;
mod pull;
mod slot_times;
pub mod state_server;
mod statement;
#[cfg(test)]
mod tests;
mod timeline;
pub mod vm_thread;
pub mod window;

use std::sync::Arc;
use std::time::Duration;

use quorate_transport::{Endpoint, Limits, Members, Role};

use agent::{Agent, Ended, Event, Fatal};
use conduct::Conduct;
use config::Loaded;
use journal::Journal;
use state_server::StateServer;
use tokio::sync::watch;

/// Silence that an exchange of a migration may bear; deadlines are the state machines' business.
pub(crate) const EXCHANGE_PATIENCE: Duration = Duration::from_secs(600);

/// Why a host ended.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A socket cannot be had.
    #[error("{0}")]
    Transport(#[from] quorate_transport::TransportError),
    /// Storage, machine or system failed.
    #[error("{0}")]
    Fatal(#[from] Fatal),
}

impl HostError {
    /// Exit code of operations.md.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Transport(_) => quorate_verifier::exit::RETRY,
            Self::Fatal(fatal) => fatal.exit_code(),
        }
    }
}

/// Runs a host until `stop` resolves. `ready` gets the addresses it listens on.
///
/// # Errors
/// Sockets, storage or machine fail.
pub async fn run(
    loaded: Loaded,
    conduct: Arc<dyn Conduct>,
    ready: impl FnOnce(std::net::SocketAddr, std::net::SocketAddr),
    stop: impl Future<Output = ()> + Send + 'static,
) -> Result<(), HostError> {
    let (journal, history) = Journal::open(&loaded.config.data_dir).map_err(Fatal::from)?;
    let directory = Arc::new(directory(&loaded));
    let endpoint = Endpoint::bind(loaded.config.listen, &loaded.key, directory, limits())?;
    let states = StateServer::bind(&endpoint.bulk(), loaded.config.bulk_listen, Arc::clone(&conduct))?;
    let (listen, bulk) = (endpoint.local_addr()?, states.local_addr());
    let build = |journal| {
        Agent::new(loaded.clone(), Arc::clone(&conduct), endpoint.clone(), Arc::clone(&states), journal)
    };
    let mut agent = build(journal);
    agent.restore(history).await?;
    let (current, watched) = watch::channel(agent.handle());
    let door = tokio::spawn(gateway::serve(endpoint.clone(), watched));
    let stopping = watch::Sender::new(false);
    let stopped = stopping.clone();
    tokio::spawn(async move {
        stop.await;
        stopped.send_replace(true);
    });
    ready(listen, bulk);
    let result = loop {
        let result = run_until_stopped(agent, stopping.subscribe()).await;
        if !matches!(result, Ok(Ended::Rewinding)) {
            break result;
        }
        // The VM begins again as it would after a crash. Connections stay; who asks meanwhile asks again.
        let (journal, history) = Journal::open(&loaded.config.data_dir).map_err(Fatal::from)?;
        agent = build(journal);
        agent.restore(history).await?;
        current.send_replace(agent.handle());
    };
    door.abort();
    endpoint.close().await;
    result?;
    Ok(())
}

async fn run_until_stopped(agent: Agent, mut stopping: watch::Receiver<bool>) -> Result<Ended, Fatal> {
    let handle = agent.handle();
    let stop = tokio::spawn(async move {
        // The sender lives as long as the host.
        let _ = stopping.wait_for(|stopping| *stopping).await;
        handle.send(Event::Stop);
    });
    let result = agent.run().await;
    stop.abort();
    result
}

/// A peer that was killed closes nothing: its connections must be found dead before anybody waits long for them.
const IDLE: Duration = Duration::from_secs(5);

/// Limits of a host's connections, and of those of its clients.
pub(crate) fn limits() -> Limits {
    Limits { idle: IDLE, ..Limits::default() }
}

fn directory(loaded: &Loaded) -> Members {
    let group = &loaded.group;
    let verifiers = group.members.iter().map(|member| (member.transport_key, Role::Verifier));
    let hosts = group.hosts.iter().map(|host| (host.key, Role::Host));
    let operators = group.operators.iter().map(|key| (*key, Role::Operator));
    let orchestrators =
        loaded.orchestrators.members.iter().map(|member| (member.transport_key, Role::Orchestrator));
    let members = verifiers.chain(hosts).chain(operators).chain(orchestrators);
    members.fold(Members::new(), |members, (key, role)| members.with(key, role)).with_any_client()
}
