//! Has the heads of the services' logs cosigned where they grew, as far as f + 1 other replicas have the same log.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use quorate_attest::service::service_origin;
use quorate_ordering::protocol::CosignedHead;
use quorate_signer::protocol::{CosignRequest, Head};
use tokio::time::sleep;

use super::guest::GuestError;
use super::{Running, ServiceHost};
use crate::node::Shared;

/// Time between two looks.
const INTERVAL: Duration = Duration::from_secs(1);

/// Runs until the task is ended.
pub(super) async fn run(host: Arc<ServiceHost>, shared: Arc<Shared>) {
    let mut failing = BTreeMap::new();
    loop {
        sleep(INTERVAL).await;
        for running in host.all() {
            let service = running.service;
            if running.stopped().is_some() {
                continue;
            }
            match cosign(&host, &shared, &running).await {
                Ok(()) => drop(failing.remove(&service)),
                Err(error) if failing.get(&service) == Some(&error.kind) => {}
                Err(error) => {
                    tracing::warn!(%service, error_kind = error.kind, "head not cosigned: {}", error.detail);
                    failing.insert(service, error.kind);
                }
            }
        }
    }
}

async fn cosign(host: &ServiceHost, shared: &Shared, running: &Running) -> Result<(), GuestError> {
    let service = running.service;
    let failed = |error: crate::store::StoreError| GuestError::new(error.kind(), &error);
    let name = {
        let replica = shared.replica();
        replica.control().service(&service).map(|service| service.record.spec.name.clone())
    };
    let Some(name) = name else { return Ok(()) };
    let origin = service_origin(&host.parts.group.name, &name);
    let old_size = host.parts.signer.cosigned(&origin).await?;
    let (head, proof) = {
        let view = host.store.read().map_err(failed)?;
        // What is cosigned cannot be taken back: a head that only this replica has would end its cosigning for good.
        let size = view.size(&service).map_err(failed)?.min(running.agreed.load(Ordering::Relaxed));
        let known = view.heads(&service).map_err(failed)?.last().map(|head| head.size);
        if size == 0 || known >= Some(size) {
            return Ok(());
        }
        let root = view.root(&service, size).map_err(failed)?;
        let Some(proof) = view.consistency(&service, old_size, size).map_err(failed)? else {
            return Err(GuestError::new(
                "Stale",
                format!("a head of {old_size} entries was cosigned, {size} are here"),
            ));
        };
        (Head { origin, size, root }, proof)
    };
    let (size, root) = (head.size, head.root);
    let cosignature = host.parts.signer.cosign(CosignRequest { old_size, head, proof }).await?;
    host.store.put_head(&service, &CosignedHead { size, root, cosignature }).map_err(failed)
}
