//! `quorate service create`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use quorate_attest::encoding::Bounded;
use quorate_attest::id::{ImageDigest, Nonce, ServiceId};
use quorate_attest::key::PublicKey;
use quorate_attest::service::ServiceSpec;
use quorate_attest::vm::{InputPolicy, MACHINE_VERSION, OutputPolicy, VmSpec};
use quorate_control::{Answer, Command, Quota};
use quorate_host::inquiries::fresh;
use quorate_services::find;
use quorate_verifier::key_file;
use quorate_vmm::Image;
use serde_json::json;
use tokio::time::{Instant, sleep};

use super::Cluster;
use crate::cluster::Plan;
use crate::control_client::ControlError;
use crate::exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::vm::managed::Access;
use crate::vm::{managed::host_of, mebibytes};

/// Time for the replicas to execute the first entry.
const BEGIN_LIMIT: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Requests that the gateway may order in a quota window.
const GATEWAY_OPERATIONS: u32 = 1_000;

#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    wanted: Wanted,
    #[command(flatten)]
    pub access: Access,
}

/// What a service is to be.
#[derive(Debug, Args)]
pub(crate) struct Wanted {
    /// Name of the service, one that the cluster has room for.
    pub(crate) name: String,
    /// A built-in image (registry, uid, counter) or an ELF file; the one of that name unless given.
    #[arg(long)]
    pub(crate) image: Option<PathBuf>,
    /// Memory of each replica, MiB.
    #[arg(long, default_value_t = 64)]
    pub(crate) memory: u64,
    /// The service's own configuration, by its rules (borsh). Unless given, registry and uid get the operator as admin, uid also
    /// the holder of keys/second-admin.client.
    #[arg(long, value_name = "FILE")]
    pub(crate) config: Option<PathBuf>,
    /// Another admin: the public key in hexadecimal. System users and reissued UIDs need two. May be repeated.
    #[arg(long, value_name = "KEY")]
    pub(crate) admin: Vec<PublicKey>,
}

/// A service whose replicas serve.
#[derive(Debug)]
pub(crate) struct Created {
    pub(crate) service: ServiceId,
    image: ImageDigest,
    log_index: u64,
}

/// Runs the command.
pub async fn run(arguments: &Arguments, cluster: &Cluster, output: &Output) -> Result<u8, Failure> {
    let name = &arguments.wanted.name;
    let Created { service, image, log_index } = create(&arguments.wanted, cluster).await?;
    output.object(&json!({
        "result": "created", "name": name, "id": service.to_string(), "image": image.to_string(), "log_index": log_index,
    }));
    output.line(&format!("service {name} serves: {service}"));
    Ok(exit::OK)
}

/// Boots the replicas, orders the first entry and waits until a quorum has executed it.
pub(crate) async fn create(wanted: &Wanted, cluster: &Cluster) -> Result<Created, Failure> {
    let name = &wanted.name;
    let elf = crate::image::load(&wanted.image.clone().unwrap_or_else(|| name.into()))?;
    let image = Image::admit(&elf)?.digest();
    let nonce = || {
        fresh().map(Nonce::from_bytes).map_err(|error| Failure::new(exit::RETRY, "ResourceExhausted", error))
    };
    let spec = ServiceSpec {
        name: name.clone(),
        image,
        memory_bytes: mebibytes(wanted.memory),
        replicas: cluster.replicas()?.id(),
        nonce: nonce()?,
        config: config(wanted, cluster)?,
    };
    spec.validate().map_err(Failure::usage)?;
    for (replica, member) in (0u16..).zip(&cluster.replicas()?.members) {
        let host =
            host_of(&cluster.folder, &Plan::service_host_name(name, replica.into())).map_err(|failure| {
                failure.next(format!(
                    "make a cluster with room for it: quorate cluster init DIR --service {name}"
                ))
            })?;
        let spec = VmSpec {
            name: spec.vm_name(replica),
            image,
            machine_version: MACHINE_VERSION,
            memory_bytes: spec.memory_bytes,
            input_policy: InputPolicy::SignedBy(member.transport_key),
            output_policy: OutputPolicy::Immediate,
            host: host.1,
            nonce: nonce()?,
        };
        cluster.client.create(spec, elf.clone()).await?;
    }
    let done = cluster.client.order(&Command::CreateService { spec: spec.clone() }).await?;
    let Answer::ServiceCreated { service } = done.answer else {
        return Err(Failure::refused("DecodeError", "the orchestrators answered something else"));
    };
    // Who verifies answers later must know which service is meant.
    let path = cluster.folder.root().join(format!("{name}.service"));
    std::fs::write(&path, spec.encoded()).map_err(|error| Failure::file(&path, error))?;
    admit_gateway(cluster).await?;
    await_replicas(cluster, name).await?;
    Ok(Created { service, image, log_index: done.index() })
}

