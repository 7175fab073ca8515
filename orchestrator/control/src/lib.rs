//! The control plane: what the ordered log decides about VMs, migrations, clients and groups.
//!
//! # Data flow
//!
//! ```text
//! log entry (index, bytes) ─▶ Submission (decoded, signature checked, identity) ─▶ Control::apply ─▶ Applied
//!                                                                                   │   outcome, its digest
//!                                                                                   │   decision to sign
//!                                                                                   ▼   epoch that begins
//!                                                       sorted map key ─▶ value, RFC 6962 root after each entry
//! ```
//!
//! Every orchestrator applies the same entries and comes to the same outcome and the same root, which it signs in a
//! receipt. A [`Decision`](quorate_attest::vm::Decision) is signed besides, for verifiers and hosts who do not follow the
//! log: with a quorum of signatures it permits what it says.
//!
//! # Rules
//!
//! * A number of a generation is given out once: by `Begin`, by `Recover`, or by an `Abort` that needs a new one. At
//!   most one host is granted it, and the generation in the registry never falls.
//! * Of `Handover` and `Abort` the first in the log wins. The other is answered `CONFLICT` with the decision that won.
//! * Nothing goes back behind the newest certified slot that the registry knows.
//! * An operation that comes a second time, with the same or another nonce, changes nothing. `CallService` alone counts
//!   each time with another nonce: a service knows its clients' requests by their sequence numbers.
//! * A service's requests are numbered here and nothing more: from 1 on, without a gap, answered at once. The service's
//!   guests execute them later, so that one that hangs holds up nobody else. Nobody looks into a request.
//! * The image of a service changes at a number that has no request yet, so that all replicas change at the same entry.
//! * [`Control::apply`] is total: bytes that mean nothing are an outcome like any other.
//!
//! # Not promised
//!
//! * No order and no exactly-once delivery: that is the log's. No clock: limits count log entries.
//! * A grant is permission, not fact. Whether a generation runs is shown by the verifiers' certificate.
//! * That a slot is the newest one: the registry knows those it was told. Verifiers refuse to go back behind the others.
#![forbid(unsafe_code)]

mod command;
mod control;
mod outcome;
mod snapshot;
mod state;
mod submission;

pub use command::{AbortEvidence, Command, Quota, Which};
pub use control::{Applied, Control};
pub use outcome::{
    Answer, Failure, KIND_LIMIT, OUTCOME_LIMIT, Outcome, TEXT_LIMIT, decode_outcome, encode_outcome,
};
pub use snapshot::SNAPSHOT_LIMIT;
pub use state::{
    Active, CLIENTS_LIMIT, Client, FINISHED_LIMIT, GRANTS_LIMIT, Head, Migration, Phase, QUOTA_WINDOW,
    SERVICES_LIMIT, Service, ServiceProgress, ServiceRecord, TOMBSTONES_LIMIT, UPGRADES_LIMIT, Upgrade,
    VMS_LIMIT, Vm, client_key, service_key, service_progress_key, service_vm_name, vm_key,
};
pub use submission::Submission;
