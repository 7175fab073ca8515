//! Files of one folder together: one chain of slots from the image to the newest head.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use quorate_attest::group::GroupConfig;
use quorate_attest::id::{Generation, Slot};
use quorate_attest::key::PublicKey;
use quorate_attest::merkle::{Frontier, Sha256Tree};
use quorate_attest::statement::Kind;
use quorate_attest::vm::{
    Activation, ActivationCertificate, ConflictingCertificates, SlotCertificate, SlotStatement,
    statement_leaf,
};
use quorate_verifier::core::{Evidence, check_link, measurement_of};
use quorate_vmm::genesis::genesis;
use serde_json::json;

use super::super::failure::Failure;
use super::finding::Finding;
use super::material::{Item, Material};
use super::trust::Trust;
use super::{describe, log_proof, single};

/// Why a chain is none: the rule, what was found, and the file where it was found.
struct Broken {
    kind: String,
    detail: String,
    file: PathBuf,
}

/// Checks every file of a folder, and that the slots are one chain under one head.
pub fn check(trust: &Trust, items: &[Item]) -> Result<Vec<Finding>, Failure> {
    let mut findings = Vec::new();
    let mut slots: BTreeMap<Slot, (PathBuf, SlotCertificate)> = BTreeMap::new();
    let mut activations = Vec::new();
    for item in items {
        let checked = match &item.material {
            Material::Proof(_) | Material::Head(_) => continue,
            _ => single::check(trust, item)?,
        };
        match &item.material {
            Material::Slot(certificate) if checked.failed.is_none() => {
                slots.insert(certificate.statement.slot, (item.path.clone(), (**certificate).clone()));
            }
            Material::Activation(certificate) if checked.failed.is_none() => activations.push(&**certificate),
            _ => {}
        }
        let checked = match &item.material {
            Material::Evidence(evidence) => void(checked, evidence),
            _ => checked,
        };
        // Slots that hold are summed up in one line; what fails is named one by one.
        if checked.failed.is_some() || !matches!(item.material, Material::Slot(_)) {
            findings.push(checked);
        }
    }
    let folder = items.first().and_then(|item| item.path.parent()).map(Path::to_owned).unwrap_or_default();
    if !slots.is_empty() {
        findings.insert(0, summary(trust, &folder, &slots, &activations)?);
        findings.extend(check_genesis(trust, &slots));
    }
    findings.extend(check_log(trust, items, &slots)?);
    Ok(findings)
}

/// Evidence is a valid file, but next to a chain of the same group conflicting quorums take away what the chain proves.
fn void(checked: Finding, evidence: &Evidence) -> Finding {
    let conflict =
        matches!(evidence, Evidence::ConflictingCertificates(_) | Evidence::ConflictingActivations(_));
    if !conflict || checked.failed.is_some() {
        return checked;
    }
    let text = format!("{}; no certificate of this group proves anything any more", checked.summary);
    checked.fails("ConflictingCertificates", text)
}

fn summary(
    trust: &Trust,
    folder: &Path,
    slots: &BTreeMap<Slot, (PathBuf, SlotCertificate)>,
    activations: &[&ActivationCertificate],
) -> Result<Finding, Failure> {
    let group = trust.group()?;
    let (first, last) = (slots.keys().next().copied(), slots.keys().next_back().copied());
    let (first, last) = (first.unwrap_or_default(), last.unwrap_or_default());
    let mut finding = Finding::new(&folder.join(format!("slots {first}..{last}")), "chain");
    // An honest quorum member has executed a slot when more than f attestations of it are by re-execution.
    let mut weak = 0u64;
    for (_, certificate) in slots.values() {
        let count = certificate.count();
        finding.replayed += count.replayed;
        finding.sampled += count.sampled;
        weak += u64::from(count.replayed <= group.f);
    }
    let finding = finding.with(json!({
        "first": first, "last": last, "slots": slots.len(), "sampled_majority": weak,
        "generations": activations.len() + 1,
    }));
    if let Err(broken) = check_links(trust, group, slots, activations) {
        return Ok(Finding { file: broken.file, ..finding }.fails(&broken.kind, broken.detail));
    }
    let mut text = format!("{} certified slots without a gap, each naming the one before", slots.len());
    if weak > 0 {
        text += &format!("; {weak} of them executed again by at most {} verifiers", group.f);
    }
    if first != Slot(0) {
        text += "; the beginning is missing, so nothing ties them to the image";
    }
    Ok(finding.holds(text))
}

