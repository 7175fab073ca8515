//! All conducts by name.

use std::sync::Arc;

use quorate_host::conduct as host_conduct;
use quorate_verifier::node::conduct as verifier_conduct;
use serde_json::{Value, json};

use crate::crash::{CrashingHost, CrashingVerifier};
use crate::host::activation::{DoubleActivate, EarlyActivate, KeepRunning};
use crate::host::fork::Fork;
use crate::host::inputs::{How, Tamper};
use crate::host::liars::Equivocate;
use crate::host::pages::{FlipPage, SwapPages};
use crate::host::replies::RefusedReplies;
use crate::host::rollback::{Rollback, RollbackPair};
use crate::host::splice::Splice;
use crate::verifier::{Chosen, Lying, SignsAnything, Silent};

/// Ends the process at a step: `crash-at:STEP[:N]`.
const CRASH: &str = "crash-at:";
/// The same for hosts, counted from the offer of a VM.
const CRASH_AFTER_OFFER: &str = "crash-after-offer:";

/// Which kind of node a conduct belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Party {
    /// A host, as source or destination.
    Host,
    /// A verifier.
    Verifier,
}

impl Party {
    /// `host` or `verifier`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Verifier => "verifier",
        }
    }
}

/// One conduct.
#[derive(Clone, Copy, Debug)]
pub struct Entry {
    /// Its name.
    pub name: &'static str,
    /// Who has it.
    pub party: Party,
    /// What it does.
    pub what: &'static str,
    /// Error kind with which it is refused; none where nothing has to be refused.
    pub error_kind: Option<&'static str>,
}

const fn host_entry(name: &'static str, error_kind: &'static str, what: &'static str) -> Entry {
    Entry { name, party: Party::Host, what, error_kind: Some(error_kind) }
}

/// Conduct of a host that lies about what the guest of a service answers, always or, with `:N`, N times. Clients of services and other
/// replicas find out, not the parties of a migration.
pub const REFUSED_REPLIES: &str = "refused-replies";

/// Every conduct but the crashing ones and [`REFUSED_REPLIES`].
pub const CONDUCTS: &[Entry] = &[
    host_entry("rollback", "StaleSlot", "source: hands over an older slot that the destination has passed"),
    host_entry(
        "rollback-pair",
        "StaleSlot",
        "source: withholds newer certified slots and hands over the older certified pair (j-1, j)",
    ),
    host_entry("splice-memory", "RootMismatch", "source: streams the memory of another slot"),
    host_entry(
        "splice-registers",
        "RootMismatch",
        "source: streams registers and device state of another slot",
    ),
    host_entry(
        "fork",
        "EquivocationEvidence",
        "source: shows the last verifier another history than the others",
    ),
    host_entry(
        "fork-half",
        "EquivocationEvidence",
        "source: shows one half of the verifiers another history",
    ),
    host_entry("drop-input", "LogTruncated", "source: leaves out the last input of a slot"),
    host_entry("extra-input", "LogTrailingRecords", "source: repeats the last input of a slot"),
    host_entry("reorder-inputs", "LogChainBroken", "source: exchanges two inputs of a slot"),
    host_entry("forge-input", "InputUnauthenticated", "source: puts words into a client's mouth"),
    host_entry("flip-page", "ChunkHashMismatch", "source: flips one bit in one streamed page"),
    host_entry("swap-pages", "ChunkHashMismatch", "source: streams two pages in each other's place"),
    host_entry(
        "keep-running",
        "FencedGeneration",
        "source: goes on answering clients after it gave the VM away",
    ),
    host_entry("double-activate", "DuplicateInstance", "destination: wants votes for a second instance"),
    host_entry(
        "early-activate",
        "NoActivationCertificate",
        "destination: signs the source's Relinquish itself and runs the VM before it was given to it",
    ),
    host_entry(
        "too-many-liars",
        "ConflictingCertificates",
        "host: has two statements for one slot certified, with the last f+1 verifiers, who sign anything",
    ),
    Entry {
        name: "silent",
        party: Party::Verifier,
        what: "takes every request and answers none",
        error_kind: None,
    },
    Entry {
        name: "lying",
        party: Party::Verifier,
        what: "signs other statements and instances than it is asked about",
        error_kind: Some("BadSignature"),
    },
    Entry {
        name: "signs-anything",
        party: Party::Verifier,
        what: "signs whatever it is asked to, twice if it is asked twice",
        error_kind: None,
    },
];

