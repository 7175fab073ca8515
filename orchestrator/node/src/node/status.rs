//! How the node is: for `Question::Status`, for HTTP and for the metrics.

use std::sync::Arc;
use std::time::Duration;

use quorate_agreement::OrderedLog;
use quorate_attest::id::{VmId, to_hex};
use quorate_control::{Phase, Vm, Which};
use quorate_ordering::orderer::told;
use quorate_ordering::protocol::{ANSWER_BYTES_MAX, Question};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Shared;

/// Time between two looks at the log for the metrics.
const INTERVAL: Duration = Duration::from_secs(1);

/// How an orchestrator is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct NodeStatus {
    /// Name in the group.
    pub name: String,
    /// Its index in the present epoch; none if it is no member any more.
    pub index: Option<u16>,
    /// Epoch of the orchestrators' group.
    pub epoch: u64,
    /// Entries executed.
    pub applied: u64,
    /// Entries of the log here.
    pub entries: u64,
    /// Blocks of the log here, in this epoch.
    pub height: u64,
    /// Newest view of the consensus.
    pub view: u64,
    /// Operations that wait for a block.
    pub pending: u64,
    /// Requests that wait for an execution.
    pub waiting: u64,
    /// Other members connected.
    pub connected: u64,
    /// Members of the group.
    pub members: u64,
    /// Whether a quorum is connected and everything known to be final is here.
    pub synced: bool,
    /// Root of the executed log.
    pub log_root: String,
    /// Root of the state.
    pub state_root: String,
    /// VMs under management.
    pub vms: u64,
    /// Migrations under way.
    pub migrations: u64,
    /// Version of the program.
    pub version: String,
}

impl NodeStatus {
    /// The JSON text that operators see.
    #[must_use]
    pub fn to_json(&self) -> String {
        // Names, numbers and hexadecimal text: nothing here that JSON cannot express.
        serde_json::to_string(self).unwrap_or_default()
    }
}

impl Shared {
    /// How the node is now.
    pub(crate) fn status(&self) -> NodeStatus {
        let log = self.log.status();
        let replica = self.replica();
        let control = replica.control();
        NodeStatus {
            name: self.name.clone(),
            index: replica.index(),
            epoch: replica.group().epoch.get(),
            applied: replica.applied(),
            entries: log.entries,
            height: log.height,
            view: log.view,
            pending: log.pending as u64,
            waiting: self.waiters.len() as u64,
            connected: log.connected as u64,
            members: replica.group().members.len() as u64,
            synced: log.synced && replica.applied() >= log.entries,
            log_root: to_hex(&replica.log_root()),
            state_root: to_hex(&control.root().0),
            vms: control.vms().count() as u64,
            migrations: control.vms().filter(|(_, vm)| vm.migration.is_some()).count() as u64,
            version: env!("CARGO_PKG_VERSION").to_owned(),
        }
    }

    /// Answers a question about the state, with the number of entries that led to it.
    pub(super) fn tell_of_state(&self, question: &Question) -> (u64, Vec<u8>) {
        let replica = self.replica();
        let control = replica.control();
        let answer = match question {
            Question::Vm(vm) => told(&control.vm(vm)),
            Question::Vms(after) => told(&page(control.vms(), after.as_ref())),
            Question::Verifiers => told(control.groups(Which::Verifiers)),
            Question::Orchestrators | Question::Status | Question::Heads => {
                told(control.groups(Which::Orchestrators))
            }
        };
        (replica.applied(), answer)
    }

    /// Whether so many members are connected that operations can be ordered.
    pub(crate) fn is_quorum_connected(&self) -> bool {
        let connected = self.log.status().connected as u64 + 1;
        self.replica().group().rule().is_ok_and(|rule| connected >= rule.quorum())
    }
}

/// VMs after one, as many as fit into an answer.
fn page<'a>(vms: impl Iterator<Item = (&'a VmId, &'a Vm)>, after: Option<&VmId>) -> Vec<(VmId, &'a Vm)> {
    let mut bytes = 0;
    vms.skip_while(|(id, _)| after.is_some_and(|after| *id <= after))
        .map(|(id, vm)| (*id, vm))
        .take_while(|(_, vm)| {
            bytes += VmId::LENGTH + told(vm).len();
            bytes < ANSWER_BYTES_MAX - 64
        })
        .collect()
}

/// Name of a phase of a migration.
pub(crate) fn phase_name(phase: Phase) -> &'static str {
    match phase {
        Phase::Begun => "begun",
        Phase::Granted => "granted",
        Phase::Activated => "activated",
        Phase::Aborted => "aborted",
        Phase::Declined => "declined",
        Phase::Superseded => "superseded",
    }
}

/// Keeps the gauges up to date and ends the node when its log has stopped, until the task is ended.
pub(super) async fn watch(shared: Arc<Shared>) {
    let mut evidence = 0;
    loop {
        let log = shared.log.status();
        let metrics = &shared.metrics;
        metrics.log_entries.set(log.entries);
        metrics.peers.set(log.connected as u64);
        metrics.quorum_reachable.set(u64::from(shared.is_quorum_connected()));
        metrics.waiting("mempool", log.pending);
        metrics.waiting("waiters", shared.waiters.len());
        for _ in evidence..log.evidence {
            metrics.evidence("DoubleVote");
        }
        evidence = log.evidence;
        if let Some(reason) = log.failed.filter(|_| !shared.is_leaving()) {
            return shared.log_stopped(&reason);
        }
        tokio::time::sleep(INTERVAL).await;
    }
}
