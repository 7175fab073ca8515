//! The files of a cluster.

use std::fs::{self, DirBuilder};
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use quorate_attest::group::{GroupConfig, HASH_SHA256, Host, Member};
use quorate_attest::id::Epoch;
use quorate_attest::key::SecretKey;
use quorate_verifier::config::group_file;
use quorate_verifier::key_file::{self, KeyFileError};
use toml::{Table, Value};

use super::{ClusterError, Plan};

const ANY_PORT: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// Where a host listens: messages over UDP, state over TCP.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    /// Messages.
    pub messages: SocketAddr,
    /// State.
    pub bulk: SocketAddr,
}

/// The folder, with what is in it.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    /// The group of the cluster.
    pub group: GroupConfig,
    /// Key of its operator.
    pub operator: SecretKey,
}

/// `count` pairs of ports that were free a moment ago. All are held until the last is found, so that they differ.
pub fn free_places(count: usize) -> io::Result<Vec<Place>> {
    let mut held = Vec::new();
    for _ in 0..count {
        held.push((UdpSocket::bind(ANY_PORT)?, TcpListener::bind(ANY_PORT)?));
    }
    held.iter().map(|(udp, tcp)| Ok(Place { messages: udp.local_addr()?, bulk: tcp.local_addr()? })).collect()
}

impl Folder {
    /// Makes folders, keys and group. Keys that are there already are used again.
    pub fn create(plan: &Plan) -> Result<Self, ClusterError> {
        let root = plan.folder.clone();
        for folder in [root.clone(), root.join("keys"), root.join("data"), root.join("logs")] {
            DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&folder)
                .map_err(ClusterError::io(format!("create {}", folder.display())))?;
        }
        let keys = root.join("keys");
        let mut members = Vec::new();
        for index in 0..plan.verifiers {
            let name = Plan::verifier_name(index);
            let key = |role| key(&keys, &name, role).map(|key| key.public());
            let (vote_key, cosigner_key, transport_key) = (key("vote")?, key("cosigner")?, key("transport")?);
            members.push(Member { name: name.clone(), vote_key, cosigner_key, transport_key });
        }
        let mut hosts = Vec::new();
        for name in &plan.hosts {
            hosts.push(Host { name: name.clone(), key: key(&keys, name, "host")?.public() });
        }
        let operator = key(&keys, "operator", "operator")?;
        let group = GroupConfig {
            name: "demo".into(),
            hash_algorithm: HASH_SHA256,
            epoch: Epoch(0),
            f: (plan.verifiers as u64).saturating_sub(1) / 3,
            members,
            operators: vec![operator.public()],
            hosts,
        };
        group.validate()?;
        let folder = Self { root, group, operator };
        group_file::write(&folder.group_file(), &folder.group)
            .map_err(ClusterError::io(format!("write {}", folder.group_file().display())))?;
        Ok(folder)
    }

    pub fn group_file(&self) -> PathBuf {
        self.root.join("group.toml")
    }

    pub fn config_file(&self, name: &str) -> PathBuf {
        self.root.join(format!("{name}.toml"))
    }

    pub fn log_file(&self, name: &str) -> PathBuf {
        self.root.join("logs").join(format!("{name}.log"))
    }

    pub fn data_dir(&self, name: &str) -> PathBuf {
        self.root.join("data").join(name)
    }

    /// Writes a verifier's configuration; without an address it takes any port.
    pub fn write_verifier(
        &self,
        name: &str,
        sampled: bool,
        listen: Option<SocketAddr>,
    ) -> Result<(), ClusterError> {
        let mode = if sampled { "sampled" } else { "replayed" };
        let mut table = self.common(name, listen.unwrap_or(ANY_PORT));
        table.insert("key_file".into(), format!("keys/{name}.vote").into());
        table.insert("cosigner_key_file".into(), format!("keys/{name}.cosigner").into());
        table.insert("transport_key_file".into(), format!("keys/{name}.transport").into());
        table.insert("mode".into(), mode.into());
        self.write(name, &table)
    }

    /// Writes a host's configuration.
    pub fn write_host(
        &self,
        plan: &Plan,
        name: &str,
        place: Place,
        verifiers: &[(String, SocketAddr)],
        hosts: &[(String, Place)],
    ) -> Result<(), ClusterError> {
        let milliseconds = |value: u64| Value::Integer(i64::try_from(value).unwrap_or(i64::MAX));
        let others = hosts.iter().filter(|(other, _)| other != name);
        let others: Vec<_> = others.map(|(name, place)| (name.clone(), place.messages)).collect();
        let mut table = self.common(name, place.messages);
        table.insert("key_file".into(), format!("keys/{name}.host").into());
        table.insert("bulk_listen".into(), place.bulk.to_string().into());
        table.insert("slot_interval_ms".into(), milliseconds(plan.slot_interval_ms));
        table.insert("migration_timeout_ms".into(), milliseconds(plan.migration_timeout_ms));
        table.insert("verifiers".into(), addresses(verifiers));
        table.insert("hosts".into(), addresses(&others));
        self.write(name, &table)
    }

    fn common(&self, name: &str, listen: SocketAddr) -> Table {
        let entries = [
            ("name", name.to_owned()),
            ("group_file", "group.toml".to_owned()),
            ("listen", listen.to_string()),
            ("data_dir", format!("data/{name}")),
            ("log", "json".to_owned()),
        ];
        entries.into_iter().map(|(key, value)| (key.to_owned(), Value::String(value))).collect()
    }

    fn write(&self, name: &str, table: &Table) -> Result<(), ClusterError> {
        let path = self.config_file(name);
        fs::write(&path, table.to_string()).map_err(ClusterError::io(format!("write {}", path.display())))
    }
}

fn addresses(nodes: &[(String, SocketAddr)]) -> Value {
    let entry = |(name, address): &(String, SocketAddr)| {
        let pairs = [("name", name.clone()), ("address", address.to_string())];
        Value::Table(pairs.into_iter().map(|(key, value)| (key.to_owned(), Value::String(value))).collect())
    };
    Value::Array(nodes.iter().map(entry).collect())
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
        assert_eq!(files.len(), 4 * 3 + 2 + 1);
        for file in files {
            assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{file:?}");
        }
        let second = Folder::create(&plan(folder.path())).unwrap();
        assert_eq!(first.group.id(), second.group.id());
        assert_eq!(group_file::read(&first.group_file()).unwrap(), first.group);
    }

    #[test]
    fn verifier_configuration_opens_as_the_node_would() {
        use quorate_verifier::config::{Config, Overrides};
        let folder = tempfile::tempdir().unwrap();
        let files = Folder::create(&plan(folder.path())).unwrap();
        for (name, sampled) in [("verifier-0", false), ("verifier-3", true)] {
            files.write_verifier(name, sampled, None).unwrap();
            let config = Config::read(&files.config_file(name), &Overrides::default()).unwrap();
            let loaded = config.open().unwrap();
            assert_eq!(loaded.listen.port(), 0);
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
