//! `quorate log`: the orchestrators' ordered log, as they show and prove it.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use quorate_attest::checkpoint::Checkpoint;
use quorate_attest::encoding::Bounded;
use quorate_attest::group::GroupConfig;
use quorate_attest::id::to_hex;
use quorate_attest::merkle::{Digest, Sha256Tree, TreeHash, verify_inclusion};
use quorate_attest::note::{Assembler, Note, NoteError, SignatureLine};
use quorate_attest::operation::Operation;
use quorate_attest::policy::Policy;
use quorate_attest::receipt::log_checkpoint;
use quorate_attest::tlog_proof::TlogProof;
use quorate_control::Command as Ordered;
use quorate_ordering::protocol::{CosignedHead, Proved, TailEntry};
use quorate_verifier::config::group_file;
use serde_json::{Value, json};

use crate::control_client::ControlClient;
use crate::exit;
use crate::failure::Failure;
use crate::output::{Output, short};
use crate::vm::managed::Access;

/// Entries asked for at once.
const PAGE: u32 = 256;

/// Shows the orchestrators' ordered log, and proves what is in it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate log tail                      the newest entries
  quorate log tail --from 0 --count 50
  quorate log proof 7 --out proofs      then, anywhere and offline:
  quorate verify --policy proofs/policy.txt --statement proofs/entry-7.statement proofs/entry-7.tlog-proof")]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Prints entries as one orchestrator shows them.
    Tail {
        /// First entry; the newest ones unless given.
        #[arg(long)]
        from: Option<u64>,
        /// How many.
        #[arg(long, default_value_t = 20)]
        count: u32,
        /// Which orchestrator is asked.
        #[arg(long, default_value_t = 0)]
        orchestrator: u16,
        #[command(flatten)]
        access: Access,
    },
    /// Writes a C2SP proof that an entry is in the log whose head a quorum cosigned.
    Proof {
        /// Index of the entry.
        index: u64,
        /// Folder for the files.
        #[arg(long, default_value = ".")]
        out: PathBuf,
        #[command(flatten)]
        access: Access,
    },
}

/// Runs the command.
pub fn run(arguments: &Arguments, output: &Output) -> Result<u8, Failure> {
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|error| Failure::new(exit::RETRY, "ResourceExhausted", error))?;
    runtime.block_on(async {
        let (Command::Tail { access, .. } | Command::Proof { access, .. }) = &arguments.command;
        let (_, client) = access.open()?;
        let result = match &arguments.command {
            Command::Tail { from, count, orchestrator, .. } => {
                tail(&client, *from, *count, *orchestrator, output).await
            }
            Command::Proof { index, out, .. } => proof(&client, *index, out, output).await,
        };
        client.close().await;
        result
    })
}

async fn tail(
    client: &ControlClient,
    from: Option<u64>,
    count: u32,
    orchestrator: u16,
    output: &Output,
) -> Result<u8, Failure> {
    let orderer = client.orderer();
    let from = match from {
        Some(from) => from,
        // An empty page tells how long the log is.
        None => orderer.tail(orchestrator, u64::MAX, 1).await?.size.saturating_sub(count.into()),
    };
    let (mut rows, mut list, mut next) = (Vec::new(), Vec::new(), from);
    let end = from.saturating_add(count.into());
    while next < end {
        let wanted = u32::try_from(end - next).unwrap_or(PAGE).min(PAGE);
        let page = orderer.tail(orchestrator, next, wanted).await?;
        if page.entries.is_empty() || page.from != next {
            break;
        }
        for entry in &page.entries {
            let (row, value) = describe(client, next, entry);
            rows.push(row);
            list.push(value);
            next += 1;
        }
    }
    if rows.is_empty() {
        output.line("no entries there");
    } else {
        output.table(&["index", "operation", "author", "command", "outcome", "receipt"], &rows, &[0]);
    }
    output.object(&json!({"result": "ok", "orchestrator": orderer.name(orchestrator), "entries": list}));
    Ok(exit::OK)
}

/// One entry for people and programs. Nothing is believed but what its signatures say.
fn describe(client: &ControlClient, index: u64, entry: &TailEntry) -> (Vec<String>, Value) {
    let operation = Operation::decoded(&entry.operation).ok();
    let command = operation.as_ref().and_then(|operation| Ordered::decoded(&operation.command).ok());
    let name = command.as_ref().map_or_else(|| "?".to_owned(), |command| command.name().to_owned());
    let author = operation.as_ref().map_or_else(|| "?".to_owned(), |operation| short(operation.author));
    let outcome = client.outcome_words(&entry.applied.outcome);
    let receipt = &entry.applied.receipt;
    let signed = receipt.index == index
        && receipt
            .verify_vote(client.orderer().group(), entry.applied.orchestrator, &entry.applied.signature)
            .is_ok();
    let id = operation.as_ref().map(|operation| operation.id().to_string()).unwrap_or_default();
    let row = vec![
        index.to_string(),
        short(&id),
        author.clone(),
        name.clone(),
        outcome.clone(),
        if signed { "signed" } else { "NOT SIGNED" }.to_owned(),
    ];
    let value = json!({
        "index": index, "operation": id, "author": operation.map(|operation| operation.author.to_string()),
        "command": name, "outcome": outcome, "receipt_signed": signed, "log_root": to_hex(&receipt.log_root),
        "state_root": to_hex(&receipt.state_root),
    });
    (row, value)
}

