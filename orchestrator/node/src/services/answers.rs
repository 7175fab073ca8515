//! Answers questions about services.

use std::sync::Arc;

use quorate_attest::id::{OperationId, ServiceId};
use quorate_attest::service::{Input, Output, Query};
use quorate_control::{Answer, decode_outcome, service_vm_name};
use quorate_ordering::protocol::{Applied, FromOrchestrator, NotYet};
use quorate_ordering::services::{
    AnsweredQuery, AskService, ExecutedEntry, SERVICE_HEADS_MAX, ServiceAnswer, ServiceHead, ServiceInfo,
    ServiceProof, ServiceQuestion, SignedReceipt,
};
use tokio::time::{Instant, timeout_at};

use super::task::executed;
use super::{Running, ServiceHost};
use crate::node::{Refusal, Shared};

impl Shared {
    /// The answer to a question about a service.
    pub(crate) async fn tell_of_service(&self, ask: AskService) -> Result<FromOrchestrator, Refusal> {
        let host = self.services()?;
        let AskService { service, question } = ask;
        let running = host.running(&service).ok_or(Refusal::UnknownService)?;
        let answer = match question {
            ServiceQuestion::Info => Some(ServiceAnswer::Info(self.service_info(&service)?)),
            ServiceQuestion::Head if self.is_behind_itself() => None,
            ServiceQuestion::Head => Some(ServiceAnswer::Head(self.service_head(host, &running)?)),
            ServiceQuestion::Result { operation } => match self.found(&operation).await? {
                None => None,
                Some(applied) => match decode_outcome(&applied.outcome) {
                    Ok(Ok(Answer::Numbered { service: of, number })) if of == service => {
                        self.service_entry(host, &running, number).await?
                    }
                    Ok(Ok(Answer::ServiceCreated { service: of })) if of == service => {
                        self.service_entry(host, &running, 0).await?
                    }
                    _ => return Err(Refusal::UnknownService),
                },
            },
            ServiceQuestion::At { number } => self.service_entry(host, &running, number).await?,
            ServiceQuestion::Query { query, at_least } => {
                self.service_query(host, &running, query, at_least).await?
            }
            ServiceQuestion::Prove { number, size } => Some(prove(host, &service, number, size)?),
            ServiceQuestion::Heads => {
                let mut heads = host.store.read()?.heads(&service)?;
                heads.truncate(SERVICE_HEADS_MAX);
                Some(ServiceAnswer::Heads(heads))
            }
            ServiceQuestion::Consistency { from, to } => Some(extends(host, &service, from, to)?),
        };
        Ok(answer.map_or_else(|| NotYet {}.into(), FromOrchestrator::from))
    }

    /// The service that has a name.
    pub(crate) fn service_named(&self, name: &str) -> Result<ServiceInfo, Refusal> {
        self.services()?;
        let service = self.replica().control().service_named(name);
        self.service_info(&service.ok_or(Refusal::UnknownService)?)
    }

    /// What a service is and how its replica here is.
    pub(crate) fn service_info(&self, service: &ServiceId) -> Result<ServiceInfo, Refusal> {
        let host = self.services()?;
        let known = self.replica().control().service(service).cloned().ok_or(Refusal::UnknownService)?;
        let running = host.running(service);
        let executed = running.as_ref().map_or(0, |running| *running.executed.borrow());
        Ok(ServiceInfo {
            service: *service,
            image: known.image_at(executed).0,
            created: known.record.created,
            ordered: known.progress.ordered,
            executed,
            replica: host.parts.replica,
            stopped: running.and_then(|running| running.stopped().or_else(|| running.stuck())),
            spec: known.record.spec,
        })
    }

    fn service_head(&self, host: &ServiceHost, running: &Running) -> Result<ServiceHead, Refusal> {
        let replica = self.replica();
        let known = replica.control().service(&running.service).ok_or(Refusal::UnknownService)?;
        let (ordered, executed) = (known.progress.ordered, *running.executed.borrow());
        Ok(ServiceHead { ordered, executed, replica: host.parts.replica })
    }

    /// What became of an operation. One that somebody has submitted here, and waits for, is waited for.
    async fn found(&self, operation: &OperationId) -> Result<Option<Applied>, Refusal> {
        let mut applied = self.applied.subscribe();
        let deadline = Instant::now() + self.order_timeout;
        loop {
            // First whether it may still come, then whether it has come.
            let is_awaited = self.waiters.has(operation);
            let found = self.find(operation)?;
            if found.is_some()
                || !is_awaited
                || !matches!(timeout_at(deadline, applied.changed()).await, Ok(Ok(())))
            {
                return Ok(found);
            }
        }
    }

