//! `quorate service upgrade`.

use std::path::PathBuf;

use clap::Args;
use quorate_attest::id::Nonce;
use quorate_attest::vm::{InputPolicy, MACHINE_VERSION, OutputPolicy, VmSpec};
use quorate_control::Command;
use quorate_host::inquiries::fresh;
use quorate_services::find;
use quorate_vmm::Image;
use serde_json::json;

use super::{Cluster, FIND_LIMIT, unknown};
use crate::exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::vm::managed::{Access, host_of};

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
    let replicas = cluster.replicas()?.members.len();
    if arguments.hosts.len() != replicas {
        return Err(Failure::usage(format!(
            "{replicas} replicas need {replicas} hosts; name each with --host"
        )));
    }
    let elf = crate::image::load(&arguments.image)?;
    let image = Image::admit(&elf)?.digest();
    for (replica, host) in (0u16..).zip(&arguments.hosts) {
        let (_, host) = host_of(&cluster.folder, host)?;
        let nonce = fresh().map_err(|error| Failure::new(exit::RETRY, "ResourceExhausted", error))?;
        let spec = VmSpec {
            name: format!("{}-v{}", info.spec.vm_name(replica), arguments.version),
            image,
            machine_version: MACHINE_VERSION,
            memory_bytes: info.spec.memory_bytes,
            input_policy: InputPolicy::ClientSigned,
            output_policy: OutputPolicy::Immediate,
            host,
            nonce: Nonce::from_bytes(nonce),
        };
        cluster.client.create(spec, elf.clone()).await?;
    }
    let newest = found.replicas.values().map(|info| info.ordered).max().unwrap_or(info.ordered);
    let number = arguments.at.unwrap_or(newest);
    let command = Command::UpgradeService { service: found.service, image, number };
    let done = cluster.client.order(&command).await?;
    output.object(&json!({
        "result": "ordered", "name": name, "image": image.to_string(), "number": number, "log_index": done.index(),
    }));
    output.line(&format!("from entry {number} on, {name} runs {image}"));
    Ok(exit::OK)
}
