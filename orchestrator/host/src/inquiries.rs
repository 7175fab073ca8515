//! Questions that a host puts to all verifiers at once: heads, votes, and who runs a VM after an unclear handover.
//!
//! Every inquiry goes to all members side by side and ends as soon as the answer is settled, so f silent verifiers cost
//! nothing.

use std::sync::Arc;
use std::time::Duration;

use quorate_attest::epoch::GroupChain;
use quorate_attest::group::GroupConfig;
use quorate_attest::id::{Generation, Nonce, VmId};
use quorate_attest::vm::{
    Activation, ActivationCertificate, ActivationTally, DecisionCertificate, HeadAnswer, Relinquish,
    SlotCertificate, SlotStatement,
};
use quorate_verifier::protocol::{Activate, FromVerifier, HeadQuery, Refused, ToVerifier};
use tokio::task::JoinSet;

use super::link::{AskError, Asker};
use crate::migration::heads::{HeadRefusal, Heads};

/// How long an inquiry waits for a quorum.
const INQUIRY_TIMEOUT: Duration = Duration::from_secs(3);

/// Why an inquiry did not end well.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InquiryError {
    /// The heads speak against the handover.
    #[error(transparent)]
    Heads(#[from] HeadRefusal),
    /// So many verifiers refused that a quorum is impossible.
    #[error("{}: {}", .0.kind, .0.detail)]
    Refused(Refused),
    /// Too few verifiers answered in time.
    #[error("no quorum of verifiers answered in time")]
    QuorumUnreachable,
}

impl InquiryError {
    /// Stable identifier of threats.md.
    pub fn kind(&self) -> String {
        match self {
            Self::Heads(refusal) => refusal.kind().to_owned(),
            Self::Refused(refused) => refused.kind.clone(),
            Self::QuorumUnreachable => "QuorumUnreachable".to_owned(),
        }
    }
}

/// Fresh random bytes from the operating system.
///
/// # Errors
/// The system has none to give.
pub fn fresh<const N: usize>() -> std::io::Result<[u8; N]> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(std::io::Error::other)?;
    Ok(bytes)
}

fn ask_all(askers: &[Asker], question: &ToVerifier) -> JoinSet<(u16, Result<FromVerifier, AskError>)> {
    let question = Arc::new(question.clone());
    let mut answers = JoinSet::new();
    for asker in askers {
        let (asker, question) = (asker.clone(), Arc::clone(&question));
        answers.spawn(async move { (asker.index(), asker.ask(&question).await) });
    }
    answers
}

/// Asks for the heads until a quorum shows nothing newer than `last`. Returns how many answered.
///
/// # Errors
/// A newer slot or another statement of the source is shown, or no quorum answers.
pub async fn heads_agree(
    askers: Vec<Asker>,
    group: Arc<GroupChain>,
    last: SlotStatement,
    history: Vec<SlotStatement>,
) -> Result<u32, InquiryError> {
    let nonce = Nonce::from_bytes(fresh().map_err(|_| InquiryError::QuorumUnreachable)?);
    let question = ToVerifier::HeadQuery(HeadQuery { vm: last.vm, nonce });
    let mut answers = ask_all(&askers, &question);
    let mut heads = Heads::new(group, nonce, last, history);
    let collect = async {
        let mut votes = 0;
        while let Some(answer) = answers.join_next().await {
            if let Ok((_, Ok(FromVerifier::Head(answer)))) = answer {
                votes += 1;
                if heads.add(&answer)? {
                    return Ok(votes);
                }
            }
        }
        Err(InquiryError::QuorumUnreachable)
    };
    tokio::time::timeout(INQUIRY_TIMEOUT, collect).await.unwrap_or(Err(InquiryError::QuorumUnreachable))
}

/// Collects the verifiers' head answers, as many as arrive in time. All signatures are checked.
pub async fn collect_heads(askers: &[Asker], group: &GroupChain, vm: VmId) -> Vec<HeadAnswer> {
    let Ok(bytes) = fresh() else { return Vec::new() };
    let nonce = Nonce::from_bytes(bytes);
    let mut answers = ask_all(askers, &ToVerifier::HeadQuery(HeadQuery { vm, nonce }));
    let mut heads = Vec::new();
    let collect = async {
        while let Some(answer) = answers.join_next().await {
            if let Ok((_, Ok(FromVerifier::Head(answer)))) = answer
                && answer.verify_fresh(group, vm, &nonce).is_ok()
            {
                heads.push(answer);
            }
        }
    };
    // What came in before the deadline counts.
    let _ = tokio::time::timeout(INQUIRY_TIMEOUT, collect).await;
    heads
}

