//! The process: everything that listens, over the services that the configuration names.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quorate_attest::id::to_hex;
use quorate_ordering::orderer::{OrchestratorPeer, Orderer};
use quorate_services::{ServiceError, Settings};
use quorate_transport::{Endpoint, Limits, Members, Role};
use sha2::{Digest as _, Sha256};
use tokio::task::JoinSet;

use crate::backend::Shared;
use crate::config::Loaded;
use crate::etcd::{Etcd, Identity};
use crate::http::{Sources, routes};
use crate::late::{Client, Late};
use crate::listen::{Listener, Protocol};
use crate::nss::{Lookups, NssListener};
use crate::proofs::{Proofs, Recorded};

/// Why a gateway does not start, or ends.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A socket cannot be had.
    #[error("{what}: {source}")]
    Socket {
        /// Which.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// A directory cannot be used.
    #[error("{what}: {source}")]
    Storage {
        /// Which.
        what: String,
        /// Why.
        source: io::Error,
    },
    /// A service cannot be used.
    #[error("service {name}: {source}")]
    Service {
        /// Its name.
        name: String,
        /// Why.
        source: ServiceError,
    },
}

impl NodeError {
    /// Stable identifier of the failure.
    #[must_use]
    pub fn kind(&self) -> &str {
        match self {
            Self::Socket { .. } => "SocketError",
            Self::Storage { .. } => "StorageFailed",
            Self::Service { source, .. } => source.kind(),
        }
    }

    /// Exit code of a process that meets it.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        use quorate_verifier::exit;
        match self {
            Self::Storage { .. } => exit::STORAGE,
            Self::Socket { .. } => exit::CONFIGURATION,
            Self::Service { source, .. } if source.kind() == "StorageFailed" => exit::STORAGE,
            Self::Service { .. } => exit::CONFIGURATION,
        }
    }
}

/// A gateway with its sockets bound.
#[derive(Debug)]
pub struct Node {
    etcd: Option<(Listener, Etcd)>,
    http: (Listener, Sources),
    nss: Option<NssListener>,
    services: Vec<(String, Arc<Late>)>,
}

impl Node {
    /// Binds everything. The services are looked for when it runs.
    ///
    /// # Errors
    /// A socket or a directory cannot be had.
    pub async fn start(loaded: Loaded) -> Result<Self, NodeError> {
        let config = &loaded.config;
        let storage = |what: &std::path::Path| {
            let what = what.display().to_string();
            move |source| NodeError::Storage { what, source }
        };
        std::fs::create_dir_all(&config.state_dir).map_err(storage(&config.state_dir))?;
        let proofs = match &config.proofs_dir {
            Some(folder) => Some(Arc::new(Proofs::open(folder, config.proofs_max).map_err(storage(folder))?)),
            None => None,
        };
        let client = client(&loaded)?;
        let mut services = Vec::new();
        let mut open = |name: &Option<String>| {
            let name = name.clone()?;
            let late = Late::new(&name, client.clone());
            services.push((name.clone(), Arc::clone(&late)));
            let silent: Shared = late;
            let recorded: Shared = match &proofs {
                Some(proofs) => Arc::new(Recorded::new(&name, Arc::clone(&silent), Arc::clone(proofs))),
                None => Arc::clone(&silent),
            };
            Some((name, recorded, silent))
        };
        let (registry, uids) = (open(&config.registry), open(&config.uid));
        let etcd = match &registry {
            Some((name, backend, silent)) => {
                let listener = bind(loaded.etcd_listen, Protocol::Grpc).await?;
                let identity = identity(&loaded, name, listener.address());
                Some((listener, Etcd::new(Arc::clone(backend), Arc::clone(silent), identity)))
            }
            None => None,
        };
        let nss = match &uids {
            Some((_, backend, _)) => Some(bind_nss(&loaded, Arc::clone(backend)).await?),
            None => None,
        };
        let backend = |service: Option<(String, Shared, Shared)>| service.map(|(_, backend, _)| backend);
        let sources = Sources { registry: backend(registry), uids: backend(uids), proofs };
        let http = (bind(loaded.http_listen, Protocol::Http).await?, sources);
        Ok(Self { etcd, http, nss, services })
    }

