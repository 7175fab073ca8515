//! The host of a VM is dead: which slot may another host go on from, and how does it get there?
//!
//! ```text
//! newest_certified ─▶ certificate of slot k ─▶ ordered Recover{vm, host, k} ─▶ grant ─▶ take_up ─▶ the VM runs on that host
//!    │ heads of all verifiers, with a fresh nonce
//!    │ newest slot signed by anyone: has it a quorum?
//!    └─ no: its signers give proposal and inputs, the others are shown them, until a quorum has signed
//! ```
//!
//! # Why nothing acknowledged is lost
//!
//! A client has been told something only in a certified slot (output commit), so *acknowledged* means *certified*: a
//! quorum signed slot k, durably. A quorum of heads shares an honest verifier with it, whose newest slot is k or one that
//! continues k. So the newest slot that is shown is k or later, and when it gets a quorum, its state contains everything
//! acknowledged.
//!
//! The newest slot *has to* get a quorum where that is possible, even if nobody was told of it: who signed it votes for no
//! generation that starts before it. With at most f verifiers Byzantine, away or restarted it is always possible:
//! an honest signer has the inputs, and the others replay them.
//!
//! If it is not possible, because everybody who could supply its inputs was restarted, the next older slot is tried, and
//! [`Newest::left`] says what was left behind. That is a guess, and it decides nothing: had the slot that is left
//! been certified, its signers, a quorum, would refuse their votes for the older one, and no generation could begin there.
//! So a wrong guess costs a grant in vain, never an acknowledged input.
//!
//! # Not promised
//!
//! Verifiers keep inputs and states in memory. When more than f of them are restarted while the host is dead, the VM may have
//! to wait until its host, which has everything on disk, comes back. A host that is not dead and still certifies slots
//! makes the granted slot an old one; the votes are refused then.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quorate_attest::error::VerifyError;
use quorate_attest::group::GroupConfig;
use quorate_attest::id::{Generation, Nonce, Slot, VmId};
use quorate_attest::key::SecretKey;
use quorate_attest::statement::Kind;
use quorate_attest::vm::{DecisionCertificate, HeadAnswer, Proposal, SlotCertificate, SlotStatement, Tally};
use quorate_transport::{Endpoint, Members, Role, TransportError};
use quorate_verifier::protocol::{
    FromVerifier, HeadQuery, Propose, Refused, SignedSlot, SlotRequest, ToVerifier,
};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::hosts::{HostError, Operator};
use crate::inquiries::fresh;
use crate::limits;
use crate::link::{Asker, Link, VerifierPeer};
use crate::protocol::{Recover, Status};

/// How long all verifiers together may take to show their heads.
const HEADS_TIMEOUT: Duration = Duration::from_secs(5);
/// Most slots that a verifier is led over to the newest one.
const SLOTS_CARRIED_MAX: u64 = 1024;
/// Pause between two looks at the host that takes a VM up.
const STATUS_INTERVAL: Duration = Duration::from_millis(50);

/// Asks one verifier.
pub trait Ask: Clone + Send + Sync + 'static {
    /// Index of the verifier in the group.
    fn index(&self) -> u16;

    /// Its answer, if it gives one.
    fn ask(&self, question: ToVerifier) -> impl Future<Output = Option<FromVerifier>> + Send;
}

impl Ask for Asker {
    fn index(&self) -> u16 {
        Self::index(self)
    }

    async fn ask(&self, question: ToVerifier) -> Option<FromVerifier> {
        Self::ask(self, &question).await.ok()
    }
}

/// Connections of an operator to the verifiers of a group.
#[derive(Debug)]
pub struct Verifiers {
    links: Vec<Link>,
    endpoint: Endpoint,
}

impl Verifiers {
    /// Starts to connect. Must be called inside a tokio runtime.
    ///
    /// # Errors
    /// The system has no socket to give.
    pub fn new(key: &SecretKey, peers: Vec<VerifierPeer>) -> Result<Self, TransportError> {
        let members = peers
            .iter()
            .fold(Members::new(), |members, peer| members.with(peer.member.transport_key, Role::Verifier));
        let any = SocketAddr::from(([0, 0, 0, 0], 0));
        let endpoint = Endpoint::bind_as(any, key, Role::Operator, Arc::new(members), limits())?;
        let links = peers.into_iter().map(|peer| Link::connect(endpoint.clone(), peer)).collect();
        Ok(Self { links, endpoint })
    }

    /// One asker for each verifier.
    pub fn askers(&self) -> Vec<Asker> {
        self.links.iter().map(Link::asker).collect()
    }

    /// Tells the verifiers that nothing more will come.
    pub async fn close(self) {
        drop(self.links);
        self.endpoint.close().await;
    }
}