async fn proof(
    client: &ControlClient,
    index: u64,
    out: &std::path::Path,
    output: &Output,
) -> Result<u8, Failure> {
    let group = client.orderer().group().clone();
    let note = cosigned_head(client, index).await?;
    let head = Checkpoint::parse(note.text()).map_err(|error| Failure::refused(error.kind(), &error))?;
    let (size, root) = (head.size(), *head.root());
    let mut last = Failure::new(exit::NO_QUORUM, "QuorumUnreachable", "no orchestrator gave a proof");
    for orchestrator in 0..group.members.len() as u16 {
        let proved = match client.orderer().prove(orchestrator, index, size).await {
            Ok(proved) => proved,
            Err(error) => {
                last = error.into();
                continue;
            }
        };
        if !leads_to(&proved, index, size, &root) {
            let name = client.orderer().name(orchestrator);
            last = Failure::refused(
                "ProofInvalid",
                format!("{name} gave a proof that does not lead to the cosigned head"),
            );
            continue;
        }
        let proof = TlogProof { extra: None, index, path: proved.path.clone(), checkpoint: note };
        let files = [
            (format!("entry-{index}.tlog-proof"), proof.to_string().into_bytes()),
            (format!("entry-{index}.statement"), proved.applied.receipt.to_statement().encode()),
            (format!("entry-{index}.order"), proved.order.clone()),
            ("policy.txt".to_owned(), policy(client)?.into_bytes()),
            ("orchestrators.toml".to_owned(), group_file::to_text(&group).into_bytes()),
        ];
        fs::create_dir_all(out).map_err(|error| Failure::file(out, error))?;
        for (name, bytes) in files {
            let path = out.join(name);
            fs::write(&path, bytes).map_err(|error| Failure::file(&path, error))?;
        }
        output.object(
            &json!({"result": "ok", "index": index, "tree_size": size, "root": to_hex(&root), "folder": out}),
        );
        output.line(&format!(
            "entry {index} is in the log of {size} entries; proof written to {}",
            out.display()
        ));
        let file = |end: &str| out.join(format!("entry-{index}.{end}")).display().to_string();
        output.line(&format!(
            "check it with: quorate verify --policy {} --statement {} {}",
            out.join("policy.txt").display(),
            file("statement"),
            file("tlog-proof")
        ));
        return Ok(exit::OK);
    }
    Err(last)
}

fn leads_to(proved: &Proved, index: u64, size: u64, root: &[u8; 32]) -> bool {
    let leaf = Sha256Tree::leaf(&proved.applied.receipt.leaf().encoded());
    let receipt = &proved.applied.receipt;
    receipt.index == index && verify_inclusion::<Sha256Tree>(&leaf, index, size, &proved.path, root).is_ok()
}

fn policy(client: &ControlClient) -> Result<String, Failure> {
    Policy::text_for_group(client.orderer().group(), None)
        .map_err(|error| Failure::refused(error.kind(), &error))
}

/// The newest head above `index` that a quorum cosigned.
async fn cosigned_head(client: &ControlClient, index: u64) -> Result<Note, Failure> {
    let group = client.orderer().group();
    let mut heads: Vec<CosignedHead> =
        client.orderer().heads().await.into_values().flat_map(|heads| heads.0).collect();
    heads.retain(|head| head.size > index);
    cosigned_note(group, heads, |size, root| log_checkpoint(&group.name, size, root))
}

/// The largest of these heads that a quorum of `group` cosigned. Every line is checked before it becomes part of the note.
pub(crate) fn cosigned_note(
    group: &GroupConfig,
    heads: Vec<CosignedHead>,
    checkpoint: impl Fn(u64, Digest) -> Result<Checkpoint, NoteError>,
) -> Result<Note, Failure> {
    let refuse = |error: quorate_attest::VerifyError| Failure::refused(error.kind(), &error);
    let quorum = group.rule().map_err(refuse)?.quorum();
    let keys =
        (0..group.members.len() as u16).map(|index| group.cosigner(index)).collect::<Result<Vec<_>, _>>();
    let keys = keys.map_err(refuse)?;
    let sizes: BTreeSet<u64> = heads.iter().map(|head| head.size).collect();
    for size in sizes.into_iter().rev() {
        let of_size: Vec<_> = heads.iter().filter(|head| head.size == size).collect();
        for root in of_size.iter().map(|head| head.root) {
            let Ok(checkpoint) = checkpoint(size, root) else { continue };
            let Ok(mut assembler) = Assembler::new(&checkpoint.to_text(), keys.clone()) else { continue };
            let lines = of_size.iter().filter_map(|head| head.cosignature.parse::<SignatureLine>().ok());
            let added = lines.filter(|line| assembler.add(line.clone()).is_ok()).count() as u64;
            if added >= quorum
                && let Ok(note) = assembler.note()
            {
                return Ok(note);
            }
        }
    }
    let text = format!("no head above that entry has {quorum} cosignatures");
    Err(Failure::new(exit::NO_QUORUM, "QuorumNotReached", text)
        .next("try again when a quorum of orchestrators answers"))
}
