//! Folders of proofs: heads that lie on one tree, and every way in which they do not.

use base64ct::{Base64, Encoding};
use quorate_attest::merkle::consistency_proof;

use super::*;
use crate::verify::{bundle, evidence};

#[derive(Parser)]
struct BundleLine {
    #[command(flatten)]
    arguments: bundle::Arguments,
}

#[derive(Parser)]
struct PairLine {
    #[command(flatten)]
    arguments: evidence::Arguments,
}

/// Exit code and first failed rule.
fn verify_bundle(folder: &Path) -> (u8, Option<String>) {
    let words = ["verify-bundle", folder.to_str().unwrap()];
    match bundle::examine(&BundleLine::try_parse_from(words).unwrap().arguments) {
        Ok((_, findings)) => {
            let failed = findings.iter().find_map(|finding| finding.failed.clone());
            (judge(&findings).code, failed.map(|(kind, _)| kind))
        }
        Err(failure) => (failure.code, Some(failure.kind)),
    }
}

/// A folder with the group's policy only, and the statements of a chain.
struct Bundle {
    folder: tempfile::TempDir,
    world: World,
    chain: Vec<SlotStatement>,
}

impl Bundle {
    fn new() -> Self {
        let (folder, world) = (tempfile::tempdir().unwrap(), World::new(Mode::Replayed));
        let policy = quorate_attest::policy::Policy::text_for_group(&world.group, None).unwrap();
        fs::write(folder.path().join("group.policy"), policy).unwrap();
        let chain = world.chain();
        Self { folder, world, chain }
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.folder.path().join(name), text).unwrap();
    }

    fn remove(&self, name: &str) {
        fs::remove_file(self.folder.path().join(name)).unwrap();
    }

    /// The head over these statements, cosigned by three verifiers.
    fn head(&self, statements: &[SlotStatement]) -> String {
        let leaves: Vec<_> = statements.iter().map(|s| Sha256Tree::leaf(&statement_leaf(s))).collect();
        let root = quorate_attest::merkle::root::<Sha256Tree>(&leaves);
        let head = head_checkpoint(&self.world.spec.id(), leaves.len() as u64, root).unwrap();
        format!("{}\n{}\n", head.to_text(), self.world.cosignatures(statements)[..3].join("\n"))
    }

    fn consistency(&self, old: usize, new: usize) -> String {
        let chain = &self.chain[..new];
        let leaves: Vec<_> = chain.iter().map(|s| Sha256Tree::leaf(&statement_leaf(s))).collect();
        let mut text = format!("old {old}\n");
        for hash in consistency_proof::<Sha256Tree>(&leaves, old as u64).unwrap() {
            text += &format!("{}\n", Base64::encode_string(&hash));
        }
        format!("{text}\n{}", self.head(chain))
    }

    fn verify(&self) -> (u8, Option<String>) {
        verify_bundle(self.folder.path())
    }
}

#[test]
fn folder_that_a_demo_leaves_is_a_valid_bundle() {
    let run = Run::new(Mode::Replayed);
    assert_eq!(verify_bundle(run.folder.path()), VALID);
    fs::remove_file(run.path("slot-000005.cert")).unwrap();
    assert_eq!(verify_bundle(run.folder.path()), invalid("LogChainBroken"));
}

#[test]
fn heads_that_consistency_proofs_join_lie_on_one_tree() {
    let bundle = Bundle::new();
    bundle.write("a.checkpoint", &bundle.head(&bundle.chain[..3]));
    assert_eq!(bundle.verify(), VALID, "one head is a tree");
    bundle.write("b.note", &bundle.head(&bundle.chain[..5]));
    assert_eq!(bundle.verify(), invalid("LogChainBroken"), "nothing joins them");
    bundle.write("a-b.consistency", &bundle.consistency(3, 5));
    assert_eq!(bundle.verify(), VALID);
    bundle.write("b-c.consistency", &bundle.consistency(5, 7));
    assert_eq!(bundle.verify(), VALID, "the new head of a proof is a head itself");
    // Both are the beginning of a third tree, so one is the beginning of the other.
    bundle.write("a-b.consistency", &bundle.consistency(3, 7));
    assert_eq!(bundle.verify(), VALID);
    // One tree under two others does not join those two.
    bundle.remove("b-c.consistency");
    assert_eq!(bundle.verify(), invalid("LogChainBroken"));
}

