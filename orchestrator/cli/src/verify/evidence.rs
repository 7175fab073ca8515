//! `quorate evidence`: two signed statements that an honest party never signs both of.
//!
//! ```text
//! two files, or one that holds a pair ─▶ two sides: statements with verified signatures ─▶ a conflict? ─▶ who signed both
//! ```
//!
//! Only the group's configuration is trusted. A signature that does not verify accuses nobody and is left out.

use std::path::PathBuf;

use clap::Args;
use quorate_attest::VerifyError;
use quorate_attest::encoding::Bounded;
use quorate_attest::group::GroupConfig;
use quorate_attest::key::{PublicKey, Signature};
use quorate_attest::note::Note;
use quorate_attest::receipt::ReceiptCertificate;
use quorate_attest::service::ServiceReceiptCertificate;
use quorate_attest::statement::{Kind, Statement};
use quorate_attest::vm::{
    Action, ActivationCertificate, DecisionCertificate, Proposal, SlotCertificate, SlotStatement,
};
use quorate_verifier::core::Evidence;
use serde_json::json;

use super::super::exit;
use super::super::failure::Failure;
use super::super::output::{Output, Tone};
use super::finding::Finding;
use super::material::{self, Material};
use super::trust::Trust;
use super::{describe, heads, services};

/// Checks that two signed statements contradict each other, and names who signed both.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  quorate evidence a.cert b.cert --group group.toml          two certificates, or two votes, for one place
  quorate evidence evidence/8f3c.bin --group group.toml      what a verifier keeps
  quorate evidence a.note b.note --policy group.policy       two heads of one log
  quorate evidence data/orchestrator-1/evidence/service-registry-7 --replicas services.toml

Exit codes: 0 it is evidence, 1 it is none (the rule that failed is named), 2 usage or unreadable file.")]
pub struct Arguments {
    /// Two files with a signed statement each, or one with a pair.
    #[arg(required = true, num_args = 1..=2, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The group whose members or hosts signed (TOML). Default: group.toml beside the first file.
    #[arg(long, value_name = "FILE")]
    group: Option<PathBuf>,
    /// The orchestrators' group, for receipts and decisions (TOML). Default: orchestrators.toml beside the first file.
    #[arg(long, value_name = "FILE")]
    orchestrators: Option<PathBuf>,
    /// The group of the services' replicas, for what they signed (TOML). Default: services.toml beside the first file.
    #[arg(long, value_name = "FILE")]
    replicas: Option<PathBuf>,
    /// The C2SP policy that names the cosigners of heads. Default: group.policy or policy.txt beside, or the group's own.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
}

/// Runs the command.
pub fn run(arguments: &Arguments, output: &Output) -> Result<u8, Failure> {
    let finding = examine(arguments)?;
    let finding = match finding {
        Ok(finding) => finding,
        Err(error) => Finding::new(&arguments.files[0], "evidence").fails(error.kind(), error),
    };
    finding.print(output);
    if let Some((kind, detail)) = &finding.failed {
        eprintln!("no evidence: {kind}: {detail}");
        return Ok(exit::REFUSED);
    }
    output.line(&output.tint(Tone::Bad, "this is evidence"));
    Ok(exit::OK)
}

/// Whom the files convict. The inner error says why they convict nobody.
pub(super) fn examine(arguments: &Arguments) -> Result<Result<Finding, VerifyError>, Failure> {
    let trust = Trust::gather(&super::Arguments::beside(
        arguments.files.clone(),
        arguments.group.clone(),
        arguments.orchestrators.clone(),
        arguments.replicas.clone(),
        arguments.policy.clone(),
    ))?;
    let mut contents = Vec::new();
    for path in &arguments.files {
        contents.push((material::read_file(path)?.material, material::read_bytes(path)?));
    }
    let finding = Finding::new(&arguments.files[0], "evidence");
    match &contents[..] {
        [(Material::Head(first), _), (Material::Head(second), _)] => {
            return heads_pair(&trust, finding, first, second);
        }
        [(Material::Contradiction(pair), _)] => {
            return services::contradiction(&trust, finding, pair).map(Ok);
        }
        [(Material::Dissent(dissent), _)] => return services::dissent(&trust, finding, dissent).map(Ok),
        [(Material::StopEvidence(kept), _)] => return services::stop_evidence(&trust, finding, kept).map(Ok),
        _ => {}
    }
    let sides = match &contents[..] {
        [(pair, _)] => pair_of(pair),
        [first, second] => side(first).and_then(|first| Ok((first, side(second)?))),
        _ => Err(VerifyError::NoConflict { reason: "evidence is one pair" }),
    };
    let (first, second) = match sides {
        Ok(sides) => sides,
        Err(error) => return Ok(Err(error)),
    };
    // Without any group nothing can be said; with one that is another, the statements are refused.
    if trust.orchestrators.is_none() && trust.replicas.is_none() {
        trust.group()?;
    }
    Ok(convict(&trust, finding, first, second))
}

/// A statement and who is said to have signed it.
struct Signed {
    statement: Statement,
    signer: Signer,
    signature: Signature,
}

