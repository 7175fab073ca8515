//! The state machine: who may do what, and what each command does.

mod clients;
mod grants;
mod groups;
mod migrations;
mod services;
mod vms;

use std::collections::{BTreeMap, BTreeSet};

use quorate_attest::VerifyError;
use quorate_attest::encoding::{Bounded, to_bytes};
use quorate_attest::epoch::GroupChain;
use quorate_attest::id::{GroupId, OperationId, ServiceId, VmId};
use quorate_attest::key::PublicKey;
use quorate_attest::merkle::Digest;
use quorate_attest::state_tree::{StateCommitment, StateTree};
use quorate_attest::vm::Decision;
use sha2::{Digest as _, Sha256};

use crate::command::{Command, Which};
use crate::outcome::{Answer, Failure, Outcome, encode_outcome};
use crate::state::{
    Client, FINISHED_COUNT_KEY, FINISHED_LIMIT, Finished, GroupEntry, Migration, QUOTA_WINDOW, Service, Vm,
    VmEntry, client_key, finished_key, group_key, vm_key,
};
use crate::submission::Submission;

/// What an entry of the log led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// Answer or failure.
    pub result: Outcome,
    /// SHA-256 of the encoded result, as it stands in the receipt.
    pub result_digest: [u8; 32],
    /// Decision to sign: the one that was made, or the one that stands in the way.
    pub decision: Option<Decision>,
    /// Group that is in a new epoch from the next entry on.
    pub epoch_change: Option<Which>,
}

impl Applied {
    fn new(result: Outcome) -> Self {
        let decision = match &result {
            Ok(Answer::Decided(decision)) => Some(decision.clone()),
            Ok(_) => None,
            Err(failure) => failure.winner.as_deref().cloned(),
        };
        let epoch_change = match &result {
            Ok(Answer::EpochBegun { which, .. }) => Some(*which),
            _ => None,
        };
        let result_digest = Sha256::digest(encode_outcome(&result)).into();
        Self { result, result_digest, decision, epoch_change }
    }

    /// Encoded result, of which `result_digest` is the digest.
    pub fn outcome(&self) -> Vec<u8> {
        encode_outcome(&self.result)
    }
}

/// Where a migration is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    UnderWay(VmId),
    /// Number of the ended migration.
    Finished(u64),
}

/// What a client has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Holdings {
    vms: u32,
    memory_bytes: u64,
}

/// The operation under way and the rights of its author.
#[derive(Debug, Clone, Copy)]
struct Entry {
    index: u64,
    operation: OperationId,
    author: PublicKey,
    role: Role,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Operator,
    Member,
    Host,
    Client,
}

impl Entry {
    fn is_operator(&self) -> bool {
        self.role == Role::Operator
    }
}

/// The replicated state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Control {
    pub(crate) orchestrators: GroupChain,
    pub(crate) verifiers: GroupChain,
    pub(crate) map: StateTree,
    // What follows is the map in a form that is quick to use.
    vms: BTreeMap<VmId, Vm>,
    names: BTreeMap<String, VmId>,
    holdings: BTreeMap<PublicKey, Holdings>,
    clients: BTreeMap<PublicKey, Client>,
    services: BTreeMap<ServiceId, Service>,
    service_names: BTreeMap<String, ServiceId>,
    places: BTreeMap<OperationId, Place>,
    finished: BTreeMap<u64, Finished>,
    finished_count: u64,
    deleted: BTreeMap<VmId, u64>,
    deleted_order: BTreeSet<(u64, VmId)>,
    revoked_order: BTreeSet<(u64, PublicKey)>,
}

impl Control {
    /// The state before the first entry. Chains that already have links are taken as they are.
    pub fn genesis(orchestrators: GroupChain, verifiers: GroupChain) -> Self {
        let mut control = Self::empty(orchestrators, verifiers);
        for which in [Which::Orchestrators, Which::Verifiers] {
            control.put_group(which);
        }
        control.map.put(FINISHED_COUNT_KEY.to_vec(), to_bytes(&0u64));
        control
    }

    pub(crate) fn empty(orchestrators: GroupChain, verifiers: GroupChain) -> Self {
        Self {
            orchestrators,
            verifiers,
            map: StateTree::default(),
            vms: BTreeMap::new(),
            names: BTreeMap::new(),
            holdings: BTreeMap::new(),
            clients: BTreeMap::new(),
            services: BTreeMap::new(),
            service_names: BTreeMap::new(),
            places: BTreeMap::new(),
            finished: BTreeMap::new(),
            finished_count: 0,
            deleted: BTreeMap::new(),
            deleted_order: BTreeSet::new(),
            revoked_order: BTreeSet::new(),
        }
    }

    /// Applies the entry at `index`. Total: whatever the bytes are, there is an outcome.
    pub fn apply(&mut self, index: u64, operation: &[u8]) -> Applied {
        let submission = Submission::read(operation, &self.group());
        self.apply_submission(index, &submission)
    }