fn check_links(
    trust: &Trust,
    group: &GroupConfig,
    slots: &BTreeMap<Slot, (PathBuf, SlotCertificate)>,
    activations: &[&ActivationCertificate],
) -> Result<(), Broken> {
    let mut before: Option<&SlotStatement> = None;
    for (path, certificate) in slots.values() {
        let next = &certificate.statement;
        let broken =
            |kind: &str, detail: String| Broken { kind: kind.to_owned(), detail, file: path.clone() };
        if let Some(gap) = before.and_then(|before| before.slot.next()).filter(|want| *want != next.slot) {
            return Err(broken("LogChainBroken", format!("slot {gap} is missing")));
        }
        let begins = before.is_none() && next.slot != Slot(0);
        match &trust.spec {
            // What a chain from the middle continues is not known.
            _ if begins => {}
            Some(spec) => {
                check_link(spec, before, next).map_err(|error| broken(error.kind(), error.to_string()))?;
            }
            None => {
                let want = before.map(SlotStatement::digest).unwrap_or_default();
                if next.body.previous != want {
                    let text = format!("slot {} names another slot before it", next.slot);
                    return Err(broken("LogChainBroken", text));
                }
            }
        }
        if let Some(ended) = before.filter(|before| before.epoch > next.epoch) {
            let text = format!("slot {} is of epoch {}, after {}", next.slot, next.epoch, ended.epoch);
            return Err(broken("EpochRetired", text));
        }
        check_host(trust, group, before, next, activations).map_err(|(kind, text)| broken(kind, text))?;
        before = Some(next);
    }
    Ok(())
}

/// The host of a slot is the one of the slot before, or the one that an activation at exactly that slot named.
fn check_host(
    trust: &Trust,
    group: &GroupConfig,
    before: Option<&SlotStatement>,
    next: &SlotStatement,
    activations: &[&ActivationCertificate],
) -> Result<(), (&'static str, String)> {
    let (mut generation, mut host) = match (before, &trust.spec) {
        (Some(before), _) => (before.body.generation, before.body.host),
        (None, Some(spec)) if next.slot == Slot(0) => (Generation(0), spec.host),
        _ => return Ok(()),
    };
    let digest = before.map(SlotStatement::digest).unwrap_or_default();
    let slot = before.map(|before| before.slot).unwrap_or_default();
    while generation < next.body.generation {
        let after = generation.next().unwrap_or(generation);
        let found = activations.iter().find(|certificate| {
            let activation = &certificate.activation;
            (activation.generation, activation.slot, activation.statement) == (after, slot, digest)
        });
        let Some(certificate) = found else {
            let text = format!("nothing activates generation {after} at slot {slot}");
            return Err(("NoActivationCertificate", text));
        };
        let Activation { epoch, .. } = certificate.activation;
        let members = trust.members(epoch).unwrap_or(group);
        let expected = members.expected(next.vm, Kind::ACTIVATE);
        certificate
            .verify(members, &expected, trust.granters(certificate.grant.decision.epoch))
            .map_err(|error| (error.kind(), error.to_string()))?;
        (generation, host) = (after, certificate.activation.host);
    }
    if next.body.generation < generation {
        let text =
            format!("slot {} is of generation {}, after {generation}", next.slot, next.body.generation);
        return Err(("FencedGeneration", text));
    }
    if next.body.host != host {
        let name = |key: &PublicKey| describe::host_name(group, key);
        let text = format!("slot {} is of {}, expected {}", next.slot, name(&next.body.host), name(&host));
        return Err(("KeyRoleMismatch", text));
    }
    Ok(())
}

