//! The run itself: cluster, VM, load, migration, and what everybody saw.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quorate_attest::id::{ImageDigest, Nonce, Slot};
use quorate_attest::vm::{ConflictingCertificates, InputPolicy, MACHINE_VERSION, OutputPolicy, VmSpec};
use quorate_guest_images::KV;
use quorate_kv::{Operation, op};
use quorate_verifier::protocol::Refused as HostRefused;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::super::exit;
use super::super::failure::Failure;
use super::super::output::{Output, bytes};
use super::super::records::{Records, Written};
use super::Arguments;
use super::attacks::{Attack, Byzantine, Outcome};
use super::progress::Progress;
use super::refusals::{self, Refusals};
use crate::cluster::{Cluster, Plan, Programs};
use crate::control_client::ControlClient;
use crate::load::{Load, LoadReport, Plan as LoadPlan, random_key};
use quorate_host::client::{Patience, Target, VmClient};
use quorate_host::clock::monotonic_ns;
use quorate_host::protocol::{Report, Status};

/// Name of the host that boots the VM.
pub const SOURCE: &str = "host-a";
/// Name of the host that gets it.
pub const DESTINATION: &str = "host-b";

/// Time for the first certificate.
const BOOT_LIMIT: Duration = Duration::from_secs(60);
/// Time for a part of the load, on top of what its rate needs.
const LOAD_GRACE: Duration = Duration::from_secs(60);
/// Pause between two looks at something that changes.
const POLL: Duration = Duration::from_millis(20);

/// Everything a demo showed.
#[derive(Debug)]
pub struct Shown {
    /// The attack, if there was one.
    pub attack: Option<&'static Attack>,
    /// End of the migration.
    pub report: Report,
    /// When the order to migrate was given, monotonic nanoseconds.
    pub ordered_ns: u64,
    /// When its end was known.
    pub ended_ns: u64,
    /// What the clients measured.
    pub load: LoadReport,
    /// What each host says about itself, in the order of the hosts; none if it did not answer.
    pub statuses: Vec<(String, Option<Status>)>,
    /// Hosts that gave a believable answer to a fresh request after everything.
    pub serving: Vec<String>,
    /// Names of Byzantine nodes.
    pub faulty: Vec<String>,
    /// What was refused.
    pub refusals: Refusals,
    /// Proof that the fault model was left, with the names of those who signed twice.
    pub conflict: Option<(ConflictingCertificates, Vec<String>)>,
    /// Certified slots.
    pub slots: u64,
    /// Attestations in them: by re-execution, by sampling.
    pub attestations: (u64, u64),
    /// What was written.
    pub written: Written,
    /// Folder of the certificates.
    pub certificates: PathBuf,
    /// Folder with everything, where it was kept.
    pub kept: Option<PathBuf>,
    /// Image, memory and verifiers, in words.
    pub setting: String,
}

/// Plays the demo.
pub async fn play(
    arguments: &Arguments,
    attack: Option<&'static Attack>,
    output: &Output,
) -> Result<Shown, Failure> {
    let progress = Progress::new(output);
    let folder = folder(arguments)?;
    let interrupted = async {
        // Without a handler the signal ends the process by itself.
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    };
    progress.phase("starting the cluster");
    let plan = plan(arguments, attack, &folder)?;
    let mut cluster = Cluster::start(plan).await?;
    let played = tokio::select! {
        played = Scene::new(arguments, attack, &folder, &progress, &cluster)?.play() => played,
        () = interrupted => Err(Failure::new(130, "Interrupted", "stopped by the user")),
    };
    progress.phase("stopping the cluster");
    cluster.stop().await;
    progress.clear();
    let mut shown = played.map_err(|failure| with_logs(failure, &cluster, &folder))?;
    shown.refusals.add_logs(&cluster);
    if arguments.keep.is_none() {
        discard(&folder, &cluster);
    } else {
        shown.kept = Some(folder);
    }
    Ok(shown)
}

/// Says where the logs of a failed run are.
fn with_logs(failure: Failure, cluster: &Cluster, folder: &Path) -> Failure {
    let ended: Vec<String> = cluster.ended_early();
    let text = match ended.is_empty() {
        true => failure.text.clone(),
        false => format!("{}; ended by themselves: {}", failure.text, ended.join(", ")),
    };
    let advice = format!("look at the logs in {}", folder.join("logs").display());
    let next = Some(failure.next.clone().unwrap_or(advice));
    Failure { text, next, ..failure }
}