    /// Like [`Self::apply`] for bytes that were read before, with [`Self::group`], so that the signature is checked once.
    pub fn apply_submission(&mut self, index: u64, submission: &Submission) -> Applied {
        Applied::new(self.execute(index, submission))
    }

    /// Whether an operation is worth ordering now: signed, understood, by an author who may ask and has quota left. One
    /// that is refused here would be refused by [`Self::apply`] in this state too.
    pub fn admit(&self, submission: &Submission, index: u64) -> Result<(), Failure> {
        let operation = submission.operation().map_err(Clone::clone)?;
        let command = Command::decoded(&operation.command)?;
        let role = self.role(&operation.author, &command)?;
        if role == Role::Client {
            self.charged(&operation.author, index)?;
        }
        Ok(())
    }

    /// The group whose log this is.
    pub fn group(&self) -> GroupId {
        self.orchestrators.id()
    }

    /// Root and number of entries of the state.
    pub fn commitment(&self) -> StateCommitment {
        self.map.commitment()
    }

    /// Root and number of entries of the state, as they stand in a receipt.
    pub fn root(&self) -> (Digest, u64) {
        let StateCommitment { root, size } = self.commitment();
        (root, size)
    }

    /// The state as a sorted map, from which proofs are made.
    pub fn tree(&self) -> &StateTree {
        &self.map
    }

    /// A VM in the registry.
    pub fn vm(&self, vm: &VmId) -> Option<&Vm> {
        self.vms.get(vm)
    }

    /// The VM that has this name.
    pub fn vm_named(&self, name: &str) -> Option<VmId> {
        self.names.get(name).copied()
    }

    /// All VMs in ascending order of their ids.
    pub fn vms(&self) -> impl Iterator<Item = (&VmId, &Vm)> {
        self.vms.iter()
    }

    /// A migration, under way or ended not long ago, by the operation that began it.
    pub fn migration(&self, operation: &OperationId) -> Option<&Migration> {
        match self.places.get(operation)? {
            Place::UnderWay(vm) => {
                self.vms.get(vm)?.migration.as_ref().filter(|(id, _)| id == operation).map(|(_, found)| found)
            }
            Place::Finished(count) => self.finished.get(count).map(|finished| &finished.migration),
        }
    }

    /// A client, also one whose rights have ended not long ago.
    pub fn client(&self, key: &PublicKey) -> Option<&Client> {
        self.clients.get(key)
    }

    /// All clients in ascending order of their keys.
    pub fn clients(&self) -> impl Iterator<Item = (&PublicKey, &Client)> {
        self.clients.iter()
    }

    /// A service.
    pub fn service(&self, service: &ServiceId) -> Option<&Service> {
        self.services.get(service)
    }

    /// The service that has this name.
    pub fn service_named(&self, name: &str) -> Option<ServiceId> {
        self.service_names.get(name).copied()
    }

    /// All services in ascending order of their ids.
    pub fn services(&self) -> impl Iterator<Item = (&ServiceId, &Service)> {
        self.services.iter()
    }

    /// The chain of a group.
    pub fn groups(&self, which: Which) -> &GroupChain {
        match which {
            Which::Orchestrators => &self.orchestrators,
            Which::Verifiers => &self.verifiers,
        }
    }

    fn execute(&mut self, index: u64, submission: &Submission) -> Outcome {
        let operation = submission.operation().map_err(Clone::clone)?;
        let command = Command::decoded(&operation.command)?;
        let role = self.role(&operation.author, &command)?;
        let entry = Entry { index, operation: submission.id(), author: operation.author, role };
        if role == Role::Client {
            // Whatever becomes of it: a failure takes a place in the log too.
            self.put_client(entry.author, self.charged(&entry.author, index)?);
        }
        match command {
            Command::CreateVm { spec } => self.create_vm(entry, spec),
            Command::DeleteVm { vm } => self.delete_vm(entry, vm),
            Command::Begin { vm, destination, generation } => self.begin(entry, vm, destination, generation),
            Command::Handover { migration, relinquish } => self.handover(entry, migration, relinquish),
            Command::Activate { certificate } => self.activate(entry, &certificate),
            Command::Abort { vm, migration, evidence } => self.abort(entry, vm, migration, evidence),
            Command::Recover { vm, host, generation, slot } => {
                self.recover(entry, vm, host, generation, &slot)
            }
            Command::Head { certificate } => self.head(entry, &certificate),
            Command::RegisterClient { key, quota, revision } => self.register_client(key, quota, revision),
            Command::RevokeClient { key } => self.revoke_client(entry, key),
            Command::ChangeGroup { which, link } => self.change_group(which, link),
            Command::CreateService { spec } => self.create_service(entry, spec),
            Command::CallService { service, .. } => self.call_service(service),
            Command::UpgradeService { service, image, number } => {
                self.upgrade_service(service, image, number)
            }
        }
    }