/// Slot 0 is computed from the image, without trusting anybody.
fn check_genesis(trust: &Trust, slots: &BTreeMap<Slot, (PathBuf, SlotCertificate)>) -> Option<Finding> {
    let (path, certificate) = slots.get(&Slot(0))?;
    let (spec, image) = (trust.spec.as_ref()?, trust.image.as_ref()?);
    let finding = Finding::new(path, "genesis");
    if image.digest() != spec.image {
        let text = format!("the VM runs image {}, this is {}", spec.image, image.digest());
        return Some(finding.fails("PlatformMismatch", text));
    }
    let genesis = match genesis(image, spec.memory_bytes) {
        Ok(genesis) => genesis.measurement,
        Err(error) => return Some(finding.fails(error.kind(), error)),
    };
    let stated = measurement_of(&certificate.statement);
    let components = [
        ("memory", stated.page_root == genesis.page_root && stated.page_count == genesis.page_count),
        ("cpu", stated.cpu == genesis.cpu),
        ("device", stated.device == genesis.device),
    ];
    Some(match components.iter().find(|(_, equal)| !equal) {
        Some((component, _)) => {
            finding.fails("RootMismatch", format!("{component} differs from the genesis of the image"))
        }
        None => finding.holds("equals the genesis of the image, computed here from its ELF file"),
    })
}

/// Heads and proofs, against the statements of the chain.
fn check_log(
    trust: &Trust,
    items: &[Item],
    slots: &BTreeMap<Slot, (PathBuf, SlotCertificate)>,
) -> Result<Vec<Finding>, Failure> {
    let mut findings = Vec::new();
    for item in items {
        match &item.material {
            Material::Head(note) => {
                let finding = log_proof::head(trust, Finding::new(&item.path, "head"), note)?;
                findings.push(against_chain(finding, slots));
            }
            Material::Proof(proof) => {
                let leaf = slots.get(&Slot(proof.index)).map(|(_, slot)| statement_leaf(&slot.statement));
                let finding = Finding::new(&item.path, "tlog-proof");
                findings.push(log_proof::proof(trust, finding, proof, leaf.as_deref())?);
            }
            _ => {}
        }
    }
    Ok(findings)
}

/// Compares a head with the root over the statements, where all of them are here.
fn against_chain(finding: Finding, slots: &BTreeMap<Slot, (PathBuf, SlotCertificate)>) -> Finding {
    let size = finding.facts.get("tree_size").and_then(serde_json::Value::as_u64);
    let Some(size) = size.filter(|_| finding.failed.is_none()) else { return finding };
    let mut log = Frontier::<Sha256Tree>::new();
    for (slot, (_, certificate)) in slots.range(..Slot(size)) {
        if slot.get() != log.size() {
            return finding;
        }
        log.push(&statement_leaf(&certificate.statement));
    }
    if log.size() != size {
        return finding;
    }
    let root = quorate_attest::id::to_hex(&log.root());
    if finding.facts.get("root").and_then(serde_json::Value::as_str) == Some(root.as_str()) {
        let summary = format!("{}; its root is that of the slots here", finding.summary);
        return finding.holds(summary);
    }
    finding.fails("RootMismatch", "the head's root is not that of the slots here")
}

/// Pairs of certificates for one slot of one generation.
pub fn conflicts(trust: &Trust, certificates: &[(PathBuf, SlotCertificate)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut seen: BTreeMap<(Generation, Slot), &SlotCertificate> = BTreeMap::new();
    for (path, certificate) in certificates {
        let place = (certificate.statement.body.generation, certificate.statement.slot);
        let first = *seen.entry(place).or_insert(certificate);
        if first.statement == certificate.statement {
            continue;
        }
        let Ok((group, expected)) = trust.expected(Kind::SLOT_REPLAYED) else { continue };
        let pair = ConflictingCertificates { first: first.clone(), second: certificate.clone() };
        // Only a pair of certificates that both hold proves anything.
        if let Ok(both) = pair.verify(group, &expected) {
            let names = describe::verifier_names(group, both);
            let text = format!(
                "two certificates for slot {}: more than {} verifiers are Byzantine; {} signed both",
                place.1,
                group.f,
                names.join(", "),
            );
            let finding = Finding::new(path, "conflict").with(json!({"signed_both": names, "seq": place.1}));
            findings.push(finding.fails("ConflictingCertificates", text));
        }
    }
    findings
}