/// How a signer is named in a file.
#[derive(Clone, Copy)]
enum Signer {
    /// Index in the statement's group.
    Member(u16),
    /// Key of a host.
    Host(PublicKey),
}

/// The pair that one file holds.
fn pair_of(material: &Material) -> Result<(Vec<Signed>, Vec<Signed>), VerifyError> {
    match material {
        Material::Evidence(evidence) => Ok(match &**evidence {
            Evidence::Equivocation(pair) => (proposal(&pair.first), proposal(&pair.second)),
            Evidence::ConflictingCertificates(pair) => (slot(&pair.first), slot(&pair.second)),
            Evidence::ConflictingActivations(pair) => (activation(&pair.0), activation(&pair.1)),
        }),
        Material::DoubleVote(vote) => {
            let signer = Signer::Member(vote.verifier);
            let (first, second) = (
                vote.first.to_statement(vote.first_mode.kind()),
                vote.second.to_statement(vote.second_mode.kind()),
            );
            Ok((
                vec![Signed { statement: first, signer, signature: vote.first_signature }],
                vec![Signed { statement: second, signer, signature: vote.second_signature }],
            ))
        }
        _ => Err(VerifyError::NoConflict { reason: "one file must hold two statements" }),
    }
}

/// The signatures of one file; a certificate below a quorum will do.
fn side((material, bytes): &(Material, Vec<u8>)) -> Result<Vec<Signed>, VerifyError> {
    match material {
        Material::Slot(certificate) => return Ok(slot(certificate)),
        Material::Activation(certificate) => return Ok(activation(certificate)),
        Material::Other(certificate) => {
            return Ok(members(&certificate.statement, &certificate.signatures));
        }
        _ => {}
    }
    if let Ok(found) = Proposal::decoded(bytes) {
        return Ok(proposal(&found));
    }
    if let Ok(certificate) = DecisionCertificate::decoded(bytes) {
        return Ok(members(&certificate.decision.to_statement(), &certificate.signatures));
    }
    if let Ok(certificate) = ServiceReceiptCertificate::decoded(bytes) {
        return Ok(members(&certificate.receipt.to_statement(), &certificate.signatures));
    }
    let certificate = ReceiptCertificate::decoded(bytes)?;
    Ok(members(&certificate.receipt.to_statement(), &certificate.signatures))
}

fn members(statement: &Statement, signatures: &[(u16, Signature)]) -> Vec<Signed> {
    let signed = |(index, signature): &(u16, Signature)| Signed {
        statement: statement.clone(),
        signer: Signer::Member(*index),
        signature: *signature,
    };
    signatures.iter().map(signed).collect()
}

fn slot(certificate: &SlotCertificate) -> Vec<Signed> {
    let votes = certificate.attestations.iter();
    votes
        .map(|vote| Signed {
            statement: certificate.statement.to_statement(vote.mode.kind()),
            signer: Signer::Member(vote.verifier),
            signature: vote.signature,
        })
        .collect()
}

fn activation(certificate: &ActivationCertificate) -> Vec<Signed> {
    members(&certificate.activation.to_statement(), &certificate.attestations)
}

fn proposal(proposal: &Proposal) -> Vec<Signed> {
    let statement = proposal.statement.to_statement(Kind::PROPOSAL);
    let signer = Signer::Host(proposal.statement.body.host);
    vec![Signed { statement, signer, signature: proposal.signature }]
}

/// Verified signatures of one side: key and statement.
type Proven = Vec<(PublicKey, Statement)>;

fn convict(
    trust: &Trust,
    finding: Finding,
    first: Vec<Signed>,
    second: Vec<Signed>,
) -> Result<Finding, VerifyError> {
    let group = group_of(trust, &first)?;
    let (first, second) = (verified(group, first)?, verified(group, second)?);
    let mut reason = VerifyError::NoConflict { reason: "nobody signed both statements" };
    let mut culprits: Vec<PublicKey> = Vec::new();
    for (key, one) in &first {
        for (_, other) in second.iter().filter(|(other, _)| other == key) {
            match check_conflict(one, other) {
                Ok(()) if !culprits.contains(key) => culprits.push(*key),
                Ok(()) => {}
                Err(error) => reason = error,
            }
        }
    }
    let Some((_, statement)) = first.iter().find(|(key, _)| culprits.contains(key)) else {
        return Err(reason);
    };
    let quorum = group.rule()?.quorum();
    let certified = |side: &Proven| distinct(side) >= quorum;
    let kind = match statement.kind {
        Kind::PROPOSAL => "EquivocationEvidence",
        _ if certified(&first) && certified(&second) => "ConflictingCertificates",
        _ => "DoubleVote",
    };
    let names: Vec<String> = culprits.iter().map(|key| name_of(group, key)).collect();
    let digests: Vec<String> = [&first, &second]
        .map(|side| side.first().map(|(_, s)| s.digest().to_string()).unwrap_or_default())
        .into();
    let summary = format!(
        "{kind} is proved: {} signed two statements of kind {} for {}",
        names.join(", "),
        statement.kind,
        statement.seq,
    );
    let facts = json!({"evidence": kind, "signers": names, "keys": culprits, "statements": digests});
    Ok(finding.with(describe::scope(statement, group)).with(facts).holds(summary))
}

