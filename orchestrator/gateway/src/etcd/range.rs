//! Ranges of keys, records as etcd shows them, and what a range request leaves of a snapshot.

use quorate_registry::{NAME_BYTES_MAX, NameRange, Record};
use tonic::Status;

use super::mvccpb::KeyValue;
use super::pb::range_request::{SortOrder, SortTarget};
use super::pb::{RangeRequest, RangeResponse};
use super::{revision, status};
use crate::registry::Snapshot;

/// The names that key and end of a request mean: the key alone, all from it on for the end `\0`, or up to the end.
///
/// # Errors
/// There is no key, or one is too long.
pub(super) fn names(key: &[u8], end: &[u8]) -> Result<NameRange, Status> {
    if key.is_empty() {
        return Err(status::empty_key());
    }
    if key.len() > NAME_BYTES_MAX || end.len() > NAME_BYTES_MAX + 1 {
        return Err(status::too_large());
    }
    // No name begins with less than one zero byte.
    let low = if key == [0] { Vec::new() } else { key.to_vec() };
    Ok(match end {
        [] => NameRange::one(key),
        [0] => NameRange { low, high: None },
        end => NameRange { low, high: Some(end.to_vec()) },
    })
}

/// A record with its name.
pub(super) fn key_value(name: Vec<u8>, record: Record) -> KeyValue {
    let Record { value, lease, created, modified, version, .. } = record;
    KeyValue {
        key: name,
        create_revision: revision(created),
        mod_revision: revision(modified),
        version: revision(version),
        value,
        lease: revision(lease),
    }
}

/// Filters, sorts and cuts a snapshot as the request asks; the header is the caller's. Unknown orders count as none.
pub(super) fn select(request: &RangeRequest, snapshot: Snapshot) -> RangeResponse {
    let mut kvs: Vec<KeyValue> =
        snapshot.records.into_iter().map(|(name, record)| key_value(name, record)).collect();
    let count = kvs.len() as i64;
    if request.count_only {
        return RangeResponse { count, ..RangeResponse::default() };
    }
    let within = |low: i64, value: i64, high: i64| (low == 0 || value >= low) && (high == 0 || value <= high);
    kvs.retain(|kv| {
        within(request.min_mod_revision, kv.mod_revision, request.max_mod_revision)
            && within(request.min_create_revision, kv.create_revision, request.max_create_revision)
    });
    sort(request, &mut kvs);
    let limit = usize::try_from(request.limit).unwrap_or_default();
    let more = limit > 0 && kvs.len() > limit;
    if more {
        kvs.truncate(limit);
    }
    if request.keys_only {
        kvs.iter_mut().for_each(|kv| kv.value.clear());
    }
    RangeResponse { header: None, kvs, more, count }
}

fn sort(request: &RangeRequest, kvs: &mut [KeyValue]) {
    let target = SortTarget::try_from(request.sort_target).unwrap_or(SortTarget::Key);
    let order = SortOrder::try_from(request.sort_order).unwrap_or(SortOrder::None);
    // They come sorted by key; as in etcd, another target without an order is sorted ascending.
    match target {
        SortTarget::Key => {}
        SortTarget::Version => kvs.sort_by_key(|kv| kv.version),
        SortTarget::Create => kvs.sort_by_key(|kv| kv.create_revision),
        SortTarget::Mod => kvs.sort_by_key(|kv| kv.mod_revision),
        SortTarget::Value => kvs.sort_by(|left, right| left.value.cmp(&right.value)),
    }
    if order == SortOrder::Descend {
        kvs.reverse();
    }
}
