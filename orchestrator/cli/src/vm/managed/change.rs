//! `quorate vm create`, `abort`, `recover` and `delete`.

use std::path::PathBuf;

use clap::Args;
use quorate_attest::id::Nonce;
use quorate_attest::vm::{InputPolicy, MACHINE_VERSION, OutputPolicy, VmSpec};
use quorate_control::{AbortEvidence, Command};
use quorate_host::inquiries::fresh;
use quorate_vmm::Image;
use serde_json::json;

use super::{Access, find, host_name, host_of};
use crate::cluster::Folder;
use crate::control_client::ControlClient;
use crate::exit;
use crate::failure::Failure;
use crate::output::Output;

#[derive(Debug, Args)]
pub struct Create {
    /// Name: 1 to 64 of a-z 0-9 -.
    name: String,
    /// A built-in image (kv, stress) or an ELF file.
    #[arg(long, default_value = "kv")]
    image: PathBuf,
    /// Memory, MiB.
    #[arg(long, default_value_t = 32)]
    memory: u64,
    /// Host that boots it; the first one unless named.
    #[arg(long)]
    host: Option<String>,
    /// Let outputs leave before a quorum attested them. A crash can then take back what somebody saw.
    #[arg(long)]
    immediate: bool,
    #[command(flatten)]
    pub access: Access,
}

#[derive(Debug, Args)]
pub struct Abort {
    /// Name or id.
    vm: String,
    #[command(flatten)]
    pub access: Access,
}

#[derive(Debug, Args)]
pub struct Recover {
    /// Name or id.
    vm: String,
    /// Host that goes on with it.
    #[arg(long)]
    host: String,
    #[command(flatten)]
    pub access: Access,
}

#[derive(Debug, Args)]
pub struct Delete {
    /// Name or id.
    vm: String,
    #[command(flatten)]
    pub access: Access,
}

/// Creates a VM.
pub async fn create(
    arguments: &Create,
    (folder, client): (&Folder, &ControlClient),
    output: &Output,
) -> Result<u8, Failure> {
    let first = folder.group.hosts.first().map(|host| host.name.clone()).unwrap_or_default();
    let (_, host) = host_of(folder, arguments.host.as_deref().unwrap_or(&first))?;
    let elf = crate::image::load(&arguments.image)?;
    let image = Image::admit(&elf)?.digest();
    let nonce = fresh().map_err(|error| Failure::new(exit::RETRY, "ResourceExhausted", error))?;
    let spec = VmSpec {
        name: arguments.name.clone(),
        image,
        machine_version: MACHINE_VERSION,
        memory_bytes: super::super::mebibytes(arguments.memory),
        input_policy: InputPolicy::ClientSigned,
        output_policy: if arguments.immediate { OutputPolicy::Immediate } else { OutputPolicy::Certified },
        host,
        nonce: Nonce::from_bytes(nonce),
    };
    spec.validate().map_err(Failure::usage)?;
    let index = client.create(spec.clone(), elf).await?;
    let place = host_name(folder, &host);
    output.object(&json!({
        "result": "created", "name": spec.name, "id": spec.id().to_string(), "host": place, "log_index": index,
    }));
    output.line(&format!("{} runs on {place}: {}", spec.name, spec.id()));
    Ok(exit::OK)
}

/// Ends a migration in the registry.
pub async fn abort(
    arguments: &Abort,
    (_, client): (&Folder, &ControlClient),
    output: &Output,
) -> Result<u8, Failure> {
    let (vm, record) = find(client, &arguments.vm).await?;
    let Some((migration, _)) = record.migration else {
        output.object(&json!({"result": "nothing to do", "vm": vm.to_string()}));
        output.line(&format!("{} is not being moved", record.spec.name));
        return Ok(exit::OK);
    };
    client.order(&Command::Abort { vm, migration, evidence: AbortEvidence::NotStopped }).await?;
    output.object(&json!({"result": "aborted", "vm": vm.to_string(), "migration": migration.to_string()}));
    output.line(&format!("the migration of {} is aborted", record.spec.name));
    Ok(exit::OK)
}

/// Starts a VM again elsewhere.
pub async fn recover(
    arguments: &Recover,
    (folder, client): (&Folder, &ControlClient),
    output: &Output,
) -> Result<u8, Failure> {
    let (vm, record) = find(client, &arguments.vm).await?;
    let (_, host) = host_of(folder, &arguments.host)?;
    let recovered = client.recover(vm, host).await?;
    for left in &recovered.left {
        output.line(&format!("  left behind, certified by nobody: {left}"));
    }
    let (generation, slot) = (recovered.generation.get(), recovered.slot.get());
    let left: Vec<_> = recovered.left.iter().map(ToString::to_string).collect();
    output.object(&json!({
        "result": "recovered", "vm": vm.to_string(), "host": arguments.host, "generation": generation, "slot": slot,
        "attestations_completed": recovered.completed, "left_behind": left,
    }));
    output.line(&format!(
        "{} goes on at {} from slot {slot}, as generation {generation}",
        record.spec.name, arguments.host
    ));
    Ok(exit::OK)
}

/// Removes a VM.
pub async fn delete(
    arguments: &Delete,
    (_, client): (&Folder, &ControlClient),
    output: &Output,
) -> Result<u8, Failure> {
    let (vm, record) = find(client, &arguments.vm).await?;
    client.order(&Command::DeleteVm { vm }).await?;
    output.object(&json!({"result": "deleted", "vm": vm.to_string()}));
    output.line(&format!("{} is deleted", record.spec.name));
    Ok(exit::OK)
}
