//! Statements as JSON, with the fields of the offline audit: kind, group, epoch, instance, seq, body, signers, q.

use quorate_attest::VerifyError;
use quorate_attest::certificate::Certificate;
use quorate_attest::encoding::from_bytes;
use quorate_attest::group::GroupConfig;
use quorate_attest::id::{OperationId, to_hex};
use quorate_attest::key::PublicKey;
use quorate_attest::merkle::Digest;
use quorate_attest::receipt::{LOG_INSTANCE, Receipt};
use quorate_attest::service::ServiceReceipt;
use quorate_attest::statement::{BODY_LIMIT, Kind, Statement};
use quorate_attest::vm::{Action, ActivationCertificate, Mode, SlotBody, SlotCertificate, SlotStatement};
use serde_json::{Value, json};

use super::super::output::short;

/// Name of a host, or the first digits of its key.
pub fn host_name(group: &GroupConfig, key: &PublicKey) -> String {
    let host = group.hosts.iter().find(|host| host.key == *key);
    host.map_or_else(|| format!("host {}", short(key)), |host| host.name.clone())
}

/// Names of verifiers.
pub fn verifier_names(group: &GroupConfig, indexes: impl IntoIterator<Item = u16>) -> Vec<String> {
    let name = |index: u16| match group.members.get(usize::from(index)) {
        Some(member) => member.name.clone(),
        None => format!("verifier {index} (of no member)"),
    };
    indexes.into_iter().map(name).collect()
}

/// A certified slot.
pub fn slot(certificate: &SlotCertificate, group: &GroupConfig) -> Value {
    let statement = &certificate.statement;
    let signers = certificate.attestations.iter().map(|attestation| attestation.verifier);
    let modes = certificate.attestations.iter().map(|attestation| match attestation.mode {
        Mode::Replayed => "REPLAYED",
        Mode::Sampled => "SAMPLED",
    });
    let mut value = scope(&statement.to_statement(Kind::SLOT_REPLAYED), group);
    value["statement"] = json!(statement.digest());
    value["body"] = slot_body(&statement.body);
    value["signers"] = json!(verifier_names(group, signers));
    value["modes"] = json!(modes.collect::<Vec<_>>());
    value
}

/// A certified generation.
pub fn activation(certificate: &ActivationCertificate, group: &GroupConfig) -> Value {
    let activation = &certificate.activation;
    let signers = certificate.attestations.iter().map(|(verifier, _)| *verifier);
    let mut value = scope(&activation.to_statement(), group);
    value["body"] = json!({
        "generation": activation.generation, "slot": activation.slot, "statement": activation.statement,
        "host": activation.host, "host_name": host_name(group, &activation.host),
        "instance": activation.instance, "cause": activation.cause,
        "grant": {"log_index": certificate.grant.decision.index, "operation": certificate.grant.decision.operation.to_string()},
    });
    value["signers"] = json!(verifier_names(group, signers));
    value
}

/// Any other certificate.
pub fn certificate(certificate: &Certificate, group: &GroupConfig) -> Value {
    let signers = certificate.signatures.iter().map(|(verifier, _)| *verifier);
    let mut value = scope(&certificate.statement, group);
    value["body"] = json!(to_hex(&certificate.statement.body));
    value["signers"] = json!(verifier_names(group, signers));
    value
}

/// Body of a statement that members of a group certify alone, decoded. Other kinds are unknown here, or have
/// certificates of their own that carry what they rest on.
pub fn body(statement: &Statement) -> Result<Value, VerifyError> {
    match statement.kind {
        Kind::SLOT_REPLAYED | Kind::SLOT_SAMPLED => {
            Ok(slot_body(&SlotStatement::from_statement(statement)?.body))
        }
        Kind::RECEIPT => {
            let receipt = receipt(statement)?;
            Ok(json!({
                "operation": receipt.operation, "result": to_hex(&receipt.result),
                "log_root": to_hex(&receipt.log_root), "log_size": receipt.log_size,
                "state_root": to_hex(&receipt.state_root), "state_size": receipt.state_size,
            }))
        }
        Kind::DECISION => {
            let (operation, index, action) = decision(statement)?;
            let action = match action {
                Action::Migrate { source, destination } => {
                    json!({"migrate": {"source": source, "destination": destination}})
                }
                Action::Grant { slot, statement, host } => {
                    json!({"grant": {"slot": slot, "statement": statement, "host": host}})
                }
            };
            Ok(json!({"operation": operation, "index": index, "action": action}))
        }
        Kind::SERVICE_RECEIPT => {
            let receipt = ServiceReceipt::from_statement(statement)?;
            Ok(json!({
                "log_index": receipt.log_index, "operation": receipt.operation, "result": to_hex(&receipt.result),
                "log_root": to_hex(&receipt.log_root), "log_size": receipt.log_size,
                "state_root": to_hex(&receipt.state.root), "state_size": receipt.state.size,
            }))
        }
        got => Err(VerifyError::WrongDomain { want: Kind::RECEIPT, got }),
    }
}

/// Operation, place in the log and action of a decision.
pub fn decision(statement: &Statement) -> Result<(OperationId, u64, Action), VerifyError> {
    Ok(from_bytes(&statement.body, BODY_LIMIT)?)
}

/// The receipt that a statement of that kind is; it must be about no VM, and its log must end with its entry.
pub fn receipt(statement: &Statement) -> Result<Receipt, VerifyError> {
    if statement.instance != LOG_INSTANCE {
        return Err(VerifyError::WrongVm { want: LOG_INSTANCE, got: statement.instance });
    }
    type Body = (OperationId, Digest, (Digest, u64), Digest, u64);
    let (operation, result, (log_root, log_size), state_root, state_size) =
        from_bytes::<Body>(&statement.body, BODY_LIMIT)?;
    let (group, epoch, index) = (statement.group, statement.epoch, statement.seq);
    if index.checked_add(1) != Some(log_size) {
        let reason = "the log of a receipt does not end with its entry";
        return Err(VerifyError::Inconsistent { reason });
    }
    Ok(Receipt { group, epoch, index, operation, result, log_root, log_size, state_root, state_size })
}

/// The fields that every statement has, and the quorum they need.
pub fn scope(statement: &Statement, group: &GroupConfig) -> Value {
    json!({
        "kind": statement.kind.to_string(), "group": statement.group, "epoch": statement.epoch,
        "instance": statement.instance, "seq": statement.seq,
        "q": group.rule().ok().map(|rule| rule.quorum()),
    })
}

/// What is certified about a slot.
pub fn slot_body(body: &SlotBody) -> Value {
    json!({
        "generation": body.generation, "image": body.image, "machine_version": body.machine_version,
        "platform": body.platform, "page_root": body.page_root, "page_count": body.page_count, "cpu": body.cpu,
        "device": body.device, "input_root": body.input_root, "first_input": body.first_input,
        "end_input": body.end_input, "ordered": body.ordered, "client_signed": body.client_signed,
        "unauthenticated": body.unauthenticated, "output_root": body.output_root,
        "output_count": body.output_count, "doorbells": body.doorbells, "previous": body.previous,
        "host": body.host,
    })
}
