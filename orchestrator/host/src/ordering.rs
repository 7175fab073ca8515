//! What a host asks of the ordered log, and tells it.
//!
//! ```text
//! destination: Handover{Relinquish} ─┐ the first in the log        ┌─▶ grant: this host may create the generation
//! source:      Abort{Relinquish}  ───┴─▶ is granted a generation ──┴─▶ the other hears CONFLICT and who won
//! ```
//!
//! An operation is built from a nonce that its caller keeps, so that a host that was restarted submits the very same one:
//! the log executes it once and gives everybody its one outcome.

use std::sync::Arc;
use std::time::Duration;

use quorate_attest::group::GroupConfig;
use quorate_attest::id::{Generation, Nonce, OperationId, Slot, StatementDigest, VmId};
use quorate_attest::key::{PublicKey, SecretKey};
use quorate_attest::request::status;
use quorate_attest::statement::Kind;
use quorate_attest::vm::{
    Action, ActivationCertificate, DecisionCertificate, Refusal, Relinquish, SlotCertificate,
};
use quorate_control::{AbortEvidence, Command, Failure, Outcome, decode_outcome};
use quorate_ordering::gather::Ordered;
use quorate_ordering::orderer::{OrderError, Orderer};
use quorate_transport::Endpoint;
use quorate_verifier::protocol::Refused;

use crate::config::Loaded;

/// Time for one operation to be ordered and executed, after which the same is submitted again by whoever still wants it.
const ORDER_LIMIT: Duration = Duration::from_secs(10);
/// Pause before an operation that nobody waits for is submitted again.
const RETRY: Duration = Duration::from_millis(500);
/// Most attempts at such an operation, with pauses that grow: some minutes.
const ATTEMPTS_MAX: u32 = 60;
/// Longest pause between them.
const RETRY_MAX: Duration = Duration::from_secs(10);

/// The log, as one host sees it.
#[derive(Clone, Debug)]
pub struct Log {
    orderer: Orderer,
    key: SecretKey,
}

/// The slot after which somebody else may run the VM, and who asks for that.
#[derive(Clone, Debug)]
pub struct Claim {
    /// The VM.
    pub vm: VmId,
    /// Generation that ends.
    pub generation: Generation,
    /// Its last slot.
    pub slot: Slot,
    /// Digest of that slot's statement.
    pub statement: StatementDigest,
    /// Operation that began the migration.
    pub migration: OperationId,
    /// The source's word.
    pub relinquish: Relinquish,
}

impl Claim {
    /// What follows from the source's word in a migration.
    pub fn new(relinquish: Relinquish, migration: OperationId) -> Self {
        let Relinquish { vm, generation, slot, statement, .. } = relinquish;
        Self { vm, generation, slot, statement, migration, relinquish }
    }
}

/// What the log decided about a claim.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// This host may create the generation that the certificate names.
    Granted(Box<DecisionCertificate>),
    /// Another host may.
    Overruled(Box<DecisionCertificate>),
    /// The log refuses the operation.
    Refused(Refused),
    /// The log did not answer in time; it may still execute the operation.
    Unordered(Refused),
}

impl Log {
    /// Uses the host's own socket and key.
    pub fn new(endpoint: Endpoint, loaded: &Loaded) -> Self {
        let group = Arc::new(loaded.orchestrators.current().clone());
        let orderer = Orderer::new(endpoint, group, loaded.orchestrator_peers.clone());
        Self { orderer, key: loaded.key.clone() }
    }

    /// Connects to all orchestrators, so that the next order needs no handshake.
    pub async fn warm_up(&self) {
        self.orderer.warm_up().await;
    }

    /// Asks for the generation that the source gives to this host.
    pub async fn hand_over(&self, claim: &Claim, nonce: Nonce) -> Verdict {
        let relinquish = claim.relinquish.clone();
        let command = Command::Handover { migration: claim.migration, relinquish };
        self.claim(claim, &command, nonce).await
    }

    /// Asks for a generation for the source itself. Was it granted to the destination, and the destination has signed that
    /// it will not run it, then that is the stronger reason.
    pub async fn take_back(&self, claim: &Claim, declined: Option<&Refusal>, nonce: Nonce) -> Verdict {
        let abort = |evidence| Command::Abort { vm: claim.vm, migration: claim.migration, evidence };
        let command = abort(AbortEvidence::Relinquished(claim.relinquish.clone()));
        let verdict = self.claim(claim, &command, nonce).await;
        match (&verdict, declined) {
            (Verdict::Overruled(_), Some(refusal)) => {
                let command = abort(AbortEvidence::Declined(refusal.clone()));
                self.claim(claim, &command, nonce).await
            }
            _ => verdict,
        }
    }

    async fn claim(&self, claim: &Claim, command: &Command, nonce: Nonce) -> Verdict {
        match self.order(command, nonce).await {
            Ok((outcome, ordered)) => {
                judge(claim, &self.key.public(), self.orderer.group(), outcome, ordered)
            }
            Err(OrderError::Refused(refused)) => {
                Verdict::Refused(Refused { kind: refused.kind, detail: refused.detail })
            }
            Err(error) => {
                Verdict::Unordered(Refused { kind: error.kind().to_owned(), detail: error.to_string() })
            }
        }
    }

    /// Has a command executed.
    ///
    /// # Errors
    /// No quorum answers alike in time, or too many refuse the operation.
    pub async fn order(&self, command: &Command, nonce: Nonce) -> Result<(Outcome, Ordered), OrderError> {
        let operation = command.to_operation(&self.key, self.orderer.group().id(), nonce);
        let ordered = self.orderer.order(&operation, ORDER_LIMIT).await?;
        let outcome = decode_outcome(&ordered.outcome)
            .map_err(|error| OrderError::Group(quorate_attest::VerifyError::Decode(error)))?;
        Ok((outcome, ordered))
    }

