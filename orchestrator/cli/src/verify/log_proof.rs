//! The log of a VM's statements in its public form: cosigned heads and inclusion proofs.

use std::path::Path;

use quorate_attest::checkpoint::Checkpoint;
use quorate_attest::id::to_hex;
use quorate_attest::note::Note;
use quorate_attest::policy::{Accepted, Policy};
use quorate_attest::statement::Statement;
use quorate_attest::tlog_proof::TlogProof;
use quorate_attest::vm::{SlotStatement, log_origin};
use serde_json::{Value, json};

use super::super::failure::Failure;
use super::describe;
use super::finding::Finding;
use super::freshness;
use super::material::read_bytes;
use super::trust::Trust;

/// Checks a cosigned head.
pub fn head(trust: &Trust, finding: Finding, note: &Note) -> Result<Finding, Failure> {
    let policy = policy(trust)?;
    let accepted = match policy.evaluate(note) {
        Ok(accepted) => accepted,
        Err(error) => return Ok(finding.with(checkpoint_facts(note)).fails(error.kind(), error)),
    };
    let finding = finding.with(facts(&accepted));
    if let Some(want) = trust.vm.map(|vm| log_origin(&vm))
        && accepted.checkpoint.origin() != want
    {
        let got = accepted.checkpoint.origin();
        return Ok(finding.fails("WrongVm", format!("head is of {got}, expected {want}")));
    }
    Ok(aged(trust, finding, policy, note, &accepted).holds(summary(&accepted)))
}

/// Checks that a statement is in the log. The statement is the one given, the one on the command line, or the file of
/// the same name that ends in `.statement`.
pub fn proof(
    trust: &Trust,
    finding: Finding,
    proof: &TlogProof,
    statement: Option<&[u8]>,
) -> Result<Finding, Failure> {
    let policy = policy(trust)?;
    let leaf = match (&trust.statement, statement) {
        (Some(leaf), _) => leaf.clone(),
        (None, Some(leaf)) => leaf.to_vec(),
        (None, None) => beside(&finding.file)?,
    };
    let finding = finding.with(json!({"index": proof.index})).with(checkpoint_facts(&proof.checkpoint));
    let decoded = match Statement::decode(&leaf) {
        Ok(decoded) => decoded,
        Err(error) => return Ok(finding.fails(error.kind(), error)),
    };
    let finding = finding.with(statement_facts(trust, &decoded));
    if let Some(want) = trust.vm.filter(|want| *want != decoded.instance) {
        let text = format!("statement is about VM {}, expected {want}", decoded.instance);
        return Ok(finding.fails("WrongVm", text));
    }
    let accepted = match proof.verify(&log_origin(&decoded.instance), &leaf, policy) {
        Ok(accepted) => accepted,
        Err(error) => return Ok(finding.fails(error.kind(), error)),
    };
    // The log's leaf k is slot k: a right statement at a wrong place is a wrong proof.
    if decoded.seq != proof.index {
        let text = format!("slot {} is at index {}", decoded.seq, proof.index);
        return Ok(finding.fails("ProofInvalid", text));
    }
    let finding = finding.with(facts(&accepted));
    let text = format!("slot {} is in the log of {}", decoded.seq, summary(&accepted));
    Ok(aged(trust, finding, policy, &proof.checkpoint, &accepted).holds(text))
}

fn policy(trust: &Trust) -> Result<&Policy, Failure> {
    let failure = || Failure::usage("nothing says whose cosignatures count");
    trust.policy.as_ref().ok_or_else(|| failure().next("name a policy with --policy FILE, or --group FILE"))
}

fn beside(proof: &Path) -> Result<Vec<u8>, Failure> {
    let path = proof.with_extension("statement");
    if !path.is_file() {
        let failure = Failure::usage(format!("nothing says what {} is a proof of", proof.display()));
        return Err(failure.next("name the statement with --statement FILE"));
    }
    read_bytes(&path)
}

fn aged(trust: &Trust, finding: Finding, policy: &Policy, note: &Note, accepted: &Accepted) -> Finding {
    let stale = trust.age.and_then(|age| freshness::check_note(policy, note, &accepted.witnesses, age));
    Finding { stale, ..finding }
}

fn summary(accepted: &Accepted) -> String {
    let head = &accepted.checkpoint;
    format!("{} slots, cosigned by {} verifiers", head.size(), accepted.witnesses.len())
}

fn facts(accepted: &Accepted) -> Value {
    let witnesses: Vec<Value> = accepted
        .witnesses
        .iter()
        .map(|witness| json!({"name": witness.name, "timestamp": witness.timestamp}))
        .collect();
    json!({
        "origin": accepted.checkpoint.origin(), "tree_size": accepted.checkpoint.size(),
        "root": to_hex(accepted.checkpoint.root()), "signers": witnesses, "log": accepted.log,
    })
}

fn checkpoint_facts(note: &Note) -> Value {
    match Checkpoint::parse(note.text()) {
        Ok(head) => {
            json!({"origin": head.origin(), "tree_size": head.size(), "root": to_hex(head.root())})
        }
        Err(_) => json!({}),
    }
}

fn statement_facts(trust: &Trust, statement: &Statement) -> Value {
    let body = match SlotStatement::from_statement(statement) {
        Ok(slot) => describe::slot_body(&slot.body),
        Err(_) => json!(to_hex(&statement.body)),
    };
    let quorum = trust.group.as_ref().and_then(|group| group.rule().ok()).map(|rule| rule.quorum());
    json!({
        "kind": statement.kind.to_string(), "group": statement.group, "epoch": statement.epoch,
        "instance": statement.instance, "seq": statement.seq, "body": body, "q": quorum,
    })
}
