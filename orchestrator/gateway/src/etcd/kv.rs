//! Keys and values.

use quorate_attest::request::status::{CONFLICT, LIMIT};
use quorate_registry::{
    CHANGES_MAX, Compare, DeregisterRange, Event, NameRange, NumberedEvent, Operation, Outcome, Record,
    Register, Relation, Target, Txn, TxnOp,
};
use tonic::{Request, Response, Status};

use super::mvccpb::KeyValue;
use super::pb::kv_server::Kv;
use super::pb::{
    CompactionRequest, CompactionResponse, DeleteRangeRequest, DeleteRangeResponse, PutRequest, PutResponse,
    RangeRequest, RangeResponse, TxnRequest, TxnResponse,
};
use super::range::{key_value, names, select};
use super::{Etcd, status, txn};
use crate::backend::Freshness;
use crate::registry::{History, Snapshot, history, record, snapshot};

/// How often a put that depends on what is there begins again because somebody else was faster.
const PUT_ATTEMPTS: usize = 8;

#[tonic::async_trait]
impl Kv for Etcd {
    async fn range(&self, request: Request<RangeRequest>) -> Result<Response<RangeResponse>, Status> {
        let request = request.into_inner();
        let range = names(&request.key, &request.range_end)?;
        let snapshot = match u64::try_from(request.revision) {
            // As in etcd, what is not positive means now.
            Err(_) | Ok(0) => {
                let freshness =
                    if request.serializable { Freshness::Newest } else { Freshness::Linearizable };
                self.snapshot(&request, &range, freshness).await?
            }
            Ok(at) => self.snapshot_at(&request, &range, at).await?,
        };
        let header = self.header(snapshot.number);
        Ok(Response::new(RangeResponse { header, ..select(&request, snapshot) }))
    }

    async fn put(&self, request: Request<PutRequest>) -> Result<Response<PutResponse>, Status> {
        let request = request.into_inner();
        if request.key.is_empty() {
            return Err(status::empty_key());
        }
        if request.ignore_value && !request.value.is_empty() {
            return Err(status::value_provided());
        }
        if request.ignore_lease && request.lease != 0 {
            return Err(status::lease_provided());
        }
        if request.prev_kv || request.ignore_value || request.ignore_lease {
            return self.put_on_what_is_there(request).await.map(Response::new);
        }
        let register = Register {
            name: request.key,
            value: request.value,
            lease: txn::lease(request.lease)?,
            expected: None,
            previous: false,
        };
        let operation = Operation::Register(register);
        txn::check(&operation)?;
        match self.call(&operation).await? {
            Ok(Outcome::Registered { number, .. }) => {
                Ok(Response::new(PutResponse { header: self.header(number), prev_kv: None }))
            }
            Ok(_) => Err(status::unreadable("the result is of another operation")),
            Err(refused) => Err(status::of_registry(refused)),
        }
    }

    async fn delete_range(
        &self,
        request: Request<DeleteRangeRequest>,
    ) -> Result<Response<DeleteRangeResponse>, Status> {
        let DeleteRangeRequest { key, range_end, prev_kv } = request.into_inner();
        let range = names(&key, &range_end)?;
        let operation = Operation::DeregisterRange(DeregisterRange { range, previous: false });
        let (number, deleted) = match self.call(&operation).await? {
            Ok(Outcome::RangeDeregistered { number, deleted, .. }) => (number, deleted),
            Ok(_) => return Err(status::unreadable("the result is of another operation")),
            Err(LIMIT) => {
                return Err(Status::resource_exhausted(format!(
                    "quorate: more than {CHANGES_MAX} keys at once"
                )));
            }
            Err(refused) => return Err(status::of_registry(refused)),
        };
        let prev_kvs = if prev_kv && deleted > 0 { self.removed(number, deleted).await? } else { Vec::new() };
        let (header, deleted) = (self.header(number), super::revision(deleted));
        Ok(Response::new(DeleteRangeResponse { header, deleted, prev_kvs }))
    }

    async fn txn(&self, request: Request<TxnRequest>) -> Result<Response<TxnResponse>, Status> {
        txn::execute(self, request.into_inner()).await.map(Response::new)
    }

    async fn compact(
        &self,
        request: Request<CompactionRequest>,
    ) -> Result<Response<CompactionResponse>, Status> {
        let CompactionRequest { revision, .. } = request.into_inner();
        let lowest = crate::registry::lowest(self.backend().as_ref(), Freshness::Linearizable).await;
        let lowest = lowest.map_err(|error| status::of_read(&error))?;
        match u64::try_from(revision) {
            Ok(revision) if revision > lowest.number => Err(status::future_revision()),
            Ok(revision) if revision < lowest.value => Err(status::compacted()),
            Err(_) => Err(status::compacted()),
            Ok(_) => Err(status::unsupported(
                "compaction on demand: the registry keeps the newest events and drops the others by itself, so it",
            )),
        }
    }
}

