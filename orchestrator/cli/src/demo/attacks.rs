//! What a Byzantine party can try, as data: who is Byzantine, what it does, who must refuse it, and with which error.

/// Who does not follow the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Byzantine {
    /// The host that has the VM.
    Source,
    /// The host that gets it.
    Destination,
    /// As many verifiers as the group tolerates.
    Verifiers,
    /// One verifier more than the group tolerates, together with the source.
    TooManyVerifiers,
}

impl Byzantine {
    /// Words for the table.
    pub fn words(self) -> &'static str {
        match self {
            Self::Source => "source host",
            Self::Destination => "destination host",
            Self::Verifiers => "f verifiers",
            Self::TooManyVerifiers => "f + 1 verifiers",
        }
    }
}

/// Who must refuse.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refuser {
    /// The destination of the migration.
    Destination,
    /// At least one verifier.
    Verifier,
    /// The clients of the VM.
    Client,
    /// Whoever collects attestations.
    Host,
    /// Nobody: a quorum is reached without the faulty ones.
    Nobody,
    /// Anyone who sees both certificates.
    Anyone,
}

impl Refuser {
    /// Words for the table.
    pub fn words(self) -> &'static str {
        match self {
            Self::Destination => "destination",
            Self::Verifier => "verifiers",
            Self::Client => "clients",
            Self::Host => "hosts",
            Self::Nobody => "nobody has to",
            Self::Anyone => "who sees both",
        }
    }
}

/// What becomes of the migration.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is refused, and the source goes on serving.
    Aborted,
    /// It succeeds in spite of the attack.
    Completed,
    /// Either is right, as long as exactly one host serves.
    Either,
    /// Nothing is promised any more.
    GuaranteeGone,
}

/// One attack.
#[derive(Clone, Copy, Debug)]
pub struct Attack {
    /// Name on the command line, also the conduct of the faulty nodes.
    pub name: &'static str,
    /// Who is Byzantine.
    pub byzantine: Byzantine,
    /// What it tries.
    pub tries: &'static str,
    /// Who must refuse; any of them is enough.
    pub refusers: &'static [Refuser],
    /// With which error kinds; any of them is right.
    pub kinds: &'static [&'static str],
    /// What becomes of the migration.
    pub outcome: Outcome,
}

const fn by_source(
    name: &'static str,
    tries: &'static str,
    refusers: &'static [Refuser],
    kinds: &'static [&'static str],
    outcome: Outcome,
) -> Attack {
    Attack { name, byzantine: Byzantine::Source, tries, refusers, kinds, outcome }
}

const DESTINATION: &[Refuser] = &[Refuser::Destination];

/// All attacks, in the order of the list.
pub const ATTACKS: [Attack; 17] = [
    by_source(
        "rollback",
        "hands over an older certified slot as the last one",
        DESTINATION,
        &["StaleSlot"],
        Outcome::Aborted,
    ),
    by_source(
        "rollback-pair",
        "hands over an older certified pair j-1, j with its inputs, which is consistent in itself",
        DESTINATION,
        &["StaleSlot"],
        Outcome::Aborted,
    ),
    by_source(
        "splice-memory",
        "streams the memory of one certified slot under the registers of another",
        DESTINATION,
        &["RootMismatch"],
        Outcome::Aborted,
    ),
    by_source(
        "splice-registers",
        "streams the registers of one certified slot with the memory of another",
        DESTINATION,
        &["RootMismatch"],
        Outcome::Aborted,
    ),
    by_source(
        "fork",
        "proposes different states of one slot to different verifiers",
        &[Refuser::Verifier],
        &["EquivocationEvidence"],
        Outcome::Either,
    ),
    by_source(
        "drop-input",
        "withholds an input of the last transition",
        DESTINATION,
        &["LogTruncated"],
        Outcome::Aborted,
    ),
    by_source(
        "extra-input",
        "adds an input to the last transition",
        DESTINATION,
        &["LogTrailingRecords"],
        Outcome::Aborted,
    ),
    by_source(
        "reorder-inputs",
        "swaps two inputs of the last transition",
        DESTINATION,
        &["LogChainBroken"],
        Outcome::Aborted,
    ),
    by_source(
        "forge-input",
        "puts a request into the last transition that no client signed",
        DESTINATION,
        &["InputUnauthenticated"],
        Outcome::Aborted,
    ),
    by_source(
        "flip-page",
        "flips one bit of a memory page in the stream",
        DESTINATION,
        &["ChunkHashMismatch"],
        Outcome::Aborted,
    ),
    by_source(
        "swap-pages",
        "streams two memory pages in each other's place",
        DESTINATION,
        &["ChunkHashMismatch"],
        Outcome::Aborted,
    ),
    by_source(
        "keep-running",
        "goes on running the VM after it gave it away, and answers clients",
        &[Refuser::Client, Refuser::Verifier],
        &["FencedGeneration"],
        Outcome::Completed,
    ),
    Attack {
        name: "double-activate",
        byzantine: Byzantine::Destination,
        tries: "asks for votes for a second instance of the same generation",
        refusers: &[Refuser::Verifier],
        kinds: &["DuplicateInstance"],
        outcome: Outcome::Completed,
    },
    Attack {
        name: "early-activate",
        byzantine: Byzantine::Destination,
        tries: "runs the VM before a quorum voted for it, and answers clients",
        refusers: &[Refuser::Client, Refuser::Verifier],
        kinds: &["NoActivationCertificate"],
        outcome: Outcome::Either,
    },
    Attack {
        name: "silent-verifiers",
        byzantine: Byzantine::Verifiers,
        tries: "never answer",
        refusers: &[Refuser::Nobody],
        kinds: &[],
        outcome: Outcome::Completed,
    },
    Attack {
        name: "lying-verifiers",
        byzantine: Byzantine::Verifiers,
        tries: "attest other states than the ones they were shown",
        refusers: &[Refuser::Host],
        kinds: &["BadSignature"],
        outcome: Outcome::Completed,
    },
    Attack {
        name: "too-many-liars",
        byzantine: Byzantine::TooManyVerifiers,
        tries: "sign two states of one slot, together with the source: one more than the group tolerates",
        refusers: &[Refuser::Anyone],
        kinds: &["ConflictingCertificates"],
        outcome: Outcome::GuaranteeGone,
    },
];

/// The attack with this name.
pub fn by_name(name: &str) -> Option<&'static Attack> {
    ATTACKS.iter().find(|attack| attack.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_attack_has_its_own_name_and_somebody_who_refuses_it() {
        let names: BTreeSet<_> = ATTACKS.iter().map(|attack| attack.name).collect();
        assert_eq!(names.len(), ATTACKS.len());
        for attack in &ATTACKS {
            assert!(!attack.refusers.is_empty(), "{}", attack.name);
            let nobody = attack.refusers == [Refuser::Nobody];
            assert_eq!(attack.kinds.is_empty(), nobody, "{}", attack.name);
            assert!(attack.tries.len() < 90, "{} does not fit the table", attack.name);
            assert_eq!(by_name(attack.name).map(|found| found.name), Some(attack.name));
        }
        assert!(by_name("unknown").is_none());
    }
}