#[test]
fn heads_are_joined_by_their_entries_too() {
    let bundle = Bundle::new();
    for (index, statement) in bundle.chain[..5].iter().enumerate() {
        let leaves: Vec<_> = bundle.chain[..5].iter().map(|s| Sha256Tree::leaf(&statement_leaf(s))).collect();
        let path = quorate_attest::merkle::inclusion_proof::<Sha256Tree>(&leaves, index as u64).unwrap();
        let checkpoint = Note::parse(&bundle.head(&bundle.chain[..5])).unwrap();
        let proof =
            quorate_attest::tlog_proof::TlogProof { extra: None, index: index as u64, path, checkpoint };
        bundle.write(&format!("{index}.tlog-proof"), &proof.to_string());
        fs::write(bundle.folder.path().join(format!("{index}.bin")), statement_leaf(statement)).unwrap();
    }
    bundle.write("old.note", &bundle.head(&bundle.chain[..2]));
    assert_eq!(bundle.verify(), VALID);
    bundle.remove("1.tlog-proof");
    bundle.remove("1.bin");
    assert_eq!(bundle.verify(), invalid("LogChainBroken"), "an entry is missing");
}

#[test]
fn proof_of_consistency_that_does_not_hold_is_refused() {
    let bundle = Bundle::new();
    bundle.write("a.note", &bundle.head(&bundle.chain[..3]));
    let good = bundle.consistency(3, 7);
    for (from, to, kind) in [
        ("old 3", "old 4", "LogChainBroken"),
        ("old 3", "old 03", "DecodeError"),
        ("old 3\n", "old 3\nAAAA\n", "DecodeError"),
        ("old 3\n", "old 3\nAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=\n", "ProofInvalid"),
        ("\n7\n", "\n8\n", "BadSignature"),
        ("test/verifier-0", "test/verifier-9", "QuorumNotReached"),
        ("old 3", "new 3", "DecodeError"),
    ] {
        bundle.write("a-b.consistency", &good.replacen(from, to, 1));
        assert_eq!(bundle.verify(), invalid(kind), "{from:?} became {to:?}");
    }
    let mut fork = bundle.chain[..3].to_vec();
    fork[1].body.cpu = CpuDigest::from_bytes([9; 32]);
    bundle.write("a-b.consistency", &good);
    bundle.write("a.note", &bundle.head(&fork));
    assert_eq!(bundle.verify(), invalid("ProofInvalid"), "the old head is of a fork");
}

#[test]
fn two_roots_for_one_size_are_a_conflict_and_convict_their_cosigners() {
    let bundle = Bundle::new();
    let mut fork = bundle.chain[..3].to_vec();
    fork[1].body.cpu = CpuDigest::from_bytes([9; 32]);
    bundle.write("a.note", &bundle.head(&bundle.chain[..3]));
    bundle.write("b.note", &bundle.head(&fork));
    assert_eq!(bundle.verify(), invalid("ConflictingCertificates"));

    let examine = || {
        let path = |name: &str| bundle.folder.path().join(name).display().to_string();
        let words = ["evidence".to_owned(), path("a.note"), path("b.note")];
        evidence::examine(&PairLine::try_parse_from(words).unwrap().arguments).unwrap()
    };
    let facts = examine().unwrap().facts;
    assert_eq!(facts["evidence"], "ConflictingCertificates");
    assert_eq!(facts["signers"].as_array().unwrap().len(), 3);
    // Below a quorum the cosigner is convicted all the same.
    let alone = bundle.head(&fork);
    let lines: Vec<&str> = alone.lines().collect();
    bundle.write("b.note", &format!("{}\n", lines[..5].join("\n")));
    let facts = examine().unwrap().facts;
    assert_eq!(facts["evidence"], "EquivocationEvidence");
    assert_eq!(facts["signers"], serde_json::json!(["test/verifier-0"]));
    bundle.write("b.note", &bundle.head(&bundle.chain[..4]));
    assert_eq!(examine().unwrap_err().kind(), "NoConflict", "another size");
}

#[test]
fn folder_without_proofs_is_no_bundle() {
    assert_eq!(Bundle::new().verify().0, 2);
}

proptest::proptest! {
    #[test]
    fn damaged_consistency_proofs_never_panic_and_never_verify(at in 0usize..4000, bit in 0u8..8) {
        thread_local!(static BUNDLE: Bundle = Bundle::new());
        BUNDLE.with(|bundle| {
            bundle.write("a.note", &bundle.head(&bundle.chain[..3]));
            let mut bytes = bundle.consistency(3, 7).into_bytes();
            let at = at % bytes.len();
            let name = bytes[..at].rsplit(|byte| *byte == b'\n').next().map(<[u8]>::to_vec).unwrap_or_default();
            bytes[at] ^= 1 << bit;
            fs::write(bundle.folder.path().join("a-b.consistency"), &bytes).unwrap();
            let result = bundle.verify();
            // The name of a signature line may become that of an unknown key; three lines are the quorum, so that is
            // refused as well.
            assert!(result.0 == 1, "byte {at} bit {bit} after {:?}: {result:?}", String::from_utf8_lossy(&name));
        });
    }
}
