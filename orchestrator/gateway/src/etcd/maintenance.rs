//! What `etcdctl endpoint` and `etcdctl member` ask for.

use quorate_attest::encoding::Bounded;
use quorate_registry::{Totals, totals_key};
use tonic::{Request, Response, Status};

use super::pb::cluster_server::Cluster;
use super::pb::maintenance_server::Maintenance;
use super::pb::{Member, MemberListRequest, MemberListResponse, StatusRequest, StatusResponse};
use super::{Etcd, revision, status};
use crate::backend::Freshness;

/// Version of etcd whose protocol is spoken.
const VERSION: &str = "3.4.0";

#[tonic::async_trait]
impl Maintenance for Etcd {
    async fn status(&self, _: Request<StatusRequest>) -> Result<Response<StatusResponse>, Status> {
        let read = self.backend().get(&totals_key(), Freshness::Linearizable).await;
        let read = read.map_err(|error| status::of_service(&error))?;
        let totals = read.value.map(|value| Totals::decoded(&value)).transpose();
        let totals = totals.map_err(|_| status::unreadable("the totals do not decode"))?.unwrap_or_default();
        let header = self.header(read.number);
        let (member, term) = (self.identity().member, self.identity().term + 1);
        Ok(Response::new(StatusResponse {
            header,
            version: VERSION.to_owned(),
            // Only what is counted: the state itself stands with the replicas.
            db_size: revision(totals.event_bytes),
            db_size_in_use: revision(totals.event_bytes),
            leader: member,
            raft_index: read.number,
            raft_term: term,
            raft_applied_index: read.number,
            errors: Vec::new(),
            is_learner: false,
        }))
    }
}

#[tonic::async_trait]
impl Cluster for Etcd {
    /// One member: clients shall not look for others behind the gateway that verifies for them.
    async fn member_list(
        &self,
        _: Request<MemberListRequest>,
    ) -> Result<Response<MemberListResponse>, Status> {
        let member = Member {
            id: self.identity().member,
            name: "quorate-gateway".to_owned(),
            peer_ur_ls: Vec::new(),
            client_ur_ls: self.identity().urls.clone(),
            is_learner: false,
        };
        Ok(Response::new(MemberListResponse { header: self.header(0), members: vec![member] }))
    }
}
