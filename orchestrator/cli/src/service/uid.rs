//! `quorate uid`: the replicated UID registry.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use quorate_attest::key::SecretKey;
use quorate_attest::service::Answer;
use quorate_attest::state_tree::StateCommitment;
use quorate_services::{Freshness, Read, Service};
use quorate_uid::client::{Listing, User, ask_name, ask_uid, check_history, proven_name, proven_uid};
use quorate_uid::{
    Attributes, Change, Entry, Gecos, Holder, Name, NameRecord, Operation, Path as UserPath, Profile,
    Request, Uid,
};
use quorate_verifier::key_file;
use serde_json::{Value, json};

use super::{accepted, keep, with_cluster};
use crate::exit;
use crate::failure::Failure;
use crate::output::Output;
use crate::vm::managed::Access;

/// Listings that are begun anew because somebody changed the registry meanwhile.
const ATTEMPTS: usize = 20;

/// The UID registry: which user has which UID, proved, with its history.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate uid add alice --uid 1000 --gecos 'Alice'      bind UID 1000
  quorate uid add bob                                   bind the lowest free UID
  quorate uid show alice
  quorate uid passwd > passwd                           lines of passwd(5), complete, proved
  quorate uid history 1000
  quorate uid add daemon --uid 200 --approve quorate-cluster/keys/second-admin.client")]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// Name of the service.
    #[arg(long, default_value = "uid", global = true)]
    service: String,
    #[command(flatten)]
    access: Access,
}

#[derive(Debug, Args)]
struct UserFields {
    /// User name.
    name: String,
    /// Text about the user.
    #[arg(long, default_value = "")]
    gecos: String,
    /// Home directory; /home/NAME unless given.
    #[arg(long)]
    home: Option<String>,
    /// Shell, one of those the registry allows.
    #[arg(long, default_value = "/bin/sh")]
    shell: String,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Binds a UID to a new user; the lowest one that was never bound unless given.
    Add {
        #[command(flatten)]
        user: UserFields,
        /// The UID. Those below 1000 are for system users, which two admins add.
        #[arg(long)]
        uid: Option<u32>,
        /// Key of the second admin.
        #[arg(long, value_name = "FILE")]
        approve: Option<PathBuf>,
    },
    /// Ends a binding for ever.
    Del {
        /// Name or UID.
        user: String,
        /// Key of the second admin, for a system user.
        #[arg(long, value_name = "FILE")]
        approve: Option<PathBuf>,
    },
    /// Gives a user another name.
    Rename {
        /// Name or UID.
        user: String,
        /// The new name.
        name: String,
        /// Key of the second admin, for a system user.
        #[arg(long, value_name = "FILE")]
        approve: Option<PathBuf>,
    },
    /// Changes what is known about a user.
    Set {
        /// Name or UID.
        user: String,
        /// Text about the user.
        #[arg(long)]
        gecos: Option<String>,
        /// Home directory.
        #[arg(long)]
        home: Option<String>,
        /// Shell.
        #[arg(long)]
        shell: Option<String>,
        /// Key of the second admin, for a system user.
        #[arg(long, value_name = "FILE")]
        approve: Option<PathBuf>,
    },
    /// Binds a deleted UID again, after its quarantine.
    Reissue {
        /// The UID.
        uid: u32,
        #[command(flatten)]
        user: UserFields,
        /// Key of the second admin.
        #[arg(long, value_name = "FILE")]
        approve: PathBuf,
    },
    /// Shows a user, or proves that there is none.
    Show {
        /// Name or UID.
        user: String,
        /// Also write the proof of the answer.
        #[arg(long, value_name = "FILE")]
        proof: Option<PathBuf>,
    },
    /// Lists all UIDs that were ever bound.
    List,
    /// Lists every change of a UID, from the first on.
    History {
        /// The UID.
        uid: u32,
    },
    /// Prints passwd(5) lines of all users.
    Passwd,
    /// Prints group(5) lines of all users' own groups.
    Group,
}

