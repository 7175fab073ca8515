//! Requests of clients.

use quorate_attest::encoding::Bounded;
use quorate_attest::request::Request;
use quorate_verifier::protocol::Done;
use tokio::sync::oneshot;

use super::{Agent, refused};
use crate::protocol::{Busy, Call, FromHost, Moved};

/// Requests that may wait for their answers.
const WAITERS_MAX: usize = 8192;
/// What a client that comes too fast, or during a freeze, is asked to wait.
const RETRY_AFTER_MS: u32 = 10;

impl Agent {
    /// Feeds a request to the guest. Its signature has been checked by the gateway.
    pub(super) fn call(&mut self, call: Call, answer: oneshot::Sender<FromHost>) {
        let reply = match &self.vm {
            None => Some(FromHost::Moved(Moved { activation: None })),
            Some(vm) if vm.id != call.vm => Some(refused("WrongVm", "this host serves another VM")),
            Some(vm) if !vm.running => Some(self.not_here()),
            Some(_) if self.frozen_now() => Some(FromHost::Busy(Busy { retry_after_ms: RETRY_AFTER_MS })),
            Some(_) => None,
        };
        if let Some(reply) = reply {
            let _ = answer.send(reply);
            return;
        }
        match Request::decoded(&call.request) {
            Ok(request) if self.waiters.len() < WAITERS_MAX => {
                self.waiters.entry((request.client, request.sequence)).or_default().push(answer);
            }
            Ok(_) => {
                let _ = answer.send(FromHost::Busy(Busy { retry_after_ms: RETRY_AFTER_MS }));
                return;
            }
            // Only under the `Any` policy: an input without a reply address.
            Err(_) => drop(answer.send(FromHost::Done(Done {}))),
        }
        let taken = self.vm.as_ref().is_some_and(|vm| vm.thread.input(call.request.clone()));
        if !taken && let Ok(request) = Request::decoded(&call.request) {
            self.answer_waiter(&request, &FromHost::Busy(Busy { retry_after_ms: RETRY_AFTER_MS }));
        }
    }

    fn answer_waiter(&mut self, request: &Request, answer: &FromHost) {
        for waiter in self.waiters.remove(&(request.client, request.sequence)).unwrap_or_default() {
            let _ = waiter.send(answer.clone());
        }
    }

    /// Tells all waiting clients to ask elsewhere, or again.
    pub(super) fn dismiss_waiters(&mut self) {
        let answer = if self.vm.as_ref().is_some_and(|vm| vm.running) {
            FromHost::Busy(Busy { retry_after_ms: RETRY_AFTER_MS })
        } else {
            self.not_here()
        };
        for waiter in self.waiters.drain().flat_map(|(_, waiters)| waiters) {
            let _ = waiter.send(answer.clone());
        }
    }

    fn not_here(&self) -> FromHost {
        let activation = self.vm.as_ref().and_then(|vm| vm.activation.borrow().clone());
        FromHost::Moved(Moved { activation })
    }
}
