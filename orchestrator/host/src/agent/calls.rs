//! Requests and queries of clients.

use quorate_attest::encoding::Bounded;
use quorate_attest::id::VmId;
use quorate_attest::request::Request;
use quorate_verifier::protocol::Done;
use tokio::sync::oneshot;

use super::{Agent, refused, wrong_vm};
use crate::protocol::{Busy, Call, FromHost, Moved, Queried, Query};
use crate::vm_thread::VmFailure;

/// Requests that may wait for their answers.
const WAITERS_MAX: usize = 8192;
/// What a client that comes too fast, or during a freeze, is asked to wait.
const RETRY_AFTER_MS: u32 = 10;
/// Characters that a client is told about a query that failed.
const DETAIL_CHARS_MAX: usize = 500;

const BUSY: FromHost = FromHost::Busy(Busy { retry_after_ms: RETRY_AFTER_MS });

impl Agent {
    /// Feeds a request to the guest. Its signature has been checked by the gateway.
    pub(super) fn call(&mut self, call: Call, answer: oneshot::Sender<FromHost>) {
        if let Some(reply) = self.unavailable(call.vm) {
            let _ = answer.send(reply);
            return;
        }
        match Request::decoded(&call.request) {
            Ok(request) if self.waiters.len() < WAITERS_MAX => {
                self.waiters.entry((request.client, request.sequence)).or_default().push(answer);
            }
            Ok(_) => {
                let _ = answer.send(BUSY);
                return;
            }
            // Only under the `Any` policy: an input without a reply address.
            Err(_) => drop(answer.send(FromHost::Done(Done {}))),
        }
        let taken = self.vm.as_ref().is_some_and(|vm| vm.thread.input(call.request.clone()));
        if !taken && let Ok(request) = Request::decoded(&call.request) {
            self.answer_waiter(&request, &BUSY);
        }
    }

    /// Asks a fork of the VM. The agent does not wait for the answer.
    pub(super) fn query(&mut self, query: Query, answer: oneshot::Sender<FromHost>) {
        let unavailable = self.unavailable(query.vm);
        let asked = match &self.vm {
            Some(vm) if unavailable.is_none() => vm.thread.query(query.request),
            _ => None,
        };
        match asked {
            Some(asked) => {
                tokio::spawn(async move { answer.send(query_answer(asked.await)) });
            }
            None => drop(answer.send(unavailable.unwrap_or(BUSY))),
        }
    }

    /// Ends this agent, so that the next one rebuilds the VM from the journal.
    pub(super) fn rewind(&mut self, vm: VmId, answer: oneshot::Sender<FromHost>) {
        let moves = self.emigration.is_some() || self.immigration.is_some() || self.is_recovering();
        let reply = match (self.unavailable(vm), &mut self.vm) {
            (Some(unavailable), _) => unavailable,
            (None, Some(vm)) if !moves && !vm.shortening => {
                tracing::warn!("the VM is taken back to its newest slot");
                vm.running = false;
                self.rewinding = true;
                FromHost::Done(Done {})
            }
            (None, _) => BUSY,
        };
        let _ = answer.send(reply);
    }

    /// Why this host serves nobody of this VM at the moment.
    fn unavailable(&self, meant: VmId) -> Option<FromHost> {
        match &self.vm {
            None => Some(FromHost::Moved(Moved { activation: None })),
            Some(vm) if vm.id != meant => Some(wrong_vm()),
            Some(vm) if !vm.running => Some(self.not_here()),
            Some(_) => self.frozen_now().then_some(BUSY),
        }
    }

    fn answer_waiter(&mut self, request: &Request, answer: &FromHost) {
        for waiter in self.waiters.remove(&(request.client, request.sequence)).unwrap_or_default() {
            let _ = waiter.send(answer.clone());
        }
    }

    /// Tells all waiting clients to ask elsewhere, or again.
    pub(super) fn dismiss_waiters(&mut self) {
        let answer = if self.vm.as_ref().is_some_and(|vm| vm.running) { BUSY } else { self.not_here() };
        for waiter in self.waiters.drain().flat_map(|(_, waiters)| waiters) {
            let _ = waiter.send(answer.clone());
        }
    }

    fn not_here(&self) -> FromHost {
        let activation = self.vm.as_ref().and_then(|vm| vm.activation.borrow().clone());
        FromHost::Moved(Moved { activation })
    }
}

fn query_answer(result: Result<Queried, VmFailure>) -> FromHost {
    match result {
        Ok(queried) => FromHost::Queried(queried),
        // Frozen meanwhile: the next attempt finds out where the VM is.
        Err(failure) if failure.kind == VmFailure::STOPPED => BUSY,
        Err(failure) => {
            let detail: String = failure.detail.chars().take(DETAIL_CHARS_MAX).collect();
            refused(&failure.kind, &detail)
        }
    }
}
