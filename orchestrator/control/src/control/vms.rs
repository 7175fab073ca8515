//! `CreateVm` and `DeleteVm`.

use quorate_attest::encoding::Bounded;
use quorate_attest::id::{Generation, VmId};
use quorate_attest::key::PublicKey;
use quorate_attest::vm::VmSpec;

use super::{Control, Entry, Holdings, Role};
use crate::outcome::{Answer, Failure, Outcome};
use crate::state::{TOMBSTONES_LIMIT, VMS_LIMIT, Vm, VmEntry, vm_key};

impl Control {
    pub(super) fn create_vm(&mut self, entry: Entry, spec: VmSpec) -> Outcome {
        spec.validate()?;
        let vm = spec.id();
        if let Some(known) = self.vms.get(&vm) {
            return Err(Failure::conflict(format!("VM {vm} was created at log index {}", known.created)));
        }
        if let Some(index) = self.deleted.get(&vm) {
            return Err(Failure::conflict(format!("VM {vm} was deleted at log index {index}")));
        }
        if let Some(other) = self.names.get(&spec.name) {
            return Err(Failure::conflict(format!("VM {other} has the name {}", spec.name)));
        }
        self.check_host(&spec.host)?;
        if self.vms.len() >= VMS_LIMIT {
            return Err(Failure::limit(format!("the registry holds {VMS_LIMIT} VMs")));
        }
        let holdings = self.with_one_more(&entry, spec.memory_bytes)?;
        self.holdings.insert(entry.author, holdings);
        self.names.insert(spec.name.clone(), vm);
        let record = Vm {
            owner: entry.author,
            created: entry.index,
            generation: Generation::ZERO,
            host: spec.host,
            next_generation: Generation(1),
            head: None,
            active: None,
            grants: Vec::new(),
            migration: None,
            spec,
        };
        self.put_vm(vm, record);
        Ok(Answer::Created { vm })
    }

    pub(super) fn delete_vm(&mut self, entry: Entry, vm: VmId) -> Outcome {
        let record = self.live(&vm)?;
        check_owner(&entry, record)?;
        self.check_settled(record)?;
        let (owner, name, memory) = (record.owner, record.spec.name.clone(), record.spec.memory_bytes);
        self.vms.remove(&vm);
        self.names.remove(&name);
        self.release(owner, memory);
        self.map.put(vm_key(&vm), VmEntry::Deleted(entry.index).encoded());
        self.deleted.insert(vm, entry.index);
        self.deleted_order.insert((entry.index, vm));
        if self.deleted.len() > TOMBSTONES_LIMIT
            && let Some((_, oldest)) = self.deleted_order.pop_first()
        {
            self.deleted.remove(&oldest);
            self.map.remove(&vm_key(&oldest));
        }
        Ok(Answer::Deleted { vm })
    }

    /// What the author has with one more VM, if its quota allows that.
    fn with_one_more(&self, entry: &Entry, memory_bytes: u64) -> Result<Holdings, Failure> {
        let have = self.holdings.get(&entry.author).copied().unwrap_or_default();
        let vms = have.vms.saturating_add(1);
        let memory_bytes = have.memory_bytes.saturating_add(memory_bytes);
        if entry.role == Role::Client
            && let Some(client) = self.clients.get(&entry.author)
        {
            let quota = client.quota;
            if vms > quota.vms {
                return Err(Failure::limit(format!("quota of {} VMs is used up", quota.vms)));
            }
            if memory_bytes > quota.memory_bytes {
                let limit = quota.memory_bytes;
                return Err(Failure::limit(format!("{memory_bytes} bytes are over the quota of {limit}")));
            }
        }
        Ok(Holdings { vms, memory_bytes })
    }

    fn release(&mut self, owner: PublicKey, memory_bytes: u64) {
        if let Some(holdings) = self.holdings.get_mut(&owner) {
            holdings.vms = holdings.vms.saturating_sub(1);
            holdings.memory_bytes = holdings.memory_bytes.saturating_sub(memory_bytes);
            if holdings.vms == 0 {
                self.holdings.remove(&owner);
            }
        }
    }

    /// Takes a VM of a snapshot into the quick forms; answers whether its name and id are new.
    pub(crate) fn load_vm(&mut self, id: VmId, vm: Vm) -> bool {
        let holdings = self.holdings.entry(vm.owner).or_default();
        holdings.vms = holdings.vms.saturating_add(1);
        holdings.memory_bytes = holdings.memory_bytes.saturating_add(vm.spec.memory_bytes);
        let new_name = self.names.insert(vm.spec.name.clone(), id).is_none();
        let new_place = match &vm.migration {
            Some((operation, _)) => self.places.insert(*operation, super::Place::UnderWay(id)).is_none(),
            None => true,
        };
        self.vms.insert(id, vm).is_none() && new_name && new_place
    }

    /// Takes a deleted VM of a snapshot into the quick forms.
    pub(crate) fn load_deleted(&mut self, id: VmId, index: u64) {
        self.deleted.insert(id, index);
        self.deleted_order.insert((index, id));
    }
}

/// Operators and the owner.
pub(super) fn check_owner(entry: &Entry, vm: &Vm) -> Result<(), Failure> {
    if entry.is_operator() || vm.owner == entry.author {
        return Ok(());
    }
    Err(Failure::not_authorized(format!("VM {} belongs to another client", vm.spec.name)))
}
