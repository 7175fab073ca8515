//! One file alone.

use quorate_attest::VerifyError;
use quorate_attest::certificate::Certificate;
use quorate_attest::receipt::LOG_INSTANCE;
use quorate_attest::statement::Kind;
use quorate_attest::vm::{ActivationCertificate, DoubleVote, Refusal, SlotCertificate};
use quorate_verifier::core::Evidence;

use super::super::failure::Failure;
use super::super::output::short;
use super::describe;
use super::finding::Finding;
use super::log_proof;
use super::material::{Item, Material};
use super::services;
use super::trust::Trust;

/// Checks a file against what is expected.
pub fn check(trust: &Trust, item: &Item) -> Result<Finding, Failure> {
    let path = &item.path;
    Ok(match &item.material {
        Material::Slot(certificate) => slot(trust, Finding::new(path, "slot-certificate"), certificate)?,
        Material::Activation(certificate) => {
            activation(trust, Finding::new(path, "activation-certificate"), certificate)?
        }
        Material::Other(certificate) => other(trust, Finding::new(path, "certificate"), certificate)?,
        Material::Proof(proof) => log_proof::proof(trust, Finding::new(path, "tlog-proof"), proof, None)?,
        Material::Head(note) => log_proof::head(trust, Finding::new(path, "head"), note)?,
        Material::Evidence(evidence) => self::evidence(trust, Finding::new(path, "evidence"), evidence)?,
        Material::DoubleVote(vote) => double_vote(trust, Finding::new(path, "evidence"), vote)?,
        Material::Refusal(refusal) => self::refusal(trust, Finding::new(path, "refusal"), refusal)?,
        Material::Answer(proof) => services::answer(trust, Finding::new(path, "answer"), proof)?,
        Material::Contradiction(pair) => {
            services::contradiction(trust, Finding::new(path, "evidence"), pair)?
        }
        Material::Dissent(dissent) => services::dissent(trust, Finding::new(path, "evidence"), dissent)?,
        Material::StopEvidence(kept) => services::stop_evidence(trust, Finding::new(path, "evidence"), kept)?,
        Material::Unreadable(reason) => Finding::new(path, "unknown").fails("DecodeError", reason),
    })
}

fn slot(trust: &Trust, finding: Finding, certificate: &SlotCertificate) -> Result<Finding, Failure> {
    let statement = &certificate.statement;
    let (group, expected) = trust.expect_in(trust.weakest, statement.epoch)?;
    let finding = finding.with(describe::slot(certificate, group));
    Ok(match certificate.verify(group, &expected) {
        Ok(verified) => {
            let summary = format!(
                "slot {} of generation {}, {} REPLAYED and {} SAMPLED attestations",
                statement.slot, statement.body.generation, verified.replayed, verified.sampled,
            );
            Finding { replayed: verified.replayed, sampled: verified.sampled, ..finding.holds(summary) }
        }
        Err(error) => finding.fails(error.kind(), error),
    })
}

fn activation(
    trust: &Trust,
    finding: Finding,
    certificate: &ActivationCertificate,
) -> Result<Finding, Failure> {
    let (group, expected) = trust.expect_in(Kind::ACTIVATE, certificate.activation.epoch)?;
    let finding = finding.with(describe::activation(certificate, group));
    // Without the orchestrators' file the verifiers' quorum vouches for the grant: they checked it before they voted.
    if let Err(error) = certificate.verify(group, &expected, trust.granters(certificate.grant.decision.epoch))
    {
        return Ok(finding.fails(error.kind(), error));
    }
    Ok(finding.holds(activation_summary(certificate, group)))
}

/// One sentence about a new generation.
pub fn activation_summary(
    certificate: &ActivationCertificate,
    group: &quorate_attest::group::GroupConfig,
) -> String {
    let activation = &certificate.activation;
    let host = describe::host_name(group, &activation.host);
    let entry = certificate.grant.decision.index;
    let votes = certificate.attestations.len();
    format!(
        "generation {} begins at slot {} on {host}, {votes} votes, granted by entry {entry} of the log",
        activation.generation, activation.slot
    )
}

