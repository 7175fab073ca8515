//! A service that may be created after the gateway starts: looked for by its name until it is found, unreachable before.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures::future::BoxFuture;
use quorate_attest::group::GroupConfig;
use quorate_attest::key::SecretKey;
use quorate_ordering::orderer::Orderer;
use quorate_services::{Settings, Trust, find};

use crate::backend::{Backend, Called, Freshness, Page, Read, Service, ServiceError};

/// Time for one search; the next one follows at once.
const SEARCH_LIMIT: Duration = Duration::from_secs(10);
/// Pause after a search that nobody answered.
const PAUSE: Duration = Duration::from_millis(500);

/// What makes a client of a service.
#[derive(Debug, Clone)]
pub struct Client {
    /// Connections to the orchestrators.
    pub orderer: Orderer,
    /// Their group.
    pub orchestrators: GroupConfig,
    /// The group of the replicas.
    pub replicas: GroupConfig,
    /// The client's key.
    pub key: SecretKey,
    /// How it asks, and where it keeps its heads.
    pub settings: Settings,
}

/// A service by its name.
#[derive(Debug)]
pub struct Late {
    name: String,
    client: Client,
    service: OnceLock<Service>,
}

impl Late {
    /// A service that nobody has looked for.
    #[must_use]
    pub fn new(name: &str, client: Client) -> Arc<Self> {
        Arc::new(Self { name: name.to_owned(), client, service: OnceLock::new() })
    }

    /// Looks for the service until it is there.
    ///
    /// # Errors
    /// It is there and cannot be used: its replicas are another group's, or the heads in the state directory cannot be read.
    pub async fn find(self: Arc<Self>) -> Result<(), ServiceError> {
        loop {
            match find::named(&self.client.orderer, &self.name, SEARCH_LIMIT, true).await {
                Ok(Some(found)) => return self.meet(&found),
                Ok(None) => tracing::info!(service = self.name, "there is no such service yet"),
                Err(error) => {
                    tracing::warn!(service = self.name, error_kind = error.kind(), "not found: {error}");
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }

    fn meet(&self, found: &find::Found) -> Result<(), ServiceError> {
        let Client { orderer, orchestrators, replicas, key, settings } = self.client.clone();
        let theirs = found.any().map(|info| info.spec.replicas);
        if theirs != Some(replicas.id()) {
            return Err(ServiceError::System(format!(
                "the replicas of {} are another group than {}",
                self.name, replicas.name
            )));
        }
        let trust = Trust { orchestrators, replicas, service: found.service };
        let service = Service::new(orderer, trust, key, settings)?;
        tracing::info!(service = self.name, id = %found.service, "found");
        // Only this task sets it.
        let _ = self.service.set(service);
        Ok(())
    }

    fn service(&self) -> Result<&Service, ServiceError> {
        self.service.get().ok_or_else(|| ServiceError::QuorumUnreachable {
            parties: "orchestrators",
            got: 0,
            need: self.client.orchestrators.rule().map_or(0, |rule| rule.matching_replies()),
            because: Some(format!("nobody told yet which service {} is", self.name)),
        })
    }
}

impl Backend for Late {
    fn call(&self, op: u16, body: Vec<u8>) -> BoxFuture<'_, Result<Called, ServiceError>> {
        Box::pin(async move { self.service()?.call(op, body).await })
    }

    fn get<'a>(
        &'a self,
        key: &'a [u8],
        freshness: Freshness,
    ) -> BoxFuture<'a, Result<Read<Option<Vec<u8>>>, ServiceError>> {
        Box::pin(async move { self.service()?.get(key, freshness).await })
    }

    fn range<'a>(
        &'a self,
        low: &'a [u8],
        high: &'a [u8],
        limit: u16,
        freshness: Freshness,
    ) -> BoxFuture<'a, Result<Read<Page>, ServiceError>> {
        Box::pin(async move { self.service()?.range(low, high, limit, freshness).await })
    }
}