/// A slot that was signed and could not be certified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftBehind {
    /// Its generation.
    pub generation: Generation,
    /// The slot.
    pub slot: Slot,
    /// Attestations of it that were found or gathered.
    pub attestations: u64,
    /// Attestations needed.
    pub need: u64,
    /// What verifiers answered that were shown it.
    pub refused: Vec<(u16, Refused)>,
}

impl std::fmt::Display for LeftBehind {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { generation, slot, attestations, need, refused } = self;
        write!(out, "slot {} of generation {} has {attestations} of {need}", slot.0, generation.0)?;
        refused.iter().try_for_each(|(verifier, why)| write!(out, "; verifier {verifier}: {}", why.kind))
    }
}

/// The slot to go on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Newest {
    /// Its certificate.
    pub certificate: SlotCertificate,
    /// Attestations that were made for it only now.
    pub completed: u32,
    /// Newer slots that some verifier signed and nobody can certify. None of them was certified, or the votes for a
    /// generation that starts at this slot will be refused.
    pub left: Vec<LeftBehind>,
}

/// Why no slot was found.
#[derive(Clone, Debug, thiserror::Error)]
pub enum RecoveryError {
    /// Too few verifiers told their heads.
    #[error("{answered} verifiers told their newest slots, {need} are needed")]
    QuorumUnreachable {
        /// Answers that are right.
        answered: u64,
        /// Answers needed.
        need: u64,
    },
    /// No slot that a verifier signed has a quorum, or can be given one.
    #[error("no slot of this VM can be certified: {}", list(.left))]
    NotCertified {
        /// What was tried, newest first.
        left: Vec<LeftBehind>,
    },
    /// The group cannot certify anything.
    #[error(transparent)]
    Group(#[from] VerifyError),
    /// The system has no random numbers.
    #[error("no random numbers: {0}")]
    Random(String),
}

impl RecoveryError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::QuorumUnreachable { .. } => "QuorumUnreachable",
            Self::NotCertified { .. } => "QuorumNotReached",
            Self::Group(error) => error.kind(),
            Self::Random(_) => "SystemRefused",
        }
    }
}

fn list(left: &[LeftBehind]) -> String {
    left.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Finds the newest slot of a VM that a quorum signed, after bringing the newest one that anybody signed to a quorum where
/// that is possible.
///
/// # Errors
/// Fewer than a quorum of verifiers answer, or nothing can be certified.
pub async fn newest_certified<A: Ask>(
    verifiers: &[A],
    group: &GroupConfig,
    vm: VmId,
) -> Result<Newest, RecoveryError> {
    let need = group.rule()?.quorum();
    let nonce = Nonce::from_bytes(fresh().map_err(|error| RecoveryError::Random(error.to_string()))?);
    let expected = group.expected(vm, Kind::HEAD);
    let asked = ask_all(verifiers, |_| Some(HeadQuery { vm, nonce }.into())).await;
    let heads: Vec<_> = asked
        .into_iter()
        .filter_map(|(verifier, answer)| match answer {
            FromVerifier::Head(head) if head.verifier == verifier => Some(head),
            _ => None,
        })
        .filter(|head| head.verify(group, &expected, &nonce).is_ok())
        .collect();
    if (heads.len() as u64) < need {
        return Err(RecoveryError::QuorumUnreachable { answered: heads.len() as u64, need });
    }
    let survey = Survey::make(verifiers, group, vm, heads).await;
    let mut left = Vec::new();
    for candidate in survey.candidates() {
        match survey.certify(&candidate).await? {
            Ok((certificate, completed)) => return Ok(Newest { certificate, completed, left }),
            Err(behind) => left.push(behind),
        }
    }
    Err(RecoveryError::NotCertified { left })
}

/// Puts one question to each verifier that `question` has one for; answers as many as come in time.
async fn ask_all<A: Ask>(
    verifiers: &[A],
    question: impl Fn(u16) -> Option<ToVerifier>,
) -> Vec<(u16, FromVerifier)> {
    let mut asked = JoinSet::new();
    for verifier in verifiers {
        if let Some(question) = question(verifier.index()) {
            let verifier = verifier.clone();
            asked.spawn(async move { (verifier.index(), verifier.ask(question).await) });
        }
    }
    let mut answers = Vec::new();
    let collect = async {
        while let Some(answer) = asked.join_next().await {
            if let Ok((verifier, Some(answer))) = answer {
                answers.push((verifier, answer));
            }
        }
    };
    // What came in before the deadline counts.
    let _ = tokio::time::timeout(HEADS_TIMEOUT, collect).await;
    answers
}

/// What the verifiers have.
struct Survey<'a, A> {
    verifiers: &'a [A],
    group: &'a GroupConfig,
    vm: VmId,
    heads: Vec<HeadAnswer>,
    /// The newest slot of each verifier, as it gives it away.
    newest: BTreeMap<u16, SignedSlot>,
}

