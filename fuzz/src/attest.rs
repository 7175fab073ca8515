//! The decoders and texts of attestation: one form of each value, and nothing arbitrary that verifies.

use std::fmt::Display;
use std::str::FromStr;
use std::sync::LazyLock;

use quorate_attest::certificate::Certificate;
use quorate_attest::checkpoint::Checkpoint;
use quorate_attest::epoch::{EpochLink, GroupChain, RootSet, SignedGenesis};
use quorate_attest::group::GroupConfig;
use quorate_attest::id::VmId;
use quorate_attest::key::{PublicKey, SecretKey, Signature};
use quorate_attest::merkle::{Frontier, Sha256Tree, verify_consistency, verify_inclusion};
use quorate_attest::note::{Note, SignatureLine, VerifierKey};
use quorate_attest::operation::Operation;
use quorate_attest::policy::Policy;
use quorate_attest::possession::Possession;
use quorate_attest::receipt::{LogLeaf, Receipt, ReceiptCertificate};
use quorate_attest::statement::{Kind, Statement};
use quorate_attest::tlog_proof::TlogProof;
use quorate_attest::vm::{
    Activation, ActivationCertificate, Attestation, ConflictingCertificates, Decision, DecisionCertificate,
    DoubleVote, Equivocation, HeadAnswer, Proposal, Refusal, Relinquish, SlotCertificate, SlotStatement,
    VmSpec,
};

use crate::codec::bounded;
use crate::cut::Cut;
use crate::must;
use crate::proofs::group;

/// How many types a first byte chooses from.
pub const TYPES: usize = 40;

static GROUP: LazyLock<GroupConfig> = LazyLock::new(|| group("member", 60));
static POLICY: LazyLock<Option<Policy>> = LazyLock::new(|| {
    let text = Policy::text_for_group(&GROUP, None).ok()?;
    Policy::parse(text.as_bytes()).ok()
});

/// A head that only a stranger signed.
static STRANGE: LazyLock<Note> = LazyLock::new(|| {
    let text = must(Checkpoint::new("origin", 1, [7; 32])).to_text();
    let line = must(SignatureLine::sign("stranger", &SecretKey::from_seed([99; 32]), &text));
    must(Note::new(&text, vec![line]))
});

/// Decodes the bytes as the type that the first one names.
pub fn check(bytes: &[u8]) {
    let mut cut = Cut::new(bytes);
    match cut.below(TYPES) {
        choice @ 0..20 => statements(choice, cut.rest()),
        choice @ 20..30 => groups(choice, cut.rest()),
        choice => texts(choice, cut),
    }
}

fn statements(choice: usize, bytes: &[u8]) {
    match choice {
        0 => statement(bytes),
        1 => unsigned(bounded::<Certificate>(bytes), |it| {
            it.verify(&GROUP, &GROUP.expected(it.statement.instance, it.statement.kind)).is_ok()
        }),
        2 => drop(bounded::<SlotStatement>(bytes)),
        3 => drop(bounded::<Proposal>(bytes).map(|proposal| proposal.verify())),
        4 => drop(bounded::<Attestation>(bytes)),
        5 => unsigned(bounded::<SlotCertificate>(bytes), |it| {
            it.verify(&GROUP, &GROUP.expected(it.statement.vm, Kind::SLOT_REPLAYED)).is_ok()
        }),
        6 => drop(bounded::<Decision>(bytes)),
        7 => unsigned(bounded::<DecisionCertificate>(bytes), |it| {
            it.verify(&GROUP, &GROUP.expected(VmId::ZERO, Kind::DECISION)).is_ok()
        }),
        8 => drop(bounded::<Activation>(bytes)),
        9 => drop(bounded::<ActivationCertificate>(bytes)),
        10 => drop(bounded::<Relinquish>(bytes)),
        11 => drop(bounded::<Refusal>(bytes)),
        12 => drop(bounded::<HeadAnswer>(bytes)),
        13 => drop(bounded::<Equivocation>(bytes)),
        14 => unsigned(bounded::<DoubleVote>(bytes), |it| {
            it.verify(&GROUP, &GROUP.expected(VmId::ZERO, Kind::SLOT_REPLAYED)).is_ok()
        }),
        15 => unsigned(bounded::<ConflictingCertificates>(bytes), |it| {
            it.verify(&GROUP, &GROUP.expected(VmId::ZERO, Kind::SLOT_REPLAYED)).is_ok()
        }),
        16 => drop(bounded::<Receipt>(bytes)),
        17 => unsigned(bounded::<ReceiptCertificate>(bytes), |it| {
            it.verify(&GROUP, &GROUP.expected(VmId::ZERO, Kind::RECEIPT)).is_ok()
        }),
        18 => drop(bounded::<LogLeaf>(bytes)),
        _ => drop(bounded::<VmSpec>(bytes).map(|spec| spec.validate())),
    }
}

