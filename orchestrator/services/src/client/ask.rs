//! Receipts from replicas, certified, and the head that follows them.

use std::time::Duration;

use quorate_attest::service::ServiceReceiptCertificate;
use quorate_ordering::orderer::OrderError;
use quorate_ordering::services::{AskService, ServiceAnswer, ServiceQuestion, SignedReceipt};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{Inner, ServiceError};
use crate::gather::{Contradiction, Gather, Heard};
use crate::memory::MemoryError;

/// Pause before a replica is asked again.
const RETRY: Duration = Duration::from_millis(20);

/// The answers of replicas, as they arrive.
pub(super) type Answers = JoinSet<(u16, Result<Option<ServiceAnswer>, OrderError>)>;

impl Inner {
    /// Asks every replica again and again until the answers are dropped or the deadline has passed. What a replica answers comes once.
    pub(super) fn insist(&self, question: &ServiceQuestion, deadline: Instant) -> Answers {
        let mut answers = JoinSet::new();
        self.insist_also(&mut answers, question, deadline);
        answers
    }

    /// As [`Self::insist`], beside other questions.
    pub(super) fn insist_also(&self, answers: &mut Answers, question: &ServiceQuestion, deadline: Instant) {
        for index in 0..self.trust.orchestrators.members.len() as u16 {
            let (orderer, service) = (self.orderer.clone(), self.trust.service);
            let ask = AskService { service, question: question.clone() };
            answers.spawn(async move {
                loop {
                    let patience = deadline.saturating_duration_since(Instant::now());
                    let answer = orderer.ask_service(index, &ask, patience).await;
                    let again = Instant::now() + RETRY;
                    if matches!(answer, Ok(Some(_))) || again >= deadline {
                        return (index, answer);
                    }
                    sleep_until(again).await;
                }
            });
        }
    }

    /// Counts a receipt; evidence against its signer is kept.
    pub(super) async fn count(
        &self,
        gather: &mut Gather<'_>,
        signed: &SignedReceipt,
    ) -> Option<ServiceReceiptCertificate> {
        let SignedReceipt { replica, receipt, signature } = *signed;
        match gather.add(replica, receipt, signature) {
            Ok(Heard::Certified(certificate)) => {
                for dissent in gather.dissents(receipt.number) {
                    let (name, number) = (self.replica_name(dissent.replica), receipt.number);
                    tracing::warn!(replica = name, number, "a receipt differs from the certified one");
                    self.keep(&dissent).await;
                }
                Some(*certificate)
            }
            Ok(Heard::Counted) => None,
            Ok(Heard::Contradicts(contradiction)) => {
                let Contradiction { replica, .. } = *contradiction;
                tracing::warn!(
                    replica = self.replica_name(replica),
                    "a replica signed two receipts for one entry"
                );
                self.keep(&*contradiction).await;
                None
            }
            Err(error) => {
                tracing::warn!(replica = self.replica_name(replica), error_kind = error.kind(), %error, "bad receipt");
                None
            }
        }
    }

    async fn keep<T: quorate_attest::encoding::Bounded>(&self, evidence: &T) {
        if let Err(error) = self.memory.lock().await.keep(evidence) {
            tracing::warn!(error_kind = error.kind(), %error, "evidence is not kept");
        }
    }

    pub(super) fn replica_name(&self, replica: u16) -> &str {
        self.trust.replicas.members.get(usize::from(replica)).map_or("?", |member| &member.name)
    }

    /// Moves the head to a certified receipt, once a replica has shown that its log extends the known one.
    pub(super) async fn remember(
        &self,
        certificate: &ServiceReceiptCertificate,
        deadline: Instant,
    ) -> Result<(), ServiceError> {
        loop {
            match self.try_remember(certificate, deadline).await {
                Err(ServiceError::Memory(MemoryError::Overtaken { .. })) => {}
                done => return done,
            }
        }
    }

    async fn try_remember(
        &self,
        certificate: &ServiceReceiptCertificate,
        deadline: Instant,
    ) -> Result<(), ServiceError> {
        let mut memory = self.memory.lock().await;
        let Some((from, to)) = memory.needs(certificate).or_else(older)? else {
            return Ok(memory.advance(certificate.clone(), &[]).or_else(older)?);
        };
        let need = self.trust.replicas.rule()?.matching_replies();
        let mut answers = self.insist(&ServiceQuestion::Consistency { from, to }, deadline);
        let mut wrong = 0;
        while let Ok(Some(answer)) = timeout_at(deadline, answers.join_next()).await {
            let Ok((_, Ok(Some(ServiceAnswer::Consistent(path))))) = answer else { continue };
            match memory.advance(certificate.clone(), &path) {
                // Another process may have known of newer ones since the question.
                Ok(()) | Err(MemoryError::Stale { .. }) => return Ok(()),
                Err(error @ MemoryError::Forked(_)) => {
                    // One liar's path shows nothing. Of f + 1 one is honest, and its log is another one than the known.
                    wrong += 1;
                    if wrong >= need {
                        return Err(error.into());
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(ServiceError::QuorumUnreachable {
            parties: "replicas",
            got: 0,
            need: 1,
            because: Some(format!("nobody proves that {to} entries extend the {from} known ones")),
        })
    }
}

/// A certified entry below the head is no step back for the head: an answer may have been overtaken by another.
fn older<T: Default>(error: MemoryError) -> Result<T, MemoryError> {
    match error {
        MemoryError::Stale { .. } => Ok(T::default()),
        error => Err(error),
    }
}