/// Newer places are greater.
fn place(statement: &SlotStatement) -> (Generation, Slot) {
    (statement.body.generation, statement.slot)
}

impl<'a, A: Ask> Survey<'a, A> {
    async fn make(verifiers: &'a [A], group: &'a GroupConfig, vm: VmId, heads: Vec<HeadAnswer>) -> Self {
        let newest = ask_all(verifiers, |verifier| {
            let head = heads.iter().find(|head| head.verifier == verifier)?;
            Some(SlotRequest { vm, slot: head.proposal.as_ref()?.statement.slot }.into())
        });
        let newest = newest.await.into_iter().filter_map(|(verifier, answer)| match answer {
            FromVerifier::Slot(slot) => Some((verifier, slot)),
            _ => None,
        });
        let newest = newest.collect();
        Self { verifiers, group, vm, heads, newest }
    }

    /// The slots that are somebody's newest, the newest of all first.
    fn candidates(&self) -> Vec<Proposal> {
        let mut candidates: Vec<Proposal> = Vec::new();
        for proposal in self.heads.iter().filter_map(|head| head.proposal.as_ref()) {
            if candidates.iter().all(|known| known.statement != proposal.statement) {
                candidates.push(proposal.clone());
            }
        }
        // Of two statements for one place, which convict the host, the one that more have signed goes first.
        candidates.sort_by_key(|proposal| {
            std::cmp::Reverse((place(&proposal.statement), self.signers(&proposal.statement).count()))
        });
        candidates
    }

    fn signers(&self, statement: &SlotStatement) -> impl Iterator<Item = &HeadAnswer> {
        let signed = |head: &&HeadAnswer| head.proposal.as_ref().is_some_and(|p| p.statement == *statement);
        self.heads.iter().filter(signed)
    }

