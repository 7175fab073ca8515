//! `quorate vm list` and `vm show`.

use quorate_attest::id::VmId;
use quorate_control::{Phase, Vm};
use serde_json::{Value, json};

use super::{find, host_name};
use crate::cluster::Folder;
use crate::control_client::ControlClient;
use crate::exit;
use crate::failure::Failure;
use crate::output::{Output, bytes, short};

/// Prints all VMs.
pub async fn list((folder, client): (&Folder, &ControlClient), output: &Output) -> Result<u8, Failure> {
    let vms = client.vms().await?;
    let row = |(id, vm): &(VmId, Vm)| {
        vec![
            vm.spec.name.clone(),
            short(id),
            host_name(folder, &vm.host),
            vm.generation.get().to_string(),
            vm.head.as_ref().map_or_else(|| "-".to_owned(), |head| head.slot.get().to_string()),
            bytes(vm.spec.memory_bytes),
            state(vm).to_owned(),
        ]
    };
    let rows: Vec<_> = vms.iter().map(row).collect();
    if rows.is_empty() {
        output.line("no VMs yet: make one with `quorate vm create NAME --image kv`");
    } else {
        output.table(&["name", "id", "host", "generation", "head", "memory", "state"], &rows, &[3, 4, 5]);
    }
    let list: Vec<_> = vms.iter().map(|(id, vm)| to_json(folder, id, vm)).collect();
    output.object(&json!({"result": "ok", "vms": list}));
    Ok(exit::OK)
}

/// Prints one VM.
pub async fn show(
    wanted: &str,
    (folder, client): (&Folder, &ControlClient),
    output: &Output,
) -> Result<u8, Failure> {
    let (id, vm) = find(client, wanted).await?;
    let head = vm.head.as_ref().map(|head| format!("slot {}", head.slot.get()));
    let mut lines = vec![
        ("id", id.to_string()),
        ("image", vm.spec.image.to_string()),
        ("memory", bytes(vm.spec.memory_bytes)),
        ("host", host_name(folder, &vm.host)),
        ("generation", vm.generation.get().to_string()),
        ("head", head.unwrap_or_else(|| "none published yet".to_owned())),
        ("owner", vm.owner.to_string()),
        ("state", state(&vm).to_owned()),
    ];
    if let Some((_, migration)) = &vm.migration {
        let (to, begun) = (host_name(folder, &migration.destination), migration.begun);
        lines.push((
            "migration",
            format!("to {to} as generation {}, begun by entry {begun}", migration.generation.get()),
        ));
    }
    output.line(&format!("{}:", vm.spec.name));
    for (name, value) in lines {
        output.line(&format!("  {name:<11} {value}"));
    }
    output.object(&json!({"result": "ok", "vm": to_json(folder, &id, &vm)}));
    Ok(exit::OK)
}

fn state(vm: &Vm) -> &'static str {
    match vm.migration.as_ref().map(|(_, migration)| migration.phase) {
        Some(Phase::Begun) => "moving",
        Some(Phase::Granted) => "handing over",
        _ if !vm.grants.is_empty() => "recovering",
        _ => "running",
    }
}

fn to_json(folder: &Folder, id: &VmId, vm: &Vm) -> Value {
    json!({
        "id": id.to_string(),
        "name": vm.spec.name,
        "image": vm.spec.image.to_string(),
        "memory_bytes": vm.spec.memory_bytes,
        "host": host_name(folder, &vm.host),
        "host_key": vm.host.to_string(),
        "generation": vm.generation.get(),
        "head_slot": vm.head.as_ref().map(|head| head.slot.get()),
        "owner": vm.owner.to_string(),
        "state": state(vm),
        "migration": vm.migration.as_ref().map(|(id, _)| id.to_string()),
    })
}
