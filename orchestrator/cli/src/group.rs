//! `quorate group`: who may vote, and how that changes.
//!
//! A change needs a quorum of the present members and a quorum of the new ones, and is itself an entry of the ordered log.
//! Members sign where their keys are (`group sign`); whoever gathers the signatures can forge none of them.
//!
//! Hosts and verifiers adopt an epoch by a start with its link. [`epochs`] does that for the nodes that a supervisor of this
//! folder runs; on servers the operator copies the link and starts the nodes again, hosts first.

mod epochs;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueEnum};
use quorate_attest::epoch::{EpochLink, EpochLinkTally, GroupChain};
use quorate_attest::group::{GroupConfig, Member};
use quorate_attest::id::{Epoch, from_hex, to_hex};
use quorate_attest::key::{PublicKey, SecretKey, Signature};
use quorate_control::{Command as Ordered, Which};
use quorate_verifier::config::chain_files::link_path;
use quorate_verifier::config::group_file;
use quorate_verifier::key_file;
use serde_json::{Value, json};

use crate::cluster::Folder;
use crate::control_client::ControlClient;
use crate::exit;
use crate::failure::Failure;
use crate::load::random_key;
use crate::output::{Output, short};
use crate::vm::managed::Access;

/// Shows and changes the groups of a cluster.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate group show
  quorate group rotate verifiers verifier-0          new keys for one member, ordered as an epoch of its own
  quorate group sign new.toml --previous group.toml --key keys/verifier-1.vote    on each member's machine
  quorate group propose verifiers new.toml --signature KEY=SIGNATURE ...")]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Group {
    Orchestrators,
    Verifiers,
}

