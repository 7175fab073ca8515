//! A cluster with the service registry and the UID registry, and the programs that users have: `quorate`, `etcdctl`, `getent`.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use quorate_cli::cluster::{Cluster, Plan};
use serde_json::Value;
use tempfile::TempDir;

use crate::last_line;
use crate::programs::programs;

/// Both services on a cluster of four, with a gateway.
#[derive(Debug)]
pub struct Serving {
    /// The processes.
    pub cluster: Cluster,
    folder: TempDir,
}

impl Drop for Serving {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.folder.disable_cleanup(true);
            eprintln!("files and logs of this run: {}", self.folder.path().display());
        }
    }
}

impl Serving {
    /// Starts the cluster, some nodes with a conduct of their own, and creates the services.
    ///
    /// # Panics
    /// Something does not start.
    pub async fn up(conducts: &[(&str, &str)]) -> Self {
        Self::with_spare_hosts(0, conducts).await
    }

    /// The same, with so many hosts more that have no VM: `spare-0` and so on.
    ///
    /// # Panics
    /// Something does not start.
    pub async fn with_spare_hosts(spare: usize, conducts: &[(&str, &str)]) -> Self {
        let folder = tempfile::Builder::new().prefix("quorate-serve-").tempdir().expect("a folder");
        let mut plan = Plan::new(folder.path(), programs());
        plan.services = vec!["registry".into(), "uid".into()];
        plan.hosts.extend((0..spare).map(|number| format!("spare-{number}")));
        let owned = |(node, conduct): &(&str, &str)| ((*node).to_owned(), (*conduct).to_owned());
        plan.conducts = conducts.iter().map(owned).collect::<BTreeMap<_, _>>();
        let cluster = Cluster::start(plan).await.expect("the cluster starts");
        let serving = Self { cluster, folder };
        for name in ["registry", "uid"] {
            let created = serving.run(&["service", "create", name]);
            assert_eq!(created["result"], "created", "{created}");
        }
        serving
    }

    /// The cluster's folder.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Ends a node as a power failure would.
    pub async fn kill(&mut self, name: &str) {
        self.cluster.node(name).expect("a node").kill().await;
    }

    /// Ends everything that makes up one replica: orchestrator, signer and the hosts of its VMs.
    pub async fn kill_replica(&mut self, replica: usize) {
        let services = ["registry", "uid"].map(|service| Plan::service_host_name(service, replica));
        for name in [Plan::orchestrator_name(replica), Plan::signer_name(replica)].iter().chain(&services) {
            self.kill(name).await;
        }
    }

    /// A command of `quorate` about this cluster.
    pub fn quorate(&self, words: &[&str]) -> Output {
        let program = programs().host.with_file_name("quorate");
        let mut command = Command::new(program);
        command.arg("--json").args(words).env("QUORATE_CLUSTER", self.folder());
        command.output().expect("quorate runs")
    }

    /// A command of `quorate` that must succeed; its last line.
    pub fn run(&self, words: &[&str]) -> Value {
        let output = self.quorate(words);
        assert!(output.status.success(), "{words:?}: {output:?}");
        last_line(&output.stdout)
    }

    /// A setting of the gateway.
    pub fn gateway(&self, key: &str) -> String {
        let path = self.folder().join("gateway.toml");
        let text = std::fs::read_to_string(&path).expect("the gateway's configuration");
        let table: toml::Table = text.parse().expect("TOML");
        table[key].as_str().unwrap_or_else(|| panic!("{key} in {text}")).to_owned()
    }

    /// `etcdctl` of the distribution, pointed at the gateway.
    pub fn etcdctl(&self, words: &[&str]) -> Command {
        let mut command = Command::new("etcdctl");
        command.arg(format!("--endpoints=http://{}", self.gateway("etcd_listen")));
        command.args(["--command-timeout=60s", "--dial-timeout=10s"]).args(words);
        command.env("ETCDCTL_API", "3");
        command
    }

    /// What `etcdctl` prints; it must succeed.
    pub fn etcd(&self, words: &[&str]) -> String {
        let output = self.etcdctl(words).output().expect("etcdctl runs (apt-get install etcd-client)");
        assert!(output.status.success(), "{words:?}: {output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// What `etcdctl txn` prints for these lines.
    pub fn etcd_txn(&self, lines: &str) -> String {
        let mut command = self.etcdctl(&["txn"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("etcdctl runs");
        child.stdin.take().expect("a pipe").write_all(lines.as_bytes()).expect("etcdctl reads");
        let output = child.wait_with_output().expect("etcdctl ends");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// A program that looks users up, in a mount namespace of its own where they come from the gateway.
    ///
    /// Only there `/etc/nsswitch.conf` names the module and `/etc/quorate/nss.conf` the gateway's socket.
    pub fn lookup(&self, words: &[&str]) -> Output {
        let folder = self.folder().join("nss");
        let library = folder.join("lib");
        std::fs::create_dir_all(&library).expect("a folder");
        std::fs::create_dir_all("/etc/quorate").expect("root makes folders");
        let conf = Path::new("/etc/quorate/nss.conf");
        if !conf.exists() {
            std::fs::write(conf, "").expect("root writes files");
        }
        let module = programs().host.with_file_name("libnss_quorate.so");
        std::fs::copy(&module, library.join("libnss_quorate.so.2"))
            .unwrap_or_else(|error| panic!("{}: {error}", module.display()));
        let write = |name: &str, text: String| {
            let path = folder.join(name);
            std::fs::write(&path, text).expect("a file");
            path
        };
        let switch = write(
            "nsswitch.conf",
            "passwd: quorate [UNAVAIL=return] files\ngroup: quorate [UNAVAIL=return] files\n".into(),
        );
        let socket = self.folder().join(self.gateway("nss_socket"));
        let conf_here = write("nss.conf", format!("socket = {}\n", socket.display()));
        let script = format!(
            "mount --bind {} /etc/nsswitch.conf && mount --bind {} /etc/quorate/nss.conf && exec \"$@\"",
            switch.display(),
            conf_here.display(),
        );
        let mut command = Command::new("unshare");
        command.args(["--mount", "sh", "-c", &script, "sh"]).args(words).env("LD_LIBRARY_PATH", &library);
        command.output().expect("unshare runs")
    }

    /// Checks proofs that the gateway kept, knowing nothing but the cluster's public files.
    pub fn verify(&self, paths: &[PathBuf]) -> Output {
        let file = |name: &str| self.folder().join(name).display().to_string();
        let mut words = vec!["verify".to_owned()];
        words.extend(paths.iter().map(|path| path.display().to_string()));
        words.extend([
            "--orchestrators".into(),
            file("orchestrators.toml"),
            "--replicas".into(),
            file("services.toml"),
        ]);
        for name in ["registry", "uid"] {
            words.extend(["--service".into(), file(&format!("{name}.service"))]);
        }
        self.quorate(&words.iter().map(String::as_str).collect::<Vec<_>>())
    }

    /// Proofs of answers that the gateway kept.
    pub fn proofs(&self) -> Vec<PathBuf> {
        let folder = self.folder().join(self.gateway("proofs_dir"));
        let files = std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let mut files: Vec<_> =
            files.filter(|path| path.extension().is_some_and(|end| end == "answer")).collect();
        files.sort();
        files
    }

    /// Ends all processes in good order.
    pub async fn stop(mut self) {
        self.cluster.stop().await;
        assert_eq!(self.cluster.ended_early(), Vec::<String>::new(), "nodes that ended by themselves");
    }
}
