//! A cluster of real processes with a registry in it, and its clients.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use quorate_attest::id::ServiceId;
use quorate_attest::key::SecretKey;
use quorate_control::{Command, Quota};
use quorate_host::inquiries::fresh;
use quorate_ordering::orderer::Orderer;
use quorate_services::{Service, Settings, Trust};
use quorate_transport::{Endpoint, Limits, Members, Role};

use super::super::{BenchError, Context};
use super::registry::{LIMIT, RegistryClient};
use crate::cluster::{Cluster, Folder, Plan};
use crate::control_client::ControlClient;
use crate::failure::Failure;
use crate::service;
use crate::service::create::{Wanted, create};

const REGISTRY: &str = "registry";
/// Memory of a replica, as `quorate service create` gives it.
const MEMORY_MIB: u64 = 64;

/// Verifiers, all in SAMPLED mode: replaying every replica on the machine that runs them all would measure that.
const VERIFIERS: usize = 4;

/// A registry that serves.
pub struct Scene {
    processes: Cluster,
    admin: service::Cluster,
    /// Registered clients, each with its own key.
    pub clients: Vec<Arc<RegistryClient>>,
    root: PathBuf,
}

impl Scene {
    /// Starts all processes, creates the registry and admits the clients.
    ///
    /// # Errors
    /// A program is missing or does not start, or the cluster refuses.
    pub async fn start(context: &Context, replicas: usize, clients: usize) -> Result<Self, BenchError> {
        let root = context.scratch.path().join(format!("services-{replicas}"));
        let plan = Plan {
            orchestrators: replicas,
            hosts: Vec::new(),
            services: vec![REGISTRY.into()],
            sampled: VERIFIERS,
            verifiers: VERIFIERS,
            ..Plan::new(&root, context.programs.clone())
        };
        let processes = Cluster::start(plan).await?;
        let folder = Folder::open(&root)?;
        let client = ControlClient::of_folder(&folder)?;
        let admin = service::Cluster { folder, client };
        let (image, config, admins) = (None, None, Vec::new());
        let wanted = Wanted { name: REGISTRY.into(), image, memory: MEMORY_MIB, config, admin: admins };
        let service = create(&wanted, &admin).await.map_err(told)?.service;
        let mut scene = Self { processes, admin, clients: Vec::new(), root };
        for number in 0..clients {
            let client = scene.client(number, service).await?;
            scene.clients.push(Arc::new(client));
        }
        Ok(scene)
    }

    async fn client(&self, number: usize, service: ServiceId) -> Result<RegistryClient, BenchError> {
        let key = SecretKey::from_seed(fresh()?);
        let quota = Quota { operations: u32::MAX, ..Quota::default() };
        let register = Command::RegisterClient { key: key.public(), quota, revision: 0 };
        self.admin.client.order(&register).await?;
        let folder = &self.admin.folder;
        let group = folder.orchestrators.current();
        let members = group
            .members
            .iter()
            .fold(Members::new(), |members, member| members.with(member.transport_key, Role::Orchestrator));
        let any = SocketAddr::from(([0, 0, 0, 0], 0));
        let endpoint = Endpoint::bind_as(any, &key, Role::Client, Arc::new(members), Limits::default())?;
        let orderer = Orderer::new(endpoint.clone(), Arc::new(group.clone()), folder.orchestrator_peers());
        let replicas = self.admin.replicas().map_err(told)?.clone();
        let trust = Trust { orchestrators: group.clone(), replicas, service };
        let memory = self.root.join(format!("client-{number}"));
        let settings = Settings { limit: LIMIT, ..Settings::new(memory) };
        let service = Service::new(orderer.clone(), trust, key.clone(), settings)?;
        RegistryClient::new(number, key, endpoint, orderer, service)
    }

    /// The client that calls alone.
    ///
    /// # Errors
    /// There is none.
    pub fn first(&self) -> Result<Arc<RegistryClient>, BenchError> {
        self.clients.first().cloned().ok_or_else(|| BenchError::unexpected("no clients"))
    }

    /// Where the gateway serves etcd's clients.
    ///
    /// # Errors
    /// The cluster has none.
    pub fn gateway(&self) -> Result<SocketAddr, BenchError> {
        let entry = self.admin.folder.entry(Plan::GATEWAY);
        entry.map(|entry| entry.place.service).ok_or_else(|| BenchError::unexpected("no gateway"))
    }

    /// Ends all processes and removes their files.
    ///
    /// # Errors
    /// The system's.
    pub async fn stop(mut self) -> Result<(), BenchError> {
        for client in &self.clients {
            client.close().await;
        }
        self.admin.client.close().await;
        self.processes.stop().await;
        Ok(std::fs::remove_dir_all(&self.root)?)
    }
}

fn told(failure: Failure) -> BenchError {
    BenchError::Unexpected(format!("{}: {}", failure.kind, failure.text))
}