/// Removes everything but the certificates.
fn discard(folder: &Path, cluster: &Cluster) {
    for part in ["keys", "data", "logs"] {
        // What cannot be removed stays in the temporary folder, readable by its owner only.
        let _ = std::fs::remove_dir_all(folder.join(part));
    }
    for name in cluster.node_names() {
        let _ = std::fs::remove_file(folder.join(format!("{name}.toml")));
    }
    let _ = std::fs::remove_file(folder.join("group.toml"));
}

fn folder(arguments: &Arguments) -> Result<PathBuf, Failure> {
    let folder = match &arguments.keep {
        Some(folder) => folder.clone(),
        None => {
            let mut suffix = [0; 6];
            getrandom::fill(&mut suffix)
                .map_err(|error| Failure::new(exit::RETRY, "ResourceExhausted", error))?;
            std::env::temp_dir().join(format!("quorate-demo-{}", quorate_attest::id::to_hex(&suffix)))
        }
    };
    // A second run in one folder would go on with the first one's journals.
    if folder.join("data").exists() {
        let failure = Failure::usage(format!("{} has been used by another run", folder.display()));
        return Err(failure.next("name a new folder with --keep"));
    }
    std::path::absolute(&folder).map_err(|error| Failure::file(&folder, error))
}

fn plan(arguments: &Arguments, attack: Option<&Attack>, folder: &Path) -> Result<Plan, Failure> {
    let programs = match &arguments.programs {
        Some(folder) => Programs::in_folder(folder),
        None => Programs::beside_current()
            .map_err(|error| Failure::new(exit::CONFIGURATION, "ProgramMissing", error))?,
    };
    let mut plan = Plan::new(folder, programs);
    plan.verifiers = arguments.verifiers.into();
    plan.sampled = arguments.sampled.into();
    plan.slot_interval_ms = arguments.slot_interval;
    plan.migration_timeout_ms = arguments.timeout.into();
    let Some(attack) = attack else { return Ok(plan) };
    let tolerated = plan.verifiers.saturating_sub(1) / 3;
    let last_verifiers = |count: usize| plan.verifiers - count.min(plan.verifiers)..plan.verifiers;
    let nodes: Vec<String> = match attack.byzantine {
        Byzantine::Source => vec![SOURCE.into()],
        Byzantine::Destination => vec![DESTINATION.into()],
        Byzantine::Verifiers => last_verifiers(tolerated).map(Plan::verifier_name).collect(),
        Byzantine::TooManyVerifiers => {
            let verifiers = last_verifiers(tolerated + 1).map(Plan::verifier_name);
            verifiers.chain([SOURCE.into()]).collect()
        }
    };
    plan.conducts = nodes.into_iter().map(|node| (node, attack.name.to_owned())).collect();
    Ok(plan)
}

struct Scene<'a> {
    arguments: &'a Arguments,
    attack: Option<&'static Attack>,
    folder: &'a Path,
    progress: &'a Progress,
    cluster: &'a Cluster,
    control: ControlClient,
    target: Arc<Target>,
}

impl<'a> Scene<'a> {
    fn new(
        arguments: &'a Arguments,
        attack: Option<&'static Attack>,
        folder: &'a Path,
        progress: &'a Progress,
        cluster: &'a Cluster,
    ) -> Result<Self, Failure> {
        let hosts = cluster.hosts();
        let control = ControlClient::of_folder(cluster.folder())?;
        let mut nonce = [0; Nonce::LENGTH];
        getrandom::fill(&mut nonce).map_err(|error| Failure::new(exit::RETRY, "ResourceExhausted", error))?;
        let host = hosts.first().map(|host| host.key);
        let host =
            host.ok_or_else(|| Failure::new(exit::CONFIGURATION, "BadConfig", "a cluster without hosts"))?;
        let spec = VmSpec {
            name: "kv".into(),
            image: ImageDigest::from_bytes(KV.digest()),
            machine_version: MACHINE_VERSION,
            memory_bytes: arguments.memory << 20,
            input_policy: InputPolicy::ClientSigned,
            output_policy: OutputPolicy::Certified,
            host,
            nonce: Nonce::from_bytes(nonce),
        };
        let target = Arc::new(Target::new(Arc::new(cluster.group().clone()), spec, hosts));
        Ok(Self { arguments, attack, folder, progress, cluster, control, target })
    }