fn other(trust: &Trust, finding: Finding, certificate: &Certificate) -> Result<Finding, Failure> {
    let kind = certificate.statement.kind;
    let group = match kind {
        Kind::RECEIPT | Kind::DECISION => trust.log_members(certificate.statement.epoch)?,
        _ => trust.members(certificate.statement.epoch)?,
    };
    // Where no VM is expected, the statement must be about none.
    let expected = group.expected(trust.vm.unwrap_or(LOG_INSTANCE), kind);
    let finding = finding.with(describe::certificate(certificate, group));
    let verified = describe::body(&certificate.statement).and_then(|body| {
        certificate.verify(group, &expected)?;
        Ok(body)
    });
    Ok(match verified {
        Ok(body) => finding
            .with(serde_json::json!({"body": body}))
            .holds(format!("{} signatures on a statement of kind {kind}", certificate.signatures.len())),
        Err(error) => finding.fails(error.kind(), error),
    })
}

fn evidence(trust: &Trust, finding: Finding, evidence: &Evidence) -> Result<Finding, Failure> {
    let (group, expected) = trust.expected(Kind::SLOT_REPLAYED)?;
    let (kind, result) = match evidence {
        Evidence::Equivocation(pair) => {
            let host = pair.verify(&expected).map(|key| {
                let name = describe::host_name(group, &key);
                format!("{name} signed two proposals for slot {}", pair.first.statement.slot)
            });
            ("EquivocationEvidence", host)
        }
        Evidence::ConflictingCertificates(pair) => {
            let signers = pair.verify(group, &expected).map(|both| {
                let names = describe::verifier_names(group, both);
                let slot = pair.first.statement.slot;
                format!("two certificates for slot {slot}; both were signed by {}", names.join(", "))
            });
            ("ConflictingCertificates", signers)
        }
        Evidence::ConflictingActivations(pair) => {
            ("ConflictingCertificates", conflicting_activations(trust, &pair.0, &pair.1)?)
        }
    };
    Ok(proven(finding, kind, result))
}

fn conflicting_activations(
    trust: &Trust,
    first: &ActivationCertificate,
    second: &ActivationCertificate,
) -> Result<Result<String, VerifyError>, Failure> {
    let (group, expected) = trust.expected(Kind::ACTIVATE)?;
    let verified = first
        .verify(group, &expected, None)
        .and_then(|()| second.verify(group, &expected, None))
        .and_then(|()| {
            let same_generation = first.activation.generation == second.activation.generation;
            match same_generation && !first.activation.is_same_instance(&second.activation) {
                true => Ok(format!("generation {} was begun in two ways", first.activation.generation)),
                false => Err(VerifyError::NoConflict { reason: "one activation, or two generations" }),
            }
        });
    Ok(verified)
}

fn double_vote(trust: &Trust, finding: Finding, vote: &DoubleVote) -> Result<Finding, Failure> {
    let (group, expected) = trust.expected(Kind::SLOT_REPLAYED)?;
    let result = vote.verify(group, &expected).map(|_| {
        let names = describe::verifier_names(group, [vote.verifier]);
        format!("{} signed two statements for slot {}", names.join(""), vote.first.slot)
    });
    Ok(proven(finding, "DoubleVote", result))
}

/// Evidence that holds is a valid file: it proves somebody's guilt.
fn proven(finding: Finding, kind: &str, result: Result<String, VerifyError>) -> Finding {
    match result {
        Ok(summary) => {
            let facts = serde_json::json!({"evidence": kind, "culprit": summary});
            finding.with(facts).holds(format!("{kind} is proved: {summary}"))
        }
        Err(error) => finding.fails(error.kind(), error),
    }
}

fn refusal(trust: &Trust, finding: Finding, refusal: &Refusal) -> Result<Finding, Failure> {
    let (group, expected) = trust.expected(Kind::REFUSAL)?;
    Ok(match refusal.verify(&expected) {
        Ok(()) => {
            let host = describe::host_name(group, &refusal.host);
            let (generation, slot) = (refusal.generation, refusal.slot);
            finding
                .holds(format!("{host} refuses generation {generation} from slot {slot}: {}", refusal.reason))
        }
        Err(error) => finding.fails(error.kind(), format!("{error} ({})", short(refusal.host))),
    })
}