/// The service's own configuration. The gateway changes names for its users, and so is an admin of the registry.
fn config(wanted: &Wanted, cluster: &Cluster) -> Result<Vec<u8>, Failure> {
    if let Some(path) = &wanted.config {
        return std::fs::read(path).map_err(|error| Failure::file(path, error));
    }
    let mut admins = vec![cluster.folder.operator.public()];
    admins.extend(&wanted.admin);
    let image = wanted.image.as_deref().unwrap_or(wanted.name.as_ref());
    match image.to_str() {
        Some("registry") => {
            admins.push(gateway_key(cluster)?);
            admins.sort();
            admins.dedup();
            Ok(quorate_registry::Config { admins, ..Default::default() }.encoded())
        }
        Some("uid") => {
            if wanted.admin.is_empty() {
                let second = cluster.folder.key_file(Plan::SECOND_ADMIN, "client");
                admins.push(key_file::read(&second)?.public());
            }
            admins.sort();
            admins.dedup();
            let config = quorate_uid::Config::usual(admins).map_err(Failure::usage)?;
            config.validate().map_err(Failure::usage)?;
            Ok(config.encoded())
        }
        _ => Ok(Vec::new()),
    }
}

fn gateway_key(cluster: &Cluster) -> Result<PublicKey, Failure> {
    Ok(key_file::read(&cluster.folder.key_file(Plan::GATEWAY, "client"))?.public())
}

/// Lets the gateway's key order requests. Once is enough for all services.
async fn admit_gateway(cluster: &Cluster) -> Result<(), Failure> {
    let quota = Quota { operations: GATEWAY_OPERATIONS, ..Quota::default() };
    let key = gateway_key(cluster)?;
    match cluster.client.order(&Command::RegisterClient { key, quota, revision: 0 }).await {
        Err(ControlError::Refused(refusal)) if matches!(refusal.kind(), "Stale" | "Conflict") => Ok(()),
        other => Ok(other.map(|_| ())?),
    }
}

async fn await_replicas(cluster: &Cluster, name: &str) -> Result<(), Failure> {
    let deadline = Instant::now() + BEGIN_LIMIT;
    let quorum = cluster.replicas()?.rule().map_err(Failure::usage)?.quorum();
    loop {
        let found = find::named(cluster.client.orderer(), name, BEGIN_LIMIT, true).await?;
        let replicas = found.map(|found| found.replicas).unwrap_or_default();
        let begun = replicas.values().filter(|info| info.executed > 0).count() as u64;
        if begun >= quorum {
            return Ok(());
        }
        if Instant::now() > deadline {
            let why = replicas.values().find_map(|info| info.stopped.as_ref());
            let why =
                why.map_or_else(String::new, |stopped| format!("; {}: {}", stopped.kind, stopped.detail));
            let text = format!("{begun} of {quorum} replicas have executed the first entry{why}");
            return Err(Failure::new(exit::NO_QUORUM, "QuorumNotReached", text)
                .next(format!("look again with `quorate service show {name}`")));
        }
        sleep(LOOK_EVERY).await;
    }
}