/// Runs the command.
pub fn run(arguments: &Arguments, output: &Output) -> Result<u8, Failure> {
    with_cluster(&arguments.access, async |cluster| {
        let registry =
            Registry { service: cluster.service(&arguments.service).await?, admin: &cluster.folder.operator };
        match &arguments.command {
            Command::Add { user, uid, approve } => {
                let profile = profile(user)?;
                let operation = match uid {
                    None => Operation::AllocUid { profile },
                    Some(uid) => {
                        let uid = field(Uid::new(*uid))?;
                        match uid.is_system() {
                            true => Operation::AddSystemUser { uid, counter: 1, profile },
                            false => Operation::AddUser { uid, counter: 1, profile },
                        }
                    }
                };
                registry.change(&operation, approve.as_ref(), output).await
            }
            Command::Del { user, approve } => {
                let Entry { uid, record } = registry.existing(user).await?;
                let operation = Operation::DelUser { uid, counter: record.counter + 1 };
                registry.change(&operation, approve.as_ref(), output).await
            }
            Command::Rename { user, name, approve } => {
                let Entry { uid, record } = registry.existing(user).await?;
                let operation =
                    Operation::Rename { uid, counter: record.counter + 1, name: field(Name::new(name))? };
                registry.change(&operation, approve.as_ref(), output).await
            }
            Command::Set { user, gecos, home, shell, approve } => {
                let Entry { uid, record } = registry.existing(user).await?;
                let path = |path: &Option<String>| path.as_deref().map(UserPath::new).transpose();
                let gecos = field(gecos.as_deref().map(Gecos::new).transpose())?;
                let attributes = Attributes { gecos, home: field(path(home))?, shell: field(path(shell))? };
                let operation = Operation::SetAttr { uid, counter: record.counter + 1, attributes };
                registry.change(&operation, approve.as_ref(), output).await
            }
            Command::Reissue { uid, user, approve } => {
                let Entry { uid, record } = registry.existing(&uid.to_string()).await?;
                let (previous, counter) = (record.digest, record.counter + 1);
                let operation = Operation::Reissue { uid, counter, previous, profile: profile(user)? };
                registry.change(&operation, Some(approve), output).await
            }
            Command::Show { user, proof } => registry.show(user, proof.as_deref(), output).await,
            Command::List => registry.list(output).await,
            Command::History { uid } => registry.history(*uid, output).await,
            Command::Passwd => registry.lines(User::passwd_line, output).await,
            Command::Group => registry.lines(User::group_line, output).await,
        }
    })
}

fn field<T, E: std::fmt::Display>(result: Result<T, E>) -> Result<T, Failure> {
    result.map_err(Failure::usage)
}

fn profile(user: &UserFields) -> Result<Profile, Failure> {
    let home = user.home.clone().unwrap_or_else(|| format!("/home/{}", user.name));
    Ok(Profile {
        name: field(Name::new(&user.name))?,
        gecos: field(Gecos::new(&user.gecos))?,
        home: field(UserPath::new(&home))?,
        shell: field(UserPath::new(&user.shell))?,
    })
}

/// The registry as its admin sees it.
struct Registry<'a> {
    service: Service,
    admin: &'a SecretKey,
}

fn state(read: &Read<Answer>) -> StateCommitment {
    read.proof.receipt.receipt.state
}

fn wrong(error: quorate_uid::client::ClientError) -> Failure {
    Failure::refused(error.kind(), &error)
}

