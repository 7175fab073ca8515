//! `quorate service upgrade`.

use std::path::PathBuf;

use clap::Args;
use quorate_attest::id::{ImageDigest, Nonce};
use quorate_attest::vm::{InputPolicy, MACHINE_VERSION, OutputPolicy, VmSpec};
use quorate_control::Command;
use quorate_host::inquiries::fresh;
use quorate_services::find;
use quorate_vmm::Image;
use serde_json::json;

use super::{Cluster, FIND_LIMIT, unknown};
use crate::control_client::{ControlError, Done};
use crate::exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::vm::managed::{Access, host_of};

/// How often a number is chosen that turns out to be taken.
const ATTEMPTS: u32 = 10;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Name of the service.
    name: String,
    /// The new image: a built-in one or an ELF file.
    #[arg(long)]
    image: PathBuf,
    /// Which upgrade this is: 1 for the first.
    #[arg(long, default_value_t = 1)]
    version: u32,
    /// Free hosts for the new VMs, one for each replica, in their order.
    #[arg(long = "host", required = true, value_name = "NAME")]
    hosts: Vec<String>,
    /// First entry of the service's log that the new image executes; the one after the newest unless given.
    #[arg(long)]
    at: Option<u64>,
    #[command(flatten)]
    pub access: Access,
}

/// Runs the command.
pub async fn run(arguments: &Arguments, cluster: &Cluster, output: &Output) -> Result<u8, Failure> {
    let name = &arguments.name;
    let found = find::named(cluster.client.orderer(), name, FIND_LIMIT, false).await?;
    let found = found.ok_or_else(|| unknown(name))?;
    let info = found.any().ok_or_else(|| unknown(name))?;
    let members = &cluster.replicas()?.members;
    let replicas = members.len();
    if arguments.hosts.len() != replicas {
        return Err(Failure::usage(format!(
            "{replicas} replicas need {replicas} hosts; name each with --host"
        )));
    }
    let elf = crate::image::load(&arguments.image)?;
    let image = Image::admit(&elf)?.digest();
    let there = cluster.client.vms().await?;
    for ((replica, host), member) in (0u16..).zip(&arguments.hosts).zip(members) {
        let (_, host) = host_of(&cluster.folder, host)?;
        let nonce = fresh().map_err(|error| Failure::new(exit::RETRY, "ResourceExhausted", error))?;
        let vm_name = format!("{}-v{}", info.spec.vm_name(replica), arguments.version);
        // Whoever begins again after a failure has some of them already.
        if there.iter().any(|(_, vm)| vm.spec.name == vm_name && vm.spec.image == image) {
            continue;
        }
        let spec = VmSpec {
            name: vm_name,
            image,
            machine_version: MACHINE_VERSION,
            memory_bytes: info.spec.memory_bytes,
            input_policy: InputPolicy::SignedBy(member.transport_key),
            output_policy: OutputPolicy::Immediate,
            host,
            nonce: Nonce::from_bytes(nonce),
        };
        cluster.client.create(spec, elf.clone()).await?;
    }
    let (number, done) = order(arguments, cluster, image).await?;
    output.object(&json!({
        "result": "ordered", "name": name, "image": image.to_string(), "number": number, "log_index": done.index(),
    }));
    output.line(&format!("from entry {number} on, {name} runs {image}"));
    Ok(exit::OK)
}

/// Orders the upgrade. Requests that are ordered meanwhile take the next numbers: it is tried again, each time further ahead.
async fn order(arguments: &Arguments, cluster: &Cluster, image: ImageDigest) -> Result<(u64, Done), Failure> {
    let name = &arguments.name;
    for attempt in 0..ATTEMPTS {
        let found = find::named(cluster.client.orderer(), name, FIND_LIMIT, false).await?;
        let found = found.ok_or_else(|| unknown(name))?;
        let next = found.replicas.values().map(|info| info.ordered).max().unwrap_or_default();
        let number = arguments.at.unwrap_or(next + (1 << attempt) - 1);
        let command = Command::UpgradeService { service: found.service, image, number };
        match cluster.client.order(&command).await {
            Err(ControlError::Refused(refusal)) if refusal.kind() == "Stale" && arguments.at.is_none() => {}
            done => return Ok((number, done?)),
        }
    }
    let text = format!("other requests were faster {ATTEMPTS} times");
    Err(Failure::new(exit::RETRY, "Busy", text).next("name an entry further ahead with --at"))
}
