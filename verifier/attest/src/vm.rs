//! What is said about a VM: its specification, its slots, who runs it, and the evidence against those who lie.
//!
//! ```text
//! VmSpec ── id ──▶ slot 0 ─▶ slot 1 ─▶ … ─▶ slot k ──────────▶ slot k+1 …
//!                  │ each names its predecessor's digest         ▲ new generation, new host
//!                  ▼                                             │
//!               Proposal (host) ─▶ Attestation ─▶ SlotCertificate│
//!                                                                │
//!      Relinquish (old host) ─▶ Decision of the ordered log ─▶ Activation vote ─▶ ActivationCertificate
//! ```
//!
//! In statements about slots `seq` is the slot, in those about generations it is the generation. What a type does not
//! show (the newest slot, who runs the VM now) is a parameter of its `verify`.

mod activation;
mod decision;
mod evidence;
mod head;
mod slot;
mod spec;

pub use activation::{Activation, ActivationCertificate, ActivationTally, REASON_LIMIT, Refusal, Relinquish};
pub use decision::{Action, Decision, DecisionCertificate, DecisionTally};
pub use evidence::{ConflictingCertificates, DoubleVote, Equivocation};
pub use head::{HeadAnswer, head_checkpoint, log_origin, statement_leaf};
pub use slot::{Attestation, Mode, Proposal, SlotBody, SlotCertificate, SlotStatement, Tally, Verified};
pub(crate) use spec::check_memory;
pub use spec::{InputPolicy, MACHINE_VERSION, OutputPolicy, VmSpec};
