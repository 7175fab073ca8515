//! A cluster with one VM.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use quorate_attest::id::{ImageDigest, Nonce, Slot, VmId};
use quorate_attest::key::PublicKey;
use quorate_attest::statement::Kind;
use quorate_attest::vm::{DecisionCertificate, InputPolicy, OutputPolicy, SlotCertificate, VmSpec};
use quorate_cli::cluster::{Cluster, Plan, log};
use quorate_cli::control_client::{ControlClient, ControlError};
use quorate_cli::load::{self, Load, random_key};
use quorate_guest_images::KV;
use quorate_host::client::hosts::{HostError, SlotRecords};
use quorate_host::client::{CallError, Patience, Target, VmClient};
use quorate_host::protocol::{Report, Status};
use quorate_kv::Operation;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::JoinHandle;

use crate::programs::programs;
use crate::sign_logs;
use crate::until::until;

/// Index of `host-a`, where the VM begins.
pub const A: usize = 0;
/// Index of `host-b`, where it goes.
pub const B: usize = 1;
/// Time in which a cluster must find back to exactly one active instance.
const RECOVERY: Duration = Duration::from_secs(60);
/// Time in which the first answers come.
const FIRST_ANSWER: Duration = Duration::from_secs(60);

/// Ten processes a world: more worlds at once would only wait for two processors.
static TURNS: Semaphore = Semaphore::const_new(2);

/// How a world begins.
#[derive(Clone, Debug)]
pub struct Setup {
    /// Conducts by node name.
    pub conducts: Vec<(&'static str, String)>,
    /// Orchestrators.
    pub orchestrators: usize,
    /// Verifiers.
    pub verifiers: usize,
    /// How many of them, the last ones, sample.
    pub sampled: usize,
    /// Memory of the guest, MiB.
    pub memory_mib: u64,
    /// A migration without progress for this long is given up, milliseconds.
    pub migration_timeout_ms: u64,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            conducts: Vec::new(),
            orchestrators: 4,
            verifiers: 4,
            sampled: 0,
            memory_mib: 16,
            migration_timeout_ms: 3000,
        }
    }
}

impl Setup {
    /// One node has a conduct of its own.
    #[must_use]
    pub fn with(mut self, node: &'static str, conduct: impl Into<String>) -> Self {
        self.conducts.push((node, conduct.into()));
        self
    }
}

/// A running cluster with one kv VM on `host-a`.
#[derive(Debug)]
pub struct World {
    /// The processes.
    pub cluster: Cluster,
    /// The operator, with connections to the orchestrators and to the hosts.
    pub control: Arc<ControlClient>,
    /// The VM as clients see it.
    pub target: Arc<Target>,
    migration_timeout_ms: u32,
    folder: PathBuf,
    _turn: SemaphorePermit<'static>,
}

impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("files and logs of this run: {}", self.folder.display());
        } else {
            // What cannot be removed lies in the system's folder for temporary files anyway.
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

impl World {
    /// Starts cluster and VM, and waits for the first certified answer.
    ///
    /// # Panics
    /// Something does not start.
    pub async fn start(setup: Setup) -> Self {
        let world = Self::without_answers(setup).await;
        until("the first answer", FIRST_ANSWER, async || world.put("first", "value").await).await;
        world
    }

    /// Starts cluster and VM.
    ///
    /// # Panics
    /// Something does not start.
    pub async fn without_answers(setup: Setup) -> Self {
        let turn = TURNS.acquire().await.expect("nobody closes it");
        let folder = tempfile::Builder::new().prefix("quorate-test-").tempdir().expect("a folder").keep();
        println!("files: {}", folder.display());
        let mut plan = Plan::new(&folder, programs());
        plan.orchestrators = setup.orchestrators;
        plan.verifiers = setup.verifiers;
        plan.sampled = setup.sampled;
        plan.migration_timeout_ms = setup.migration_timeout_ms;
        plan.conducts = setup
            .conducts
            .iter()
            .map(|(node, conduct)| ((*node).to_owned(), conduct.clone()))
            .collect::<BTreeMap<_, _>>();
        let cluster = Cluster::start(plan).await.expect("the cluster starts");
        let hosts = cluster.hosts();
        let control = Arc::new(ControlClient::of_folder(cluster.folder()).expect("a socket"));
        let spec = spec(&cluster, setup.memory_mib);
        let target = Arc::new(Target::new(Arc::new(cluster.group().clone()), spec.clone(), hosts));
        control.create(spec, KV.elf.to_vec()).await.expect("the VM is registered and starts");
        let migration_timeout_ms = setup.migration_timeout_ms as u32;
        Self { cluster, control, target, migration_timeout_ms, folder, _turn: turn }
    }

    /// The VM.
    pub fn vm(&self) -> VmId {
        self.target.vm()
    }

    /// A client with a key of its own.
    ///
    /// # Panics
    /// The system has no socket or random bytes.
    pub fn client(&self) -> VmClient {
        let key = random_key().expect("random bytes");
        VmClient::new(Arc::clone(&self.target), key, 0).expect("a socket")
    }

    /// Writes one value through whichever host serves the VM.
    ///
    /// # Errors
    /// Nobody answered believably.
    pub async fn put(&self, key: &str, value: &str) -> Result<(), CallError> {
        let operation = Operation::Put { key: key.into(), value: value.into() };
        self.client().call(operation.op(), operation.body()).await.map(drop)
    }

    /// Reads one value through whichever host serves the VM.
    ///
    /// # Errors
    /// Nobody answered believably.
    pub async fn get(&self, key: &str) -> Result<Vec<u8>, CallError> {
        let operation = Operation::Get { key: key.into() };
        let believed = self.client().call(operation.op(), operation.body()).await?;
        Ok(believed.reply.body)
    }

    /// Clients that write and read until they are told to stop.
    ///
    /// # Panics
    /// The system has no sockets.
    pub fn load(&self) -> Load {
        let plan = load::Plan { clients: 6, rate: 150.0, count: None, value_bytes: 64 };
        Load::start(Arc::clone(&self.target), plan).expect("sockets")
    }

    /// Waits until the load had `more` further answers.
    pub async fn served(&self, load: &Load, more: u64) {
        let goal = load.served() + more;
        let look = async || if load.served() >= goal { Ok(()) } else { Err(load.served()) };
        until(&format!("{goal} answers"), RECOVERY, look).await;
    }

    /// Orders that the VM moves, and has its host do it; waits for the end. `from` is the host that runs it.
    ///
    /// # Errors
    /// The order is refused, or the source cannot be reached.
    pub async fn migrate(&self, from: usize, to: usize) -> Result<Report, ControlError> {
        self.begin_migration(from, to).await.expect("the task ends")
    }

    /// Moves the VM in a task of its own, so that nodes can be restarted meanwhile.
    pub fn begin_migration(&self, from: usize, to: usize) -> JoinHandle<Result<Report, ControlError>> {
        let (control, vm, timeout_ms) = (Arc::clone(&self.control), self.vm(), self.migration_timeout_ms);
        let source = self.target.hosts()[from].key;
        let destination = self.target.hosts()[to].key;
        tokio::spawn(async move {
            registered_at(&control, vm, source).await;
            control.migrate(vm, destination, timeout_ms, |_| {}).await
        })
    }

    /// Orders that the VM moves; its host is not told yet.
    ///
    /// # Panics
    /// The orchestrators refuse.
    pub async fn begin(&self, to: usize) -> DecisionCertificate {
        let record =
            self.control.vm(self.vm()).await.expect("the registry answers").expect("it is registered");
        let destination = self.target.hosts()[to].key;
        self.control.begin(self.vm(), record.next_generation, destination).await.expect("the order is given")
    }

    /// Shows the VM's host an order that was given before.
    pub fn follow(&self, from: usize, order: DecisionCertificate) -> JoinHandle<Result<Report, HostError>> {
        let (control, timeout_ms) = (Arc::clone(&self.control), self.migration_timeout_ms);
        tokio::spawn(async move { control.operator().migrate(from, order, timeout_ms, |_| {}).await })
    }

    /// Moves the VM while clients work; nothing they wrote may be lost, whatever becomes of the migration.
    ///
    /// # Panics
    /// Something was lost, or the source did not report.
    pub async fn migrate_under_load(&self) -> Report {
        let load = self.load();
        self.served(&load, 40).await;
        let report = self.migrate(A, B).await.expect("the source reports");
        self.served(&load, 20).await;
        let load = load.finish().await.expect("sockets");
        assert_eq!(load.lost, 0, "acknowledged writes lost: {load:?}");
        report
    }

    /// What a host says about itself.
    ///
    /// # Errors
    /// It cannot be reached.
    pub async fn status(&self, host: usize) -> Result<Status, HostError> {
        self.control.operator().status(host).await
    }

    /// Waits until exactly one host serves the VM: it says so, the other does not, and its answers are believed.
    ///
    /// # Panics
    /// That does not happen within 20 seconds.
    pub async fn one_active(&self) -> usize {
        let look = async || {
            let statuses = [self.status(A).await, self.status(B).await];
            let active: Vec<_> = (0..2)
                .filter(|host| statuses[*host].as_ref().is_ok_and(|status| status.active_instances == 1))
                .collect();
            match active[..] {
                [one] if statuses.iter().all(Result::is_ok) => self.serves(one).await.map(|()| one),
                _ => Err(format!("{statuses:?}")),
            }
        };
        until("exactly one active instance", RECOVERY, look).await
    }

    /// The only host whose answers clients believe, however many claim to run the VM.
    ///
    /// # Panics
    /// It is none within 20 seconds, or both.
    pub async fn one_believed(&self) -> usize {
        let look = async || match (self.serves(A).await, self.serves(B).await) {
            (Ok(()), Err(_)) => Ok(A),
            (Err(_), Ok(())) => Ok(B),
            both => Err(both),
        };
        until("exactly one host that clients believe", RECOVERY, look).await
    }

    /// Whether a client believes the answer of this host.
    ///
    /// # Errors
    /// Why not.
    pub async fn serves(&self, host: usize) -> Result<(), String> {
        let patience = Patience { attempt: Duration::from_secs(1), call: Duration::from_secs(2) };
        let operation = Operation::Get { key: b"first".to_vec() };
        let mut client = self.client().with_patience(patience);
        let answer = client.call_at(host, operation.op(), operation.body()).await;
        answer.map(drop).map_err(|error| error.to_string())
    }

    /// Waits until a host's status names an error of this kind; answers what it says about it.
    ///
    /// # Panics
    /// It does not.
    pub async fn noted(&self, host: usize, kind: &str) -> String {
        let look = async || {
            let status = self.status(host).await.map_err(|error| error.to_string())?;
            let found = status.errors.iter().find(|error| error.kind == kind);
            found.map(|error| error.detail.clone()).ok_or_else(|| format!("{:?}", status.errors))
        };
        until(&format!("host {host} notes {kind}"), RECOVERY, look).await
    }

    /// Refusals in a node's log.
    pub fn logged(&self, name: &str) -> Vec<log::Refusal> {
        log::refusals(&self.cluster.log_file(name))
    }

    /// Everything a host can show about the VM's slots.
    ///
    /// # Panics
    /// It cannot be reached.
    pub async fn records(&self, host: usize) -> SlotRecords {
        self.control.operator().export(host, Slot(0)).await.expect("the host exports")
    }

    /// Checks all certificates of a host offline, and that no slot is certified twice.
    ///
    /// # Panics
    /// One is invalid.
    pub async fn assert_certificates_verify(&self, host: usize) -> SlotRecords {
        let (records, group) = (self.records(host).await, self.cluster.group());
        assert!(!records.certificates.is_empty(), "host {host} shows no certificate");
        for certificate in &records.certificates {
            let expected = group.expected(self.vm(), Kind::SLOT_SAMPLED);
            certificate.verify(group, &expected).expect("a slot certificate verifies");
        }
        for activation in &records.activations {
            let expected = group.expected(self.vm(), Kind::ACTIVATE);
            let orchestrators = &self.cluster.folder().orchestrators;
            activation
                .verify(group, &expected, Some(orchestrators))
                .expect("an activation certificate verifies, with its grant");
        }
        assert!(
            records.certificates.windows(2).all(|pair| follows(&pair[0], &pair[1])),
            "the chain is broken"
        );
        records
    }

    /// Nobody may have signed twice, whatever happened.
    ///
    /// # Panics
    /// Somebody has.
    pub fn assert_no_second_signature(&self) {
        for index in 0..self.cluster.group().members.len() {
            let name = Plan::verifier_name(index);
            if !self.cluster.is_faulty(&name) {
                sign_logs::read(&self.cluster.data_dir(&name)).assert_no_second_signature(&name);
            }
        }
    }

    /// Ends the cluster in good order.
    pub async fn stop(mut self) {
        self.control.close().await;
        self.cluster.stop().await;
    }
}

/// Waits until the registry says that this host runs the VM: it hears of it a moment later than the host.
async fn registered_at(control: &ControlClient, vm: VmId, host: PublicKey) {
    let deadline = tokio::time::Instant::now() + RECOVERY;
    loop {
        let record = control.vm(vm).await;
        if record.as_ref().is_ok_and(|record| record.as_ref().is_some_and(|record| record.host == host)) {
            return;
        }
        assert!(tokio::time::Instant::now() < deadline, "the registry names another host: {record:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Whether two certificates are of one chain: neighbours are linked by the digest, others ascend.
fn follows(first: &SlotCertificate, second: &SlotCertificate) -> bool {
    let (before, after) = (&first.statement, &second.statement);
    if before.slot.next() == Some(after.slot) {
        return after.body.previous == before.digest();
    }
    before.slot < after.slot && before.body.end_input <= after.body.first_input
}

fn spec(cluster: &Cluster, memory_mib: u64) -> VmSpec {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).expect("random bytes");
    VmSpec {
        name: "kv".into(),
        image: ImageDigest::from_bytes(KV.digest()),
        machine_version: 1,
        memory_bytes: memory_mib << 20,
        input_policy: InputPolicy::ClientSigned,
        output_policy: OutputPolicy::Certified,
        host: cluster.group().hosts[A].key,
        nonce: Nonce::from_bytes(nonce),
    }
}
