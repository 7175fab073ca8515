//! Tells services the time: a request signed by this orchestrator, which any number of times tells nothing that it does not mean.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use quorate_attest::encoding::{Bounded, to_bytes};
use quorate_attest::id::{Nonce, ServiceId};
use quorate_attest::request::{Call, Request};
use quorate_attest::service::TICK;
use quorate_control::Command;
use tokio::time::sleep;

use super::{Running, ServiceHost, lock};
use crate::node::Shared;

/// Time between two ticks.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long a service that nobody calls any more is told the time.
const QUIET: Duration = Duration::from_secs(60);

/// Ticks until the task is ended.
pub(super) async fn run(host: Arc<ServiceHost>, shared: Arc<Shared>) {
    loop {
        sleep(INTERVAL).await;
        for running in host.all() {
            if wants_time(&host, &shared, &running)
                && let Err(error) = tick(&shared, running.service).await
            {
                tracing::debug!(service = %running.service, error_kind = error.kind(), "not told the time: {error}");
            }
        }
    }
}

fn wants_time(host: &ServiceHost, shared: &Shared, running: &Running) -> bool {
    // What a replica that was stopped executes next shows whether it is right again.
    if running.stopped().is_some() {
        return true;
    }
    if lock(&running.called).is_some_and(|called| called.elapsed() < QUIET) {
        return true;
    }
    let replica = shared.replica();
    let service = replica.control().service(&running.service);
    service.is_some_and(|service| host.parts.timed.contains(&service.record.spec.name))
}

async fn tick(shared: &Shared, service: ServiceId) -> Result<(), crate::node::Refusal> {
    if shared.replica().index().is_none() {
        return Ok(());
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let (ms, nanos) = (now.as_millis() as u64, now.as_nanos());
    let call = Call { op: TICK, sequence: ms, nonce: Nonce::ZERO, epoch: 0, body: to_bytes(&ms) };
    let request = Request::sign(shared.vote_key(), service.instance(), call).encoded();
    let command = Command::CallService { service, request };
    let nonce = Nonce::from_bytes(nanos.to_le_bytes());
    let operation = command.to_operation(shared.vote_key(), shared.group, nonce).encoded();
    shared.submit_own(operation).await
}
