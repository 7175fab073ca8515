//! The orchestrators' group in its next epoch: the log goes on with the new members, or without this node.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use quorate_agreement::{EpochConfig, LogError};
use quorate_attest::group::GroupConfig;
use quorate_control::Which;
use tokio::sync::mpsc::UnboundedReceiver;

use super::{Fatal, Shared};
use crate::exit;

impl Shared {
    /// Takes over a new epoch that the entry at `index` began.
    pub(super) fn end_epoch(&self, index: u64, config: GroupConfig) {
        tracing::warn!(index, epoch = config.epoch.get(), "the orchestrators' group is in a new epoch");
        // The rules first: from here on the log judges by the new members.
        self.rules.advance(self.replica().control().groups(Which::Orchestrators));
        // Nobody listens only if the node is ending already.
        let _ = self.epochs.send(config);
    }

    async fn begin_epoch(&self, config: GroupConfig) -> Result<bool, LogError> {
        let me = config.index_of(&self.vote_key.public()).ok();
        let address = |name: &String| {
            let missing =
                || LogError::BadConfig { reason: format!("the configuration has no address for {name}") };
            self.addresses.get(name).copied().ok_or_else(missing)
        };
        let addresses = match me {
            Some(_) => config.members.iter().map(|member| address(&member.name)).collect::<Result<_, _>>()?,
            None => Vec::new(),
        };
        // A node that joins late executes epochs that are over; in a later one it is a member.
        let later = self.known.current();
        let joins = later.epoch > config.epoch && later.index_of(&self.vote_key.public()).is_ok();
        if me.is_none() && joins {
            return Ok(true);
        }
        let vote_key = self.vote_key.clone();
        self.log.end_epoch(EpochConfig { group: Arc::new(config), me, vote_key, addresses }).await?;
        Ok(me.is_some())
    }
}

/// Moves the log into each new epoch. A node that is no member of one answers for `grace` and then ends.
pub(super) async fn follow(shared: Arc<Shared>, mut epochs: UnboundedReceiver<GroupConfig>, grace: Duration) {
    while let Some(config) = epochs.recv().await {
        let epoch = config.epoch;
        match shared.begin_epoch(config).await {
            Ok(true) => {}
            Ok(false) => {
                shared.leaving.store(true, Ordering::Release);
                tracing::warn!(
                    epoch = epoch.get(),
                    "this node is no member of the group any more; it ends after {grace:?}"
                );
                tokio::time::sleep(grace).await;
                return shared.end(Fatal::new("LeftGroup", format!("no member in epoch {epoch}"), exit::OK));
            }
            Err(error) => return shared.end(Fatal::new(error.kind(), error, exit::CONFIGURATION)),
        }
    }
}
