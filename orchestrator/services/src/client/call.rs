//! Calls: a request is ordered, executed by the replicas, and answered by `f + 1` of them.

use std::pin::pin;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use quorate_attest::encoding::Bounded;
use quorate_attest::id::Nonce;
use quorate_attest::operation::Operation;
use quorate_attest::request::{Call, Reply, Request, status};
use quorate_attest::service::ServiceReceiptCertificate;
use quorate_control::{Answer as Outcome, Command, decode_outcome};
use quorate_ordering::gather::Ordered;
use quorate_ordering::services::{ServiceAnswer, ServiceQuestion};
use sha2::{Digest as _, Sha256};
use tokio::time::{Instant, timeout_at};

use super::{Called, Inner, Service, ServiceError};
use crate::gather::Gather;
use crate::proof::{AnswerProof, Claim, ProofFault};

impl Service {
    /// Has a request ordered and executed. Calls of one client are made one after the other.
    ///
    /// # Errors
    /// There is no answer that can be believed; the request may still take effect. A request that the service itself refuses is
    /// answered with a status.
    pub async fn call(&self, op: u16, body: Vec<u8>) -> Result<Called, ServiceError> {
        self.call_with(op, |_| body.clone()).await
    }

    /// As [`Self::call`], with a body that depends on the sequence number of the request: signatures inside it may cover that.
    ///
    /// # Errors
    /// As [`Self::call`].
    pub async fn call_with(&self, op: u16, body: impl Fn(u64) -> Vec<u8>) -> Result<Called, ServiceError> {
        self.call_by(op, body, Instant::now() + self.inner.settings.limit).await
    }

    pub(super) async fn call_by(
        &self,
        op: u16,
        body: impl Fn(u64) -> Vec<u8>,
        deadline: Instant,
    ) -> Result<Called, ServiceError> {
        let inner = &self.inner;
        let mut sequence = inner.sequence.lock().await;
        loop {
            *sequence = (*sequence + 1).max(microseconds());
            let called = inner.call_once(op, body(*sequence), *sequence, deadline).await?;
            // Only a request that was overtaken by a later one of this key is refused so, and was not executed: a clock that ran ahead once.
            if called.status != status::REPLAYED || Instant::now() >= deadline {
                return Ok(called);
            }
            *sequence += 1 << 32;
        }
    }
}

/// Sequence numbers follow the clock, so that a client that starts again needs no file to stay ahead of itself.
fn microseconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros() as u64)
}

fn nonce() -> Result<Nonce, ServiceError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| ServiceError::System(error.to_string()))?;
    Ok(Nonce::from_bytes(bytes))
}

impl Inner {
    async fn call_once(
        &self,
        op: u16,
        body: Vec<u8>,
        sequence: u64,
        deadline: Instant,
    ) -> Result<Called, ServiceError> {
        let service = self.trust.service;
        let call = Call { op, sequence, nonce: nonce()?, epoch: 0, body };
        let request = Request::sign(&self.key, service.instance(), call);
        let command = Command::CallService { service, request: request.encoded() };
        let operation = command.to_operation(&self.key, self.trust.orchestrators.id(), nonce()?);
        let limit = deadline.saturating_duration_since(Instant::now());
        let mut order = pin!(self.orderer.order(&operation, limit));
        let mut executed = pin!(self.executed(&operation, deadline));
        let mut results = None;
        let ordered = loop {
            tokio::select! {
                // Replicas that have seen the operation answer when it is executed, others at once that they know nothing.
                biased;
                ordered = &mut order => break ordered?,
                early = &mut executed, if results.is_none() => results = Some(early),
            }
        };
        // Refused by the log, it is executed nowhere: nobody waits for results then, and that is the better reason.
        let number = self.number_of(&ordered)?;
        let (certificate, reply) = match results {
            Some(results) => results?,
            None => executed.await?,
        };
        let proof = self.prove(&operation, ordered, certificate, reply)?;
        self.remember(&proof.receipt, deadline).await?;
        let reply = proof.reply().map_err(ProofFault::from)?.filter(|reply| reply.answers(&request));
        let Some(Reply { status, body, .. }) = reply else {
            return Err(ProofFault::Mixed { reason: "the reply is to another request" }.into());
        };
        Ok(Called { number, status, body, proof: Arc::new(proof) })
    }

    fn number_of(&self, ordered: &Ordered) -> Result<u64, ServiceError> {
        match decode_outcome(&ordered.outcome).map_err(ProofFault::from)? {
            Ok(Outcome::Numbered { service, number }) if service == self.trust.service => Ok(number),
            Ok(_) => {
                Err(ProofFault::Mixed { reason: "the outcome is not that of a call of this service" }.into())
            }
            Err(failure) => Err(ServiceError::Refused(Box::new(failure))),
        }
    }

    /// What `f + 1` replicas say came of an operation.
    async fn executed(
        &self,
        operation: &Operation,
        deadline: Instant,
    ) -> Result<(ServiceReceiptCertificate, Vec<u8>), ServiceError> {
        let id = operation.id();
        let mut gather = Gather::new(&self.trust.replicas, self.trust.service);
        let mut answers = self.insist(&ServiceQuestion::Result { operation: id }, deadline);
        let (mut progress, mut because) = (gather.progress(0), None);
        let mut replies = Vec::new();
        while let Ok(Some(answer)) = timeout_at(deadline, answers.join_next()).await {
            match answer {
                Ok((_, Ok(Some(ServiceAnswer::Executed(entry))))) if entry.receipt.operation == id => {
                    let signed = entry.signed();
                    replies.push((signed.receipt.result, entry.reply));
                    if let Some(certificate) = self.count(&mut gather, &signed).await {
                        match reply_of(&certificate, &replies) {
                            Some(reply) => return Ok((certificate, reply)),
                            None => because = Some("no reply has the digest that is certified".to_owned()),
                        }
                    }
                    progress = progress.max(gather.progress(signed.receipt.number));
                }
                Ok((index, Err(error))) => because = Some(format!("{}: {error}", self.orderer.name(index))),
                _ => {}
            }
        }
        let (got, need) = progress;
        Err(ServiceError::QuorumUnreachable { parties: "replicas", got, need, because })
    }

    /// Puts the proof of an executed request together and checks it whole.
    fn prove(
        &self,
        operation: &Operation,
        ordered: Ordered,
        certificate: ServiceReceiptCertificate,
        reply: Vec<u8>,
    ) -> Result<AnswerProof, ServiceError> {
        let Ordered { receipt: order, outcome, .. } = ordered;
        let claim = Claim::Reply { operation: operation.encoded(), order, outcome, reply };
        let proof = AnswerProof::new(certificate, claim);
        proof.verify(&self.trust)?;
        Ok(proof)
    }
}

fn reply_of(certificate: &ServiceReceiptCertificate, replies: &[([u8; 32], Vec<u8>)]) -> Option<Vec<u8>> {
    let wanted = certificate.receipt.result;
    // A liar may sign the right digest and send other bytes beside it.
    let right =
        |(digest, reply): &&([u8; 32], Vec<u8>)| *digest == wanted && Sha256::digest(reply)[..] == wanted;
    replies.iter().find(right).map(|(_, reply)| reply.clone())
}
