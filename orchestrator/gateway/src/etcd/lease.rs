//! Leases. They run on service time, which the orchestrators' votes move, not on a clock of this machine.

use std::pin::Pin;

use futures::Stream;
use quorate_attest::encoding::{Bounded, from_bytes};
use quorate_attest::request::status::NOT_FOUND;
use quorate_registry::{
    LEASE_NAMES_MAX, Lease as Record, LeaseGrant, NAME_BYTES_MAX, Operation, Outcome, StateKey, TTL_MS_MAX,
    lease_key, lease_name_key,
};
use tokio_stream::StreamExt as _;
use tonic::{Request, Response, Status, Streaming};

use super::pb::lease_server::Lease;
use super::pb::{
    LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest, LeaseKeepAliveResponse, LeaseLeasesRequest,
    LeaseLeasesResponse, LeaseRevokeRequest, LeaseRevokeResponse, LeaseStatus, LeaseTimeToLiveRequest,
    LeaseTimeToLiveResponse,
};
use super::{Etcd, revision, status, txn};
use crate::backend::{Freshness, ServiceError};
use crate::registry::Pages;

/// First bytes of the keys of voters, in the kit's part of the state.
const VOTES: [u8; 2] = [0x00, b't'];

#[tonic::async_trait]
impl Lease for Etcd {
    async fn lease_grant(
        &self,
        request: Request<LeaseGrantRequest>,
    ) -> Result<Response<LeaseGrantResponse>, Status> {
        let LeaseGrantRequest { ttl, id } = request.into_inner();
        // As in etcd, there is a shortest time to live, and the answer tells it.
        let ttl_ms = u64::try_from(ttl).unwrap_or_default().max(1).saturating_mul(1000);
        if ttl_ms > TTL_MS_MAX {
            return Err(status::lease_too_long());
        }
        let operation = Operation::LeaseGrant(LeaseGrant { id: txn::lease(id)?, ttl_ms });
        match self.call(&operation).await? {
            Ok(Outcome::LeaseGranted { number, id, ttl_ms }) => Ok(Response::new(LeaseGrantResponse {
                header: self.header(number),
                id: revision(id),
                ttl: seconds(ttl_ms),
                error: String::new(),
            })),
            Ok(_) => Err(status::unreadable("the result is of another operation")),
            Err(refused) => Err(status::of_registry(refused)),
        }
    }

    async fn lease_revoke(
        &self,
        request: Request<LeaseRevokeRequest>,
    ) -> Result<Response<LeaseRevokeResponse>, Status> {
        let id = txn::lease(request.into_inner().id)?;
        match self.call(&Operation::LeaseRevoke { id }).await? {
            Ok(Outcome::LeaseRevoked { number, .. }) => {
                Ok(Response::new(LeaseRevokeResponse { header: self.header(number) }))
            }
            Ok(_) => Err(status::unreadable("the result is of another operation")),
            Err(refused) => Err(status::of_registry(refused)),
        }
    }

    type LeaseKeepAliveStream =
        Pin<Box<dyn Stream<Item = Result<LeaseKeepAliveResponse, Status>> + Send + 'static>>;

