//! A group on disk, and verifier processes of it.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use quorate_attest::group::{GroupConfig, HASH_SHA256, Host, Member};
use quorate_attest::id::Epoch;
use quorate_attest::key::{PublicKey, SecretKey};
use quorate_transport::{Connection, Endpoint, Limits, Members, Role};
use quorate_verifier::config::group_file;
use quorate_verifier::key_file;

pub fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed([seed; 32])
}

pub fn host_key(name: char) -> SecretKey {
    key(name as u8)
}

pub fn operator_key() -> SecretKey {
    key(3)
}

pub fn vote_key(index: u16) -> SecretKey {
    key(150 + index as u8)
}

fn cosigner_key(index: u16) -> SecretKey {
    key(170 + index as u8)
}

pub fn transport_key(index: u16) -> SecretKey {
    key(190 + index as u8)
}

/// Four verifiers of which one may be Byzantine, hosts a and b.
pub fn group() -> GroupConfig {
    let member = |index: u16| Member {
        name: format!("verifier-{index}"),
        vote_key: vote_key(index).public(),
        cosigner_key: cosigner_key(index).public(),
        transport_key: transport_key(index).public(),
    };
    let host = |name: char| Host { name: format!("host-{name}"), key: host_key(name).public() };
    GroupConfig {
        name: "test".into(),
        hash_algorithm: HASH_SHA256,
        epoch: Epoch(1),
        genesis: Some(quorate_attest::id::GroupId::from_bytes([9; 32])),
        f: 1,
        members: (0..4).map(member).collect(),
        operators: vec![operator_key().public()],
        hosts: vec![host('a'), host('b')],
    }
}

/// One orchestrator, so that one key signs a quorum.
pub fn orchestrator_key() -> SecretKey {
    key(140)
}

pub fn orchestrators() -> GroupConfig {
    let member = Member {
        name: "orchestrator-0".into(),
        vote_key: orchestrator_key().public(),
        cosigner_key: key(141).public(),
        transport_key: key(142).public(),
    };
    let group = group();
    GroupConfig { name: "log".into(), f: 0, members: vec![member], hosts: Vec::new(), ..group }
}

/// The files of all verifiers of a group.
pub struct Cluster {
    pub folder: tempfile::TempDir,
    pub group: GroupConfig,
}

impl Cluster {
    pub fn new() -> Self {
        assert!(Path::new("/dev/kvm").exists(), "these tests run guests and need /dev/kvm");
        let folder = tempfile::tempdir().unwrap();
        let group = group();
        group_file::write(&folder.path().join("group.toml"), &group).unwrap();
        group_file::write(&folder.path().join("orchestrators.toml"), &orchestrators()).unwrap();
        Self { folder, group }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes keys and configuration of a verifier and creates its sign-log.
    pub fn init(&self, index: u16, mode: &str) -> PathBuf {
        let config = self.configure(index, mode);
        let status = command(&config).arg("init").status().unwrap();
        assert!(status.success());
        config
    }

    pub fn configure(&self, index: u16, mode: &str) -> PathBuf {
        let keys = [
            ("vote", vote_key(index)),
            ("cosigner", cosigner_key(index)),
            ("transport", transport_key(index)),
        ];
        for (role, key) in keys {
            key_file::write(&self.path(&format!("{role}-{index}.key")), &key).unwrap();
        }
        let config = self.path(&format!("verifier-{index}.toml"));
        let text = format!(
            "name = \"verifier-{index}\"\nkey_file = \"vote-{index}.key\"\n\
             cosigner_key_file = \"cosigner-{index}.key\"\ntransport_key_file = \"transport-{index}.key\"\n\
             listen = \"127.0.0.1:0\"\ndata_dir = \"data-{index}\"\nmode = \"{mode}\"\ngroup_file = \"group.toml\"\n\
             orchestrators_file = \"orchestrators.toml\"\n"
        );
        fs::write(&config, text).unwrap();
        config
    }
}

/// The program, with this configuration.
pub fn command(config: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_quorate-verifier"));
    command.env("RUST_LOG", "error").arg("--config").arg(config);
    command
}

/// A verifier process. Killed when dropped.
pub struct Process {
    child: Child,
    pub address: SocketAddr,
    pub index: u16,
    stdout: Option<BufReader<ChildStdout>>,
}

impl Process {
    pub fn start(config: &Path, index: u16) -> Self {
        Self::spawn(command(config), index)
    }

    /// Starts a program and waits for its line `listening <address>`.
    pub fn spawn(mut command: Command, index: u16) -> Self {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::inherit()).spawn().unwrap();
        let mut process = Self { child, address: SocketAddr::from(([0; 4], 0)), index, stdout: None };
        let mut stdout = BufReader::new(process.child.stdout.take().unwrap());
        while process.address.port() == 0 {
            let mut line = String::new();
            assert_ne!(stdout.read_line(&mut line).unwrap(), 0, "verifier {index} ended before it listened");
            if let Some(address) = line.trim().strip_prefix("listening ") {
                process.address = address.parse().unwrap();
            }
        }
        // Kept open: a closed pipe would end a process that prints.
        process.stdout = Some(stdout);
        process
    }

    pub fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &pid]).status().unwrap().success());
    }

    /// Waits for the end of the process.
    pub fn wait(&mut self, within: Duration) -> ExitStatus {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "verifier {} did not end", self.index);
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Process {
    /// Ready when the process has ended by itself.
    pub async fn ended(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while self.child.try_wait().unwrap().is_none() {
            assert!(Instant::now() < deadline, "verifier {} did not end", self.index);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Already ended in most tests.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs a command that is expected to end by itself; answers its code and what it wrote to standard error.
pub fn ended(mut command: Command) -> (i32, String) {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut text = String::new();
    child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
    (child.wait().unwrap().code().unwrap(), text)
}

/// A host's socket.
pub fn endpoint(identity: &SecretKey, role: Role) -> Endpoint {
    let members = (0..4)
        .fold(Members::new(), |members, index| members.with(transport_key(index).public(), Role::Verifier));
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    Endpoint::bind_as(address, identity, role, Arc::new(members), Limits::default()).unwrap()
}

pub async fn connect(endpoint: &Endpoint, process: &Process) -> Connection {
    let expected: PublicKey = transport_key(process.index).public();
    endpoint.connect(process.address, &expected).await.unwrap()
}