    /// Role in which the author may ask for this kind of command at all.
    fn role(&self, author: &PublicKey, command: &Command) -> Result<Role, Failure> {
        let (orchestrators, verifiers) = (self.orchestrators.current(), self.verifiers.current());
        if orchestrators.is_operator(author) {
            return Ok(Role::Operator);
        }
        match command {
            Command::ChangeGroup { .. }
                if orchestrators.index_of(author).is_ok() || verifiers.index_of(author).is_ok() =>
            {
                Ok(Role::Member)
            }
            // Orchestrators tell services the time.
            Command::CallService { .. } if orchestrators.index_of(author).is_ok() => Ok(Role::Member),
            Command::Handover { .. }
            | Command::Activate { .. }
            | Command::Abort { .. }
            | Command::Head { .. }
                if verifiers.is_host(author) =>
            {
                Ok(Role::Host)
            }
            Command::CreateVm { .. }
            | Command::DeleteVm { .. }
            | Command::Begin { .. }
            | Command::Abort { .. }
            | Command::CallService { .. } => match self.clients.get(author) {
                Some(Client { revoked: Some(index), .. }) => {
                    let text = format!("client key {author} was revoked at log index {index}");
                    Err(Failure { kind: "KeyRevoked".into(), ..Failure::not_authorized(text) })
                }
                Some(_) => Ok(Role::Client),
                None => Err(Failure::not_authorized(format!("key {author} may not {}", command.name()))),
            },
            _ => Err(Failure::not_authorized(format!("key {author} may not {}", command.name()))),
        }
    }

    /// The client after one more operation.
    fn charged(&self, key: &PublicKey, index: u64) -> Result<Client, Failure> {
        let Some(client) = self.clients.get(key) else {
            return Err(Failure::not_authorized(format!("key {key} is no client")));
        };
        let window = index / QUOTA_WINDOW;
        let used = if client.window == window { client.used } else { 0 };
        let limit = client.quota.operations;
        if used >= limit {
            return Err(Failure::limit(format!(
                "{limit} operations in {QUOTA_WINDOW} log entries are used up"
            )));
        }
        Ok(Client { window, used: used + 1, ..*client })
    }

    fn live(&self, vm: &VmId) -> Result<&Vm, Failure> {
        self.vms.get(vm).ok_or_else(|| match self.deleted.get(vm) {
            Some(index) => Failure::not_found(format!("VM {vm} was deleted at log index {index}")),
            None => Failure::not_found(format!("VM {vm} is not in the registry")),
        })
    }

    fn check_host(&self, host: &PublicKey) -> Result<(), Failure> {
        if self.verifiers.current().is_host(host) {
            return Ok(());
        }
        Err(VerifyError::KeyRoleMismatch { role: "host", got: *host }.into())
    }

    /// The decision as members of the current epoch sign it.
    fn reissued(&self, decision: &Decision) -> Decision {
        Decision { epoch: self.orchestrators.current().epoch, ..decision.clone() }
    }

    fn put_vm(&mut self, id: VmId, vm: Vm) {
        self.map.put(vm_key(&id), VmEntry::Live(vm.clone()).encoded());
        self.vms.insert(id, vm);
    }

    fn put_client(&mut self, key: PublicKey, client: Client) {
        self.map.put(client_key(&key), client.encoded());
        self.clients.insert(key, client);
    }

    fn put_group(&mut self, which: Which) {
        let config = self.groups(which).current();
        let entry = GroupEntry { epoch: config.epoch, config: config.digest() };
        self.map.put(group_key(which).to_vec(), entry.encoded());
    }

    /// Keeps an ended migration in the place of the oldest one.
    fn put_finished(&mut self, id: OperationId, migration: Migration) {
        let count = self.finished_count;
        if let Some(oldest) = count.checked_sub(FINISHED_LIMIT)
            && let Some(forgotten) = self.finished.remove(&oldest)
        {
            self.places.remove(&forgotten.id);
        }
        let finished = Finished { id, migration };
        self.map.put(finished_key(count), finished.encoded());
        self.places.insert(id, Place::Finished(count));
        self.finished.insert(count, finished);
        self.finished_count += 1;
        self.map.put(FINISHED_COUNT_KEY.to_vec(), to_bytes(&self.finished_count));
    }
}

impl Control {
    /// Notes a later grant in an ended migration that is still known.
    fn amend_finished(&mut self, operation: &OperationId, decision: &Decision) {
        let Some(Place::Finished(count)) = self.places.get(operation).copied() else { return };
        if let Some(finished) = self.finished.get_mut(&count) {
            finished.migration.decision = decision.clone();
            self.map.put(finished_key(count), finished.encoded());
        }
    }
}
