//! A group of orchestrator processes in a temporary folder.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use quorate_attest::epoch::{EpochLink, RootSet, SignedGenesis};
use quorate_attest::group::{GroupConfig, HASH_SHA256, Host, Member};
use quorate_attest::id::{Epoch, Nonce};
use quorate_attest::key::{PublicKey, SecretKey};
use quorate_attest::operation::Operation;
use quorate_control::{Command as Ordered, Quota};
use quorate_ordering::orderer::{OrchestratorPeer, Orderer};
use quorate_transport::{Endpoint, Limits, Members, Role};
use quorate_verifier::config::epoch_files::{Signatures, write_roots, write_signatures};
use quorate_verifier::config::group_file;
use quorate_verifier::key_file;

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_quorate-orchestrator");

pub fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

pub fn operator() -> SecretKey {
    key(1)
}

/// The three keys of a node, from its number and the seed of its group.
pub fn member(name: &str, seed: u8, index: u8) -> Member {
    Member {
        name: format!("{name}-{index}"),
        vote_key: key(seed + index).public(),
        cosigner_key: key(seed + 10 + index).public(),
        transport_key: key(seed + 20 + index).public(),
    }
}

/// Offline root keys, two of which vouch.
fn roots() -> [SecretKey; 3] {
    [key(201), key(202), key(203)]
}

fn group(name: &str, seed: u8, n: u8) -> GroupConfig {
    GroupConfig {
        name: format!("{name}s"),
        hash_algorithm: HASH_SHA256,
        epoch: Epoch::ZERO,
        genesis: None,
        f: (u64::from(n) - 1) / 3,
        members: (0..n).map(|index| member(name, seed, index)).collect(),
        operators: vec![operator().public()],
        hosts: vec![Host { name: "host-a".into(), key: key(2).public() }],
    }
}

