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
mod testing;
mod timeline;
pub mod vm_thread;
pub mod window;

use std::sync::Arc;
use std::time::Duration;

use quorate_transport::{Endpoint, Limits, Members, Role};

use agent::{Agent, Event, Fatal};
use conduct::Conduct;
use config::Loaded;
use journal::Journal;
use state_server::StateServer;

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
    let mut agent = Agent::new(loaded, conduct, endpoint.clone(), states, journal);
    agent.restore(history).await?;
    let handle = agent.handle();
    let door = tokio::spawn(gateway::serve(endpoint.clone(), handle.clone()));
    tokio::spawn(async move {
        stop.await;
        handle.send(Event::Stop);
    });
    ready(listen, bulk);
    let result = agent.run().await;
    door.abort();
    endpoint.close().await;
    Ok(result?)
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