    /// Verifiers below a slot that say they can replay up to it.
    fn followers(&self, statement: &SlotStatement) -> Vec<&'a A> {
        let below = |head: &&HeadAnswer| {
            let at = head.proposal.as_ref().map(|proposal| place(&proposal.statement));
            at.is_none_or(|at| at < place(statement))
        };
        let follows = |head: &HeadAnswer| {
            head.proposal.is_none() || self.newest.get(&head.verifier).is_some_and(|slot| slot.follows)
        };
        let able = self.heads.iter().filter(below).filter(|head| follows(head));
        able.filter_map(|head| self.verifiers.iter().find(|asker| asker.index() == head.verifier)).collect()
    }

    /// Counts the attestations of a slot and gathers those that are missing.
    async fn certify(
        &self,
        candidate: &Proposal,
    ) -> Result<Result<(SlotCertificate, u32), LeftBehind>, VerifyError> {
        let statement = &candidate.statement;
        let mut tally = Tally::new(self.group, statement.clone())?;
        for attestation in self.signers(statement).filter_map(|head| head.attestation) {
            // Checked with the head already: a second vote of one verifier is all that can be wrong.
            let _ = tally.add(attestation);
        }
        for attestation in self.earlier(statement).await {
            let _ = tally.add(attestation);
        }
        let (found, need) = tally.progress();
        let mut refused = Vec::new();
        let followers = self.followers(statement);
        // Who signs a slot in vain would not vote for an older one any more.
        if found < need && found + followers.len() as u64 >= need {
            for follower in followers {
                match self.carry(follower, statement).await {
                    Ok(FromVerifier::Attested(attested)) => {
                        if let Err(error) = tally.add(attested.attestation) {
                            let kind = error.kind().to_owned();
                            refused.push((follower.index(), Refused { kind, detail: error.to_string() }));
                        }
                    }
                    Ok(other) => refused.push((follower.index(), unfit(&other))),
                    Err(why) => refused.push((follower.index(), why)),
                }
                if tally.progress().0 >= need {
                    break;
                }
            }
        }
        let attestations = tally.progress().0;
        Ok(tally.certificate().map(|certificate| (certificate, (attestations - found) as u32)).map_err(
            |_| {
                let (generation, slot) = place(statement);
                LeftBehind { generation, slot, attestations, need, refused }
            },
        ))
    }

    /// Attestations of verifiers that have signed further slots since.
    async fn earlier(&self, statement: &SlotStatement) -> Vec<quorate_attest::vm::Attestation> {
        let above = |verifier: u16| {
            let head = self.heads.iter().find(|head| head.verifier == verifier)?;
            let at = &head.proposal.as_ref()?.statement;
            (at.slot > statement.slot).then(|| self.request(statement.slot))
        };
        let answers = ask_all(self.verifiers, above).await;
        let of = |answer| match answer {
            FromVerifier::Slot(SignedSlot { proposal, attestation, .. }) => {
                (proposal.statement == *statement).then_some(attestation)
            }
            _ => None,
        };
        answers.into_iter().filter_map(|(_, answer)| of(answer)).collect()
    }

    fn request(&self, slot: Slot) -> ToVerifier {
        SlotRequest { vm: self.vm, slot }.into()
    }

    /// Leads a verifier to a slot. The last answer is the one about that slot.
    async fn carry(&self, verifier: &A, statement: &SlotStatement) -> Result<FromVerifier, Refused> {
        let mut answer = self.show(verifier, statement.slot, statement).await?;
        if matches!(answer, FromVerifier::NeedActivation(_)) {
            self.begin_generation(verifier, statement.body.generation).await;
            answer = self.show(verifier, statement.slot, statement).await?;
        }
        let FromVerifier::Behind(behind) = &answer else { return Ok(answer) };
        let missing = statement.slot.0.saturating_sub(behind.next.0);
        if missing > SLOTS_CARRIED_MAX {
            return Err(lost(format!("{missing} slots are missing")));
        }
        for slot in behind.next.0..statement.slot.0 {
            let answer = self.show(verifier, Slot(slot), statement).await?;
            if !matches!(answer, FromVerifier::Attested(_)) {
                return Ok(answer);
            }
        }
        self.show(verifier, statement.slot, statement).await
    }

    /// Proposes a slot on the way to `target` with the inputs of whoever has them; a supplier that lies is passed over.
    async fn show(&self, verifier: &A, slot: Slot, target: &SlotStatement) -> Result<FromVerifier, Refused> {
        let mut why = lost(format!("nobody has the inputs of slot {}", slot.0));
        let signers: Vec<u16> = self.signers(target).map(|head| head.verifier).collect();
        // Signers of the target first; others may have the slots before it.
        let (first, last): (Vec<_>, Vec<_>) =
            self.verifiers.iter().partition(|supplier| signers.contains(&supplier.index()));
        for supplier in first.into_iter().chain(last) {
            let Some(propose) = self.supply(supplier, slot, target).await else { continue };
            match verifier.ask(propose.into()).await {
                Some(FromVerifier::Refused(refused)) => why = refused,
                Some(answer) => return Ok(answer),
                None => return Err(lost("no answer".to_owned())),
            }
        }
        Err(why)
    }

    async fn supply(&self, supplier: &A, slot: Slot, target: &SlotStatement) -> Option<Propose> {
        let known = self.newest.get(&supplier.index()).filter(|known| known.proposal.statement.slot == slot);
        let signed = match known {
            Some(known) => known.clone(),
            None => match supplier.ask(self.request(slot)).await? {
                FromVerifier::Slot(signed) => signed,
                _ => return None,
            },
        };
        let statement = &signed.proposal.statement;
        let wanted = statement.slot == slot && (slot < target.slot || statement == target);
        wanted.then_some(Propose { proposal: signed.proposal, inputs: signed.inputs? })
    }

    /// Tells a verifier of a generation that it has slept through.
    async fn begin_generation(&self, verifier: &A, generation: Generation) {
        let mut known = self.newest.values().filter_map(|slot| slot.activation.as_ref());
        let began = known.find(|certificate| certificate.activation.generation == generation);
        if let Some(certificate) = began {
            // What it thinks of that shows with the next proposal.
            let _ = verifier.ask(certificate.clone().into()).await;
        }
    }
}

fn lost(detail: String) -> Refused {
    Refused { kind: "LogTruncated".to_owned(), detail }
}

fn unfit(answer: &FromVerifier) -> Refused {
    match answer {
        FromVerifier::Refused(refused) => refused.clone(),
        other => Refused { kind: other.name().to_owned(), detail: "cannot follow by replay".to_owned() },
    }
}

/// Lets a host take a VM up and waits until it runs there.
///
/// # Errors
/// The host refuses, finds no verifier with the right state, or does not run the VM within `limit`.
pub async fn take_up(
    operator: &Operator,
    host: usize,
    grant: DecisionCertificate,
    certificate: SlotCertificate,
    limit: Duration,
) -> Result<Status, HostError> {
    let deadline = Instant::now() + limit;
    let (vm, generation) = (grant.decision.vm, grant.decision.generation);
    operator.recover(host, Recover { grant, certificate }).await?;
    loop {
        let status = operator.status(host).await?;
        if status.vm == Some(vm) && status.active_instances == 1 && status.generation >= generation {
            return Ok(status);
        }
        if let Some(refused) = status.recovery {
            return Err(operator.refused(host, refused));
        }
        if Instant::now() >= deadline {
            return Err(operator.late(host, limit));
        }
        tokio::time::sleep(STATUS_INTERVAL).await;
    }
}

#[cfg(test)]
mod tests;
