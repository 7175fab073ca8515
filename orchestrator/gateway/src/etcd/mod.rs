//! The etcd v3 protocol over the service registry.
//!
//! ```text
//! etcdctl ──gRPC──▶ Range            ──▶ proven reads, put together to hold at one revision
//!                   Put, Txn, Lease… ──▶ an operation of the registry, ordered and certified
//!                   Watch            ──▶ events of the registry, proved to be complete; one reader for all watches
//! ```
//!
//! A revision is the number of an entry of the registry's log. Entries that change no name have numbers too, so revisions
//! rise without events. What else differs from etcd stands in `docs/services.md`.

mod feed;
mod kv;
mod lease;
mod maintenance;
mod range;
mod status;
mod txn;
mod watch;

use std::sync::Arc;

use quorate_attest::encoding::Bounded;
use quorate_attest::request::status::OK;
use quorate_registry::{Operation, Outcome};
use tonic::Status;
use tonic::service::Routes;

use crate::backend::Shared;
use feed::Feed;
use pb::cluster_server::ClusterServer;
use pb::kv_server::KvServer;
use pb::lease_server::LeaseServer;
use pb::maintenance_server::MaintenanceServer;
use pb::watch_server::WatchServer;

/// Messages of etcd, made from `proto/rpc.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod pb {
    tonic::include_proto!("etcdserverpb");
}

/// Messages of etcd, made from `proto/kv.proto`.
#[allow(missing_docs, clippy::all, clippy::pedantic)]
pub mod mvccpb {
    tonic::include_proto!("mvccpb");
}

/// Most bytes of a request. etcd's own limit is 1.5 MiB; an operation of a service is smaller.
pub const REQUEST_BYTES_MAX: usize = 512 << 10;

/// What a gateway calls itself.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Tells one registry from another: the first bytes of the service's id.
    pub cluster: u64,
    /// Tells one gateway from another.
    pub member: u64,
    /// Epoch of the orchestrators' group.
    pub term: u64,
    /// How many orchestrators may be Byzantine: service time is the `f + 1`-th largest of their votes.
    pub f: u64,
    /// Addresses that clients are told.
    pub urls: Vec<String>,
}

/// The registry behind the protocol.
#[derive(Debug, Clone)]
pub struct Etcd {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    backend: Shared,
    identity: Identity,
    feed: Feed,
}

impl Etcd {
    /// Speaks for a registry. What is asked only to see whether anything happened goes to `silent`, the same service.
    #[must_use]
    pub fn new(backend: Shared, silent: Shared, identity: Identity) -> Self {
        let feed = Feed::new(Arc::clone(&backend), silent);
        Self { inner: Arc::new(Inner { backend, identity, feed }) }
    }

    /// The routes of all services of the protocol.
    pub fn routes(&self) -> axum::Router {
        macro_rules! bounded {
            ($server:ident) => {
                $server::new(self.clone()).max_decoding_message_size(REQUEST_BYTES_MAX)
            };
        }
        Routes::new(bounded!(KvServer))
            .add_service(bounded!(WatchServer))
            .add_service(bounded!(LeaseServer))
            .add_service(bounded!(ClusterServer))
            .add_service(bounded!(MaintenanceServer))
            .into_axum_router()
    }

    /// Reads events for the watches; never ends.
    pub async fn follow(self) {
        self.inner.feed.run().await;
    }

    fn backend(&self) -> &Shared {
        &self.inner.backend
    }

    fn feed(&self) -> &Feed {
        &self.inner.feed
    }

    fn identity(&self) -> &Identity {
        &self.inner.identity
    }

    fn header(&self, number: u64) -> Option<pb::ResponseHeader> {
        let Identity { cluster, member, term, .. } = *self.identity();
        Some(pb::ResponseHeader {
            cluster_id: cluster,
            member_id: member,
            revision: revision(number),
            // etcd begins at 1.
            raft_term: term + 1,
        })
    }

    /// Has an operation ordered and executed.
    async fn call(&self, operation: &Operation) -> Result<Result<Outcome, u16>, Status> {
        let called = self.backend().call(operation.op(), operation.body()).await;
        let called = called.map_err(|error| status::of_service(&error))?;
        self.feed().nudge();
        if called.status != OK {
            return Ok(Err(called.status));
        }
        match Outcome::decoded(&called.body) {
            Ok(outcome) if outcome.op() == operation.op() => Ok(Ok(outcome)),
            _ => Err(status::unreadable("the result is none of a service registry")),
        }
    }
}

/// A number as etcd writes it.
fn revision(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
