//! Logs in their public form, of a VM's statements and of a group's operations: cosigned heads and inclusion proofs.

use std::path::Path;

use quorate_attest::VerifyError;
use quorate_attest::checkpoint::Checkpoint;
use quorate_attest::encoding::Bounded;
use quorate_attest::id::to_hex;
use quorate_attest::merkle::{Digest, ProofError, Sha256Tree, TreeHash, verify_inclusion};
use quorate_attest::note::Note;
use quorate_attest::policy::{Accepted, Policy};
use quorate_attest::receipt::{LOG_INSTANCE, Receipt, log_origin as group_origin};
use quorate_attest::service::{ServiceReceipt, service_origin};
use quorate_attest::statement::{Kind, Statement};
use quorate_attest::tlog_proof::TlogProof;
use quorate_attest::vm::{SlotStatement, log_origin as vm_origin, statement_leaf};
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
    let finding = finding.with(facts(&accepted)).with(json!({"q": quorum(trust)}));
    if let Some(want) = trust.vm.map(|vm| vm_origin(&vm))
        && accepted.checkpoint.origin() != want
    {
        let got = accepted.checkpoint.origin();
        return Ok(finding.fails("WrongVm", format!("head is of {got}, expected {want}")));
    }
    Ok(aged(trust, finding, policy, note, &accepted).holds(summary(&accepted)))
}

/// Checks that a statement is in the log of its VM, or an entry in the log of its group. It is the one given, the one on
/// the command line, or the file of the same name that ends in `.statement` or `.bin`.
pub fn proof(
    trust: &Trust,
    finding: Finding,
    proof: &TlogProof,
    statement: Option<&[u8]>,
) -> Result<Finding, Failure> {
    let policy = policy(trust)?;
    let bytes = match (&trust.statement, statement) {
        (Some(bytes), _) => bytes.clone(),
        (None, Some(bytes)) => bytes.to_vec(),
        (None, None) => beside(&finding.file)?,
    };
    let head = checkpoint_facts(&proof.checkpoint);
    let finding = finding.with(json!({"index": proof.index, "q": quorum(trust)})).with(head);
    let leaf = match Leaf::read(&bytes) {
        Ok(leaf) => leaf,
        Err(error) => return Ok(finding.fails(error.kind(), error)),
    };
    let finding = finding.with(leaf.facts());
    let origin = leaf.origin(trust)?;
    if let Err(error) = leaf.check(trust) {
        return Ok(finding.fails(error.kind(), error));
    }
    let accepted = match proof.verify(&origin, &leaf.data(), policy) {
        Ok(accepted) => accepted,
        Err(error) => return Ok(finding.fails(error.kind(), error)),
    };
    // A right statement at a wrong place is a wrong proof: leaf k is slot k of the VM, or entry k of the log.
    if leaf.statement().seq != proof.index {
        let text = format!("{} is at index {}", leaf.name(), proof.index);
        return Ok(finding.fails("ProofInvalid", text));
    }
    if let Err(error) = leaf.check_log_root(proof, accepted.checkpoint.size()) {
        return Ok(finding.fails(error.kind(), error));
    }
    let finding = finding.with(facts(&accepted));
    let text = format!("{} is in {}", leaf.name(), summary(&accepted));
    Ok(aged(trust, finding, policy, &proof.checkpoint, &accepted).holds(text))
}

/// What the log hashes of the statement beside a proof; none where that is no statement of a log.
pub fn leaf_data(trust: &Trust, proof: &Path) -> Result<Option<Vec<u8>>, Failure> {
    let bytes = match &trust.statement {
        Some(bytes) => bytes.clone(),
        None => beside(proof)?,
    };
    Ok(Leaf::read(&bytes).ok().map(|leaf| leaf.data()))
}

/// What a proof is about.
#[expect(clippy::large_enum_variant, reason = "one of them lives at a time")]
enum Leaf {
    /// A slot in the log of its VM's statements.
    Slot(SlotStatement),
    /// An entry in the log of the orchestrators, as they sign for it.
    Entry(Receipt),
    /// An entry in the log of a service, as its replicas sign for it.
    Service(ServiceReceipt),
}

impl Leaf {
    fn read(bytes: &[u8]) -> Result<Self, VerifyError> {
        let statement = Statement::decode(bytes)?;
        match statement.kind {
            Kind::SLOT_REPLAYED => Ok(Self::Slot(SlotStatement::from_statement(&statement)?)),
            Kind::RECEIPT => Ok(Self::Entry(describe::receipt(&statement)?)),
            Kind::SERVICE_RECEIPT => Ok(Self::Service(ServiceReceipt::from_statement(&statement)?)),
            got => Err(VerifyError::WrongDomain { want: Kind::SLOT_REPLAYED, got }),
        }
    }

    fn statement(&self) -> Statement {
        match self {
            Self::Slot(statement) => statement.to_statement(Kind::SLOT_REPLAYED),
            Self::Entry(receipt) => receipt.to_statement(),
            Self::Service(receipt) => receipt.to_statement(),
        }
    }

    /// What is hashed.
    fn data(&self) -> Vec<u8> {
        match self {
            Self::Slot(statement) => statement_leaf(statement),
            Self::Entry(receipt) => receipt.leaf().encoded(),
            Self::Service(receipt) => receipt.leaf().encoded(),
        }
    }

