//! A cluster of real processes with a kv VM in it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quorate_attest::id::{ImageDigest, Nonce, Slot, VmId};
use quorate_attest::request::status;
use quorate_attest::vm::{InputPolicy, OutputPolicy, VmSpec};
use quorate_guest_images::KV;
use quorate_kv::Operation;
use tokio::time::{Instant, sleep};

use super::{BenchError, Context};
use crate::cluster::{Cluster, Plan};
use crate::control_client::ControlClient;
use crate::load::{Load, LoadReport, Plan as LoadPlan, random_key};
use quorate_host::client::hosts::HostPeer;
use quorate_host::client::{Patience, Target, VmClient};
use quorate_host::inquiries::fresh;
use quorate_host::protocol::{Report, Status};

/// Time for anything that takes a moment on an idle machine.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);
/// A migration without progress for this long is given up, milliseconds.
const MIGRATION_TIMEOUT_MS: u32 = 20_000;
/// Clients that share the load.
const CLIENTS: usize = 8;

/// A folder that goes away with the value.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
}

impl Scratch {
    /// A new folder below `parent`, or below the system's folder for temporary files.
    ///
    /// # Errors
    /// It cannot be created.
    pub fn create(parent: Option<&Path>) -> std::io::Result<Self> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        let path = parent.join(format!("quorate-bench-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self { path })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // What cannot be removed is found by whoever cleans up the folder for temporary files.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

/// Four verifiers, two hosts, and a VM on the first of them.
pub struct Scene {
    pub cluster: Cluster,
    pub control: ControlClient,
    pub hosts: Vec<HostPeer>,
    pub vm: VmId,
    target: Arc<Target>,
    folder: PathBuf,
}

impl Scene {
    /// Starts everything and waits for the certificate of slot 0.
    pub async fn start(
        context: &Context,
        name: &str,
        sampled: usize,
        memory_mib: u64,
    ) -> Result<Self, BenchError> {
        let folder = context.scratch.path().join(name);
        let plan = Plan { sampled, ..Plan::new(&folder, context.programs.clone()) };
        let cluster = Cluster::start(plan).await?;
        let hosts = cluster.hosts();
        let control = ControlClient::of_folder(cluster.folder())?;
        let first = hosts.first().ok_or_else(|| BenchError::unexpected("the cluster has no host"))?;
        let spec = VmSpec {
            name: name.into(),
            image: ImageDigest::from_bytes(KV.digest()),
            machine_version: 1,
            memory_bytes: memory_mib << 20,
            input_policy: InputPolicy::ClientSigned,
            output_policy: OutputPolicy::Certified,
            host: first.key,
            nonce: Nonce::from_bytes(fresh()?),
        };
        let target = Arc::new(Target::new(Arc::new(cluster.group().clone()), spec.clone(), hosts.clone()));
        let scene = Self { cluster, control, hosts, vm: spec.id(), target, folder };
        scene.control.create(spec, KV.elf.to_vec()).await?;
        scene.certified(0, Slot(0)).await?;
        Ok(scene)
    }

    /// Fills the guest's memory with incompressible bytes.
    pub async fn fill(&self, bytes: u64) -> Result<(), BenchError> {
        let patience = Patience { attempt: PATIENCE, call: PATIENCE };
        let mut client = VmClient::new(Arc::clone(&self.target), random_key()?, 0)?.with_patience(patience);
        let operation = Operation::Fill { bytes, seed: 1 };
        let believed = client.call(operation.op(), operation.body()).await?;
        match believed.reply.status {
            status::OK => Ok(()),
            other => Err(BenchError::Unexpected(format!("the guest could not be filled: status {other}"))),
        }
    }

    /// Starts clients that make so many requests a second together.
    pub fn load(&self, rate: f64) -> Result<Load, BenchError> {
        let plan = LoadPlan { clients: CLIENTS, rate, count: None, value_bytes: 128 };
        Ok(Load::start(Arc::clone(&self.target), plan)?)
    }

    /// What a host is doing.
    pub async fn status(&self, host: usize) -> Result<Status, BenchError> {
        Ok(self.control.operator().status(host).await?)
    }

    /// Waits until a slot at or after `slot` is certified on a host.
    pub async fn certified(&self, host: usize, slot: Slot) -> Result<Status, BenchError> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let status = self.status(host).await?;
            if status.certified.is_some_and(|certified| certified >= slot) {
                return Ok(status);
            }
            if Instant::now() > deadline {
                let errors = status.errors.iter().map(|e| format!("{}: {}", e.kind, e.detail));
                let errors: Vec<_> = errors.collect();
                return Err(BenchError::Unexpected(format!("slot {} is not certified: {errors:?}", slot.0)));
            }
            sleep(POLL).await;
        }
    }

    /// Moves the VM and waits until the new host has a certified slot of its own.
    pub async fn migrate(&self, destination: usize) -> Result<Report, BenchError> {
        let key = self.hosts[destination].key;
        let report = self.control.migrate(self.vm, key, MIGRATION_TIMEOUT_MS, |_| {}).await?;
        if report.result != "activated" {
            let why = report.refused.map_or_else(String::new, |r| format!("{}: {}", r.kind, r.detail));
            return Err(BenchError::Unexpected(format!("a migration was {}: {why}", report.result)));
        }
        self.certified(destination, Slot(report.slot.0 + 1)).await?;
        Ok(report)
    }

    /// Ends all processes and removes their files.
    pub async fn stop(mut self) -> Result<(), BenchError> {
        self.control.close().await;
        self.cluster.stop().await;
        Ok(std::fs::remove_dir_all(&self.folder)?)
    }
}

/// Fails unless a load had every request answered, and every answer right.
///
/// # Errors
/// Requests were lost or refused.
pub async fn finish(load: Load) -> Result<LoadReport, BenchError> {
    let report = load.finish().await?;
    if report.lost > 0 || !report.failed.keys().all(|status| *status == status::OK) {
        let text = format!("{} requests lost, refused by status: {:?}", report.lost, report.failed);
        return Err(BenchError::Unexpected(text));
    }
    Ok(report)
}
