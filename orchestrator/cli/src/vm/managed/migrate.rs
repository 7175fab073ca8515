//! `quorate vm migrate`.

use clap::Args;
use quorate_host::protocol::Progress;
use serde_json::json;

use super::{Access, find, host_name, host_of};
use crate::cluster::Folder;
use crate::control_client::ControlClient;
use crate::exit;
use crate::failure::Failure;
use crate::output::{Output, bytes, milliseconds};

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate vm migrate web --to host-b
  quorate vm migrate web --to host-b --dry-run   could it begin?
  quorate migrate registry-2 --to host-a         a replica of a service, while it serves")]
pub struct Arguments {
    /// Name or id.
    vm: String,
    /// Host that is to run it.
    #[arg(long)]
    to: String,
    /// Give up and run on at the source after this long without progress, milliseconds.
    #[arg(long, default_value_t = 10_000)]
    timeout: u32,
    /// Say what would be done, and check that it could begin.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    pub access: Access,
}

/// Runs the command.
pub async fn run(
    arguments: &Arguments,
    (folder, client): (&Folder, &ControlClient),
    output: &Output,
) -> Result<u8, Failure> {
    let (vm, _) = find(client, &arguments.vm).await?;
    let record = client.settled(vm).await?;
    let (_, destination) = host_of(folder, &arguments.to)?;
    let from = host_name(folder, &record.host);
    if record.host == destination {
        output.object(&json!({"result": "nothing to do", "host": arguments.to}));
        output.line(&format!("{} runs on {} already", record.spec.name, arguments.to));
        return Ok(exit::OK);
    }
    if arguments.dry_run {
        let generation = record.next_generation.get();
        output.object(
            &json!({"result": "would migrate", "from": from, "to": arguments.to, "generation": generation}),
        );
        output.line(&format!("{}: {from} -> {} as generation {generation}", record.spec.name, arguments.to));
        return Ok(exit::OK);
    }
    let draws = output.draws_progress();
    let progress = |step: Progress| {
        output.object(
            &json!({"event": "progress", "phase": step.phase, "done": step.done, "total": step.total}),
        );
        if draws {
            eprint!("\r\x1b[K  {}: {} of {}", step.phase, step.done, step.total);
        }
    };
    let report = client.migrate(vm, destination, arguments.timeout, progress).await?;
    if draws {
        eprint!("\r\x1b[K");
    }
    let downtime_ns = report.running_ns.saturating_sub(report.stopped_ns);
    let moved = report.result == "activated";
    output.object(&json!({
        "result": report.result, "from": from, "to": arguments.to, "slot": report.slot.get(),
        "generation": report.generation.get(), "downtime_ns": if moved { Some(downtime_ns) } else { None },
        "bytes_moved": report.bytes_moved, "pages_moved": report.pages_moved,
        "error_kind": report.refused.as_ref().map(|refused| &refused.kind),
    }));
    if !moved {
        let why = report
            .refused
            .map_or_else(|| "no reason given".to_owned(), |why| format!("{}: {}", why.kind, why.detail));
        let text = format!("the migration was aborted ({why})");
        return Err(Failure::refused("MigrationAborted", text)
            .next(format!("{} runs on at {from}", record.spec.name)));
    }
    output.line(&format!(
        "{} moved from {from} to {}: slot {}, generation {}, downtime {}, {} moved",
        record.spec.name,
        arguments.to,
        report.slot.get(),
        report.generation.get(),
        milliseconds(downtime_ns),
        bytes(report.bytes_moved),
    ));
    Ok(exit::OK)
}
