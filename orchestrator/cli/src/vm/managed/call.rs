//! `quorate vm call`: requests to a VM of the kv image.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use clap::{Args, Subcommand};
use quorate_attest::id::VmId;
use quorate_attest::key::SecretKey;
use quorate_attest::request::status;
use quorate_host::client::head::HeadStore;
use quorate_host::client::{Patience, Target, VmClient};
use quorate_kv::{Answer, Operation};
use quorate_verifier::sign_log::write_durably;
use serde_json::json;

use super::{Access, find};
use crate::cluster::Folder;
use crate::control_client::ControlClient;
use crate::exit;
use crate::failure::Failure;
use crate::load::random_key;
use crate::output::Output;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Name or id.
    vm: String,
    #[command(subcommand)]
    request: Request,
    /// Longest wait, seconds.
    #[arg(long, default_value_t = 30)]
    timeout: u64,
    #[command(flatten)]
    pub access: Access,
}

#[derive(Debug, Subcommand)]
enum Request {
    /// Reads a value.
    Get {
        /// Key.
        key: String,
    },
    /// Writes a value.
    Put {
        /// Key.
        key: String,
        /// Value.
        value: String,
    },
    /// Removes a value.
    Delete {
        /// Key.
        key: String,
    },
    /// Lists keys in order.
    List {
        /// Beginning of the keys.
        #[arg(default_value = "")]
        prefix: String,
    },
}

impl Request {
    fn operation(&self) -> Operation {
        match self {
            Self::Get { key } => Operation::Get { key: key.clone().into() },
            Self::Put { key, value } => {
                Operation::Put { key: key.clone().into(), value: value.clone().into() }
            }
            Self::Delete { key } => Operation::Delete { key: key.clone().into() },
            Self::List { prefix } => {
                Operation::List { prefix: prefix.clone().into(), after: None, limit: 100 }
            }
        }
    }
}

/// Runs the command.
pub async fn run(
    arguments: &Arguments,
    (folder, client): (&Folder, &ControlClient),
    output: &Output,
) -> Result<u8, Failure> {
    let (vm, record) = find(client, &arguments.vm).await?;
    let identity = Identity::open(folder, &vm)?;
    // The host that runs it is asked first.
    let mut hosts = folder.hosts();
    hosts.sort_by_key(|host| host.key != record.host);
    let path = identity.folder.join(format!("{vm}.head"));
    let (store, head) =
        HeadStore::open(&path, &vm).map_err(|error| Failure::new(exit::STORAGE, error.kind(), &error))?;
    let target =
        Target::new(Arc::new(folder.group.clone()), record.spec.clone(), hosts).with_store(store, head);
    let mut caller = VmClient::new(Arc::new(target), identity.key.clone(), identity.sequence)?;
    let call = Duration::from_secs(arguments.timeout);
    caller = caller.with_patience(Patience { call, ..Patience::default() });
    let operation = arguments.request.operation();
    // Taken before it is used: a number that was used twice would get the first one's answer.
    identity.advance()?;
    let believed = caller
        .call(operation.op(), operation.body())
        .await
        .map_err(|error| Failure::new(exit::NO_QUORUM, error.kind(), &error))?;
    let (generation, slot) = (believed.generation.get(), believed.slot.get());
    if believed.reply.status != status::OK {
        let text = format!("the VM answered with status {}", believed.reply.status);
        let kind = if believed.reply.status == status::NOT_FOUND { "NotFound" } else { "Refused" };
        return Err(Failure::refused(kind, text));
    }
    let answer = Answer::decode(operation.op(), &believed.reply.body)
        .map_err(|error| Failure::refused("DecodeError", error))?;
    let text = words(&answer);
    output.object(&json!({"result": "ok", "answer": text, "generation": generation, "slot": slot}));
    output.line(&text);
    Ok(exit::OK)
}

fn words(answer: &Answer) -> String {
    match answer {
        Answer::Value(value) => String::from_utf8_lossy(value).into_owned(),
        Answer::Stored { replaced: true } => "stored, replacing a value".to_owned(),
        Answer::Stored { replaced: false } => "stored".to_owned(),
        Answer::Done => "done".to_owned(),
        Answer::Page(page) => {
            let lines = page.entries.iter().map(|entry| String::from_utf8_lossy(&entry.key).into_owned());
            lines.collect::<Vec<_>>().join("\n")
        }
        Answer::Filled { bytes, .. } => format!("{bytes} bytes"),
    }
}

/// The key of this folder's client and how many requests it made to one VM.
struct Identity {
    folder: PathBuf,
    vm: VmId,
    key: SecretKey,
    sequence: u64,
}

impl Identity {
    fn open(folder: &Folder, vm: &VmId) -> Result<Self, Failure> {
        use quorate_verifier::key_file;
        let clients = folder.root().join("clients");
        fs::create_dir_all(&clients).map_err(|error| Failure::file(&clients, error))?;
        let path = clients.join("client.key");
        if !path.exists() {
            let key = random_key().map_err(|error| Failure::new(exit::RETRY, "ResourceExhausted", error))?;
            key_file::write(&path, &key)?;
        }
        let key = key_file::read(&path)?;
        let sequence = read_sequence(&clients.join(format!("{vm}.sequence")))?;
        Ok(Self { folder: clients, vm: *vm, key, sequence })
    }

    fn advance(&self) -> Result<(), Failure> {
        let path = self.folder.join(format!("{}.sequence", self.vm));
        let next = self.sequence.saturating_add(1).to_string();
        write_durably(&path, next.as_bytes())
            .map_err(|error| Failure::new(exit::STORAGE, "StorageFailed", error))
    }
}

fn read_sequence(path: &Path) -> Result<u64, Failure> {
    match fs::read_to_string(path) {
        Ok(text) => text.trim().parse().map_err(|error| Failure::file(path, error)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(Failure::file(path, error)),
    }
}