/// The known group to which the statements belong.
fn group_of<'a>(trust: &'a Trust, side: &[Signed]) -> Result<&'a GroupConfig, VerifyError> {
    let none = VerifyError::NoConflict { reason: "a statement without a signature" };
    let got = side.first().ok_or(none)?.statement.group;
    let known = [trust.group.as_ref(), trust.orchestrators.as_ref(), trust.replicas.as_ref()];
    let mut known = known.into_iter().flatten();
    let want = known.clone().next().map(GroupConfig::id).unwrap_or_default();
    known.find(|group| group.id() == got).ok_or(VerifyError::WrongCluster { want, got })
}

/// The signatures that hold. When none does, the first reason.
fn verified(group: &GroupConfig, side: Vec<Signed>) -> Result<Proven, VerifyError> {
    let mut refused = VerifyError::NoConflict { reason: "a statement without a signature" };
    let mut proven = Vec::new();
    let mut first = true;
    for Signed { statement, signer, signature } in side {
        match verify_one(group, &statement, signer, &signature) {
            Ok(key) => proven.push((key, statement)),
            Err(error) if first => (refused, first) = (error, false),
            Err(_) => {}
        }
    }
    if proven.is_empty() { Err(refused) } else { Ok(proven) }
}

fn verify_one(
    group: &GroupConfig,
    statement: &Statement,
    signer: Signer,
    signature: &Signature,
) -> Result<PublicKey, VerifyError> {
    group.expected(statement.instance, statement.kind).check(statement)?;
    let key = match signer {
        Signer::Member(index) => group.member(index)?.vote_key,
        Signer::Host(key) if group.is_host(&key) => key,
        Signer::Host(got) => return Err(VerifyError::KeyRoleMismatch { role: "host", got }),
    };
    statement.verify(&key, signature)?;
    Ok(key)
}

fn distinct(side: &Proven) -> u64 {
    let keys: std::collections::BTreeSet<&PublicKey> = side.iter().map(|(key, _)| key).collect();
    keys.len() as u64
}

fn name_of(group: &GroupConfig, key: &PublicKey) -> String {
    match group.index_of(key) {
        Ok(index) => describe::verifier_names(group, [index]).join(""),
        Err(_) => describe::host_name(group, key),
    }
}

/// Whether an honest party never signs both. Place and body decide, and for some kinds more: a slot of a later generation
/// may differ, and of decisions only the right to create a generation is given once.
pub(super) fn check_conflict(first: &Statement, second: &Statement) -> Result<(), VerifyError> {
    let no = |reason: &'static str| Err(VerifyError::NoConflict { reason });
    let scope = |s: &Statement| (s.group, s.epoch, s.instance);
    let is_slot = |kind: Kind| kind == Kind::SLOT_REPLAYED || kind == Kind::SLOT_SAMPLED;
    if scope(first) != scope(second) {
        return no("two groups, epochs or VMs");
    }
    if first.kind != second.kind && !(is_slot(first.kind) && is_slot(second.kind)) {
        return no("two kinds of statements");
    }
    if first.seq != second.seq {
        return no("two places");
    }
    if first.body == second.body {
        return no("one statement");
    }
    match first.kind {
        kind if is_slot(kind) || kind == Kind::PROPOSAL => {
            let generation = |s: &Statement| Ok(SlotStatement::from_statement(s)?.body.generation);
            let same: Result<bool, VerifyError> =
                generation(first).and_then(|one| Ok(one == generation(second)?));
            if same? { Ok(()) } else { no("two generations") }
        }
        Kind::ACTIVATE | Kind::RECEIPT | Kind::SERVICE_RECEIPT => Ok(()),
        Kind::DECISION => {
            let ((_, one, a), (_, other, b)) = (describe::decision(first)?, describe::decision(second)?);
            let grants = matches!((&a, &b), (Action::Grant { .. }, Action::Grant { .. }));
            if grants || one == other { Ok(()) } else { no("migrations may be ordered again") }
        }
        _ => no("an honest party may sign both"),
    }
}

fn heads_pair(
    trust: &Trust,
    finding: Finding,
    first: &Note,
    second: &Note,
) -> Result<Result<Finding, VerifyError>, Failure> {
    let failure = || Failure::usage("nothing says whose cosignatures count");
    let policy = trust.policy.as_ref().ok_or_else(|| failure().next("name a policy with --policy FILE"))?;
    Ok(heads::equivocation(policy, first, second).map(|(kind, names, head)| {
        let summary = format!(
            "{kind} is proved: {} cosigned two roots of size {} of {}",
            names.join(", "),
            head.size(),
            head.origin(),
        );
        let facts = json!({
            "evidence": kind, "signers": names, "origin": head.origin(), "tree_size": head.size(),
            "kind": "head", "seq": head.size(),
        });
        finding.with(facts).holds(summary)
    }))
}