impl Registry<'_> {
    async fn change(
        &self,
        operation: &Operation,
        second: Option<&PathBuf>,
        output: &Output,
    ) -> Result<u8, Failure> {
        let second = second.map(|path| key_file::read(path)).transpose()?;
        if second.is_none() && operation.needs_approval() {
            return Err(Failure::usage("this needs a second admin: name the key with --approve FILE"));
        }
        let (instance, client) = (self.service.id().instance(), self.admin.public());
        let body = |sequence| {
            let request = Request { instance: &instance, client: &client, sequence, operation };
            operation.body(second.as_ref().map(|key| request.approve(key)).as_ref())
        };
        let called = self.service.call_with(operation.op(), body).await?;
        accepted(&called)?;
        let change: Change = quorate_attest::encoding::Bounded::decoded(&called.body)
            .map_err(|error| Failure::refused(error.kind(), &error))?;
        output.object(&change_value(&change, called.number));
        output.line(&change_line(&change));
        Ok(exit::OK)
    }

    /// The record of a name or UID, with the proof of the newest answer.
    async fn find(&self, user: &str) -> Result<(Option<Entry>, Read<Answer>), Failure> {
        let uid = match user.parse::<u32>() {
            Ok(uid) => uid,
            Err(_) => {
                let name = field(Name::new(user))?;
                let read = self.service.query(ask_name(&name), Freshness::Linearizable).await?;
                let found = proven_name(&name, &read.value, &state(&read)).map_err(wrong)?;
                match found {
                    Some(NameRecord::Bound(uid)) => uid.get(),
                    _ => return Ok((None, read)),
                }
            }
        };
        let read = self.service.query(ask_uid(uid), Freshness::Linearizable).await?;
        let entry = proven_uid(uid, &read.value, &state(&read)).map_err(wrong)?;
        Ok((entry, read))
    }

    async fn existing(&self, user: &str) -> Result<Entry, Failure> {
        let (entry, _) = self.find(user).await?;
        entry.ok_or_else(|| Failure::refused("NotFound", format!("there is no user {user}")))
    }

    async fn show(
        &self,
        user: &str,
        proof: Option<&std::path::Path>,
        output: &Output,
    ) -> Result<u8, Failure> {
        let (entry, read) = self.find(user).await?;
        keep(&read.proof, proof)?;
        let found = entry.as_ref().and_then(Entry::user);
        output.object(&json!({
            "result": if found.is_some() { "present" } else { "absent" }, "number": read.number,
            "record": entry.as_ref().map(entry_value),
        }));
        match (&entry, &found) {
            (_, Some(user)) => output.line(&user.passwd_line()),
            (Some(entry), None) => output.line(&format!("UID {} was given up and rests", entry.uid)),
            (None, None) => {
                output.line(&format!("no user {user}, proved by the state after entry {}", read.number))
            }
        }
        Ok(if found.is_some() { exit::OK } else { exit::REFUSED })
    }

    /// Everything a listing asks for, proved against one state.
    async fn listing<T>(
        &self,
        begin: impl Fn(StateCommitment) -> Listing<T>,
    ) -> Result<(Vec<T>, u64), Failure> {
        let mut freshness = Freshness::Linearizable;
        for _ in 0..ATTEMPTS {
            let mut listing: Option<Listing<T>> = None;
            let mut number = 0;
            loop {
                let query = match &listing {
                    Some(listing) => listing.query(),
                    // Any state would do to learn the first question, which does not depend on it.
                    None => begin(StateCommitment { root: [0; 32], size: 0 }).query(),
                };
                let Some(query) = query else { break };
                let read = self.service.query(query, freshness).await?;
                number = read.number;
                let state = state(&read);
                let parts = listing.get_or_insert_with(|| begin(state));
                match parts.add(&read.value, &state) {
                    Ok(()) => freshness = Freshness::Newest,
                    // Others write: the next attempt is at a newer state.
                    Err(quorate_uid::client::ClientError::StateChanged) => {
                        listing = None;
                        break;
                    }
                    Err(error) => return Err(wrong(error)),
                }
            }
            if let Some(entries) = listing.and_then(Listing::complete) {
                return Ok((entries, number));
            }
        }
        Err(Failure::new(
            exit::RETRY,
            "StateChanged",
            "others change the registry faster than it can be listed",
        ))
    }

    async fn list(&self, output: &Output) -> Result<u8, Failure> {
        let (entries, number) = self.listing(Listing::of_users).await?;
        let row = |entry: &Entry| match &entry.record.holder {
            Holder::Bound(profile) => vec![
                entry.uid.to_string(),
                profile.name.to_string(),
                entry.record.counter.to_string(),
                profile.gecos.to_string(),
            ],
            Holder::Deleted(_) => {
                vec![
                    entry.uid.to_string(),
                    "-".to_owned(),
                    entry.record.counter.to_string(),
                    "deleted".to_owned(),
                ]
            }
        };
        let rows: Vec<_> = entries.iter().map(row).collect();
        output.table(&["uid", "name", "changes", "about"], &rows, &[0, 2]);
        let entries: Vec<_> = entries.iter().map(entry_value).collect();
        output.object(&json!({"result": "ok", "number": number, "complete": true, "users": entries}));
        Ok(exit::OK)
    }

    async fn lines(&self, line: impl Fn(&User) -> String, output: &Output) -> Result<u8, Failure> {
        let (entries, number) = self.listing(Listing::of_users).await?;
        let lines: Vec<_> = entries.iter().filter_map(Entry::user).map(|user| line(&user)).collect();
        lines.iter().for_each(|line| output.line(line));
        output.object(&json!({"result": "ok", "number": number, "complete": true, "lines": lines}));
        Ok(exit::OK)
    }

    async fn history(&self, uid: u32, output: &Output) -> Result<u8, Failure> {
        let (changes, number) = self.listing(|state| Listing::of_history(uid, state)).await?;
        if let (Some(entry), read) = self.find(&uid.to_string()).await?
            && read.number == number
        {
            check_history(&entry, &changes).map_err(wrong)?;
        }
        changes.iter().for_each(|change| output.line(&change_line(change)));
        let list: Vec<_> = changes.iter().map(|change| change_value(change, number)).collect();
        output.object(
            &json!({"result": "ok", "uid": uid, "number": number, "complete": true, "changes": list}),
        );
        Ok(exit::OK)
    }
}

fn change_line(change: &Change) -> String {
    let bind = &change.bind;
    format!("uid {} change {}: {:?} {}", bind.uid, bind.counter, bind.action, bind.name)
}

fn change_value(change: &Change, number: u64) -> Value {
    let bind = &change.bind;
    json!({
        "result": "ok", "number": number, "uid": bind.uid.get(), "counter": bind.counter, "action": format!("{:?}", bind.action),
        "name": bind.name.to_string(), "gecos": bind.gecos.to_string(), "home": bind.home.to_string(),
        "shell": bind.shell.to_string(),
    })
}

fn entry_value(entry: &Entry) -> Value {
    let user = entry.user().map(|user| user.passwd_line());
    json!({"uid": entry.uid.get(), "counter": entry.record.counter, "passwd": user})
}
