//! `quorate service`, `quorate uid` and `quorate registry`: ordered services of a cluster.

pub(crate) mod create;
mod proof;
pub mod registry;
mod show;
pub mod uid;
mod upgrade;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use quorate_attest::encoding::Bounded;
use quorate_attest::id::{from_hex, to_hex};
use quorate_attest::request::status;
use quorate_services::{AnswerProof, Called, Freshness, Service, ServiceError, Settings, Trust, find};
use serde_json::json;

use crate::cluster::Folder;
use crate::control_client::ControlClient;
use crate::exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::vm::managed::Access;

/// Time in which a service must be found.
const FIND_LIMIT: Duration = Duration::from_secs(5);
/// Folder of the client's memory in the cluster's.
const MEMORY: &str = "client";

/// Ordered services: replicated state machines in guests, whose answers are proved.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate cluster up DIR --service uid --service registry    a cluster with room for two services
  quorate service create uid                                 image uid in one VM a replica
  quorate service show uid
  quorate uid add alice --uid 1000                           then getent passwd alice: docs/operations.md says how
  quorate registry put /web '10.0.0.7:80'                    the same that etcdctl put does through the gateway
  quorate service proof uid 1 --out proofs                   then, anywhere and offline: quorate verify")]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Creates a service: boots its replicas and orders its first entry.
    Create(create::Arguments),
    /// Shows a service and how each replica of it is.
    Show {
        /// Name of the service.
        name: String,
        #[command(flatten)]
        access: Access,
    },
    /// Orders a request and prints the proved result, in hexadecimal.
    Call {
        /// Name of the service.
        name: String,
        /// Number of the operation.
        op: u16,
        /// Its body, in hexadecimal.
        #[arg(default_value = "")]
        body: String,
        /// Also write the proof of the answer.
        #[arg(long, value_name = "FILE")]
        proof: Option<PathBuf>,
        #[command(flatten)]
        access: Access,
    },
    /// Reads a key of the state, or shows that it is not there.
    Get {
        /// Name of the service.
        name: String,
        /// The key, in hexadecimal.
        key: String,
        /// Also write the proof of the answer.
        #[arg(long, value_name = "FILE")]
        proof: Option<PathBuf>,
        #[command(flatten)]
        access: Access,
    },
    /// Writes a C2SP proof that an entry is in the log whose head a quorum of replicas cosigned.
    Proof(proof::Arguments),
    /// Orders that another image executes the entries from a number on.
    Upgrade(upgrade::Arguments),
}

/// Runs `quorate service`.
pub fn run(arguments: &Arguments, output: &Output) -> Result<u8, Failure> {
    let access = match &arguments.command {
        Command::Create(create::Arguments { access, .. })
        | Command::Show { access, .. }
        | Command::Call { access, .. }
        | Command::Get { access, .. }
        | Command::Proof(proof::Arguments { access, .. })
        | Command::Upgrade(upgrade::Arguments { access, .. }) => access,
    };
    with_cluster(access, async |cluster| match &arguments.command {
        Command::Create(arguments) => create::run(arguments, cluster, output).await,
        Command::Show { name, .. } => show::run(name, cluster, output).await,
        Command::Call { name, op, body, proof, .. } => {
            let body = hex(body)?;
            let called = cluster.service(name).await?.call(*op, body).await?;
            answered(&called, proof.as_deref(), output)
        }
        Command::Get { name, key, proof, .. } => {
            get(cluster, name, &hex(key)?, proof.as_deref(), output).await
        }
        Command::Proof(arguments) => proof::run(arguments, cluster, output).await,
        Command::Upgrade(arguments) => upgrade::run(arguments, cluster, output).await,
    })
}

/// A cluster that is being asked.
pub(crate) struct Cluster {
    pub(crate) folder: Folder,
    pub(crate) client: ControlClient,
}

/// Opens the cluster, runs `work` and closes the connections.
pub(crate) fn with_cluster(
    access: &Access,
    work: impl AsyncFnOnce(&Cluster) -> Result<u8, Failure>,
) -> Result<u8, Failure> {
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|error| Failure::new(exit::RETRY, "ResourceExhausted", error))?;
    runtime.block_on(async {
        let (folder, client) = access.open()?;
        let cluster = Cluster { folder, client };
        let result = work(&cluster).await;
        cluster.client.close().await;
        result
    })
}

impl Cluster {
    /// The group of the services' replicas.
    pub(crate) fn replicas(&self) -> Result<&quorate_attest::group::GroupConfig, Failure> {
        self.folder.replicas.as_ref().ok_or_else(|| {
            Failure::new(exit::CONFIGURATION, "BadConfig", "this cluster has no room for services")
                .next("make one that has: quorate cluster init DIR --service NAME")
        })
    }

