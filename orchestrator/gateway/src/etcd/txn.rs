//! Transactions: comparisons and lists of operations, as one operation of the registry.

use quorate_attest::request::status as code;
use quorate_registry::{
    Compare, DeregisterRange, Operation, Outcome, PAGE_ENTRIES_MAX, Page, Relation, TXN_OPERATIONS_MAX,
    Target, Txn, TxnOp, TxnResult,
};
use tonic::Status;

use super::pb::compare::{CompareResult, CompareTarget, TargetUnion};
use super::pb::request_op::Request as Ask;
use super::pb::response_op::Response as Answer;
use super::pb::{
    self, DeleteRangeResponse, PutResponse, RangeRequest, RangeResponse, RequestOp, ResponseOp, TxnRequest,
    TxnResponse,
};
use super::range::{key_value, names, select};
use super::{Etcd, revision, status};
use crate::registry::Snapshot;

/// Executes a transaction.
pub(super) async fn execute(etcd: &Etcd, request: TxnRequest) -> Result<TxnResponse, Status> {
    let TxnRequest { compare, success, failure } = request;
    let longest = compare.len().max(success.len()).max(failure.len());
    if longest > TXN_OPERATIONS_MAX {
        return Err(status::too_many_operations());
    }
    let mut comparisons = Vec::with_capacity(compare.len());
    for compare in compare {
        comparisons.extend(comparison(compare)?);
    }
    let list = |list: &[RequestOp]| list.iter().map(operation).collect::<Result<Vec<_>, _>>();
    let operation =
        Operation::Txn(Txn { compare: comparisons, success: list(&success)?, failure: list(&failure)? });
    check(&operation)?;
    match etcd.call(&operation).await? {
        Ok(Outcome::Txn { number, succeeded, results }) => {
            let asked = if succeeded { success } else { failure };
            if asked.len() != results.len() {
                return Err(status::unreadable("the transaction has another number of results"));
            }
            let responses =
                asked.into_iter().zip(results).map(|(asked, result)| response(etcd, number, asked, result));
            let responses = responses.collect::<Result<_, _>>()?;
            Ok(TxnResponse { header: etcd.header(number), succeeded, responses })
        }
        Ok(_) => Err(status::unreadable("the result is of another operation")),
        Err(code::LIMIT) => Err(Status::resource_exhausted(
            "quorate: the results of the transaction are over 16 KiB, or a limit of the registry is reached",
        )),
        Err(refused) => Err(status::of_registry(refused)),
    }
}

/// Checks an operation before it is ordered.
pub(super) fn check(operation: &Operation) -> Result<(), Status> {
    match operation.check() {
        Ok(()) => Ok(()),
        Err(code::TOO_LARGE) => Err(status::too_large()),
        // Names are there and lists in bounds, so it is this.
        Err(_) if matches!(operation, Operation::Txn(_)) => Err(status::duplicate_key()),
        Err(refused) => Err(status::of_registry(refused)),
    }
}

/// The number of a lease; none below 0 exists.
pub(super) fn lease(id: i64) -> Result<u64, Status> {
    u64::try_from(id).map_err(|_| status::lease_not_found())
}