    /// Serves until `shutdown`, or until a service turns out to be unusable.
    ///
    /// # Errors
    /// A service cannot be used.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), NodeError> {
        let mut tasks = JoinSet::new();
        if let Some((listener, etcd)) = self.etcd {
            tasks.spawn(forever(listener.serve(etcd.routes())));
            tasks.spawn(forever(etcd.follow()));
        }
        let (listener, sources) = self.http;
        tasks.spawn(forever(listener.serve(routes(sources))));
        if let Some(nss) = self.nss {
            tasks.spawn(forever(nss.serve()));
        }
        let mut searches = JoinSet::new();
        for (name, late) in self.services {
            searches.spawn(
                async move { late.find().await.map_err(|source| NodeError::Service { name, source }) },
            );
        }
        let failed = async {
            while let Some(found) = searches.join_next().await {
                if let Ok(Err(error)) = found {
                    return error;
                }
            }
            std::future::pending().await
        };
        let ended = tokio::select! {
            () = shutdown => Ok(()),
            error = failed => Err(error),
        };
        // Sockets that are files go with their tasks.
        tasks.shutdown().await;
        ended
    }
}

/// The one line that says that a gateway is ready, and where.
impl fmt::Display for Node {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "listening http {}", self.http.0.address())?;
        if let Some((listener, _)) = &self.etcd {
            write!(out, " etcd {}", listener.address())?;
        }
        match &self.nss {
            Some(nss) => write!(out, " nss {}", nss.path().display()),
            None => Ok(()),
        }
    }
}

async fn forever<T>(task: impl Future<Output = T>) {
    task.await;
}

async fn bind(address: SocketAddr, protocol: Protocol) -> Result<Listener, NodeError> {
    let what = address.to_string();
    Listener::bind(address, protocol).await.map_err(|source| NodeError::Socket { what, source })
}

async fn bind_nss(loaded: &Loaded, backend: Shared) -> Result<NssListener, NodeError> {
    let path = loaded.config.nss_socket();
    let lookups = Lookups::new(backend, Duration::from_millis(loaded.config.nss_max_age_ms));
    let what = path.display().to_string();
    NssListener::bind(&path, lookups).await.map_err(|source| NodeError::Socket { what, source })
}

fn client(loaded: &Loaded) -> Result<Client, NodeError> {
    let orchestrators = &loaded.orchestrators;
    let members = orchestrators
        .members
        .iter()
        .fold(Members::new(), |members, member| members.with(member.transport_key, Role::Orchestrator));
    let socket =
        |text: String| NodeError::Socket { what: "orchestrators".to_owned(), source: io::Error::other(text) };
    let any = SocketAddr::from(([0, 0, 0, 0], 0));
    let endpoint = Endpoint::bind_as(any, &loaded.key, Role::Client, Arc::new(members), Limits::default())
        .map_err(|error| socket(error.to_string()))?;
    let peers = OrchestratorPeer::of_group(orchestrators, |name| loaded.addresses.get(name).copied())
        .map_err(|name| socket(format!("no address for {name}")))?;
    let orderer = Orderer::new(endpoint, Arc::new(orchestrators.clone()), peers);
    let limit = Duration::from_millis(loaded.config.timeout_ms);
    let settings = Settings { limit, ..Settings::new(loaded.config.state_dir.clone()) };
    let (orchestrators, replicas) = (orchestrators.clone(), loaded.replicas.clone());
    Ok(Client { orderer, orchestrators, replicas, key: loaded.key.clone(), settings })
}

fn identity(loaded: &Loaded, registry: &str, address: SocketAddr) -> Identity {
    let group = to_hex(&loaded.orchestrators.id().to_bytes());
    Identity {
        cluster: short(format!("{group}/{registry}").as_bytes()),
        member: short(loaded.key.public().as_bytes()),
        term: loaded.orchestrators.epoch.get(),
        f: loaded.orchestrators.f,
        urls: vec![format!("http://{address}")],
    }
}

/// A number for clients that tell clusters and members apart by one.
fn short(name: &[u8]) -> u64 {
    let digest = Sha256::digest(name);
    digest.iter().take(8).fold(0, |number, byte| number << 8 | u64::from(*byte))
}