    /// A service by its name, called with the operator's key.
    pub(crate) async fn service(&self, name: &str) -> Result<Service, Failure> {
        let replicas = self.replicas()?.clone();
        let orderer = self.client.orderer().clone();
        let found = find::named(&orderer, name, FIND_LIMIT, false).await?;
        let service = found.ok_or_else(|| unknown(name))?.service;
        let trust = Trust { orchestrators: (**orderer.group()).clone(), replicas, service };
        let settings = Settings::new(self.folder.root().join(MEMORY));
        Ok(Service::new(orderer, trust, self.folder.operator.clone(), settings)?)
    }
}

fn unknown(name: &str) -> Failure {
    Failure::refused("NotFound", format!("no service is called {name}"))
        .next(format!("create it with `quorate service create {name}`"))
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Self {
        let code = match &error {
            ServiceError::QuorumUnreachable { .. } => exit::NO_QUORUM,
            ServiceError::Order(order) => return order.clone().into(),
            ServiceError::Memory(memory) if memory.kind() == "StorageFailed" => exit::STORAGE,
            ServiceError::Memory(memory) if memory.kind() == "ConflictingCertificates" => exit::SAFETY,
            ServiceError::Proof(_) => exit::SAFETY,
            ServiceError::System(_) => exit::RETRY,
            _ => exit::REFUSED,
        };
        let failure = Self::new(code, error.kind(), &error);
        match code {
            exit::NO_QUORUM => failure
                .next("see which nodes answer with `quorate cluster status`; a call may still take effect"),
            _ => failure,
        }
    }
}

/// Words for a service's own error codes.
pub(crate) fn status_word(code: u16) -> &'static str {
    match code {
        status::OK => "OK",
        status::MALFORMED => "MALFORMED",
        status::TOO_LARGE => "TOO_LARGE",
        status::UNKNOWN_KIND => "UNKNOWN_KIND",
        status::BAD_SIGNATURE => "BAD_SIGNATURE",
        status::NOT_AUTHORIZED => "NOT_AUTHORIZED",
        status::REPLAYED => "REPLAYED",
        status::STALE => "STALE",
        status::CONFLICT => "CONFLICT",
        status::NOT_FOUND => "NOT_FOUND",
        status::LIMIT => "LIMIT",
        status::BAD_CONFIG => "BAD_CONFIG",
        status::WRONG_EPOCH => "WRONG_EPOCH",
        status::INCONCLUSIVE => "INCONCLUSIVE",
        _ => "UNKNOWN",
    }
}

/// Turns a service's refusal, which is a proved answer, into a failed command.
pub(crate) fn accepted(called: &Called) -> Result<(), Failure> {
    match called.status {
        status::OK => Ok(()),
        code => {
            let word = status_word(code);
            let text = format!("the service answers {word} (entry {} of its log, proved)", called.number);
            Err(Failure::refused(word, text))
        }
    }
}

/// Writes a proof where the user wants it.
pub(crate) fn keep(proof: &AnswerProof, path: Option<&Path>) -> Result<(), Failure> {
    match path {
        Some(path) => fs::write(path, proof.encoded()).map_err(|error| Failure::file(path, error)),
        None => Ok(()),
    }
}

fn hex(text: &str) -> Result<Vec<u8>, Failure> {
    let digit = |pair: &[u8]| {
        let pair = str::from_utf8(pair).map_err(Failure::usage)?;
        from_hex::<1>("byte", pair).map(|[byte]| byte).map_err(Failure::usage)
    };
    text.as_bytes().chunks(2).map(digit).collect()
}

fn answered(called: &Called, proof: Option<&Path>, output: &Output) -> Result<u8, Failure> {
    keep(&called.proof, proof)?;
    output.object(&json!({
        "result": status_word(called.status), "number": called.number, "body": to_hex(&called.body),
        "replicas": called.proof.receipt.signatures.len(),
    }));
    accepted(called)?;
    output.line(&to_hex(&called.body));
    Ok(exit::OK)
}

async fn get(
    cluster: &Cluster,
    name: &str,
    key: &[u8],
    proof: Option<&Path>,
    output: &Output,
) -> Result<u8, Failure> {
    let read = cluster.service(name).await?.get(key, Freshness::Linearizable).await?;
    keep(&read.proof, proof)?;
    let value = read.value.as_deref().map(to_hex);
    output.object(&json!({"result": if value.is_some() { "present" } else { "absent" }, "value": value, "number": read.number}));
    match value {
        Some(value) => output.line(&value),
        None => output.line(&format!("absent, proved by the state after entry {}", read.number)),
    }
    Ok(if read.value.is_some() { exit::OK } else { exit::REFUSED })
}