    async fn play(self) -> Result<Shown, Failure> {
        self.boot().await?;
        self.fill().await?;
        let third = self.arguments.requests / 3;
        let load_plan = LoadPlan {
            clients: self.arguments.clients.into(),
            rate: self.arguments.rate,
            count: None,
            value_bytes: 128,
        };
        self.progress.phase("serving before the migration");
        let load = Load::start(Arc::clone(&self.target), load_plan)?;
        self.wait_for(&load, third, third).await?;
        let knockers = self.knock()?;
        let ordered_ns = monotonic_ns();
        let report = self.migrate(&load).await?;
        let ended_ns = monotonic_ns();
        self.progress.phase("serving after the migration");
        let served = load.served();
        let rest = (self.arguments.requests.saturating_sub(served)).max(third);
        let waited = self.wait_for(&load, served + rest, rest).await;
        self.progress.phase("reading everything back");
        let load = load.finish().await?;
        drop(knockers);
        // With the guarantee gone, the service may be gone too: what was seen is shown all the same.
        if self.attack.is_none_or(|attack| attack.outcome != Outcome::GuaranteeGone) {
            waited?;
        }
        self.progress.phase("asking who serves now");
        let serving = self.serving().await?;
        let statuses = self.statuses().await;
        self.progress.phase("collecting certificates");
        self.conclude(report, (ordered_ns, ended_ns), load, serving, statuses).await
    }

