//! `quorate registry`: the replicated service registry.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use quorate_attest::encoding::Bounded;
use quorate_registry::endpoint::{Endpoint, Endpoints};
use quorate_registry::{NameRange, Operation, Outcome, Record, Register, StateKey, record_key};
use quorate_services::Freshness;
use serde_json::{Value, json};

use super::{accepted, keep, with_cluster};
use crate::exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::vm::managed::Access;

/// Names read at once.
const PAGE: u16 = 256;

/// The service registry: names, their values, owners and leases, proved. `etcdctl` speaks to it through the gateway.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate registry put /web 10.0.0.7:80 10.0.0.8:80
  quorate registry get /web
  quorate registry list /
  quorate registry del /web
  quorate registry derive 7 2                           which quorums 7 members with 2 faults may use")]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Name of the service.
    #[arg(long, default_value = "registry", global = true)]
    service: String,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Registers a name with endpoints (HOST:PORT), or with one text.
    Put {
        /// The name.
        name: String,
        /// Endpoints, or a text.
        #[arg(required = true)]
        values: Vec<String>,
        /// Only if the name has this version; 0: only if it is not there.
        #[arg(long, value_name = "VERSION")]
        expected: Option<u64>,
    },
    /// Shows a name, or proves that it is not registered.
    Get {
        /// The name.
        name: String,
        /// Also write the proof of the answer.
        #[arg(long, value_name = "FILE")]
        proof: Option<PathBuf>,
    },
    /// Lists all names with a prefix, complete and proved.
    List {
        /// The prefix.
        #[arg(default_value = "")]
        prefix: String,
    },
    /// Deregisters a name.
    Del {
        /// The name.
        name: String,
    },
    /// Derives which quorums a group of N members with F faults may use.
    Derive {
        /// Members.
        n: u64,
        /// Byzantine ones.
        f: u64,
    },
}

/// Runs the command.
pub fn run(arguments: &Arguments, output: &Output) -> Result<u8, Failure> {
    with_cluster(&arguments.access, async |cluster| {
        let service = cluster.service(&arguments.service).await?;
        let operation = match &arguments.command {
            Command::Get { name, proof } => return get(&service, name, proof.as_deref(), output).await,
            Command::List { prefix } => return list(&service, prefix, output).await,
            Command::Put { name, values, expected } => Operation::Register(Register {
                name: name.clone().into_bytes(),
                value: value(values)?,
                lease: 0,
                expected: *expected,
                previous: false,
            }),
            Command::Del { name } => {
                Operation::Deregister { name: name.clone().into_bytes(), expected: None, previous: false }
            }
            Command::Derive { n, f } => Operation::Derive { n: *n, f: *f },
        };
        let called = service.call(operation.op(), operation.body()).await?;
        accepted(&called)?;
        let outcome =
            Outcome::decoded(&called.body).map_err(|error| Failure::refused(error.kind(), &error))?;
        let (text, facts) = match &outcome {
            Outcome::Registered { version, .. } => {
                (format!("registered, version {version}"), json!({"version": version}))
            }
            Outcome::Derived { quorum: Some(range) } => {
                let quorum = json!({"min": range.min, "max": range.max});
                (format!("quorum {} to {}", range.min, range.max), json!({"quorum": quorum}))
            }
            Outcome::Derived { quorum: None } => {
                ("no quorum is both safe and live".to_owned(), json!({"quorum": null}))
            }
            _ => ("done".to_owned(), json!({})),
        };
        let mut object = json!({"result": "ok", "number": called.number});
        if let (Some(object), Value::Object(facts)) = (object.as_object_mut(), facts) {
            object.extend(facts);
        }
        output.object(&object);
        output.line(&format!("{text} (entry {})", called.number));
        Ok(exit::OK)
    })
}

/// Endpoints where all values are some; else the one text that it is.
fn value(values: &[String]) -> Result<Vec<u8>, Failure> {
    let endpoint = |text: &String| {
        let (host, port) = text.rsplit_once(':')?;
        Endpoint::new(host.to_owned(), port.parse().ok()?, Default::default()).ok()
    };
    match (values.iter().map(endpoint).collect::<Option<Vec<_>>>(), values) {
        (Some(endpoints), _) => Endpoints::new(endpoints).map(|list| list.to_value()).map_err(Failure::usage),
        (None, [text]) => Ok(text.clone().into_bytes()),
        (None, _) => Err(Failure::usage("several values must all be endpoints: HOST:PORT")),
    }
}

fn record(value: &[u8]) -> Result<Record, Failure> {
    Record::decoded(value).map_err(|error| Failure::refused(error.kind(), &error))
}

async fn get(
    service: &quorate_services::Service,
    name: &str,
    proof: Option<&std::path::Path>,
    output: &Output,
) -> Result<u8, Failure> {
    let read = service.get(&record_key(name.as_bytes()), Freshness::Linearizable).await?;
    keep(&read.proof, proof)?;
    let found = read.value.as_deref().map(record).transpose()?;
    let text = found.as_ref().map(|record| String::from_utf8_lossy(&record.value).into_owned());
    output.object(&json!({
        "result": if text.is_some() { "present" } else { "absent" }, "name": name, "value": text, "number": read.number,
        "version": found.as_ref().map(|record| record.version), "owner": found.as_ref().map(|record| record.owner.to_string()),
    }));
    match &text {
        Some(text) => output.line(text),
        None => {
            output.line(&format!("{name} is not registered, proved by the state after entry {}", read.number))
        }
    }
    Ok(if text.is_some() { exit::OK } else { exit::REFUSED })
}

async fn list(service: &quorate_services::Service, prefix: &str, output: &Output) -> Result<u8, Failure> {
    let range = NameRange::prefix(prefix.as_bytes());
    let mut low = record_key(&range.low);
    let high = range.high.map_or_else(|| record_key(&[u8::MAX; 64]), |high| record_key(&high));
    let (mut rows, mut names, mut freshness) = (Vec::new(), Vec::new(), Freshness::Linearizable);
    loop {
        let read = service.range(&low, &high, PAGE, freshness).await?;
        // Later pages may be of later states; each is complete by itself.
        freshness = Freshness::AtLeast(read.number + 1);
        for (key, value) in &read.value.entries {
            let Some(StateKey::Record { name }) = StateKey::parse(key) else { continue };
            if !name.starts_with(prefix.as_bytes()) {
                continue;
            }
            let record = record(value)?;
            let (name, value) = (String::from_utf8_lossy(&name), String::from_utf8_lossy(&record.value));
            rows.push(vec![name.to_string(), record.version.to_string(), value.to_string()]);
            names.push(
                json!({"name": name, "value": value, "version": record.version, "modified": record.modified}),
            );
        }
        match read.value.entries.last() {
            Some((last, _)) if read.value.more => low = [last.as_slice(), &[0]].concat(),
            _ => break,
        }
    }
    output.table(&["name", "version", "value"], &rows, &[1]);
    output.object(&json!({"result": "ok", "complete": true, "names": names}));
    Ok(exit::OK)
}