    /// What came of an entry, once it is executed; none if that takes too long.
    async fn service_entry(
        &self,
        host: &Arc<ServiceHost>,
        running: &Running,
        number: u64,
    ) -> Result<Option<ServiceAnswer>, Refusal> {
        serves(running)?;
        if !executed(running, number, self.order_timeout).await {
            return Ok(None);
        }
        serves(running)?;
        let view = host.store.read()?;
        let SignedReceipt { replica, receipt, signature } = signed(host, running, number)?;
        let reply = view.reply(&running.service, number)?.ok_or(Refusal::ReplyForgotten { number })?;
        Ok(Some(ServiceAnswer::Executed(ExecutedEntry { replica, receipt, signature, reply })))
    }

    async fn service_query(
        &self,
        host: &Arc<ServiceHost>,
        running: &Running,
        query: Query,
        at_least: u64,
    ) -> Result<Option<ServiceAnswer>, Refusal> {
        serves(running)?;
        if let Some(newest) = at_least.checked_sub(1)
            && !executed(running, newest, self.order_timeout).await
        {
            return Ok(None);
        }
        let known;
        let vm = {
            let replica = self.replica();
            let service = replica.control().service(&running.service).ok_or(Refusal::UnknownService)?;
            known = *running.executed.borrow();
            // The image after an upgrade has no state before its first entry.
            let version = service.image_at(known.saturating_sub(1)).1;
            service_vm_name(&service.record.spec, host.parts.replica, version)
        };
        let output = host.parts.guests.query(&vm, &Input::Query(query)).await.map_err(Refusal::Guest)?;
        if let Output::Answered { size: next, .. } | Output::Refused { next, .. } = output
            && next < known
        {
            running.behind.notify_one();
            return Ok(None);
        }
        let (size, state, answer) = match output {
            Output::Answered { size, state, answer } if size > 0 => (size, state, *answer),
            Output::Refused { status, .. } => return Err(Refusal::Query { status }),
            _ => return Err(Refusal::Query { status: quorate_attest::request::status::INCONCLUSIVE }),
        };
        // The guest may be ahead of what is signed, and behind what was asked for after it went back to a slot.
        if size < at_least || !executed(running, size - 1, self.order_timeout).await {
            return Ok(None);
        }
        serves(running)?;
        let newest = signed(host, running, size - 1)?;
        if newest.receipt.state != state {
            return Err(Refusal::Query { status: quorate_attest::request::status::INCONCLUSIVE });
        }
        Ok(Some(ServiceAnswer::Answered(AnsweredQuery { newest, answer })))
    }
}

fn serves(running: &Running) -> Result<(), Refusal> {
    running.stopped().map_or(Ok(()), |why| Err(Refusal::ServiceStopped { detail: why.detail }))
}

/// This replica's word about an executed entry.
fn signed(host: &ServiceHost, running: &Running, number: u64) -> Result<SignedReceipt, Refusal> {
    let stored = host.store.read()?.receipt(&running.service, number)?;
    let unsigned = || Refusal::ServiceStopped { detail: format!("entry {number} is not signed here") };
    let stored = stored.ok_or_else(unsigned)?;
    let signature = stored.signature.ok_or_else(unsigned)?;
    Ok(SignedReceipt { replica: host.parts.replica, receipt: stored.receipt, signature })
}

fn prove(host: &ServiceHost, service: &ServiceId, number: u64, size: u64) -> Result<ServiceAnswer, Refusal> {
    let view = host.store.read()?;
    let known = view.size(service)?;
    let size = match size {
        0 => view.heads(service)?.last().map_or(0, |head| head.size),
        size => size,
    };
    let missing = || Refusal::NotFound { index: number, size: known };
    if size > known {
        return Err(missing());
    }
    let leaf = view.receipt(service, number)?.ok_or_else(missing)?.receipt.leaf();
    let path = view.inclusion(service, number, size)?.ok_or_else(missing)?;
    Ok(ServiceAnswer::Proved(ServiceProof { leaf, path, size, root: view.root(service, size)? }))
}

fn extends(host: &ServiceHost, service: &ServiceId, from: u64, to: u64) -> Result<ServiceAnswer, Refusal> {
    let view = host.store.read()?;
    let size = view.size(service)?;
    let missing = || Refusal::NotFound { index: to.max(from), size };
    if to > size {
        return Err(missing());
    }
    view.consistency(service, from, to)?.map(ServiceAnswer::Consistent).ok_or_else(missing)
}