    /// Starts the VM and waits for its first certificate.
    async fn boot(&self) -> Result<(), Failure> {
        self.progress.phase("booting the guest under KVM");
        self.control.create(self.target.spec().clone(), KV.elf.to_vec()).await?;
        let deadline = Instant::now() + BOOT_LIMIT;
        loop {
            let status = self.control.operator().status(0).await?;
            if status.certified.is_some_and(|slot| slot >= Slot(1)) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let HostRefused { kind, detail } = status.errors.last().cloned().unwrap_or(HostRefused {
                    kind: "QuorumUnreachable".into(),
                    detail: "no verifier answered".into(),
                });
                let text = format!("no certificate within {BOOT_LIMIT:?}; last error: {kind}: {detail}");
                return Err(Failure::new(exit::NO_QUORUM, "QuorumUnreachable", text));
            }
            self.progress.detail("waiting for the first certificate");
            sleep(POLL).await;
        }
    }

    /// Gives the VM memory worth moving.
    async fn fill(&self) -> Result<(), Failure> {
        if self.arguments.fill == 0 {
            return Ok(());
        }
        let size = self.arguments.fill << 20;
        self.progress.phase(&format!("filling {} of guest memory", bytes(size)));
        let mut client = VmClient::new(Arc::clone(&self.target), random_key()?, 0)?;
        let operation = Operation::Fill { bytes: size, seed: 1 };
        let believed = client
            .call(op::FILL, operation.body())
            .await
            .map_err(|error| Failure::new(exit::NO_QUORUM, error.kind(), error))?;
        match believed.reply.status {
            quorate_attest::request::status::OK => Ok(()),
            status => {
                Err(Failure::refused("OperationFailed", format!("the guest refused to fill: {status}")))
            }
        }
    }

    /// Waits until `count` requests were answered, `more` of them new.
    async fn wait_for(&self, load: &Load, count: u64, more: u64) -> Result<(), Failure> {
        let rate = if self.arguments.rate > 0.0 { self.arguments.rate } else { 100.0 };
        let limit = LOAD_GRACE + Duration::from_secs_f64((more as f64 / rate).min(1e6) * 2.0);
        let deadline = Instant::now() + limit;
        loop {
            let served = load.served();
            if served >= count {
                return Ok(());
            }
            if Instant::now() > deadline {
                let text = format!("{served} of {count} requests were answered within {limit:?}");
                return Err(Failure::new(exit::NO_QUORUM, "QuorumUnreachable", text));
            }
            self.progress.detail(&format!("{served} of {count} requests"));
            sleep(POLL).await;
        }
    }

    async fn migrate(&self, load: &Load) -> Result<Report, Failure> {
        self.progress.phase("migrating");
        let hosts = self.target.hosts();
        let destination = hosts.get(1).map(|host| host.key);
        let destination =
            destination.ok_or_else(|| Failure::new(exit::CONFIGURATION, "BadConfig", "a single host"))?;
        let (vm, timeout) = (self.target.vm(), self.arguments.timeout);
        let report = self.control.migrate(vm, destination, timeout, |step| {
            let part = match step.total {
                0 => String::new(),
                total => format!(" {} of {}", bytes(step.done), bytes(total)),
            };
            self.progress.detail(&format!("{}{part}, {} requests", step.phase, load.served()));
        });
        Ok(report.await?)
    }

    /// During an attack every host is asked all the time, so that an instance that answers out of turn is heard.
    fn knock(&self) -> Result<JoinSet<()>, Failure> {
        let mut knockers = JoinSet::new();
        if self.attack.is_none() {
            return Ok(knockers);
        }
        let short = Duration::from_millis(300);
        for host in 0..self.target.hosts().len() {
            let client = VmClient::new(Arc::clone(&self.target), random_key()?, 0)?;
            let mut client = client.with_patience(Patience { attempt: short, call: short });
            knockers.spawn(async move {
                loop {
                    let operation = Operation::Get { key: b"knock".to_vec() };
                    // Whether it is believed does not matter: what is refused is counted by the target.
                    let _ = client.call_at(host, op::GET, operation.body()).await;
                    sleep(POLL).await;
                }
            });
        }
        Ok(knockers)
    }

    /// Hosts that answer a fresh request so that a client believes it.
    async fn serving(&self) -> Result<Vec<String>, Failure> {
        let patience = Patience { attempt: Duration::from_secs(1), call: Duration::from_secs(3) };
        let mut serving = Vec::new();
        for (index, host) in self.target.hosts().iter().enumerate() {
            let client = VmClient::new(Arc::clone(&self.target), random_key()?, 0)?;
            let operation = Operation::Get { key: b"probe".to_vec() };
            let answer = client.with_patience(patience).call_at(index, op::GET, operation.body()).await;
            if answer.is_ok() {
                serving.push(host.name.clone());
            }
        }
        Ok(serving)
    }

    async fn statuses(&self) -> Vec<(String, Option<Status>)> {
        let mut statuses = Vec::new();
        for (index, host) in self.target.hosts().iter().enumerate() {
            statuses.push((host.name.clone(), self.control.operator().status(index).await.ok()));
        }
        statuses
    }

    async fn conclude(
        &self,
        report: Report,
        (ordered_ns, ended_ns): (u64, u64),
        load: LoadReport,
        serving: Vec<String>,
        statuses: Vec<(String, Option<Status>)>,
    ) -> Result<Shown, Failure> {
        let mut records = Records::new(self.target.spec().clone());
        // The host that serves first: its certificates of a disputed slot are those the clients saw.
        let mut order: Vec<usize> = (0..self.target.hosts().len()).collect();
        order.sort_by_key(|host| !serving.contains(&self.target.hosts()[*host].name));
        for host in order {
            if let Ok(told) = self.control.operator().export(host, Slot(0)).await {
                records.add(told);
            }
        }
        let group = self.cluster.group();
        let certificates = self.folder.join("certificates");
        let written =
            records.write(&certificates, group, &self.cluster.folder().orchestrators, report.slot)?;
        let conflict = refusals::conflict(self.cluster, &self.target, group);
        let conflict = conflict.map(|(pair, both)| {
            let names = both.iter().map(|index| Plan::verifier_name(usize::from(*index))).collect();
            (pair, names)
        });
        let mut refusals = Refusals::default();
        refusals.add_report(&report, DESTINATION);
        refusals.add_clients(&self.target);
        let count = |sum: (u64, u64), counted: quorate_attest::vm::Verified| {
            (sum.0 + counted.replayed, sum.1 + counted.sampled)
        };
        let attestations = records.slots.values().map(|slot| slot.count()).fold((0, 0), count);
        self.control.close().await;
        let names = self.cluster.node_names().into_iter();
        Ok(Shown {
            attack: self.attack,
            report,
            ordered_ns,
            ended_ns,
            load,
            statuses,
            serving,
            faulty: names.filter(|name| self.cluster.is_faulty(name)).collect(),
            refusals,
            conflict,
            slots: records.slots.len() as u64,
            attestations,
            written,
            certificates,
            kept: None,
            setting: format!(
                "kv guest with {} MiB, {} verifiers ({} sampling), f = {}",
                self.arguments.memory, self.arguments.verifiers, self.arguments.sampled, group.f,
            ),
        })
    }
}
