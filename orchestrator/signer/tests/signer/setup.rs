//! A folder with keys and configuration, and signers as real processes.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use quorate_attest::id::{Epoch, GroupId, OperationId, ServiceId};
use quorate_attest::key::SecretKey;
use quorate_attest::service::ServiceReceipt;
use quorate_attest::state_tree::StateCommitment;
use quorate_signer::SignerClient;
use quorate_verifier::key_file;
use rustix::process::{Pid, Signal, kill_process};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_quorate-signer");

/// A configured signer, which may run.
pub struct Setup {
    pub folder: tempfile::TempDir,
    child: Option<Child>,
}

impl Setup {
    /// Writes keys and configuration and creates the sign-log.
    pub fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, seed) in [("vote.key", 1), ("cosigner.key", 2), ("other.key", 3)] {
            key_file::write(&folder.path().join(name), &SecretKey::from_seed([seed; 32])).unwrap();
        }
        let group = group();
        let text = format!(
            "name = \"replica-0\"\nkey_file = \"vote.key\"\ncosigner_key_file = \"cosigner.key\"\n\
             group = {{ id = \"{group}\", name = \"demo\", epoch = 3 }}\ndata_dir = \"data\"\nsocket = \"run/socket\"\n"
        );
        std::fs::write(folder.path().join("signer.toml"), text).unwrap();
        let setup = Self { folder, child: None };
        assert!(setup.command().arg("init").status().unwrap().success());
        setup
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces text in the configuration.
    pub fn edit(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(self.path("signer.toml")).unwrap();
        assert!(text.contains(from), "{from}");
        std::fs::write(self.path("signer.toml"), text.replace(from, to)).unwrap();
    }

    pub fn command(&self) -> Command {
        let mut command = Command::new(PROGRAM);
        command.arg("--config").arg(self.path("signer.toml"));
        command
    }

    /// Exit code and standard error of a run that ends by itself.
    pub fn output(&self, arguments: &[&str]) -> (Option<i32>, String) {
        let output = self.command().args(arguments).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    }

    /// Starts the signer and waits until it is ready.
    pub fn start(&mut self) {
        let command = self.command();
        self.start_as(command);
    }

    pub fn start_as(&mut self, mut command: Command) {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        self.child = Some(child);
        assert_eq!(line, format!("listening {}\n", self.path("run/socket").display()));
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM; answers the exit code.
    pub fn terminate(&mut self) -> Option<i32> {
        let child = self.child.as_ref().unwrap();
        kill_process(Pid::from_child(child), Signal::TERM).unwrap();
        self.wait()
    }

    /// Waits for the end; answers the exit code.
    pub fn wait(&mut self) -> Option<i32> {
        self.child.take().unwrap().wait().unwrap().code()
    }

    pub fn client(&self) -> SignerClient {
        SignerClient::new(&self.path("run/socket"))
    }
}

impl Drop for Setup {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

pub fn group() -> GroupId {
    GroupId::from_bytes([7; 32])
}

/// Two receipts of one number differ in `result`.
pub fn statement(number: u64, result: u8) -> Vec<u8> {
    let receipt = ServiceReceipt {
        group: group(),
        epoch: Epoch(3),
        service: ServiceId::from_bytes([9; 32]),
        number,
        log_index: number,
        operation: OperationId::from_bytes([4; 32]),
        result: [result; 32],
        log_root: [5; 32],
        log_size: number + 1,
        state: StateCommitment { root: [6; 32], size: 2 },
    };
    receipt.to_statement().encode()
}

/// `signed`, or why not.
pub async fn ask(client: &SignerClient, number: u64, result: u8) -> String {
    let answer = client.sign(vec![statement(number, result)]).await.unwrap().remove(0);
    answer.map_or_else(|refused| refused.kind, |_| "signed".to_owned())
}