/// An address that nobody uses just now.
fn free_address() -> SocketAddr {
    UdpSocket::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

pub struct Cluster {
    pub folder: tempfile::TempDir,
    pub group: Arc<GroupConfig>,
    pub addresses: Vec<SocketAddr>,
    nodes: Vec<Option<Running>>,
}

pub struct Running {
    child: Child,
    /// Where its HTTP API listens.
    pub api: String,
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Cluster {
    /// Writes configurations and keys of `n` orchestrators and initialises them; none runs yet.
    pub fn new(n: u8) -> Self {
        Self::with_spares(n, 0)
    }

    /// The same with nodes that are no members yet.
    pub fn with_spares(n: u8, spares: u8) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        let (group, verifiers) = (group("orchestrator", 10, n), group("verifier", 60, 4));
        let keys = roots().iter().map(SecretKey::public).collect();
        write_roots(&path.join("roots.toml"), &RootSet { threshold: 2, keys }).unwrap();
        for (name, config) in [("orchestrators", &group), ("verifiers", &verifiers)] {
            group_file::write(&path.join(format!("{name}.toml")), config).unwrap();
            let signatures = SignedGenesis::sign(config.clone(), &roots()[..2]).signatures;
            let signatures = Signatures { roots: signatures, ..Signatures::default() };
            write_signatures(&path.join(format!("{name}.signatures")), &signatures).unwrap();
        }
        let all = n + spares;
        let addresses: Vec<_> = (0..all).map(|_| free_address()).collect();
        let nodes = (0..all).map(|_| None).collect();
        let cluster = Self { folder, group: Arc::new(group), addresses, nodes };
        for index in 0..all {
            cluster.write(index, index >= n);
        }
        (0..n).for_each(|index| cluster.init(index));
        cluster
    }

    /// Makes a node's sign-log.
    pub fn init(&self, index: u8) {
        let status = self.command(index).arg("init").status().unwrap();
        assert!(status.success(), "{status}");
    }

    /// The same, and all of them run.
    pub fn running(n: u8) -> Self {
        let mut cluster = Self::new(n);
        (0..n).for_each(|index| cluster.start(index));
        cluster
    }

    fn write(&self, index: u8, spare: bool) {
        let path = self.folder.path();
        for (name, seed) in [("vote", 10), ("cosigner", 20), ("transport", 30)] {
            key_file::write(&path.join(format!("{index}.{name}")), &key(seed + index)).unwrap();
        }
        let mut text = format!(
            "name = \"orchestrator-{index}\"\nkey_file = \"{index}.vote\"\ncosigner_key_file = \"{index}.cosigner\"\n\
             transport_key_file = \"{index}.transport\"\norchestrators_file = \"orchestrators.toml\"\n\
             verifiers_file = \"verifiers.toml\"\nlisten = \"{}\"\ndata_dir = \"data-{index}\"\n\
             api = \"127.0.0.1:0\"\nleave_grace_ms = 100\n",
            self.addresses[usize::from(index)]
        );
        if spare {
            text += "epochs_dir = \"epochs\"\n";
        }
        for (other, address) in self.addresses.iter().enumerate() {
            text += &format!("[[orchestrators]]\nname = \"orchestrator-{other}\"\naddress = \"{address}\"\n");
        }
        text += "[roots]\nfile = \"roots.toml\"\norchestrators_signatures = \"orchestrators.signatures\"\n\
                 verifiers_signatures = \"verifiers.signatures\"\n";
        std::fs::write(self.config(index), text).unwrap();
    }

    /// The next epoch's configuration with these members, and the signatures of those of `signers`, for all to read.
    pub fn next_epoch(&self, members: &[u8], signers: &[u8]) -> EpochLink {
        let genesis = (*self.group).clone();
        let members = members.iter().map(|index| member("orchestrator", 10, *index)).collect();
        let next = GroupConfig { epoch: Epoch(1), genesis: Some(genesis.id()), members, ..genesis.clone() };
        let statement = EpochLink::statement(&next, genesis.digest());
        let sign = |index: &u8| (key(10 + index).public(), statement.sign(&key(10 + index)));
        let signatures = Signatures { members: signers.iter().map(sign).collect(), ..Signatures::default() };
        let link = signatures.link(&genesis, next.clone()).unwrap();
        let epochs = self.folder.path().join("epochs");
        std::fs::create_dir_all(&epochs).unwrap();
        let roots = SignedGenesis::sign(genesis.clone(), &roots()[..2]).signatures;
        for (config, signatures) in
            [(&genesis, &Signatures { roots, ..Signatures::default() }), (&next, &signatures)]
        {
            let name = epochs.join(format!("group-{}", config.epoch));
            group_file::write(&name.with_extension("toml"), config).unwrap();
            write_signatures(&name.with_extension("signatures"), signatures).unwrap();
        }
        link
    }

    /// Waits until a node ends by itself; answers its exit code.
    pub fn wait(&mut self, index: u8) -> Option<i32> {
        let mut node = self.nodes[usize::from(index)].take().expect("the node runs");
        node.child.wait().unwrap().code()
    }

    pub fn config(&self, index: u8) -> PathBuf {
        self.folder.path().join(format!("{index}.toml"))
    }

    pub fn command(&self, index: u8) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("--config").arg(self.config(index));
        command
    }

    pub fn start(&mut self, index: u8) {
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.folder.path().join(format!("{index}.log")))
            .unwrap();
        let mut child = self.command(index).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let words: Vec<_> = line.split_whitespace().map(str::to_owned).collect();
        assert_eq!(
            (words.len(), words.first().map(String::as_str)),
            (4, Some("listening")),
            "{}",
            self.log(index)
        );
        self.nodes[usize::from(index)] = Some(Running { child, api: words[3].clone() });
    }

    /// What the node wrote to its log, for messages of failed tests.
    pub fn log(&self, index: u8) -> String {
        std::fs::read_to_string(self.folder.path().join(format!("{index}.log"))).unwrap_or_default()
    }

    pub fn node(&self, index: u8) -> &Running {
        self.nodes[usize::from(index)].as_ref().expect("the node runs")
    }

    /// SIGKILL.
    pub fn kill(&mut self, index: u8) {
        self.nodes[usize::from(index)] = None;
    }

    /// SIGTERM; answers the exit code.
    pub fn terminate(&mut self, index: u8) -> Option<i32> {
        let mut node = self.nodes[usize::from(index)].take().expect("the node runs");
        let pid = rustix::process::Pid::from_child(&node.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        node.child.wait().unwrap().code()
    }

    /// An operator's client. Must be called inside a tokio runtime.
    pub fn orderer(&self) -> Orderer {
        self.orderer_as(&operator(), Role::Operator)
    }

    pub fn orderer_as(&self, key: &SecretKey, role: Role) -> Orderer {
        self.orderer_of(&self.group, key, role)
    }

    /// A client of the group in any of its epochs.
    pub fn orderer_of(&self, group: &Arc<GroupConfig>, key: &SecretKey, role: Role) -> Orderer {
        let keys = group.members.iter().map(|member| member.transport_key);
        let members = keys.fold(Members::new(), |members, key| members.with(key, Role::Orchestrator));
        let address = "127.0.0.1:0".parse().unwrap();
        let endpoint = Endpoint::bind_as(address, key, role, Arc::new(members), Limits::default()).unwrap();
        let address_of = |name: &str| {
            let number: usize = name.strip_prefix("orchestrator-")?.parse().ok()?;
            self.addresses.get(number).copied()
        };
        let peers = OrchestratorPeer::of_group(group, address_of).unwrap();
        Orderer::new(endpoint, Arc::clone(group), peers)
    }

    /// An operation that registers a client of its own.
    pub fn operation(&self, number: u64) -> Operation {
        let mut seed = [0; 32];
        seed[..8].copy_from_slice(&number.to_le_bytes());
        seed[31] = 0xee;
        self.registration(SecretKey::from_seed(seed).public(), number)
    }

    pub fn registration(&self, key: PublicKey, number: u64) -> Operation {
        let quota = Quota { vms: 1, memory_bytes: 1 << 20, operations: 100 };
        let mut nonce = [0; 16];
        nonce[..8].copy_from_slice(&number.to_le_bytes());
        let command = Ordered::RegisterClient { key, quota, revision: 0 };
        command.to_operation(&operator(), self.group.id(), Nonce::from_bytes(nonce))
    }
}
