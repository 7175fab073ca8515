//! The files of a cluster.

use std::fs::{self, DirBuilder};
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use quorate_attest::epoch::GroupChain;
use quorate_attest::group::{GroupConfig, HASH_SHA256, Host, Member};
use quorate_attest::id::Epoch;
use quorate_attest::key::SecretKey;
use quorate_host::client::hosts::HostPeer;
use quorate_host::link::VerifierPeer;
use quorate_ordering::orderer::OrchestratorPeer;
use quorate_verifier::config::{Problem, group_file, read_group, read_orchestrators};
use quorate_verifier::key_file::{self, KeyFileError};
use serde::{Deserialize, Serialize};
use toml::{Table, Value};

use super::{ClusterError, Plan};

const VERIFIERS_FILE: &str = "group.toml";
const ORCHESTRATORS_FILE: &str = "orchestrators.toml";
const REPLICAS_FILE: &str = "services.toml";
pub(super) const INDEX_FILE: &str = "cluster.toml";
const LINKS: &str = "links";
const SOCKETS: &str = "run";
const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// Where a node listens. Verifiers use `messages` only, hosts give state away at `service`, orchestrators have their HTTP
/// interface there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    /// UDP address of messages.
    pub messages: SocketAddr,
    /// TCP address.
    pub service: SocketAddr,
}

/// What a node does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum NodeRole {
    /// Holds the keys of one replica of the services.
    Signer,
    /// Replica of the ordered log.
    Orchestrator,
    /// Attests slots.
    Verifier,
    /// Runs VMs.
    Host,
    /// Speaks the protocols of others to clients of services.
    Gateway,
}

impl NodeRole {
    /// As it is written in file names and on command lines.
    pub fn name(self) -> &'static str {
        match self {
            Self::Signer => "signer",
            Self::Orchestrator => "orchestrator",
            Self::Verifier => "verifier",
            Self::Host => "host",
            Self::Gateway => "gateway",
        }
    }
}

/// The index of a cluster's folder: `cluster.toml`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Index {
    /// All nodes in the order in which they start.
    pub nodes: Vec<Entry>,
}

/// A node of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// Its name, and that of its configuration file.
    pub name: String,
    /// What it does.
    pub role: NodeRole,
    /// Where it listens.
    #[serde(flatten)]
    pub place: Place,
}

/// The folder, with what is in it.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    /// The verifiers' group in all its epochs.
    pub group: GroupChain,
    /// The orchestrators' group in all its epochs.
    pub orchestrators: GroupChain,
    /// The group of the services' replicas, where there are services.
    pub replicas: Option<GroupConfig>,
    /// Key of the operator of all.
    pub operator: SecretKey,
    /// The nodes.
    pub index: Index,
}

/// `count` pairs of ports that were free a moment ago. All are held until the last is found, so that they differ.
pub fn free_places(count: usize) -> io::Result<Vec<Place>> {
    let mut held = Vec::new();
    for _ in 0..count {
        held.push((UdpSocket::bind(ANY_PORT)?, TcpListener::bind(ANY_PORT)?));
    }
    held.iter()
        .map(|(udp, tcp)| Ok(Place { messages: udp.local_addr()?, service: tcp.local_addr()? }))
        .collect()
}

