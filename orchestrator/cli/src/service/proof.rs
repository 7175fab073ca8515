//! `quorate service proof`: C2SP proofs of a service's log.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use quorate_attest::checkpoint::Checkpoint;
use quorate_attest::encoding::Bounded;
use quorate_attest::id::to_hex;
use quorate_attest::merkle::{Sha256Tree, TreeHash, verify_inclusion};
use quorate_attest::policy::Policy;
use quorate_attest::service::{ServiceReceipt, service_checkpoint};
use quorate_attest::tlog_proof::TlogProof;
use quorate_ordering::protocol::CosignedHead;
use quorate_ordering::services::{AskService, ServiceAnswer, ServiceProof, ServiceQuestion};
use quorate_services::{Service, find};
use quorate_verifier::config::group_file;
use serde_json::json;

use super::{Cluster, FIND_LIMIT, unknown};
use crate::exit;
use crate::failure::Failure;
use crate::log::cosigned_note;
use crate::output::Output;
use crate::vm::managed::Access;

/// Time for one round of questions.
const ASK_LIMIT: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
pub struct Arguments {
    /// Name of the service.
    name: String,
    /// Number of the entry.
    number: u64,
    /// Folder for the files.
    #[arg(long, default_value = ".")]
    out: PathBuf,
    #[command(flatten)]
    pub access: Access,
}

/// Runs the command.
pub async fn run(arguments: &Arguments, cluster: &Cluster, output: &Output) -> Result<u8, Failure> {
    let (name, number, out) = (&arguments.name, arguments.number, &arguments.out);
    let service = cluster.service(name).await?;
    let group = cluster.replicas()?;
    let mut heads: Vec<CosignedHead> = Vec::new();
    for answer in ask(cluster, &service, ServiceQuestion::Heads).await {
        if let ServiceAnswer::Heads(told) = answer {
            heads.extend(told);
        }
    }
    heads.retain(|head| head.size > number);
    let note = cosigned_note(group, heads, |size, root| service_checkpoint(&group.name, name, size, root))?;
    let head = Checkpoint::parse(note.text()).map_err(|error| Failure::refused(error.kind(), &error))?;
    let (size, root) = (head.size(), *head.root());
    for answer in ask(cluster, &service, ServiceQuestion::Prove { number, size }).await {
        let ServiceAnswer::Proved(ServiceProof { leaf, path, .. }) = answer else { continue };
        let hash = Sha256Tree::leaf(&leaf.encoded());
        if verify_inclusion::<Sha256Tree>(&hash, number, size, &path, &root).is_err() {
            continue;
        }
        // The statement names the log up to its own entry; a proof of the entry is against a later head.
        let receipt = certified(cluster, &service, number).await?;
        if receipt.leaf() != leaf {
            continue;
        }
        write(arguments, cluster, &receipt, TlogProof { extra: None, index: number, path, checkpoint: note })
            .await?;
        output.object(&json!({"result": "ok", "number": number, "tree_size": size, "root": to_hex(&root), "folder": out}));
        output.line(&format!(
            "entry {number} is in the log of {size} entries; proof written to {}",
            out.display()
        ));
        let file = |end: &str| out.join(format!("{name}-{number}.{end}")).display().to_string();
        output.line(&format!(
            "check it with: quorate verify --policy {} --statement {} {}",
            out.join("policy.txt").display(),
            file("statement"),
            file("tlog-proof")
        ));
        return Ok(exit::OK);
    }
    let text = format!("no replica proves that entry {number} is in the log of {size} entries");
    Err(Failure::new(exit::NO_QUORUM, "QuorumUnreachable", text).next("try again when more replicas answer"))
}

async fn ask(cluster: &Cluster, service: &Service, question: ServiceQuestion) -> Vec<ServiceAnswer> {
    let ask = AskService { service: service.id(), question };
    let answers = cluster.client.orderer().ask_service_each(&ask, ASK_LIMIT).join_all().await;
    answers.into_iter().filter_map(|(_, answer)| answer.ok().flatten()).collect()
}

/// The receipt of an entry on which `f + 1` replicas agree.
async fn certified(cluster: &Cluster, service: &Service, number: u64) -> Result<ServiceReceipt, Failure> {
    let mut gather = quorate_services::Gather::new(&service.trust().replicas, service.id());
    for answer in ask(cluster, service, ServiceQuestion::At { number }).await {
        if let ServiceAnswer::Executed(entry) = answer {
            // A receipt that does not hold is another replica's to outvote.
            let _ = gather.add(entry.replica, entry.receipt, entry.signature);
        }
    }
    let (got, need) = gather.progress(number);
    let certificate = gather.certified(number).ok_or_else(|| {
        let text = format!("{got} of {need} replicas agree on entry {number}");
        Failure::new(exit::NO_QUORUM, "QuorumUnreachable", text).next("try again when more replicas answer")
    })?;
    Ok(certificate.receipt)
}

async fn write(
    arguments: &Arguments,
    cluster: &Cluster,
    receipt: &ServiceReceipt,
    proof: TlogProof,
) -> Result<(), Failure> {
    let (name, number, out) = (&arguments.name, arguments.number, &arguments.out);
    let group = cluster.replicas()?;
    let found = find::named(cluster.client.orderer(), name, FIND_LIMIT, false).await?;
    let spec =
        found.as_ref().and_then(|found| found.any()).map(|info| &info.spec).ok_or_else(|| unknown(name))?;
    let policy =
        Policy::text_for_group(group, None).map_err(|error| Failure::refused(error.kind(), &error))?;
    let files = [
        (format!("{name}-{number}.tlog-proof"), proof.to_string().into_bytes()),
        (format!("{name}-{number}.statement"), receipt.to_statement().encode()),
        ("policy.txt".to_owned(), policy.into_bytes()),
        ("services.toml".to_owned(), group_file::to_text(group).into_bytes()),
        (format!("{name}.service"), spec.encoded()),
    ];
    fs::create_dir_all(out).map_err(|error| Failure::file(out, error))?;
    for (name, bytes) in files {
        let path = out.join(name);
        fs::write(&path, bytes).map_err(|error| Failure::file(&path, error))?;
    }
    Ok(())
}