impl Group {
    fn which(self) -> Which {
        match self {
            Self::Orchestrators => Which::Orchestrators,
            Self::Verifiers => Which::Verifiers,
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Shows both groups as the ordered log has them: members, n, f, quorum, epoch.
    Show {
        #[command(flatten)]
        access: Access,
    },
    /// Signs a new configuration with a member's vote key and prints `KEY=SIGNATURE`.
    Sign {
        /// The new configuration; its `epoch` is one above the present one, its `genesis` the group's id.
        config: PathBuf,
        /// The present configuration.
        #[arg(long)]
        previous: PathBuf,
        /// Vote key of a present or new member.
        #[arg(long)]
        key: PathBuf,
    },
    /// Has a new configuration ordered. Keys in the cluster's folder sign by themselves.
    Propose {
        /// Which group.
        group: Group,
        /// The new configuration. Its `epoch` and `genesis` are filled in if they are missing.
        config: PathBuf,
        /// A signature that `group sign` printed.
        #[arg(long = "signature", value_name = "KEY=SIGNATURE", value_parser = parse_signature)]
        signatures: Vec<(PublicKey, Signature)>,
        #[command(flatten)]
        access: Access,
    },
    /// Writes the links to all ordered epochs into the cluster's folder and starts the nodes again that need them. Does what
    /// `propose` and `rotate` do at their end, where that was interrupted.
    Adopt {
        /// Which group.
        group: Group,
        #[command(flatten)]
        access: Access,
    },
    /// Makes new keys for one member and has them ordered.
    Rotate {
        /// Which group.
        group: Group,
        /// Name of the member.
        member: String,
        #[command(flatten)]
        access: Access,
    },
}

fn parse_signature(text: &str) -> Result<(PublicKey, Signature), String> {
    let (key, signature) =
        text.split_once('=').ok_or("must be KEY=SIGNATURE, as `quorate group sign` prints it")?;
    let key = key.parse().map_err(|error| format!("{key}: {error}"))?;
    let bytes = from_hex::<64>("signature", signature).map_err(|error| error.to_string())?;
    Ok((key, Signature::from_bytes(bytes)))
}

/// Runs the command.
pub fn run(arguments: &Arguments, output: &Output) -> Result<u8, Failure> {
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|error| Failure::new(exit::RETRY, "ResourceExhausted", error))?;
    runtime.block_on(async {
        let access = match &arguments.command {
            Command::Sign { config, previous, key } => return sign(config, previous, key, output),
            Command::Show { access }
            | Command::Propose { access, .. }
            | Command::Adopt { access, .. }
            | Command::Rotate { access, .. } => access,
        };
        let (folder, client) = access.open()?;
        let result = with_cluster(&arguments.command, &folder, &client, output).await;
        client.close().await;
        result
    })
}

async fn with_cluster(
    command: &Command,
    folder: &Folder,
    client: &ControlClient,
    output: &Output,
) -> Result<u8, Failure> {
    match command {
        Command::Show { .. } => show(client, output).await,
        Command::Sign { config, previous, key } => sign(config, previous, key, output),
        Command::Propose { group, config, signatures, .. } => {
            let chain = client.chain(group.which()).await?;
            let config = next_config(&chain, config)?;
            change(folder, client, group.which(), &chain, config, signatures, output).await
        }
        Command::Adopt { group, .. } => {
            let chain = client.chain(group.which()).await?;
            let restarted = epochs::adopt(folder, client, group.which(), &chain, output).await?;
            let epoch = chain.epoch.get();
            output.object(&json!({"result": "adopted", "epoch": epoch, "restarted": restarted}));
            Ok(exit::OK)
        }
        Command::Rotate { group, member, .. } => rotate(folder, client, group.which(), member, output).await,
    }
}

async fn show(client: &ControlClient, output: &Output) -> Result<u8, Failure> {
    let mut groups = Vec::new();
    for (name, which) in [("orchestrators", Which::Orchestrators), ("verifiers", Which::Verifiers)] {
        let chain = client.chain(which).await?;
        let group = chain.current();
        let quorum = group.rule().map_or(0, |rule| rule.quorum());
        let (n, f) = (group.members.len(), group.f);
        output.line(&output.tint(
            crate::output::Tone::Strong,
            &format!(
                "{name}: {} (epoch {}, n = {n}, f = {f}, quorum {quorum})",
                group.name,
                group.epoch.get()
            ),
        ));
        let row =
            |member: &Member| vec![member.name.clone(), short(member.vote_key), short(member.transport_key)];
        let rows: Vec<_> = group.members.iter().map(row).collect();
        output.table(&["member", "vote key", "transport key"], &rows, &[]);
        output.line("");
        groups.push(to_json(name, group));
    }
    output.object(&json!({"result": "ok", "groups": groups}));
    Ok(exit::OK)
}

fn to_json(name: &str, group: &GroupConfig) -> Value {
    let members: Vec<_> = group
        .members
        .iter()
        .map(|member| {
            json!({
                "name": member.name, "vote_key": member.vote_key.to_string(),
                "cosigner_key": member.cosigner_key.to_string(), "transport_key": member.transport_key.to_string(),
            })
        })
        .collect();
    json!({
        "which": name, "name": group.name, "id": group.id().to_string(), "epoch": group.epoch.get(),
        "n": group.members.len(), "f": group.f, "quorum": group.rule().map_or(0, |rule| rule.quorum()), "members": members,
    })
}

fn read_group(path: &Path) -> Result<GroupConfig, Failure> {
    group_file::read(path).map_err(Failure::from)
}

fn sign(config: &Path, previous: &Path, key: &Path, output: &Output) -> Result<u8, Failure> {
    let (config, previous) = (read_group(config)?, read_group(previous)?);
    let key = key_file::read(key)?;
    // Refuses here what the log would refuse: a gap, another group, a quorum rule that does not hold.
    let mut tally = EpochLinkTally::new(&previous, config.clone()).map_err(refuse)?;
    let signature = EpochLink::statement(&config, previous.digest()).sign(&key);
    tally.add(&key.public(), signature).map_err(refuse)?;
    let (key, signature) = (key.public().to_string(), to_hex(signature.as_bytes()));
    output.object(&json!({"result": "signed", "key": key, "signature": signature}));
    output.line(&format!("{key}={signature}"));
    Ok(exit::OK)
}

/// The new configuration, with the parts filled in that follow from the present one.
fn next_config(chain: &GroupChain, path: &Path) -> Result<GroupConfig, Failure> {
    let text = fs::read_to_string(path).map_err(|error| Failure::file(path, error))?;
    let mut table: toml::Table = text.parse().map_err(|error| Failure::file(path, error))?;
    table.insert("genesis".into(), chain.id().to_string().into());
    let epoch = i64::try_from(chain.current().epoch.get().saturating_add(1)).unwrap_or(i64::MAX);
    table.insert("epoch".into(), epoch.into());
    // A quorum that the file states is for the file's own numbers and is checked with them.
    group_file::parse(&table.to_string()).map_err(Failure::from)
}

async fn rotate(
    folder: &Folder,
    client: &ControlClient,
    which: Which,
    name: &str,
    output: &Output,
) -> Result<u8, Failure> {
    let chain = client.chain(which).await?;
    let mut config = successor(&chain);
    let Some(member) = config.members.iter_mut().find(|member| member.name == name) else {
        let names: Vec<_> = chain.current().members.iter().map(|member| member.name.as_str()).collect();
        return Err(Failure::usage(format!("there is no member {name}; there are {}", names.join(", "))));
    };
    let keys = folder.root().join("keys");
    let mut fresh = BTreeMap::new();
    for role in ["vote", "cosigner", "transport"] {
        let key = random_key().map_err(|error| Failure::new(exit::RETRY, "ResourceExhausted", error))?;
        key_file::write(&keys.join(format!("{name}.{role}.epoch-{}", config.epoch.get())), &key)?;
        fresh.insert(role, key.public());
    }
    *member = Member {
        name: name.to_owned(),
        vote_key: fresh["vote"],
        cosigner_key: fresh["cosigner"],
        transport_key: fresh["transport"],
    };
    change(folder, client, which, &chain, config, &[], output).await
}

fn successor(chain: &GroupChain) -> GroupConfig {
    let current = chain.current();
    let epoch = Epoch(current.epoch.get().saturating_add(1));
    GroupConfig { genesis: Some(chain.id()), epoch, ..current.clone() }
}

async fn change(
    folder: &Folder,
    client: &ControlClient,
    which: Which,
    chain: &GroupChain,
    config: GroupConfig,
    signatures: &[(PublicKey, Signature)],
    output: &Output,
) -> Result<u8, Failure> {
    let previous = chain.current();
    let mut tally = EpochLinkTally::new(previous, config.clone()).map_err(refuse)?;
    for (key, signature) in signatures {
        tally.add(key, *signature).map_err(refuse)?;
    }
    let statement = EpochLink::statement(&config, previous.digest());
    for key in vote_keys(folder)? {
        let concerned = previous.index_of(&key.public()).is_ok() || config.index_of(&key.public()).is_ok();
        if concerned && !signatures.iter().any(|(signer, _)| *signer == key.public()) {
            tally.add(&key.public(), statement.sign(&key)).map_err(refuse)?;
        }
    }
    let link = tally.link().map_err(|error| {
        let ((old, old_need), (new, new_need)) = tally.progress();
        let text = format!("{error}: {old} of {old_need} present and {new} of {new_need} new members signed");
        Failure::new(exit::NO_QUORUM, error.kind(), text)
            .next("have more members sign with `quorate group sign`")
    })?;
    let done = client.order(&Ordered::ChangeGroup { which, link: link.clone() }).await?;
    let mut chain = chain.clone();
    chain.advance(link).map_err(refuse)?;
    let (epoch, index) = (config.epoch.get(), done.index());
    output.line(&format!("epoch {epoch} of {} is entry {index} of the log", config.name));
    let restarted = epochs::adopt(folder, client, which, &chain, output).await?;
    let link = link_path(&folder.links(), &config.name, config.epoch);
    output.object(&json!({
        "result": "changed", "epoch": epoch, "log_index": index, "link": link, "restarted": restarted,
        "group": to_json("", &config),
    }));
    Ok(exit::OK)
}

/// All vote keys that lie in the cluster's folder.
fn vote_keys(folder: &Folder) -> Result<Vec<SecretKey>, Failure> {
    let keys = folder.root().join("keys");
    let Ok(files) = fs::read_dir(&keys) else { return Ok(Vec::new()) };
    let mut found = Vec::new();
    for path in files.filter_map(|entry| Some(entry.ok()?.path())) {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(".vote") || name.contains(".vote.epoch-") {
            found.push(key_file::read(&path)?);
        }
    }
    Ok(found)
}

fn refuse(error: quorate_attest::VerifyError) -> Failure {
    Failure::refused(error.kind(), &error)
}