impl Folder {
    /// Makes folders, keys, groups and configurations. Keys that are there already are used again.
    pub fn create(plan: &Plan) -> Result<Self, ClusterError> {
        let root = plan.folder.clone();
        for folder in [
            root.clone(),
            root.join("keys"),
            root.join("data"),
            root.join("logs"),
            root.join(LINKS),
            root.join(SOCKETS),
        ] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)
                .map_err(ClusterError::io(format!("create {}", folder.display())))?;
        }
        let keys = root.join("keys");
        // A member, with the name of the node that holds its keys.
        let member = |(name, holder): (String, String)| {
            let key = |role| key(&keys, &holder, role).map(|key| key.public());
            let (vote_key, cosigner_key, transport_key) = (key("vote")?, key("cosigner")?, key("transport")?);
            Ok::<_, ClusterError>(Member { name, vote_key, cosigner_key, transport_key })
        };
        let members = |names: Vec<String>| -> Result<Vec<Member>, ClusterError> {
            names.into_iter().map(|name| member((name.clone(), name))).collect()
        };
        let host = |name: &String| {
            Ok::<_, ClusterError>(Host { name: name.clone(), key: key(&keys, name, "host")?.public() })
        };
        let hosts = plan.all_hosts().iter().map(host).collect::<Result<Vec<_>, _>>()?;
        let operator = key(&keys, "operator", "operator")?;
        let group = |name: &str, members: Vec<Member>, hosts: Vec<Host>| {
            let f = (members.len() as u64).saturating_sub(1) / 3;
            let (hash_algorithm, operators) = (HASH_SHA256, vec![operator.public()]);
            let name = name.to_owned();
            GroupConfig { name, genesis: None, hash_algorithm, epoch: Epoch(0), f, members, operators, hosts }
        };
        let verifiers = group(
            &plan.name,
            members((0..plan.verifiers).map(Plan::verifier_name).collect())?,
            hosts.clone(),
        );
        let orchestrators = group(
            &format!("{}-orchestrators", plan.name),
            members((0..plan.orchestrators).map(Plan::orchestrator_name).collect())?,
            hosts,
        );
        let mut groups = vec![(VERIFIERS_FILE, &verifiers), (ORCHESTRATORS_FILE, &orchestrators)];
        let replicas = match plan.services.is_empty() {
            true => None,
            false => Some(group(
                &format!("{}-services", plan.name),
                (0..plan.orchestrators)
                    .map(|index| member((Plan::orchestrator_name(index), Plan::signer_name(index))))
                    .collect::<Result<_, _>>()?,
                Vec::new(),
            )),
        };
        groups.extend(replicas.iter().map(|replicas| (REPLICAS_FILE, replicas)));
        for (file, group) in groups {
            let path = root.join(file);
            group_file::write(&path, group).map_err(ClusterError::io(format!("write {}", path.display())))?;
        }
        if replicas.is_some() {
            key(&keys, Plan::GATEWAY, "client")?;
            key(&keys, Plan::SECOND_ADMIN, "client")?;
        }
        let (verifiers, orchestrators) = read_groups(&root)?;
        let index = Index { nodes: plan.entries().map_err(ClusterError::io("find a free port"))? };
        let folder = Self { root, group: verifiers, orchestrators, replicas, operator, index };
        folder.write_nodes(plan)?;
        Ok(folder)
    }

    /// Opens a folder that [`Self::create`] made.
    pub fn open(root: &Path) -> Result<Self, ClusterError> {
        let read = |path: &Path| {
            fs::read_to_string(path).map_err(ClusterError::io(format!("read {}", path.display())))
        };
        let path = root.join(INDEX_FILE);
        if !path.exists() {
            return Err(ClusterError::NoCluster { folder: root.to_owned() });
        }
        let index = toml::from_str(&read(&path)?).map_err(|error| ClusterError::BadFile {
            path: path.clone(),
            reason: error.message().to_owned(),
        })?;
        let operator = key_file::read(&root.join("keys").join("operator.operator"))?;
        let (verifiers, orchestrators) = read_groups(root)?;
        let path = root.join(REPLICAS_FILE);
        let replicas = match path.exists() {
            true => Some(group_file::read(&path).map_err(|problem| ClusterError::BadFile {
                path: path.clone(),
                reason: problem.to_string(),
            })?),
            false => None,
        };
        Ok(Self { root: root.to_owned(), group: verifiers, orchestrators, replicas, operator, index })
    }

    /// The folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// File of the verifiers' group.
    pub fn group_file(&self) -> PathBuf {
        self.root.join(VERIFIERS_FILE)
    }

    /// File of the orchestrators' group.
    pub fn orchestrators_file(&self) -> PathBuf {
        self.root.join(ORCHESTRATORS_FILE)
    }

    /// Folder of the links to later epochs of both groups.
    pub fn links(&self) -> PathBuf {
        self.root.join(LINKS)
    }

    /// Keys of a member: `vote`, `cosigner`, `transport`.
    pub fn key_file(&self, name: &str, role: &str) -> PathBuf {
        self.root.join("keys").join(format!("{name}.{role}"))
    }

    /// Socket of a signer.
    pub fn socket(&self, signer: &str) -> PathBuf {
        self.root.join(socket(signer))
    }

    /// File of the group of the services' replicas.
    pub fn replicas_file(&self) -> PathBuf {
        self.root.join(REPLICAS_FILE)
    }

    /// A node's configuration.
    pub fn config_file(&self, name: &str) -> PathBuf {
        self.root.join(format!("{name}.toml"))
    }

    /// A node's log.
    pub fn log_file(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(format!("{name}.log"))
    }

    /// A node's data directory.
    pub fn data_dir(&self, name: &str) -> PathBuf {
        self.root.join("data").join(name)
    }

    /// The hosts with their addresses, in the order of the group.
    pub fn hosts(&self) -> Vec<HostPeer> {
        let peer = |host: &Host| {
            let address = self.entry(&host.name)?.place.messages;
            Some(HostPeer { name: host.name.clone(), key: host.key, address })
        };
        self.group.hosts.iter().filter_map(peer).collect()
    }

    /// The verifiers with their addresses, in the order of the group.
    pub fn verifier_peers(&self) -> Vec<VerifierPeer> {
        let peer = |(index, member): (u16, &Member)| {
            let address = self.entry(&member.name)?.place.messages;
            Some(VerifierPeer { index, member: member.clone(), address })
        };
        (0u16..).zip(&self.group.members).filter_map(peer).collect()
    }

    /// The orchestrators with their addresses, in the order of the group.
    pub fn orchestrator_peers(&self) -> Vec<OrchestratorPeer> {
        let address_of = |name: &str| Some(self.entry(name)?.place.messages);
        OrchestratorPeer::of_group(&self.orchestrators, address_of).unwrap_or_default()
    }

    /// A node by its name.
    pub fn entry(&self, name: &str) -> Option<&Entry> {
        self.index.nodes.iter().find(|entry| entry.name == name)
    }

    fn write_nodes(&self, plan: &Plan) -> Result<(), ClusterError> {
        for entry in &self.index.nodes {
            let table = match entry.role {
                NodeRole::Signer => self.signer(entry),
                NodeRole::Verifier => self.verifier(plan, entry),
                NodeRole::Orchestrator => self.orchestrator(plan, entry),
                NodeRole::Host => self.host(plan, entry),
                NodeRole::Gateway => self.gateway(plan, entry),
            };
            let path = self.config_file(&entry.name);
            self.write(&path, &table.to_string())?;
        }
        let text = toml::to_string(&self.index).map_err(|error| ClusterError::BadFile {
            path: self.root.join(INDEX_FILE),
            reason: error.to_string(),
        })?;
        self.write(&self.root.join(INDEX_FILE), &text)
    }

    /// Place of a node among those of its role.
    fn number(&self, entry: &Entry) -> usize {
        let mut alike = self.index.nodes.iter().filter(|other| other.role == entry.role);
        alike.position(|other| other.name == entry.name).unwrap_or_default()
    }

    fn verifier(&self, plan: &Plan, entry: &Entry) -> Table {
        let mut table = self.common(entry);
        let sampled = self.number(entry) + plan.sampled >= plan.verifiers;
        self.three_keys(&mut table, &entry.name);
        table.insert("mode".into(), if sampled { "sampled" } else { "replayed" }.into());
        table
    }

    fn orchestrator(&self, plan: &Plan, entry: &Entry) -> Table {
        let mut table = self.common(entry);
        self.three_keys(&mut table, &entry.name);
        table.insert("api".into(), entry.place.service.to_string().into());
        table.insert("orchestrators".into(), self.addresses(NodeRole::Orchestrator, None));
        if self.replicas.is_some() {
            let signer = Plan::signer_name(self.number(entry));
            let mut services =
                strings([("group_file", REPLICAS_FILE.to_owned()), ("signer", socket(&signer))]);
            services.insert("key_file".into(), format!("keys/{signer}.transport").into());
            services.insert("hosts".into(), self.addresses(NodeRole::Host, None));
            // Leases end also while nobody calls.
            let timed = plan.services.iter().filter(|name| *name == "registry").cloned().map(Value::String);
            services.insert("timed".into(), Value::Array(timed.collect()));
            table.insert("services".into(), Value::Table(services));
        }
        table
    }

    fn signer(&self, entry: &Entry) -> Table {
        strings([
            ("name", Plan::orchestrator_name(self.number(entry))),
            ("key_file", format!("keys/{}.vote", entry.name)),
            ("cosigner_key_file", format!("keys/{}.cosigner", entry.name)),
            ("group_file", REPLICAS_FILE.to_owned()),
            ("data_dir", format!("data/{}", entry.name)),
            ("socket", socket(&entry.name)),
            ("log", "json".to_owned()),
        ])
    }

    fn gateway(&self, plan: &Plan, entry: &Entry) -> Table {
        let mut table = strings([
            ("cluster", ".".to_owned()),
            ("key_file", format!("keys/{}.client", entry.name)),
            ("state_dir", format!("data/{}", entry.name)),
            ("proofs_dir", format!("data/{}/proofs", entry.name)),
            ("etcd_listen", entry.place.service.to_string()),
            ("http_listen", entry.place.messages.to_string()),
            ("nss_socket", socket("nss")),
            ("log", "json".to_owned()),
        ]);
        for name in plan.services.iter().filter(|name| ["registry", "uid"].contains(&name.as_str())) {
            table.insert(name.clone(), name.clone().into());
        }
        table
    }

    fn host(&self, plan: &Plan, entry: &Entry) -> Table {
        let mut table = self.common(entry);
        let milliseconds = |value: u64| Value::Integer(i64::try_from(value).unwrap_or(i64::MAX));
        let interval = match plan.hosts.contains(&entry.name) {
            true => plan.slot_interval_ms,
            false => plan.service_slot_interval_ms,
        };
        table.insert("key_file".into(), format!("keys/{}.host", entry.name).into());
        table.insert("bulk_listen".into(), entry.place.service.to_string().into());
        table.insert("slot_interval_ms".into(), milliseconds(interval));
        table.insert("migration_timeout_ms".into(), milliseconds(plan.migration_timeout_ms));
        table.insert("verifiers".into(), self.addresses(NodeRole::Verifier, None));
        table.insert("orchestrators".into(), self.addresses(NodeRole::Orchestrator, None));
        table.insert("hosts".into(), self.addresses(NodeRole::Host, Some(&entry.name)));
        table
    }

    fn three_keys(&self, table: &mut Table, name: &str) {
        for (entry, role) in
            [("key_file", "vote"), ("cosigner_key_file", "cosigner"), ("transport_key_file", "transport")]
        {
            table.insert(entry.into(), format!("keys/{name}.{role}").into());
        }
    }

    fn common(&self, entry: &Entry) -> Table {
        // An orchestrator serves both groups and names each; the others belong to the verifiers' group.
        let group = if entry.role == NodeRole::Orchestrator { "verifiers_file" } else { "group_file" };
        let mut table = strings([
            ("name", entry.name.clone()),
            (group, VERIFIERS_FILE.to_owned()),
            ("orchestrators_file", ORCHESTRATORS_FILE.to_owned()),
            ("listen", entry.place.messages.to_string()),
            ("data_dir", format!("data/{}", entry.name)),
            ("log", "json".to_owned()),
        ]);
        // Orchestrators learn of later epochs from the log itself.
        if entry.role != NodeRole::Orchestrator {
            table.extend(strings([
                ("group_links", LINKS.to_owned()),
                ("orchestrators_links", LINKS.to_owned()),
            ]));
        }
        table
    }

    fn addresses(&self, role: NodeRole, except: Option<&str>) -> Value {
        let nodes =
            self.index.nodes.iter().filter(|entry| entry.role == role && Some(&*entry.name) != except);
        let entry = |entry: &Entry| {
            let pairs = [("name", entry.name.clone()), ("address", entry.place.messages.to_string())];
            Value::Table(
                pairs.into_iter().map(|(key, value)| (key.to_owned(), Value::String(value))).collect(),
            )
        };
        Value::Array(nodes.map(entry).collect())
    }

    fn write(&self, path: &Path, text: &str) -> Result<(), ClusterError> {
        fs::write(path, text).map_err(ClusterError::io(format!("write {}", path.display())))
    }
}

