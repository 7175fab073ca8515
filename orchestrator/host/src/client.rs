//! Calls a VM and believes only what a quorum certified.
//!
//! ```text
//! VmClient::call(op, body)
//!    │ signs a Request: rising sequence, fresh nonce
//!    ▼
//! host thought active ──▶ Answer ──▶ AnswerCheck: certificate, generation, slot, inclusion proof, nonce ──▶ Reply
//!    ▲        │ Moved, Busy, timeout, refused answer                                      │
//!    └────────┘ the SAME request, at the next host                            Target: newest head, kept on disk
//! ```
//!
//! Repeating one signed request is safe: the service in the VM answers a repeated sequence with the stored reply. The
//! nonce makes an answer fresh: an output that repeats it was computed after the request was made.
//!
//! * [`check`]: the rules, pure.
//! * [`head`]: the newest head, in memory and in a file.
//! * [`hosts`]: connections to hosts, and the operator's orders.
//! * [`replica`]: feeds and asks a VM whose host is trusted, without certificates.
//! * [`recovery`]: the slot that another host may go on from when a host is dead.
//!
//! # Not promised
//!
//! A client that reaches no host waits and then gives up; it cannot tell a dead VM from a cut network.

pub mod check;
pub mod head;
pub mod hosts;
pub mod recovery;
mod repeat;
pub mod replica;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_attest::epoch::GroupChain;
use quorate_attest::id::{Generation, Slot, VmId};
use quorate_attest::request::{Reply, Request};
use quorate_attest::vm::{ActivationCertificate, ConflictingCertificates, VmSpec};

use crate::protocol::Answer;
use check::{AnswerCheck, AnswerRefused};
use head::{Head, HeadStore};
use hosts::HostPeer;
pub use repeat::{CallError, Patience, VmClient};

/// One VM as all clients of a process see it: what they expect, where it may run, and the newest head any of them saw.
#[derive(Debug)]
pub struct Target {
    spec: VmSpec,
    vm: VmId,
    hosts: Vec<HostPeer>,
    active: AtomicUsize,
    check: Mutex<AnswerCheck>,
    store: Option<HeadStore>,
    refused: Mutex<BTreeMap<String, u64>>,
}

impl Target {
    /// A VM of which nothing is known yet but its specification. The first of `hosts` is asked first.
    pub fn new(group: Arc<GroupChain>, spec: VmSpec, hosts: Vec<HostPeer>) -> Self {
        let check = Mutex::new(AnswerCheck::new(group, &spec));
        let (vm, active) = (spec.id(), AtomicUsize::new(0));
        Self { spec, vm, hosts, active, check, store: None, refused: Mutex::default() }
    }

    /// Keeps the newest head in a file and never goes back behind what the file says.
    #[must_use]
    pub fn with_store(self, store: HeadStore, stored: Option<Head>) -> Self {
        if let Some(head) = stored {
            lock(&self.check).resume(head);
        }
        Self { store: Some(store), ..self }
    }

    /// The VM's id.
    pub fn vm(&self) -> VmId {
        self.vm
    }

    /// The VM's specification.
    pub fn spec(&self) -> &VmSpec {
        &self.spec
    }

    /// Hosts that may run the VM.
    pub fn hosts(&self) -> &[HostPeer] {
        &self.hosts
    }

    /// The newest head seen.
    pub fn head(&self) -> Head {
        lock(&self.check).head()
    }

    /// Refused answers and refusals met, by error kind.
    pub fn refused(&self) -> BTreeMap<String, u64> {
        lock(&self.refused).clone()
    }

    /// Two certificates for one slot, if a client met them: proof that the fault model has been left.
    pub fn conflict(&self) -> Option<ConflictingCertificates> {
        lock(&self.check).conflict().cloned()
    }

    /// Verifies an answer, remembers the head it proves, on disk first, and returns the reply.
    fn accept(
        &self,
        request: &Request,
        floor: Option<Slot>,
        answer: &Answer,
    ) -> Result<Believed, AnswerRefused> {
        let mut check = lock(&self.check);
        let before = check.head();
        let reply = check.check(request, floor, answer)?;
        let head = check.head();
        if head != before
            && let Some(store) = &self.store
        {
            store
                .save(&self.vm, &head)
                .map_err(|error| AnswerRefused::Storage { error: error.to_string() })?;
        }
        Ok(Believed { reply, generation: answer.generation, slot: answer.slot })
    }

    /// Takes note of an activation that a host showed; returns the place of the new host if the proof holds.
    fn follow(&self, activation: &ActivationCertificate) -> Result<Option<usize>, AnswerRefused> {
        let host = activation.activation.host;
        lock(&self.check).activated(activation)?;
        Ok(self.hosts.iter().position(|peer| peer.key == host))
    }

    fn count(&self, kind: &str) {
        *lock(&self.refused).entry(kind.to_owned()).or_default() += 1;
    }

    fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    fn set_active(&self, host: usize) {
        self.active.store(host, Ordering::Relaxed);
    }
}

/// A reply that a quorum vouches for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Believed {
    /// What the service answered.
    pub reply: Reply,
    /// Generation that answered.
    pub generation: Generation,
    /// Slot in which the answer became visible.
    pub slot: Slot,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
