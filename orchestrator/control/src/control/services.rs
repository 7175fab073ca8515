//! `CreateService`, `CallService` and `UpgradeService`.

use quorate_attest::VerifyError;
use quorate_attest::encoding::{Bounded, is_name};
use quorate_attest::id::{ImageDigest, ServiceId};
use quorate_attest::service::ServiceSpec;
use quorate_attest::state_tree::VALUE_LIMIT;

use super::{Control, Entry};
use crate::outcome::{Answer, Failure, Outcome};
use crate::state::{
    SERVICES_LIMIT, Service, ServiceProgress, ServiceRecord, UPGRADES_LIMIT, Upgrade, service_key,
    service_progress_key, service_vm_name,
};

impl Control {
    pub(super) fn create_service(&mut self, entry: Entry, spec: ServiceSpec) -> Outcome {
        check(&spec)?;
        let service = spec.id();
        if let Some(known) = self.services.get(&service) {
            let index = known.record.created;
            return Err(Failure::conflict(format!("service {service} was created at log index {index}")));
        }
        if let Some(other) = self.service_names.get(&spec.name) {
            return Err(Failure::conflict(format!("service {other} has the name {}", spec.name)));
        }
        if self.services.len() >= SERVICES_LIMIT {
            return Err(Failure::limit(format!("there are {SERVICES_LIMIT} services")));
        }
        let record = ServiceRecord { spec, created: entry.index, operation: entry.operation };
        let value = record.encoded();
        if value.len() > VALUE_LIMIT {
            let (what, limit, got) = ("service specification", VALUE_LIMIT, value.len());
            return Err(VerifyError::MessageTooLarge { what, limit, got }.into());
        }
        self.map.put(service_key(&service), value);
        self.service_names.insert(record.spec.name.clone(), service);
        let progress = ServiceProgress { ordered: 1, upgrades: Vec::new() };
        self.map.put(service_progress_key(&service), progress.encoded());
        self.services.insert(service, Service { record, progress });
        Ok(Answer::ServiceCreated { service })
    }

    pub(super) fn call_service(&mut self, service: ServiceId) -> Outcome {
        let known = self.services.get_mut(&service).ok_or_else(|| unknown(&service))?;
        let number = known.progress.ordered;
        let Some(next) = number.checked_add(1) else {
            return Err(Failure::limit("the service has no further number"));
        };
        known.progress.ordered = next;
        self.map.put(service_progress_key(&service), known.progress.encoded());
        Ok(Answer::Numbered { service, number })
    }

    pub(super) fn upgrade_service(&mut self, service: ServiceId, image: ImageDigest, number: u64) -> Outcome {
        let known = self.services.get_mut(&service).ok_or_else(|| unknown(&service))?;
        let ServiceProgress { ordered, upgrades } = &mut known.progress;
        let upgrade = Upgrade { number, image };
        if upgrades.last() == Some(&upgrade) {
            return Ok(Answer::ServiceUpgraded { service, image, number });
        }
        if number < *ordered {
            return Err(Failure::stale(format!("entry {number} has a request; the next one is {ordered}")));
        }
        let newest = upgrades.last().map_or(known.record.spec.image, |last| last.image);
        if upgrades.last().is_some_and(|last| last.number >= number) {
            return Err(Failure::conflict(format!("an upgrade at entry {number} or later is ordered")));
        }
        if newest == image {
            return Err(Failure::conflict(format!("the service already has image {image}")));
        }
        if upgrades.len() >= UPGRADES_LIMIT {
            return Err(Failure::limit(format!("the service was upgraded {UPGRADES_LIMIT} times")));
        }
        upgrades.push(upgrade);
        self.map.put(service_progress_key(&service), known.progress.encoded());
        Ok(Answer::ServiceUpgraded { service, image, number })
    }

    /// Takes a service of a snapshot into the quick forms; answers whether the two records make one service.
    pub(crate) fn load_service(
        &mut self,
        service: ServiceId,
        record: ServiceRecord,
        progress: ServiceProgress,
    ) -> bool {
        let ascending = progress.upgrades.is_sorted_by(|a, b| a.number < b.number);
        let fits = record.spec.id() == service && progress.ordered > 0 && ascending;
        let new_name = self.service_names.insert(record.spec.name.clone(), service).is_none();
        self.services.insert(service, Service { record, progress }).is_none() && fits && new_name
    }
}

/// A specification whose VMs, also those of later images, have names that a VM may have.
fn check(spec: &ServiceSpec) -> Result<(), Failure> {
    spec.validate()?;
    let longest = service_vm_name(spec, u16::MAX, UPGRADES_LIMIT);
    if is_name(&longest, 64) {
        return Ok(());
    }
    let reason = format!("service name {} is too long for the names of its VMs", spec.name);
    Err(VerifyError::BadConfig { reason }.into())
}

fn unknown(service: &ServiceId) -> Failure {
    Failure::not_found(format!("service {service} is not in the registry"))
}
