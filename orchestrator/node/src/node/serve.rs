//! Answers hosts, operators, clients, verifiers and other orchestrators on the QUIC endpoint.

use std::sync::Arc;
use std::time::Instant;

use quorate_attest::encoding::Bounded;
use quorate_attest::id::OperationId;
use quorate_attest::operation::Operation;
use quorate_control::Submission;
use quorate_ordering::orderer::told;
use quorate_ordering::protocol::{
    ANSWER_BYTES_MAX, Applied, CosignedHeads, ENTRIES_BYTES_MAX, ENTRIES_MAX, Entries, Find,
    FromOrchestrator, NotYet, Prove, Proved, Question, Refused, Submit, Tail, TailEntry, ToOrchestrator,
    Told,
};
use quorate_ordering::services::{ServiceAnswer, ServiceNamed};
use quorate_transport::{Connection, Exchange, TransportError};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::Shared;
use super::refusal::Refusal;
use crate::store::View;

/// Serves one connection until it ends.
pub(super) async fn serve(shared: Arc<Shared>, connection: Connection) {
    let mut exchanges = JoinSet::new();
    loop {
        tokio::select! {
            exchange = connection.accept() => match exchange {
                Ok(exchange) => {
                    exchanges.spawn(handle(Arc::clone(&shared), exchange));
                }
                Err(error) => {
                    tracing::debug!(peer = %connection.peer(), error_kind = error.kind(), "connection ended");
                    return;
                }
            },
            Some(_) = exchanges.join_next() => {}
        }
    }
}

/// Questions and answers of one exchange, one after the other.
pub(super) async fn handle(shared: Arc<Shared>, mut exchange: Exchange) {
    loop {
        let answered = async {
            let Some(request) = exchange.recv::<ToOrchestrator>().await? else { return Ok(false) };
            let answer = shared.answer(request).await;
            exchange.send(&answer).await?;
            Ok::<_, TransportError>(true)
        };
        match answered.await {
            Ok(true) => {}
            Ok(false) => return,
            Err(error) => {
                tracing::debug!(peer = %exchange.peer(), error_kind = error.kind(), "exchange ended: {error}");
                return;
            }
        }
    }
}

impl Shared {
    /// The answer to a request; every refusal is counted.
    pub(crate) async fn answer(&self, request: ToOrchestrator) -> FromOrchestrator {
        let answer = match request {
            ToOrchestrator::Submit(Submit { operation }) => self.submitted(operation).await,
            ToOrchestrator::Find(Find { operation }) => self.find(&operation).map(|found| match found {
                Some(applied) => applied.into(),
                None => NotYet {}.into(),
            }),
            ToOrchestrator::Tail(Tail { from, count }) => {
                self.entries(from, count).map(FromOrchestrator::from)
            }
            ToOrchestrator::Prove(Prove { index, size }) => {
                self.prove(index, size).await.map(FromOrchestrator::from)
            }
            ToOrchestrator::Question(question) => self.tell(&question).map(FromOrchestrator::from),
            ToOrchestrator::Service(ask) => self.tell_of_service(ask).await,
            ToOrchestrator::ServiceNamed(_) if self.is_behind_itself() => Ok(NotYet {}.into()),
            ToOrchestrator::ServiceNamed(ServiceNamed { name }) => {
                self.service_named(&name).map(|info| ServiceAnswer::Info(info).into())
            }
        };
        answer.unwrap_or_else(|refusal| {
            self.metrics.refused(refusal.kind());
            Refused { kind: refusal.kind().to_owned(), detail: refusal.to_string() }.into()
        })
    }

    async fn submitted(&self, operation: Vec<u8>) -> Result<FromOrchestrator, Refusal> {
        Ok(match self.order(operation).await? {
            Some(applied) => applied.into(),
            None => NotYet {}.into(),
        })
    }

    /// Has an operation ordered and waits until it is executed here; none if that takes too long.
    pub(crate) async fn order(&self, bytes: Vec<u8>) -> Result<Option<Applied>, Refusal> {
        let began = Instant::now();
        let operation = Operation::decoded(&bytes)?;
        let submission = Submission::read(&bytes, &self.group);
        let id = submission.id();
        // First wait, then look: what is executed between the two finds somebody waiting.
        let mut wait = self.waiters.wait(id, operation.author)?;
        if let Some(applied) = self.find(&id)? {
            return Ok(Some(applied));
        }
        {
            // What this state refuses, the log would refuse too. This way it does not grow by it.
            let replica = self.replica();
            replica.control().admit(&submission, replica.applied())?;
        }
        self.rules.is_signed(&bytes);
        self.submit(bytes).await?;
        let answered = timeout(self.order_timeout, wait.answered()).await;
        let Some(applied) = answered.ok().flatten() else { return Ok(None) };
        self.metrics.order_seconds.observe(began.elapsed().as_secs_f64());
        Ok(Some(Applied::clone(&applied)))
    }

    /// What became of an operation, if this node executed and signed it.
    pub(crate) fn find(&self, operation: &OperationId) -> Result<Option<Applied>, Refusal> {
        let entry = self.view()?.find(operation)?;
        Ok(entry.and_then(|entry| entry.applied()))
    }

    pub(crate) fn view(&self) -> Result<View, Refusal> {
        Ok(self.store.read()?)
    }

    /// Executed entries from an index on, as many as fit.
    pub(crate) fn entries(&self, from: u64, count: u32) -> Result<Entries, Refusal> {
        let view = self.view()?;
        let size = view.size()?;
        let count = u64::from(count).min(ENTRIES_MAX as u64);
        let mut entries = Entries { from, entries: Vec::new(), size };
        let mut bytes = 0;
        for index in from..size.min(from.saturating_add(count)) {
            let Some(entry) = view.entry(index)? else { break };
            bytes += entry.operation.len() + entry.outcome.len();
            if bytes > ENTRIES_BYTES_MAX && !entries.entries.is_empty() {
                break;
            }
            let applied = entry.shown();
            entries.entries.push(TailEntry { operation: entry.operation, applied });
        }
        Ok(entries)
    }

    /// A proof that an entry is in the log of `size` entries, or of the newest cosigned size.
    pub(crate) async fn prove(&self, index: u64, size: u64) -> Result<Proved, Refusal> {
        let (applied, size, root, path) = {
            let view = self.view()?;
            let known = view.size()?;
            let size = match size {
                0 => view.heads()?.last().map_or(0, |head| head.size),
                size => size,
            };
            let missing = || Refusal::NotFound { index, size: known };
            if size > known {
                return Err(missing());
            }
            let entry = view.entry(index)?.ok_or_else(missing)?;
            let path = view.inclusion(index, size)?.ok_or_else(missing)?;
            (entry.shown(), size, view.root(size)?, path)
        };
        let order = self.proof_of_order(index).await?;
        Ok(Proved { applied, path, size, root, order })
    }

    fn tell(&self, question: &Question) -> Result<Told, Refusal> {
        let (applied, answer) = match question {
            Question::Heads => {
                let view = self.view()?;
                (view.size()?, told(&CosignedHeads(view.heads()?)))
            }
            Question::Status => {
                let status = self.status();
                (status.applied, status.to_json().into_bytes())
            }
            Question::Vm(_) | Question::Vms(_) | Question::Orchestrators | Question::Verifiers => {
                self.tell_of_state(question)
            }
        };
        match answer.len() {
            got if got > ANSWER_BYTES_MAX => Err(Refusal::TooLarge { limit: ANSWER_BYTES_MAX, got }),
            _ => Ok(Told { applied, answer }),
        }
    }
}