impl Etcd {
    async fn snapshot(
        &self,
        request: &RangeRequest,
        range: &NameRange,
        freshness: Freshness,
    ) -> Result<Snapshot, Status> {
        let read = match request.range_end.is_empty() {
            true => record(self.backend().as_ref(), &request.key, freshness).await.map(|read| {
                let records = read.value.map(|record| (request.key.clone(), record)).into_iter().collect();
                Snapshot { number: read.number, records }
            }),
            false => snapshot(self.backend().as_ref(), range, freshness).await,
        };
        read.map_err(|error| status::of_read(&error))
    }

    /// What was there at an earlier number, if it can be told: events since then must be kept, and none may have been in the range.
    async fn snapshot_at(
        &self,
        request: &RangeRequest,
        range: &NameRange,
        at: u64,
    ) -> Result<Snapshot, Status> {
        let mut found = self.snapshot(request, range, Freshness::Linearizable).await?;
        if at > found.number {
            return Err(status::future_revision());
        }
        let since = history(self.backend().as_ref(), at + 1, Freshness::AtLeast(found.number + 1)).await;
        let touched =
            |event: &NumberedEvent| event.number <= found.number && range.contains(&event.event.name);
        match since.map_err(|error| status::of_read(&error))? {
            History::Complete { events, .. } if !events.iter().any(touched) => {
                found.number = at;
                Ok(found)
            }
            _ => Err(status::compacted()),
        }
    }

    /// A put whose record or answer depends on the record before: done only if that is still the one that was read.
    async fn put_on_what_is_there(&self, request: PutRequest) -> Result<PutResponse, Status> {
        let range = names(&request.key, &[])?;
        for _ in 0..PUT_ATTEMPTS {
            let read = record(self.backend().as_ref(), &range.low, Freshness::Linearizable).await;
            let before = read.map_err(|error| status::of_read(&error))?.value;
            let put = replacement(&request, before.as_ref())?;
            let modified = before.as_ref().map_or(0, |record| record.modified);
            let unchanged = Compare {
                name: request.key.clone(),
                relation: Relation::Equal,
                target: Target::Modified(modified),
            };
            let operation =
                Operation::Txn(Txn { compare: vec![unchanged], success: vec![put], failure: Vec::new() });
            txn::check(&operation)?;
            match self.call(&operation).await? {
                Ok(Outcome::Txn { number, succeeded: true, .. }) => {
                    let before = before.filter(|_| request.prev_kv);
                    let prev_kv = before.map(|record| key_value(request.key, record));
                    return Ok(PutResponse { header: self.header(number), prev_kv });
                }
                Ok(Outcome::Txn { .. }) | Err(CONFLICT) => {}
                Ok(_) => return Err(status::unreadable("the result is of another operation")),
                Err(refused) => return Err(status::of_registry(refused)),
            }
        }
        Err(Status::unavailable("quorate: the key is changed by others all the time"))
    }

    /// The names that one entry of the log removed, from its events: a reply has no room for them.
    async fn removed(&self, number: u64, deleted: u64) -> Result<Vec<KeyValue>, Status> {
        let events = history(self.backend().as_ref(), number, Freshness::AtLeast(number + 1)).await;
        let events = match events.map_err(|error| status::of_read(&error))? {
            History::Complete { events, .. } => events,
            History::Compacted { .. } => Vec::new(),
        };
        let removed = events.into_iter().filter(|event| event.number == number && !event.event.put);
        let kvs: Vec<KeyValue> = removed
            .map(|NumberedEvent { event: Event { name, record, .. }, .. }| key_value(name, record))
            .collect();
        match kvs.len() as u64 == deleted {
            true => Ok(kvs),
            false => Err(Status::data_loss(format!(
                "quorate: {deleted} keys were deleted, but their values are no longer kept"
            ))),
        }
    }
}

/// The put that a request means, given the record before.
fn replacement(request: &PutRequest, before: Option<&Record>) -> Result<TxnOp, Status> {
    let kept = |ignore: bool| match (ignore, before) {
        (true, None) => Err(status::key_not_found()),
        (true, before) => Ok(before),
        (false, _) => Ok(None),
    };
    let value = kept(request.ignore_value)?.map_or_else(|| request.value.clone(), |old| old.value.clone());
    let lease = match kept(request.ignore_lease)? {
        Some(old) => old.lease,
        None => txn::lease(request.lease)?,
    };
    Ok(TxnOp::Put { name: request.key.clone(), value, lease, previous: false })
}
