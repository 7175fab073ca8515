//! The section about this node's replicas of ordered services.

use std::path::PathBuf;
use std::sync::Arc;

use quorate_attest::group::GroupConfig;
use quorate_attest::key::SecretKey;
use quorate_host::client::hosts::HostPeer;
use quorate_verifier::config::group_file;
use quorate_verifier::key_file;
use serde::{Deserialize, Serialize};

use super::{Address, Problem};

/// `[services]`. Paths are relative to the folder the file is in.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ServicesSection {
    /// Configuration of the replicas' group. This node is the member of its own name there.
    pub group_file: PathBuf,
    /// Socket of the signer that holds that member's keys.
    pub signer: PathBuf,
    /// That member's transport key, which feeds the replicas' VMs.
    pub key_file: PathBuf,
    /// Addresses of the hosts that may run the replicas' VMs, by their names in the verifiers' group.
    pub hosts: Vec<Address>,
    /// Names of services that are told the time also while nobody calls them.
    #[serde(default)]
    pub timed: Vec<String>,
}

/// The section with everything it names.
#[derive(Clone, Debug)]
pub struct Services {
    /// The replicas' group.
    pub group: Arc<GroupConfig>,
    /// This node in it.
    pub replica: u16,
    /// Socket of the signer.
    pub signer: PathBuf,
    /// Feeds the replicas' VMs.
    pub key: SecretKey,
    /// Hosts.
    pub hosts: Vec<HostPeer>,
    /// Services that are told the time always.
    pub timed: Vec<String>,
}

impl ServicesSection {
    pub(super) fn files(&mut self) -> [&mut PathBuf; 3] {
        [&mut self.group_file, &mut self.signer, &mut self.key_file]
    }

    /// Reads what the section names.
    pub(super) fn open(&self, name: &str, verifiers: &GroupConfig) -> Result<Services, Vec<Problem>> {
        let bad = |text: String| vec![Problem::new("services", text)];
        let group = group_file::read(&self.group_file).map_err(|problem| bad(problem.to_string()))?;
        let place = group.members.iter().position(|member| member.name == name);
        let replica = place.and_then(|place| u16::try_from(place).ok());
        let replica = replica.ok_or_else(|| bad(format!("group {} has no member {name}", group.name)))?;
        let key = key_file::read(&self.key_file).map_err(|error| bad(error.to_string()))?;
        if group.members.get(usize::from(replica)).map(|member| member.transport_key) != Some(key.public()) {
            let (path, group) = (self.key_file.display(), &group.name);
            return Err(bad(format!("{path} is not the transport key of {name} in group {group}")));
        }
        let key_of = |name: &str| verifiers.hosts.iter().find(|host| host.name == name).map(|host| host.key);
        let hosts: Result<Vec<_>, _> = self
            .hosts
            .iter()
            .map(|Address { name, address }| {
                let key =
                    key_of(name).ok_or_else(|| bad(format!("the verifiers' group has no host {name}")))?;
                Ok::<_, Vec<Problem>>(HostPeer { name: name.clone(), key, address: *address })
            })
            .collect();
        let hosts = hosts?;
        if hosts.is_empty() {
            return Err(bad("hosts: no host runs a replica".to_owned()));
        }
        let (signer, timed) = (self.signer.clone(), self.timed.clone());
        Ok(Services { group: Arc::new(group), replica, signer, key, hosts, timed })
    }
}
