//! Refusals, in the words that clients of etcd look for.

use quorate_attest::request::status;
use tonic::{Code, Status};

use crate::backend::ServiceError;
use crate::registry::ReadError;

/// A refusal by etcd's code and text.
macro_rules! refusal {
    ($name:ident, $code:ident, $text:literal) => {
        #[doc = $text]
        pub(super) fn $name() -> Status {
            Status::new(Code::$code, $text)
        }
    };
}

refusal!(empty_key, InvalidArgument, "etcdserver: key is not provided");
refusal!(key_not_found, InvalidArgument, "etcdserver: key not found");
refusal!(value_provided, InvalidArgument, "etcdserver: value is provided");
refusal!(lease_provided, InvalidArgument, "etcdserver: lease is provided");
refusal!(too_many_operations, InvalidArgument, "etcdserver: too many operations in txn request");
refusal!(duplicate_key, InvalidArgument, "etcdserver: duplicate key given in txn request");
refusal!(too_large, InvalidArgument, "etcdserver: request is too large");
refusal!(compacted, OutOfRange, "etcdserver: mvcc: required revision has been compacted");
refusal!(future_revision, OutOfRange, "etcdserver: mvcc: required revision is a future revision");
refusal!(no_space, ResourceExhausted, "etcdserver: mvcc: database space exceeded");
refusal!(too_many_requests, ResourceExhausted, "etcdserver: too many requests");
refusal!(lease_not_found, NotFound, "etcdserver: requested lease not found");
refusal!(lease_exists, FailedPrecondition, "etcdserver: lease already exists");
refusal!(lease_too_long, OutOfRange, "etcdserver: too large lease TTL");
refusal!(permission_denied, PermissionDenied, "etcdserver: permission denied");
refusal!(no_leader, Unavailable, "etcdserver: no leader");

/// What etcd can do and the registry cannot.
pub(super) fn unsupported(what: &str) -> Status {
    Status::unimplemented(format!("quorate: {what} is not supported"))
}

/// An answer that was verified and makes no sense.
pub(super) fn unreadable(what: &str) -> Status {
    tracing::error!(error_kind = "DecodeError", "{what}");
    Status::data_loss(format!("quorate: {what}"))
}

/// There is no answer that can be believed. Whether a write took place is not known then.
pub(super) fn of_service(error: &ServiceError) -> Status {
    tracing::warn!(error_kind = error.kind(), "{error}");
    match error {
        ServiceError::QuorumUnreachable { .. } | ServiceError::Order(_) => no_leader(),
        ServiceError::Refused(_) => Status::failed_precondition(format!("quorate: {error}")),
        ServiceError::System(_) => Status::resource_exhausted(format!("quorate: {error}")),
        ServiceError::Memory(_) | ServiceError::Group(_) => Status::internal(format!("quorate: {error}")),
        // More than f replicas lie.
        ServiceError::Proof(_) => Status::data_loss(format!("quorate: {error}")),
    }
}

/// A read without a result.
pub(super) fn of_read(error: &ReadError) -> Status {
    match error {
        ReadError::Service(error) => of_service(error),
        ReadError::Decode(_) => unreadable(&error.to_string()),
        ReadError::TooLarge { .. } => Status::resource_exhausted(format!("quorate: {error}")),
        ReadError::Overtaken => Status::unavailable(format!("quorate: {error}")),
    }
}

/// A refusal of the registry. Only leases are looked for and not found, or there already.
pub(super) fn of_registry(refused: u16) -> Status {
    match refused {
        status::NOT_FOUND => lease_not_found(),
        status::CONFLICT => lease_exists(),
        status::NOT_AUTHORIZED => permission_denied(),
        status::LIMIT => no_space(),
        status::TOO_LARGE => too_large(),
        status::MALFORMED => Status::invalid_argument("quorate: the request is malformed"),
        // The key was used by another process meanwhile.
        status::REPLAYED => Status::unavailable("quorate: the client's key is used elsewhere"),
        other => Status::internal(format!("quorate: refused with status {other}")),
    }
}
