//! Answers of ordered services, and evidence against their replicas.

use quorate_attest::VerifyError;
use quorate_attest::group::GroupConfig;
use quorate_attest::id::to_hex;
use quorate_attest::service::{Answer, Query, ServiceReceiptCertificate, ServiceReceiptTally};
use quorate_ordering::services::{SignedReceipt, StopEvidence};
use quorate_services::{AnswerProof, Claim, Contradiction, Dissent};
use serde_json::{Value, json};

use super::super::failure::Failure;
use super::describe;
use super::finding::Finding;
use super::trust::Trust;

/// Checks an answer: that `f + 1` replicas certify it, and for a reply that a quorum of orchestrators ordered its request.
pub fn answer(trust: &Trust, finding: Finding, proof: &AnswerProof) -> Result<Finding, Failure> {
    let receipt = &proof.receipt.receipt;
    let replicas = trust.replicas()?;
    let spec = trust.service(&receipt.service)?;
    let expected = quorate_services::Trust {
        orchestrators: trust.log_group()?.clone(),
        replicas: replicas.clone(),
        service: spec.id(),
    };
    let signers = proof.receipt.signatures.iter().map(|(replica, _)| *replica);
    let signers = describe::verifier_names(replicas, signers);
    let finding = finding.with(json!({
        "kind": receipt.to_statement().kind.to_string(), "group": receipt.group, "epoch": receipt.epoch,
        "instance": receipt.service.instance(), "seq": receipt.number, "body": describe::body(&receipt.to_statement()).ok(),
        "signers": signers, "claim": claim(&proof.claim),
    }));
    Ok(match proof.verify(&expected) {
        Ok(()) => {
            let count = proof.receipt.signatures.len();
            let what = summary(&proof.claim);
            finding.holds(format!(
                "{what} after entry {} of service {}, {count} replicas",
                receipt.number, spec.name
            ))
        }
        Err(error) => finding.fails(error.kind(), error),
    })
}

fn summary(claim: &Claim) -> String {
    match claim {
        Claim::Reply { .. } => "the reply to a request".to_owned(),
        Claim::State { answer: Answer::Present(entry), .. } => format!("key {} is there", to_hex(&entry.key)),
        Claim::State { query: Query::Get { key }, .. } => format!("key {} is not there", to_hex(key)),
        Claim::State { answer: Answer::Range { proof, .. }, .. } => {
            format!("{} entries and no others", proof.entries.len())
        }
        Claim::State { .. } => "the state".to_owned(),
    }
}

fn claim(claim: &Claim) -> Value {
    match claim {
        Claim::Reply { reply, .. } => json!({"reply": to_hex(reply)}),
        Claim::State { query: Query::Get { key }, answer: Answer::Present(entry) } => {
            json!({"key": to_hex(key), "value": to_hex(&entry.value)})
        }
        Claim::State { query: Query::Get { key }, .. } => json!({"key": to_hex(key), "value": null}),
        Claim::State { query: Query::Range { low, high, .. }, answer: Answer::Range { proof, more } } => {
            let entries: Vec<_> =
                proof.entries.iter().map(|entry| json!([to_hex(&entry.key), to_hex(&entry.value)])).collect();
            json!({"low": to_hex(low), "high": to_hex(high), "entries": entries, "more": more})
        }
        Claim::State { .. } => Value::Null,
    }
}

/// Checks that a replica signed two receipts for one entry.
pub fn contradiction(trust: &Trust, finding: Finding, pair: &Contradiction) -> Result<Finding, Failure> {
    let replicas = trust.replicas()?;
    let name = name(trust, pair.replica)?;
    let text = format!("{name} signed two receipts for entry {} of a service", pair.first.0.number);
    Ok(convicts(finding, &name, text, pair.verify(replicas)))
}

/// Checks that a replica signed another receipt than the one that others certify.
pub fn dissent(trust: &Trust, finding: Finding, dissent: &Dissent) -> Result<Finding, Failure> {
    let replicas = trust.replicas()?;
    let name = name(trust, dissent.replica)?;
    let count = dissent.certificate.signatures.len();
    let text = format!(
        "{name} signed another receipt for entry {} of a service than {count} others",
        dissent.said.0.number
    );
    Ok(convicts(finding, &name, text, dissent.verify(replicas)))
}

/// Checks what a replica keeps about itself when it stops: that it signed another receipt than `f + 1` others.
pub fn stop_evidence(trust: &Trust, finding: Finding, kept: &StopEvidence) -> Result<Finding, Failure> {
    let replicas = trust.replicas()?;
    let name = name(trust, kept.ours.replica)?;
    let number = kept.ours.receipt.number;
    let dissent = certified(replicas, &kept.theirs).map(|certificate| Dissent {
        replica: kept.ours.replica,
        said: (kept.ours.receipt, kept.ours.signature),
        certificate,
    });
    let count = kept.theirs.len();
    let text = format!("{name} came to another result of entry {number} of a service than {count} others");
    let result = match kept.theirs.is_empty() {
        // It is of use to whoever looks for the cause.
        true => Err(VerifyError::NoConflict { reason: "only the replica itself says that its guest erred" }),
        false => dissent.and_then(|dissent| dissent.verify(replicas)),
    };
    Ok(convicts(finding, &name, text, result))
}

/// The receipt on which `f + 1` agree, with their signatures.
fn certified(
    replicas: &GroupConfig,
    signed: &[SignedReceipt],
) -> Result<ServiceReceiptCertificate, VerifyError> {
    let first = signed.first().ok_or(VerifyError::NoConflict { reason: "nobody says otherwise" })?;
    let mut tally = ServiceReceiptTally::new(replicas, first.receipt)?;
    for signed in signed.iter().filter(|signed| signed.receipt == first.receipt) {
        tally.add(signed.replica, signed.signature)?;
    }
    tally.certificate()
}

fn name(trust: &Trust, replica: u16) -> Result<String, Failure> {
    Ok(describe::verifier_names(trust.replicas()?, [replica]).join(""))
}

fn convicts(finding: Finding, name: &str, text: String, result: Result<(), VerifyError>) -> Finding {
    match result {
        Ok(()) => finding.with(json!({"signer": name})).holds(text),
        Err(error) => finding.fails(error.kind(), error),
    }
}