/// A comparison of the registry; none for one that always holds.
fn comparison(compare: pb::Compare) -> Result<Option<Compare>, Status> {
    let pb::Compare { result, target, key, target_union, range_end } = compare;
    if !range_end.is_empty() {
        return Err(status::unsupported("a comparison over a range"));
    }
    let name = names(&key, &[])?.low;
    let relation = match CompareResult::try_from(result) {
        Ok(CompareResult::Equal) => Relation::Equal,
        Ok(CompareResult::Greater) => Relation::Greater,
        Ok(CompareResult::Less) => Relation::Less,
        Ok(CompareResult::NotEqual) => Relation::NotEqual,
        Err(_) => return Err(Status::invalid_argument("quorate: an unknown relation")),
    };
    // As in etcd, a value for another target counts as none given, which is 0.
    let (target, given): (fn(u64) -> Target, i64) = match (CompareTarget::try_from(target), target_union) {
        (Ok(CompareTarget::Value), union) => {
            let value = match union {
                Some(TargetUnion::Value(value)) => value,
                _ => Vec::new(),
            };
            return Ok(Some(Compare { name, relation, target: Target::Value(value) }));
        }
        (Ok(CompareTarget::Version), Some(TargetUnion::Version(given))) => (Target::Version, given),
        (Ok(CompareTarget::Create), Some(TargetUnion::CreateRevision(given))) => (Target::Created, given),
        (Ok(CompareTarget::Mod), Some(TargetUnion::ModRevision(given))) => (Target::Modified, given),
        (Ok(CompareTarget::Lease), Some(TargetUnion::Lease(given))) => (Target::Lease, given),
        (Ok(CompareTarget::Version), _) => (Target::Version, 0),
        (Ok(CompareTarget::Create), _) => (Target::Created, 0),
        (Ok(CompareTarget::Mod), _) => (Target::Modified, 0),
        (Ok(CompareTarget::Lease), _) => (Target::Lease, 0),
        (Err(_), _) => return Err(Status::invalid_argument("quorate: an unknown target of a comparison")),
    };
    Ok(match (u64::try_from(given), relation) {
        (Ok(given), relation) => Some(Compare { name, relation, target: target(given) }),
        // Nothing there is below 0.
        (Err(_), Relation::Greater | Relation::NotEqual) => None,
        (Err(_), Relation::Less | Relation::Equal) => {
            Some(Compare { name, relation: Relation::Less, target: target(0) })
        }
    })
}

fn operation(asked: &RequestOp) -> Result<TxnOp, Status> {
    match &asked.request {
        Some(Ask::RequestPut(put)) => {
            if put.ignore_value || put.ignore_lease {
                return Err(status::unsupported("ignore_value or ignore_lease in a transaction"));
            }
            let name = names(&put.key, &[])?.low;
            let (value, lease) = (put.value.clone(), lease(put.lease)?);
            Ok(TxnOp::Put { name, value, lease, previous: put.prev_kv })
        }
        Some(Ask::RequestDeleteRange(delete)) => {
            let range = names(&delete.key, &delete.range_end)?;
            Ok(TxnOp::DeleteRange(DeregisterRange { range, previous: delete.prev_kv }))
        }
        Some(Ask::RequestRange(get)) => {
            if get.revision > 0 {
                return Err(status::unsupported("a read of an earlier revision in a transaction"));
            }
            let range = names(&get.key, &get.range_end)?;
            Ok(TxnOp::Get { range, limit: page(get) })
        }
        Some(Ask::RequestTxn(_)) => Err(status::unsupported("a transaction in a transaction")),
        None => Err(status::empty_key()),
    }
}

/// What is sorted or filtered must be read whole before it is cut.
fn page(get: &RangeRequest) -> u16 {
    let filters =
        [get.min_mod_revision, get.max_mod_revision, get.min_create_revision, get.max_create_revision];
    let cut_last = get.count_only
        || get.sort_order != 0
        || get.sort_target != 0
        || filters.iter().any(|revision| *revision != 0);
    match u16::try_from(get.limit) {
        Ok(limit @ 1..PAGE_ENTRIES_MAX) if !cut_last => limit,
        _ => PAGE_ENTRIES_MAX,
    }
}

fn response(etcd: &Etcd, number: u64, asked: RequestOp, result: TxnResult) -> Result<ResponseOp, Status> {
    let header = etcd.header(number);
    let answer = match (asked.request, result) {
        (Some(Ask::RequestPut(put)), TxnResult::Put { previous }) => {
            let prev_kv = previous.map(|record| key_value(put.key, record));
            Answer::ResponsePut(PutResponse { header, prev_kv })
        }
        (Some(Ask::RequestDeleteRange(_)), TxnResult::Deleted { deleted, previous }) => {
            let prev_kvs = previous.into_iter().map(|entry| key_value(entry.name, entry.record)).collect();
            let deleted = revision(deleted);
            Answer::ResponseDeleteRange(DeleteRangeResponse { header, deleted, prev_kvs })
        }
        (Some(Ask::RequestRange(get)), TxnResult::Got(Page { entries, more })) => {
            let records = entries.into_iter().map(|entry| (entry.name, entry.record)).collect();
            let selected = select(&get, Snapshot { number, records });
            Answer::ResponseRange(RangeResponse { header, more: selected.more || more, ..selected })
        }
        _ => return Err(status::unreadable("a result of the transaction is of another operation")),
    };
    Ok(ResponseOp { response: Some(answer) })
}