    async fn lease_keep_alive(
        &self,
        request: Request<Streaming<LeaseKeepAliveRequest>>,
    ) -> Result<Response<Self::LeaseKeepAliveStream>, Status> {
        let etcd = self.clone();
        let answers = request.into_inner().then(move |request| {
            let etcd = etcd.clone();
            async move { etcd.renew(request?.id).await }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn lease_time_to_live(
        &self,
        request: Request<LeaseTimeToLiveRequest>,
    ) -> Result<Response<LeaseTimeToLiveResponse>, Status> {
        let LeaseTimeToLiveRequest { id, keys } = request.into_inner();
        let lease = txn::lease(id)?;
        let read = self.backend().get(&lease_key(lease), Freshness::Linearizable).await;
        let read = read.map_err(|error| status::of_service(&error))?;
        let header = self.header(read.number);
        let Some(value) = read.value else {
            return Ok(Response::new(LeaseTimeToLiveResponse {
                header,
                id,
                ttl: -1,
                ..LeaseTimeToLiveResponse::default()
            }));
        };
        let record = Record::decoded(&value);
        let record = record.map_err(|_| status::unreadable("a lease does not decode"))?;
        let freshness = Freshness::AtLeast(read.number + 1);
        let left_ms = match record.expires_ms {
            // It begins to run with the next vote about time.
            0 => record.ttl_ms,
            expires => expires.saturating_sub(self.service_time(freshness).await?),
        };
        let keys = if keys { self.names_of(lease, freshness).await? } else { Vec::new() };
        Ok(Response::new(LeaseTimeToLiveResponse {
            header,
            id,
            ttl: seconds(left_ms),
            granted_ttl: seconds(record.ttl_ms),
            keys,
        }))
    }

    async fn lease_leases(
        &self,
        _: Request<LeaseLeasesRequest>,
    ) -> Result<Response<LeaseLeasesResponse>, Status> {
        let mut all = Pages::new(lease_key(0), lease_key(u64::MAX), Freshness::Linearizable);
        let mut leases = Vec::new();
        while let Some(entries) =
            all.next(self.backend().as_ref()).await.map_err(|error| status::of_service(&error))?
        {
            leases.extend(entries.iter().filter_map(|(key, _)| match StateKey::parse(key) {
                Some(StateKey::Lease { id }) => Some(LeaseStatus { id: revision(id) }),
                _ => None,
            }));
        }
        Ok(Response::new(LeaseLeasesResponse { header: self.header(all.newest), leases }))
    }
}

impl Etcd {
    /// A lease that is gone is told as one with no time left, as etcd does: the stream goes on for the others.
    async fn renew(&self, id: i64) -> Result<LeaseKeepAliveResponse, Status> {
        let lease = txn::lease(id)?;
        match self.call(&Operation::LeaseRenew { id: lease }).await? {
            Ok(Outcome::LeaseRenewed { number, ttl_ms, .. }) => {
                Ok(LeaseKeepAliveResponse { header: self.header(number), id, ttl: seconds(ttl_ms) })
            }
            Err(NOT_FOUND) => Ok(LeaseKeepAliveResponse { header: self.header(0), id, ttl: 0 }),
            Ok(_) => Err(status::unreadable("the result is of another operation")),
            Err(refused) => Err(status::of_registry(refused)),
        }
    }

    /// The `f + 1`-th largest vote, as the replicas count it; who has not voted counts as 0.
    async fn service_time(&self, freshness: Freshness) -> Result<u64, Status> {
        let high = [&VOTES[..], &[u8::MAX; 32]].concat();
        let mut all = Pages::new(VOTES.to_vec(), high, freshness);
        let mut votes: Vec<u64> = Vec::new();
        while let Some(entries) = all.next(self.backend().as_ref()).await.map_err(failed)? {
            for (_, vote) in entries {
                let vote = from_bytes(&vote, 8);
                votes.push(vote.map_err(|_| status::unreadable("a vote about time does not decode"))?);
            }
        }
        votes.sort_unstable();
        let place = usize::try_from(self.identity().f).unwrap_or(usize::MAX);
        Ok(votes.into_iter().rev().nth(place).unwrap_or_default())
    }

    async fn names_of(&self, lease: u64, freshness: Freshness) -> Result<Vec<Vec<u8>>, Status> {
        let (low, high) = (lease_name_key(lease, &[]), lease_name_key(lease, &[u8::MAX; NAME_BYTES_MAX]));
        let mut all = Pages::new(low, high, freshness);
        let mut names = Vec::new();
        while let Some(entries) = all.next(self.backend().as_ref()).await.map_err(failed)? {
            names.extend(entries.iter().filter_map(|(key, _)| match StateKey::parse(key) {
                Some(StateKey::LeaseName { name, .. }) => Some(name),
                _ => None,
            }));
            // More than the registry allows: they changed between two pages.
            names.truncate(LEASE_NAMES_MAX);
        }
        Ok(names)
    }
}

fn failed(error: ServiceError) -> Status {
    status::of_service(&error)
}

/// Whole seconds that are over at the end.
fn seconds(ms: u64) -> i64 {
    revision(ms.div_ceil(1000))
}
