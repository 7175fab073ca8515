//! The seam between the gateway's protocols and the client that verifies: what they ask of an ordered service.

use std::fmt::Debug;
use std::sync::Arc;

use futures::future::BoxFuture;
pub use quorate_services::{Called, Freshness, Page, Read, Service, ServiceError};

/// Anything that answers like [`Service`]: only what was verified. [`Late`](crate::late::Late) is one.
pub trait Backend: Debug + Send + Sync + 'static {
    /// [`Service::call`].
    fn call(&self, op: u16, body: Vec<u8>) -> BoxFuture<'_, Result<Called, ServiceError>>;

    /// [`Service::get`].
    fn get<'a>(
        &'a self,
        key: &'a [u8],
        freshness: Freshness,
    ) -> BoxFuture<'a, Result<Read<Option<Vec<u8>>>, ServiceError>>;

    /// [`Service::range`].
    fn range<'a>(
        &'a self,
        low: &'a [u8],
        high: &'a [u8],
        limit: u16,
        freshness: Freshness,
    ) -> BoxFuture<'a, Result<Read<Page>, ServiceError>>;
}

/// A service that several protocols use.
pub type Shared = Arc<dyn Backend>;
