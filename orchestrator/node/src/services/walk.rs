//! Follows the executed log and notes which of its entries are which entries of which services.

use std::sync::Arc;
use std::time::Instant;

use quorate_attest::encoding::Bounded;
use quorate_attest::id::ServiceId;
use quorate_attest::operation::Operation;
use quorate_attest::service::TICK;
use quorate_control::{Answer, Command, decode_outcome};

use super::{ServiceHost, lock, task};
use crate::node::Shared;
use crate::store::{StoreError, StoredEntry, View};

/// Entries looked at in one transaction.
const CHUNK: u64 = 1024;

/// Walks until the task is ended.
pub(super) async fn run(host: Arc<ServiceHost>, shared: Arc<Shared>) {
    let mut applied = shared.applied.subscribe();
    let mut replicas = tokio::task::JoinSet::new();
    loop {
        loop {
            match step(&host, &shared) {
                Ok(true) => tokio::task::yield_now().await,
                Ok(false) => break,
                Err(error) => return shared.storage_failed(error),
            }
        }
        if let Err(error) = spawn_new(&host, &shared, &mut replicas) {
            return shared.storage_failed(error);
        }
        if applied.changed().await.is_err() {
            return;
        }
    }
}

/// Looks at the next entries; answers whether there were any.
fn step(host: &ServiceHost, shared: &Shared) -> Result<bool, StoreError> {
    let view = shared.store.read()?;
    let (walked, size) = (*host.walked.borrow(), view.size()?);
    if walked >= size {
        return Ok(false);
    }
    let end = size.min(walked + CHUNK);
    let mut ordered = Vec::new();
    for index in walked..end {
        let entry = view.entry(index)?.ok_or_else(|| StoreError::damaged(format!("entry {index}")))?;
        if let Some((service, number)) = numbered(&entry) {
            ordered.push((service, number, index));
            note_call(host, &service, &entry);
        }
    }
    host.store.number(&ordered, end)?;
    host.walked.send_replace(end);
    Ok(true)
}

/// Which entry of which service an entry of the log is.
fn numbered(entry: &StoredEntry) -> Option<(ServiceId, u64)> {
    match decode_outcome(&entry.outcome) {
        Ok(Ok(Answer::ServiceCreated { service })) => Some((service, 0)),
        Ok(Ok(Answer::Numbered { service, number })) => Some((service, number)),
        _ => None,
    }
}

/// The request that an entry of the log ordered; nothing for the creation of a service.
pub(super) fn request(view: &View, index: u64) -> Result<(StoredEntry, Vec<u8>), StoreError> {
    let damaged = || StoreError::damaged(format!("entry {index}"));
    let mut entry = view.entry(index)?.ok_or_else(damaged)?;
    let operation = Operation::decoded(&std::mem::take(&mut entry.operation)).map_err(|_| damaged())?;
    match Command::decoded(&operation.command) {
        Ok(Command::CallService { request, .. }) => Ok((entry, request)),
        Ok(Command::CreateService { .. }) => Ok((entry, Vec::new())),
        _ => Err(damaged()),
    }
}

fn note_call(host: &ServiceHost, service: &ServiceId, entry: &StoredEntry) {
    let Some(running) = host.running(service) else { return };
    let Ok(operation) = Operation::decoded(&entry.operation) else { return };
    let Ok(Command::CallService { request, .. }) = Command::decoded(&operation.command) else { return };
    if !is_tick(&request) {
        *lock(&running.called) = Some(Instant::now());
    }
}

/// Whether a request tells the time: its operation stands behind the version of its layout.
fn is_tick(request: &[u8]) -> bool {
    request.get(2..4) == Some(&TICK.to_le_bytes()[..])
}

/// Starts replicas of services that have none yet.
fn spawn_new(
    host: &Arc<ServiceHost>,
    shared: &Arc<Shared>,
    replicas: &mut tokio::task::JoinSet<()>,
) -> Result<(), StoreError> {
    let group = host.parts.group.id();
    let new: Vec<_> = {
        let (replica, running) = (shared.replica(), lock(&host.running));
        let ours = replica
            .control()
            .services()
            .filter(|(id, service)| service.record.spec.replicas == group && !running.contains_key(id));
        ours.map(|(id, _)| *id).collect()
    };
    for service in new {
        replicas.spawn(task::start(host, shared, service)?);
    }
    Ok(())
}