    /// The log that the leaf must be in. A receipt says nothing about its group that the log proves, so the group must be
    /// known.
    fn origin(&self, trust: &Trust) -> Result<String, Failure> {
        match self {
            Self::Slot(statement) => Ok(vm_origin(&statement.vm)),
            Self::Entry(_) => Ok(group_origin(&trust.log_group()?.name)),
            Self::Service(receipt) => {
                Ok(service_origin(&trust.replicas()?.name, &trust.service(&receipt.service)?.name))
            }
        }
    }

    /// Compares VM and group with those expected. A later configuration of the group vouches for what earlier ones did.
    fn check(&self, trust: &Trust) -> Result<(), VerifyError> {
        let (statement, group) = match self {
            Self::Slot(_) => (self.statement(), trust.group.as_ref()),
            Self::Entry(_) => (self.statement(), trust.log_group().ok()),
            // Which service is expected, the origin has settled.
            Self::Service(_) => (self.statement(), trust.replicas().ok()),
        };
        // The VM that a folder names beside is not what an entry of the log is about.
        let want = match self {
            Self::Service(receipt) => Some(receipt.service.instance()),
            Self::Slot(_) => trust.vm,
            Self::Entry(_) => trust.vm.filter(|_| trust.spec.is_none()),
        };
        let want = want.or(matches!(self, Self::Entry(_)).then_some(LOG_INSTANCE));
        if let Some(want) = want.filter(|want| *want != statement.instance) {
            return Err(VerifyError::WrongVm { want, got: statement.instance });
        }
        let Some(group) = group else { return Ok(()) };
        if statement.group != group.id() {
            return Err(VerifyError::WrongCluster { want: group.id(), got: statement.group });
        }
        if statement.epoch > group.epoch {
            return Err(VerifyError::WrongEpoch { want: group.epoch, got: statement.epoch });
        }
        Ok(())
    }

    /// The root that a receipt states is that of the log up to its entry. The path contains that tree: the siblings to
    /// the left of the leaf are the path of the last leaf there.
    fn check_log_root(&self, proof: &TlogProof, size: u64) -> Result<(), ProofError> {
        let (index, log_size, log_root) = match self {
            Self::Slot(_) => return Ok(()),
            Self::Entry(receipt) => (receipt.index, receipt.log_size, receipt.log_root),
            Self::Service(receipt) => (receipt.number, receipt.log_size, receipt.log_root),
        };
        let left = left_siblings(proof.index, size, &proof.path);
        let leaf = Sha256Tree::leaf(&self.data());
        verify_inclusion::<Sha256Tree>(&leaf, index, log_size, &left, &log_root)
    }

    fn name(&self) -> String {
        match self {
            Self::Slot(statement) => format!("slot {}", statement.slot),
            Self::Entry(receipt) => format!("entry {}", receipt.index),
            Self::Service(receipt) => format!("entry {} of the service", receipt.number),
        }
    }

    fn facts(&self) -> Value {
        let statement = self.statement();
        json!({
            "kind": statement.kind.to_string(), "group": statement.group, "epoch": statement.epoch,
            "instance": statement.instance, "seq": statement.seq, "body": describe::body(&statement).ok(),
        })
    }
}

/// Those of a verified path that stand left of the leaf.
fn left_siblings(index: u64, size: u64, path: &[Digest]) -> Vec<Digest> {
    let (mut node, mut last) = (index, size.saturating_sub(1));
    let mut left = Vec::new();
    for sibling in path {
        if node & 1 == 1 || node == last {
            left.push(*sibling);
            while node & 1 == 0 && node != 0 {
                (node, last) = (node >> 1, last >> 1);
            }
        }
        (node, last) = (node >> 1, last >> 1);
    }
    left
}

/// Votes that are demanded: by the group, or by the policy where no group is named.
fn quorum(trust: &Trust) -> Option<u64> {
    let group = trust.group.as_ref().and_then(|group| group.rule().ok());
    group.map(|rule| rule.quorum()).or_else(|| trust.policy.as_ref().map(|policy| policy.quorum() as u64))
}

fn policy(trust: &Trust) -> Result<&Policy, Failure> {
    let failure = || Failure::usage("nothing says whose cosignatures count");
    trust.policy.as_ref().ok_or_else(|| failure().next("name a policy with --policy FILE, or --group FILE"))
}

fn beside(proof: &Path) -> Result<Vec<u8>, Failure> {
    let paths = ["statement", "bin"].map(|extension| proof.with_extension(extension));
    let Some(path) = paths.iter().find(|path| path.is_file()) else {
        let failure = Failure::usage(format!("nothing says what {} is a proof of", proof.display()));
        return Err(failure.next("name the statement with --statement FILE"));
    };
    read_bytes(path)
}

fn aged(trust: &Trust, finding: Finding, policy: &Policy, note: &Note, accepted: &Accepted) -> Finding {
    let stale = trust.age.and_then(|age| freshness::check_note(policy, note, &accepted.witnesses, age));
    Finding { stale, ..finding }
}

fn summary(accepted: &Accepted) -> String {
    let head = &accepted.checkpoint;
    format!("{} of size {}, cosigned by {}", head.origin(), head.size(), accepted.witnesses.len())
}

fn facts(accepted: &Accepted) -> Value {
    let signers: Vec<&str> = accepted.witnesses.iter().map(|witness| witness.name.as_str()).collect();
    let timestamps: Vec<u64> = accepted.witnesses.iter().map(|witness| witness.timestamp).collect();
    json!({
        "origin": accepted.checkpoint.origin(), "tree_size": accepted.checkpoint.size(),
        "root": to_hex(accepted.checkpoint.root()), "signers": signers,
        "timestamps": timestamps, "log": accepted.log,
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