/// No key of [`GROUP`] has ever signed anything here.
fn unsigned<T: std::fmt::Debug>(value: Option<T>, verifies: impl Fn(&T) -> bool) {
    if let Some(value) = value {
        assert!(!verifies(&value), "nobody signed {value:?}");
    }
}

fn statement(bytes: &[u8]) {
    let Some(statement) = bounded::<Statement>(bytes) else { return };
    if let Ok(slot) = SlotStatement::from_statement(&statement) {
        assert_eq!(slot.to_statement(statement.kind), statement);
    }
}

fn groups(choice: usize, bytes: &[u8]) {
    match choice {
        20 => {
            if let Some(config) = bounded::<GroupConfig>(bytes).filter(|config| config.validate().is_ok()) {
                assert!(config.rule().is_ok(), "a valid group has no quorum");
                let keys: std::collections::BTreeSet<_> = config.roles().map(|(_, key)| key).collect();
                assert_eq!(keys.len(), config.roles().count(), "a key in two places");
            }
        }
        21 => unsigned(bounded::<EpochLink>(bytes), |link| link.verify(&GROUP).is_ok()),
        22 => drop(bounded::<GroupChain>(bytes)),
        23 => drop(bounded::<RootSet>(bytes).map(|roots| roots.validate())),
        24 => unsigned(bounded::<SignedGenesis>(bytes), |genesis| {
            let keys = GROUP.members.iter().map(|member| member.vote_key).collect();
            genesis.verify(&RootSet { threshold: 3, keys }).is_ok()
        }),
        25 => drop(bounded::<Possession>(bytes)),
        26 => drop(bounded::<Operation>(bytes)),
        27 => drop(bounded::<PublicKey>(bytes)),
        28 => drop(bounded::<Frontier<Sha256Tree>>(bytes).map(|frontier| frontier.root())),
        _ => path(bytes),
    }
}

/// Hash paths of any length and shape: in a tree of other leaves none leads to its root.
fn path(bytes: &[u8]) {
    let mut cut = Cut::new(bytes);
    let (index, size) = (cut.number(), cut.number());
    let (old, new) = ([1; 32], [2; 32]);
    let path: Vec<[u8; 32]> = cut.rest().chunks_exact(32).filter_map(|hash| hash.try_into().ok()).collect();
    let included = verify_inclusion::<Sha256Tree>(&old, index, size, &path, &new);
    assert!(included.is_err(), "a path to a root that is no hash");
    let consistent = verify_consistency::<Sha256Tree>(index, &old, size, &new, &path);
    assert!(consistent.is_err(), "a path between two roots that are no hashes");
}

fn texts(choice: usize, mut cut: Cut<'_>) {
    let bytes = cut.rest();
    let Ok(text) = std::str::from_utf8(bytes) else {
        drop(Policy::parse(bytes));
        return;
    };
    match choice {
        30 => note(text),
        31 => {
            if let Ok(proof) = TlogProof::parse(text) {
                assert_eq!(proof.to_string(), text);
                let accepted = POLICY.as_ref().map(|policy| proof.verify("origin", b"leaf", policy).is_ok());
                assert_eq!(accepted, Some(false), "nobody cosigned it");
            }
        }
        32 => policy(bytes),
        33 => {
            if let Ok(checkpoint) = Checkpoint::parse(text) {
                assert_eq!(checkpoint.to_text(), text);
            }
        }
        34 => same::<VerifierKey>(text),
        35 => same::<SignatureLine>(text),
        36 => same::<PublicKey>(text),
        37 => same::<Signature>(text),
        38 => same::<VmId>(text),
        _ => note(text),
    }
}

/// What is read from a text is written as the same text.
fn same<T: FromStr + Display>(text: &str) {
    if let Ok(value) = text.parse::<T>() {
        assert_eq!(value.to_string(), text);
    }
}

fn note(text: &str) {
    let Ok(note) = Note::parse(text) else { return };
    assert_eq!(note.to_string(), text);
    let accepted = POLICY.as_ref().map(|policy| policy.evaluate(&note).is_ok());
    assert_eq!(accepted, Some(false), "nobody cosigned it");
}

/// A policy that anybody at all satisfies demands nobody.
fn policy(bytes: &[u8]) {
    let Ok(policy) = Policy::parse(bytes) else { return };
    if policy.evaluate(&STRANGE).is_ok() {
        assert!(policy.quorum() == 0 && policy.logs().is_empty(), "a stranger's note satisfies {policy:?}");
    }
}
