//! What the replicas of other nodes say about entries: asked for on the connections on which orchestrators compare heads.

use std::sync::Arc;
use std::time::Duration;

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::encoding::bounded_list;
use quorate_attest::id::ServiceId;
use quorate_attest::service::BATCH_LIMIT;
use quorate_ordering::services::{ExecutedEntry, SERVICE_ANSWER_BYTES_MAX};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::ServiceHost;
use crate::node::Shared;
use crate::store::StoreError;

/// Time between two comparisons of a service.
const INTERVAL: Duration = Duration::from_secs(2);
/// Time for the answers of the others.
const LIMIT: Duration = Duration::from_secs(3);
/// Bytes of replies after which an answer ends.
const REPLIES_BYTES_MAX: usize = 1 << 20;
/// Most bytes of an encoded [`Told`].
pub(crate) const TOLD_BYTES_MAX: usize = REPLIES_BYTES_MAX + BATCH_LIMIT * 512 + SERVICE_ANSWER_BYTES_MAX;

/// Asks for what came of entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct AskEntries {
    /// The service.
    pub service: ServiceId,
    /// Number of the first.
    pub first: u64,
    /// Most of them.
    pub count: u32,
}

/// What came of consecutive entries, as far as the sender signed it. A reply that it does not keep any more is empty.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub(crate) struct Told(
    #[borsh(deserialize_with = "bounded_list::<BATCH_LIMIT, _, _>")] pub Vec<ExecutedEntry>,
);

impl ServiceHost {
    /// The answer to another orchestrator.
    pub(crate) fn tell(&self, asked: &AskEntries) -> Result<Told, StoreError> {
        let AskEntries { service, first, count } = asked;
        let view = self.store.read()?;
        let (mut told, mut bytes) = (Vec::new(), 0);
        for number in *first..first.saturating_add(u64::from(*count).min(BATCH_LIMIT as u64)) {
            let Some(stored) = view.receipt(service, number)? else { break };
            let Some(signature) = stored.signature else { break };
            let reply = view.reply(service, number)?.unwrap_or_default();
            bytes += reply.len();
            if bytes > REPLIES_BYTES_MAX && !told.is_empty() {
                break;
            }
            told.push(ExecutedEntry {
                replica: self.parts.replica,
                receipt: stored.receipt,
                signature,
                reply,
            });
        }
        Ok(Told(told))
    }
}

/// What all others who are connected say about entries. Nothing of it is checked here.
pub(super) async fn ask(
    host: &ServiceHost,
    shared: &Arc<Shared>,
    service: ServiceId,
    first: u64,
    count: u32,
) -> Vec<ExecutedEntry> {
    let asked = AskEntries { service, first, count };
    let mut answers = JoinSet::new();
    for connection in shared.links() {
        answers.spawn(async move { timeout(LIMIT, Shared::ask_entries(connection, asked)).await });
    }
    let mut told = Vec::new();
    while let Some(answer) = answers.join_next().await {
        if let Ok(Ok(Ok(Told(entries)))) = answer {
            told.extend(entries.into_iter().filter(|entry| entry.replica != host.parts.replica));
        }
    }
    told
}

/// Compares the newest entry of each service now and then, until the task is ended.
pub(super) async fn run(host: Arc<ServiceHost>, shared: Arc<Shared>) {
    let mut ticks = interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for running in host.all() {
            let Some(number) = running.executed.borrow().checked_sub(1) else { continue };
            let told = ask(&host, &shared, running.service, number, 1).await;
            let theirs: Vec<_> = told.iter().map(ExecutedEntry::signed).collect();
            // One that has no room compares the next time.
            let _ = running.compared.try_send((number, theirs));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use quorate_attest::encoding::{from_bytes, to_bytes};

    use super::*;

    proptest! {
        #[test]
        fn random_bytes_are_refused_or_are_what_they_decode_to(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(told) = from_bytes::<Told>(&bytes, TOLD_BYTES_MAX) {
                prop_assert_eq!(to_bytes(&told), bytes.clone());
            }
            if let Ok(asked) = from_bytes::<AskEntries>(&bytes, 64) {
                prop_assert_eq!(to_bytes(&asked), bytes);
            }
        }
    }
}