    /// Submits an operation again and again until the log has executed it. What it leads to is logged only.
    pub async fn tell(&self, command: &Command, nonce: Nonce) {
        let mut pause = RETRY;
        for _ in 0..ATTEMPTS_MAX {
            match self.order(command, nonce).await {
                Ok((Ok(_), ordered)) => {
                    let index = ordered.receipt.receipt.index;
                    return tracing::info!(command = command.name(), index, "the log was told");
                }
                Ok((Err(failure), _)) => return note(command, failure.kind(), &failure),
                Err(error) => note(command, error.kind(), &error),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
        }
    }

    /// Ends a migration for which the guest never stopped.
    pub async fn release(&self, vm: VmId, migration: OperationId, nonce: Nonce) {
        self.tell(&Command::Abort { vm, migration, evidence: AbortEvidence::NotStopped }, nonce).await;
    }

    /// Has a destination's refusal ordered, so that the source is granted a generation although the two may never meet again.
    pub async fn decline(&self, refusal: Refusal, migration: OperationId, nonce: Nonce) {
        let (vm, evidence) = (refusal.vm, AbortEvidence::Declined(refusal));
        self.tell(&Command::Abort { vm, migration, evidence }, nonce).await;
    }

    /// Records the newest certified slot. One attempt: the next slot is as good.
    pub async fn publish(&self, certificate: SlotCertificate) {
        let mut nonce = [0; Nonce::LENGTH];
        let digest = certificate.statement.digest();
        nonce.copy_from_slice(&digest.as_bytes()[..Nonce::LENGTH]);
        match self.order(&Command::Head { certificate }, Nonce::from_bytes(nonce)).await {
            Ok((Ok(_), _)) => {}
            Ok((Err(failure), _)) => tracing::debug!(error_kind = failure.kind(), %failure, "head refused"),
            Err(error) => tracing::debug!(error_kind = error.kind(), %error, "head not published"),
        }
    }

    /// Raises the generation in the registry.
    pub async fn activated(&self, certificate: ActivationCertificate) {
        let nonce = certificate.activation.instance;
        self.tell(&Command::Activate { certificate }, nonce).await;
    }
}

fn note(command: &Command, kind: &str, error: &impl std::fmt::Display) {
    tracing::warn!(command = command.name(), error_kind = kind, "{error}");
}

/// What a quorum's answer to a claim means for the host that made it.
fn judge(
    claim: &Claim,
    me: &PublicKey,
    orchestrators: &GroupConfig,
    outcome: Outcome,
    ordered: Ordered,
) -> Verdict {
    let refused = |kind: &str, detail: String| Verdict::Refused(Refused { kind: kind.to_owned(), detail });
    if let Some(decision) = ordered.decision {
        let of_other = matches!(decision.decision.action, Action::Grant { host, .. } if host != *me);
        return match check_grant(claim, me, orchestrators, &decision) {
            Ok(()) => Verdict::Granted(Box::new(decision)),
            Err(_) if of_other => Verdict::Overruled(Box::new(decision)),
            Err(error) => refused(error.kind(), error.to_string()),
        };
    }
    match outcome {
        Ok(_) => {
            refused("NoActivationCertificate", "the log executed the operation and granted nothing".into())
        }
        Err(Failure { code: status::INCONCLUSIVE, kind, text, .. }) => {
            Verdict::Unordered(Refused { kind, detail: text })
        }
        Err(failure) => refused(failure.kind(), failure.to_string()),
    }
}

fn check_grant(
    claim: &Claim,
    me: &PublicKey,
    orchestrators: &GroupConfig,
    certificate: &DecisionCertificate,
) -> Result<(), quorate_attest::VerifyError> {
    certificate.verify(orchestrators, &orchestrators.expected(claim.vm, Kind::DECISION))?;
    let decision = &certificate.decision;
    if decision.generation <= claim.generation {
        let (have, got) = (claim.generation, decision.generation);
        return Err(quorate_attest::VerifyError::FencedGeneration { have, got });
    }
    decision.check_grant(decision.generation, claim.slot, claim.statement, me)
}

/// Checks the order that lets a VM leave its host: signed by a quorum of orchestrators, about this VM and for a generation
/// above the present one. Answers who may receive it.
///
/// # Errors
/// It is not such an order.
pub fn check_migration(
    orchestrators: &GroupConfig,
    order: &DecisionCertificate,
    vm: VmId,
    generation: Generation,
    source: &PublicKey,
) -> Result<PublicKey, Refused> {
    let of = |error: quorate_attest::VerifyError| Refused {
        kind: error.kind().to_owned(),
        detail: error.to_string(),
    };
    order.verify(orchestrators, &orchestrators.expected(vm, Kind::DECISION)).map_err(of)?;
    let Action::Migrate { destination, .. } = order.decision.action else {
        let detail = "the decision orders no migration".to_owned();
        return Err(Refused { kind: "WrongMigration".to_owned(), detail });
    };
    if order.decision.generation <= generation {
        let (have, got) = (generation, order.decision.generation);
        return Err(of(quorate_attest::VerifyError::FencedGeneration { have, got }));
    }
    order
        .decision
        .check_migrate(order.decision.generation, source, &destination)
        .map_err(|error| Refused { kind: "WrongMigration".to_owned(), detail: error.to_string() })?;
    Ok(destination)
}

#[cfg(test)]
mod tests;