/// Socket of a signer, relative to the folder.
fn socket(signer: &str) -> String {
    format!("{SOCKETS}/{signer}.sock")
}

fn strings<const N: usize>(entries: [(&str, String); N]) -> Table {
    entries.into_iter().map(|(key, value)| (key.to_owned(), Value::String(value))).collect()
}

/// Both groups as their files and links tell.
fn read_groups(root: &Path) -> Result<(GroupChain, GroupChain), ClusterError> {
    let bad = |file: &str| {
        let path = root.join(file);
        move |problem: Problem| ClusterError::BadFile { path, reason: problem.to_string() }
    };
    // A cluster that was made before there were links has no folder for them.
    let links = Some(root.join(LINKS)).filter(|links| links.is_dir());
    let verifiers = read_group(&root.join(VERIFIERS_FILE), links.as_deref(), None);
    let orchestrators = read_orchestrators(&root.join(ORCHESTRATORS_FILE), links.as_deref(), None);
    Ok((verifiers.map_err(bad(VERIFIERS_FILE))?, orchestrators.map_err(bad(ORCHESTRATORS_FILE))?))
}

/// The key of a node in a role: an existing one, or a new one from the system's random source.
fn key(folder: &Path, name: &str, role: &str) -> Result<SecretKey, ClusterError> {
    let path = folder.join(format!("{name}.{role}"));
    match key_file::read(&path) {
        Err(KeyFileError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
        other => return Ok(other?),
    }
    let mut seed = [0; 32];
    getrandom::fill(&mut seed).map_err(io::Error::other).map_err(ClusterError::io("make a key"))?;
    let key = SecretKey::from_seed(seed);
    key_file::write(&path, &key)?;
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::Programs;
    use std::os::unix::fs::PermissionsExt;

    fn plan(folder: &Path) -> Plan {
        Plan::new(folder, Programs::in_folder(Path::new("/nowhere")))
    }

    #[test]
    fn keys_are_private_distinct_and_kept() {
        let folder = tempfile::tempdir().unwrap();
        let first = Folder::create(&plan(folder.path())).unwrap();
        let files: Vec<_> = fs::read_dir(folder.path().join("keys")).unwrap().map(Result::unwrap).collect();
        assert_eq!(files.len(), (4 + 4) * 3 + 2 + 1);
        for file in files {
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
        }
        let second = Folder::create(&plan(folder.path())).unwrap();
        assert_eq!(first.group.id(), second.group.id());
        assert_eq!(first.orchestrators.id(), second.orchestrators.id());
        assert_eq!(&group_file::read(&first.group_file()).unwrap(), first.group.current());
    }

    #[test]
    fn what_was_created_can_be_opened() {
        let folder = tempfile::tempdir().unwrap();
        let created = Folder::create(&plan(folder.path())).unwrap();
        let opened = Folder::open(folder.path()).unwrap();
        assert_eq!(opened.index, created.index);
        assert_eq!((opened.group, opened.orchestrators), (created.group, created.orchestrators));
    }

    #[test]
    fn verifier_configuration_opens_as_the_node_would() {
        use quorate_verifier::config::{Config, Overrides};
        let folder = tempfile::tempdir().unwrap();
        let files = Folder::create(&Plan { sampled: 1, ..plan(folder.path()) }).unwrap();
        for name in ["verifier-0", "verifier-3"] {
            let config = Config::read(&files.config_file(name), &Overrides::default()).unwrap();
            let loaded = config.open().unwrap();
            assert_eq!(loaded.listen, files.entry(name).unwrap().place.messages);
        }
    }

    #[test]
    fn free_places_differ() {
        let places = free_places(8).unwrap();
        let ports: std::collections::BTreeSet<_> = places.iter().map(|place| place.messages.port()).collect();
        assert_eq!(ports.len(), 8);
    }

    #[test]
    fn group_of_too_few_verifiers_tolerates_no_fault() {
        let folder = tempfile::tempdir().unwrap();
        for (verifiers, f) in [(1, 0), (3, 0), (4, 1), (6, 1), (7, 2)] {
            let plan = Plan { verifiers, ..plan(&folder.path().join(verifiers.to_string())) };
            assert_eq!(Folder::create(&plan).unwrap().group.f, f);
        }
    }
}
