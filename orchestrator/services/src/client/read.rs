//! Reads: an answer of one replica, proved against a state that `f + 1` of them certify, new enough by the word of a quorum.

use std::collections::BTreeSet;
use std::sync::Arc;

use quorate_attest::service::{Answer, Query};
use quorate_ordering::services::{AnsweredQuery, ServiceAnswer, ServiceHead, ServiceQuestion};
use tokio::time::{Instant, timeout_at};

use super::{Freshness, Inner, Page, Read, Service, ServiceError};
use crate::gather::Gather;
use crate::proof::{AnswerProof, Claim};

/// An operation that no service has. Ordered, it changes nothing and is newer than everything before it.
const BARRIER: u16 = 0;

impl Service {
    /// The value of a key, or that there is none; either is proved.
    ///
    /// # Errors
    /// There is no answer that can be believed.
    pub async fn get(&self, key: &[u8], freshness: Freshness) -> Result<Read<Option<Vec<u8>>>, ServiceError> {
        let read = self.query(Query::Get { key: key.to_vec() }, freshness).await?;
        Ok(read.map(|answer| match answer {
            Answer::Present(entry) => Some(entry.value),
            _ => None,
        }))
    }

    /// Entries from `low` to `high`, both included, at most `limit` of them; complete up to the last.
    ///
    /// # Errors
    /// There is no answer that can be believed.
    pub async fn range(
        &self,
        low: &[u8],
        high: &[u8],
        limit: u16,
        freshness: Freshness,
    ) -> Result<Read<Page>, ServiceError> {
        let query = Query::Range { low: low.to_vec(), high: high.to_vec(), limit };
        let read = self.query(query, freshness).await?;
        Ok(read.map(|answer| match answer {
            Answer::Range { proof, more } => {
                let entries = proof.entries.into_iter().map(|entry| (entry.key, entry.value)).collect();
                Page { entries, more }
            }
            _ => Page::default(),
        }))
    }

    /// The answer to any question about the state.
    ///
    /// # Errors
    /// There is no answer that can be believed.
    pub async fn query(&self, query: Query, freshness: Freshness) -> Result<Read<Answer>, ServiceError> {
        let inner = &self.inner;
        let deadline = Instant::now() + inner.settings.limit;
        let known = self.known().await;
        match freshness {
            Freshness::Newest => inner.read(&query, known, deadline).await,
            Freshness::AtLeast(size) => inner.read(&query, size.max(known), deadline).await,
            Freshness::Linearizable => {
                let bound = inner.bound(deadline).await?;
                let doubtful = deadline.min(Instant::now() + inner.settings.doubt);
                let until = if bound.vouched { deadline } else { doubtful };
                match inner.read(&query, bound.size.max(known), until).await {
                    // Fewer than f + 1 know of so many entries. Whether they lie or the others are behind, an entry of our own shows.
                    Err(ServiceError::QuorumUnreachable { .. }) if !bound.vouched => {
                        let barrier = self.call_by(BARRIER, |_| Vec::new(), deadline).await?;
                        inner.read(&query, barrier.number + 1, deadline).await
                    }
                    result => result,
                }
            }
        }
    }
}

impl<T> Read<T> {
    fn map<U>(self, change: impl FnOnce(T) -> U) -> Read<U> {
        Read { value: change(self.value), number: self.number, proof: self.proof }
    }
}

/// How much is ordered, by the word of a quorum.
struct Bound {
    size: u64,
    /// Whether more than `f` orchestrators know of so much, so that an honest one does.
    vouched: bool,
}

impl Inner {
    /// The largest number of ordered entries that a quorum of orchestrators tells now. What was acknowledged to anybody was ordered by
    /// a quorum, and two quorums share an honest member.
    async fn bound(&self, deadline: Instant) -> Result<Bound, ServiceError> {
        let rule = self.trust.orchestrators.rule()?;
        let mut told = Vec::new();
        let mut answers = self.insist(&ServiceQuestion::Head, deadline);
        while let Ok(Some(answer)) = timeout_at(deadline, answers.join_next()).await {
            if let Ok((_, Ok(Some(ServiceAnswer::Head(ServiceHead { ordered, .. }))))) = answer {
                told.push(ordered);
            }
            if told.len() as u64 >= rule.quorum() {
                let size = told.iter().copied().max().unwrap_or(0);
                let vouched = told.iter().filter(|ordered| **ordered >= size).count() as u64;
                return Ok(Bound { size, vouched: vouched >= rule.matching_replies() });
            }
        }
        let (got, need) = (told.len() as u64, rule.quorum());
        Err(ServiceError::QuorumUnreachable { parties: "orchestrators", got, need, because: None })
    }

    /// An answer against a certified state of at least `size` entries.
    async fn read(&self, query: &Query, size: u64, deadline: Instant) -> Result<Read<Answer>, ServiceError> {
        let mut gather = Gather::new(&self.trust.replicas, self.trust.service);
        let question = ServiceQuestion::Query { query: query.clone(), at_least: size };
        let mut answers = self.insist(&question, deadline);
        let mut answered: Vec<AnsweredQuery> = Vec::new();
        let mut asked = BTreeSet::new();
        let (mut progress, mut because) = (gather.progress(0), None);
        while let Ok(Some(answer)) = timeout_at(deadline, answers.join_next()).await {
            match answer {
                Ok((_, Ok(Some(ServiceAnswer::Answered(answer))))) => {
                    let receipt = &answer.newest.receipt;
                    // What it signs counts for other answers, and against it, also when its own answer shows nothing.
                    self.count(&mut gather, &answer.newest).await;
                    if receipt.log_size < size || answer.answer.verify(query, &receipt.state).is_err() {
                        because =
                            Some(format!("{} proves nothing", self.replica_name(answer.newest.replica)));
                        continue;
                    }
                    let number = receipt.number;
                    answered.push(answer);
                    // While others write, the replicas are at different entries. All can tell about this one.
                    if gather.certified(number).is_none() && asked.insert(number) {
                        self.insist_also(&mut answers, &ServiceQuestion::At { number }, deadline);
                    }
                    progress = progress.max(gather.progress(number));
                }
                Ok((_, Ok(Some(ServiceAnswer::Executed(entry))))) => {
                    self.count(&mut gather, &entry.signed()).await;
                    progress = progress.max(gather.progress(entry.receipt.number));
                }
                Ok((index, Err(error))) => because = Some(format!("{}: {error}", self.orderer.name(index))),
                _ => {}
            }
            for answer in &answered {
                let number = answer.newest.receipt.number;
                let certificate =
                    gather.certified(number).filter(|known| known.receipt == answer.newest.receipt);
                let Some(certificate) = certificate else { continue };
                let claim = Claim::State { query: query.clone(), answer: answer.answer.clone() };
                let proof = AnswerProof::new(certificate, claim);
                proof.verify(&self.trust)?;
                self.remember(&proof.receipt, deadline).await?;
                let value = answer.answer.clone();
                return Ok(Read { value, number, proof: Arc::new(proof) });
            }
        }
        let (got, need) = progress;
        Err(ServiceError::QuorumUnreachable { parties: "replicas", got, need, because })
    }
}
