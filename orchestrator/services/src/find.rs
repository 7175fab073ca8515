//! Which service has a name, by the word of `f + 1` orchestrators.

use std::collections::BTreeMap;
use std::time::Duration;

use quorate_attest::id::ServiceId;
use quorate_ordering::orderer::Orderer;
use quorate_ordering::services::{ServiceAnswer, ServiceInfo};
use tokio::time::{Instant, sleep_until, timeout_at};

use crate::client::ServiceError;

/// Pause before all are asked again.
const RETRY: Duration = Duration::from_millis(200);

/// A service and how its replicas say they are.
#[derive(Debug, Clone)]
pub struct Found {
    /// The service; its specification, in every `replicas` entry, has this digest.
    pub service: ServiceId,
    /// What the orchestrators say that agree on it, by index.
    pub replicas: BTreeMap<u16, ServiceInfo>,
}

impl Found {
    /// What one that agrees says.
    pub fn any(&self) -> Option<&ServiceInfo> {
        self.replicas.values().next()
    }
}

/// Finds a service by its name. Waits up to `limit` for `f + 1` orchestrators to agree on one; with `patient` also for it to be created.
///
/// # Errors
/// Too few agree: there is none of the name, or too few orchestrators answer.
pub async fn named(
    orderer: &Orderer,
    name: &str,
    limit: Duration,
    patient: bool,
) -> Result<Option<Found>, ServiceError> {
    let need = orderer.group().rule()?.matching_replies();
    let deadline = Instant::now() + limit;
    loop {
        let mut answers =
            orderer.service_named_each(name, deadline.saturating_duration_since(Instant::now()));
        let mut told: BTreeMap<ServiceId, BTreeMap<u16, ServiceInfo>> = BTreeMap::new();
        let (mut unknown, mut because) = (0u64, None);
        let mut until = deadline;
        while let Ok(Some(answer)) = timeout_at(until, answers.join_next()).await {
            match answer {
                // The specification names the service, so that nobody can put another under an honest one's name.
                Ok((index, Ok(Some(ServiceAnswer::Info(info)))))
                    if info.spec.id() == info.service && info.spec.name == name =>
                {
                    told.entry(info.service).or_default().insert(index, info);
                }
                Ok((_, Err(error))) if error.kind() == "NotFound" => unknown += 1,
                Ok((index, Err(error))) => because = Some(format!("{}: {error}", orderer.name(index))),
                _ => {}
            }
            // Enough agree. The others may add how their replicas are, but a silent one holds nobody up.
            let agree = told.values().map(|replicas| replicas.len() as u64).max().unwrap_or(0);
            if until == deadline && (agree >= need || unknown >= need) {
                until = deadline.min(Instant::now() + RETRY);
            }
        }
        let found = told.into_iter().find(|(_, replicas)| replicas.len() as u64 >= need);
        if let Some((service, replicas)) = found {
            return Ok(Some(Found { service, replicas }));
        }
        let again = Instant::now() + RETRY;
        if again >= deadline || (!patient && unknown >= need) {
            return match unknown >= need {
                true => Ok(None),
                false => Err(ServiceError::QuorumUnreachable {
                    parties: "orchestrators",
                    got: unknown,
                    need,
                    because,
                }),
            };
        }
        sleep_until(again).await;
    }
}