/// Asks for votes for one activation.
///
/// # Errors
/// A quorum is impossible because too many refuse, or does not answer in time.
pub async fn elect(
    askers: &[Asker],
    group: &GroupConfig,
    question: Activate,
) -> Result<ActivationCertificate, InquiryError> {
    let mut tally = ActivationTally::new(group, question.activation.clone(), question.grant.clone())
        .map_err(|error| {
            InquiryError::Refused(Refused { kind: error.kind().to_owned(), detail: error.to_string() })
        })?;
    let members = group.members.len() as u64;
    let (_, need) = tally.progress();
    let mut refusals = Vec::new();
    let mut answers = ask_all(askers, &ToVerifier::Activate(question));
    let collect = async {
        while let Some(answer) = answers.join_next().await {
            match answer {
                Ok((index, Ok(FromVerifier::Voted(vote)))) if vote.verifier == index => {
                    match tally.add(index, vote.signature) {
                        Ok(true) => {
                            return tally.certificate().map_err(|_| InquiryError::QuorumUnreachable);
                        }
                        Ok(false) => {}
                        Err(error) => {
                            tracing::warn!(verifier = index, error_kind = error.kind(), %error, "bad vote")
                        }
                    }
                }
                Ok((_, Ok(FromVerifier::Refused(refused)))) => {
                    refusals.push(refused);
                    if members.saturating_sub(refusals.len() as u64) < need {
                        return Err(InquiryError::Refused(refusals.swap_remove(0)));
                    }
                }
                _ => {}
            }
        }
        Err(InquiryError::QuorumUnreachable)
    };
    tokio::time::timeout(INQUIRY_TIMEOUT, collect).await.unwrap_or(Err(InquiryError::QuorumUnreachable))
}

/// The newest generation that a quorum of its epoch's verifiers shows to have been activated, if it is above `generation`.
/// `grants` are those that this host knows: with the one of the activation, its votes make a certificate.
pub fn superseding(
    heads: &[HeadAnswer],
    group: &GroupChain,
    generation: Generation,
    grants: &[DecisionCertificate],
) -> Option<Superseded> {
    let candidates =
        heads.iter().filter_map(|head| head.vote.clone()).filter(|vote| vote.generation > generation);
    for candidate in candidates {
        let Ok(members) = group.past(candidate.group, candidate.epoch) else { continue };
        // The key that answers now, at its place in the epoch of the vote.
        let vote_of = |head: &HeadAnswer| {
            let index = members.index_of(&group.member(head.verifier).ok()?.vote_key).ok()?;
            let signature = head.vote_signature.filter(|_| head.vote.as_ref() == Some(&candidate))?;
            candidate.verify_vote(members, index, &signature).is_ok().then_some((index, signature))
        };
        let votes: Vec<_> = heads.iter().filter_map(vote_of).collect();
        if (votes.len() as u64) < members.rule().ok()?.quorum() {
            continue;
        }
        let grant = grants.iter().find(|grant| grant.decision.digest() == candidate.cause).cloned();
        let certificate = grant.and_then(|grant| {
            let mut tally = ActivationTally::new(members, candidate.clone(), grant).ok()?;
            for (verifier, signature) in votes {
                tally.add(verifier, signature).ok()?;
            }
            tally.certificate().ok()
        });
        return Some(Superseded { activation: candidate, certificate });
    }
    None
}

/// A newer generation, proved by a quorum's votes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Superseded {
    /// What the quorum voted for.
    pub activation: Activation,
    /// The votes as a certificate, where the grant is known here.
    pub certificate: Option<ActivationCertificate>,
}

/// Finds out whether a quorum activated a generation above `generation`.
pub async fn who_runs(
    askers: Vec<Asker>,
    group: Arc<GroupChain>,
    vm: VmId,
    generation: Generation,
    grants: Vec<DecisionCertificate>,
) -> Option<Superseded> {
    let heads = collect_heads(&askers, &group, vm).await;
    superseding(&heads, &group, generation, &grants)
}

/// What a host shows when it asks for votes for itself. `relinquish` fences the host before even if the vote is refused.
pub fn activate_question(
    group: &GroupConfig,
    grant: DecisionCertificate,
    relinquish: Option<Relinquish>,
    certificate: SlotCertificate,
    instance: Nonce,
) -> Option<Activate> {
    let activation = Activation::of(&grant.decision, group.id(), group.epoch, instance)?;
    Some(Activate { activation, grant, relinquish, certificate })
}