/// The conduct of a host by name.
pub fn host(name: &str) -> Option<Arc<dyn host_conduct::Conduct>> {
    if let Some(step) = name.strip_prefix(CRASH) {
        return CrashingHost::parse(step).map(|conduct| Arc::new(conduct) as _);
    }
    if let Some(step) = name.strip_prefix(CRASH_AFTER_OFFER) {
        return CrashingHost::parse(step).map(|conduct| Arc::new(conduct.after_offer()) as _);
    }
    if let Some(times) = name.strip_prefix(REFUSED_REPLIES).and_then(|rest| rest.strip_prefix(':')) {
        return times.parse().ok().map(|times| Arc::new(RefusedReplies::times(times)) as _);
    }
    Some(match name {
        "honest" => Arc::new(host_conduct::Honest),
        "rollback" => Arc::new(Rollback),
        "rollback-pair" => Arc::new(RollbackPair::default()),
        "splice-memory" => Arc::new(Splice::memory()),
        "splice-registers" => Arc::new(Splice::registers()),
        "fork" => Arc::new(Fork::last()),
        "fork-half" => Arc::new(Fork::half()),
        "drop-input" => Arc::new(Tamper::new(How::Drop)),
        "extra-input" => Arc::new(Tamper::new(How::Extra)),
        "reorder-inputs" => Arc::new(Tamper::new(How::Reorder)),
        "forge-input" => Arc::new(Tamper::new(How::Forge)),
        "flip-page" => Arc::new(FlipPage),
        "swap-pages" => Arc::new(SwapPages),
        "keep-running" => Arc::new(KeepRunning),
        "double-activate" => Arc::new(DoubleActivate),
        "early-activate" => Arc::new(EarlyActivate),
        "too-many-liars" => Arc::new(Equivocate::default()),
        REFUSED_REPLIES => Arc::new(RefusedReplies::times(u64::MAX)),
        _ => return None,
    })
}

/// The conduct of a verifier by name. It may also be named by the attack that it belongs to.
pub fn verifier(name: &str) -> Option<Chosen> {
    if let Some(step) = name.strip_prefix(CRASH) {
        return CrashingVerifier::parse(step).map(Chosen::new);
    }
    Some(match name {
        "honest" => Chosen::new(verifier_conduct::Honest),
        "silent" | "silent-verifiers" => Chosen::new(Silent),
        "lying" | "lying-verifiers" => Chosen::new(Lying),
        "signs-anything" | "too-many-liars" => Chosen::new(SignsAnything),
        _ => return None,
    })
}

/// Names of the steps of a host, in the order of a migration.
pub fn host_steps() -> Vec<String> {
    host_conduct::Step::ALL.into_iter().map(host_conduct::Step::name).collect()
}

/// Names of the steps of a verifier.
pub fn verifier_steps() -> Vec<String> {
    verifier_conduct::Step::ALL.into_iter().map(|step| step.name().to_owned()).collect()
}

/// The catalogue as JSON.
pub fn to_json() -> Value {
    let conducts: Vec<_> = CONDUCTS
        .iter()
        .map(|entry| {
            json!({"name": entry.name, "party": entry.party.name(), "what": entry.what, "error_kind": entry.error_kind})
        })
        .collect();
    json!({"conducts": conducts, "host_steps": host_steps(), "verifier_steps": verifier_steps()})
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_conduct_exists_for_its_party_only() {
        for entry in CONDUCTS {
            assert_eq!(host(entry.name).is_some(), entry.party == Party::Host, "{}", entry.name);
            let shared = entry.name == "too-many-liars";
            assert_eq!(
                verifier(entry.name).is_some(),
                shared || entry.party == Party::Verifier,
                "{}",
                entry.name
            );
        }
        assert!(["silent-verifiers", "lying-verifiers"].iter().all(|attack| verifier(attack).is_some()));
    }

    #[test]
    fn every_step_has_a_crashing_conduct() {
        assert!(host_steps().iter().all(|step| host(&format!("crash-at:{step}")).is_some()));
        assert!(verifier_steps().iter().all(|step| verifier(&format!("crash-at:{step}:2")).is_some()));
        assert!(host("crash-at:Nowhere").is_none() && verifier("crash-at:nowhere").is_none());
    }

    #[test]
    fn unknown_names_are_refused() {
        assert!(host("").is_none() && host("Rollback").is_none() && verifier("silent ").is_none());
    }
}
