//! `quorate vm create|list|show|call|migrate|abort|recover|delete`: VMs of a cluster.

mod call;
mod change;
mod migrate;
mod show;

use std::path::PathBuf;

use clap::{Args, Subcommand};
use quorate_attest::id::VmId;
use quorate_control::Vm;

use crate::cluster::Folder;
use crate::cluster::command::DEFAULT_FOLDER;
use crate::control_client::ControlClient;
use crate::exit;
use crate::failure::Failure;
use crate::output::Output;

pub use migrate::Arguments as Migrate;

/// Which cluster, and with whose key.
#[derive(Clone, Debug, Args)]
pub struct Access {
    /// Folder of the cluster.
    #[arg(long = "cluster", env = "QUORATE_CLUSTER", default_value = DEFAULT_FOLDER, value_name = "DIR", global = true)]
    folder: PathBuf,
}

impl Access {
    /// Opens the folder.
    pub fn open(&self) -> Result<(Folder, ControlClient), Failure> {
        let folder = Folder::open(&self.folder).map_err(|error| {
            Failure::from(error)
                .next("make a cluster with `quorate cluster up`, or name one with --cluster DIR")
        })?;
        let client = ControlClient::of_folder(&folder)?;
        Ok((folder, client))
    }
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Registers a VM and boots it on a host.
    Create(change::Create),
    /// Lists the registered VMs.
    List {
        #[command(flatten)]
        access: Access,
    },
    /// Shows one VM: where it runs, its generation, its newest head, its migration.
    Show {
        /// Name or id.
        vm: String,
        #[command(flatten)]
        access: Access,
    },
    /// Sends a request to a VM of the kv image and prints the certified answer.
    Call(call::Arguments),
    /// Moves a VM to another host while it runs.
    Migrate(migrate::Arguments),
    /// Ends a migration that nobody finishes, so that another can begin.
    Abort(change::Abort),
    /// Goes on with a VM on another host when its own is lost, from the newest certified slot.
    Recover(change::Recover),
    /// Removes a VM from the registry.
    Delete(change::Delete),
}

/// Runs the command.
pub fn run(command: &Command, output: &Output) -> Result<u8, Failure> {
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|error| Failure::new(exit::RETRY, "ResourceExhausted", error))?;
    runtime.block_on(async {
        let (folder, client) = command.access().open()?;
        let cluster = (&folder, &client);
        let result = match command {
            Command::Create(arguments) => change::create(arguments, cluster, output).await,
            Command::List { .. } => show::list(cluster, output).await,
            Command::Show { vm, .. } => show::show(vm, cluster, output).await,
            Command::Call(arguments) => call::run(arguments, cluster, output).await,
            Command::Migrate(arguments) => migrate::run(arguments, cluster, output).await,
            Command::Abort(arguments) => change::abort(arguments, cluster, output).await,
            Command::Recover(arguments) => change::recover(arguments, cluster, output).await,
            Command::Delete(arguments) => change::delete(arguments, cluster, output).await,
        };
        // Nodes keep the connections of one key few: those that nobody closes are in the way of the next command.
        client.close().await;
        result
    })
}

impl Command {
    fn access(&self) -> &Access {
        match self {
            Self::Create(change::Create { access, .. })
            | Self::List { access }
            | Self::Show { access, .. }
            | Self::Call(call::Arguments { access, .. })
            | Self::Migrate(migrate::Arguments { access, .. })
            | Self::Abort(change::Abort { access, .. })
            | Self::Recover(change::Recover { access, .. })
            | Self::Delete(change::Delete { access, .. }) => access,
        }
    }
}

/// The one VM that has this name, or this id or an unambiguous beginning of it.
async fn find(client: &ControlClient, wanted: &str) -> Result<(VmId, Vm), Failure> {
    let all = client.vms().await?;
    let mut found: Vec<_> = all.iter().filter(|(_, vm)| vm.spec.name == wanted).collect();
    if found.is_empty() && wanted.len() >= 4 {
        found = all.iter().filter(|(id, _)| id.to_string().starts_with(wanted)).collect();
    }
    match found.as_slice() {
        [(id, vm)] => Ok((*id, vm.clone())),
        [] => {
            let text = format!("no VM is called {wanted}");
            Err(Failure::refused("NotFound", text).next("see the names with `quorate vm list`"))
        }
        several => {
            let ids: Vec<_> = several.iter().map(|(id, _)| id.to_string()).collect();
            let text = format!("{} VMs are called {wanted}: {}", ids.len(), ids.join(", "));
            Err(Failure::usage(text).next("name one by its id"))
        }
    }
}

/// Name of a host for people: from the group, or its key.
fn host_name(folder: &Folder, key: &quorate_attest::key::PublicKey) -> String {
    let named = folder.group.hosts.iter().find(|host| host.key == *key);
    named.map_or_else(|| key.to_string(), |host| host.name.clone())
}

/// Index and key of a host by its name.
pub(crate) fn host_of(
    folder: &Folder,
    name: &str,
) -> Result<(usize, quorate_attest::key::PublicKey), Failure> {
    let found = folder.group.hosts.iter().enumerate().find(|(_, host)| host.name == name);
    found.map(|(index, host)| (index, host.key)).ok_or_else(|| {
        let names: Vec<_> = folder.group.hosts.iter().map(|host| host.name.as_str()).collect();
        Failure::usage(format!("there is no host {name}; there are {}", names.join(", ")))
    })
}
