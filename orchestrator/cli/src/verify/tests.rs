//! Folders as a demo leaves them, and every way in which one file of them can be wrong.

mod bundles;
mod pairs;

use std::fs;
use std::path::{Path, PathBuf};

use clap::Parser;
use quorate_attest::cosignature;
use quorate_attest::encoding::Bounded;
use quorate_attest::group::{GroupConfig, HASH_SHA256, Host, Member};
use quorate_attest::id::{
    CpuDigest, DeviceDigest, Epoch, Generation, ImageDigest, InputRoot, Nonce, OperationId, OutputRoot,
    PageRoot, PlatformClass, Slot, StatementDigest,
};
use quorate_attest::key::SecretKey;
use quorate_attest::merkle::{Frontier, Sha256Tree, TreeHash};
use quorate_attest::note::Note;
use quorate_attest::vm::{
    Action, Activation, ActivationCertificate, ActivationTally, Attestation, ConflictingCertificates,
    Decision, DecisionTally, InputPolicy, MACHINE_VERSION, Mode, OutputPolicy, SlotBody, SlotCertificate,
    SlotStatement, Tally, VmSpec, head_checkpoint, statement_leaf,
};
use quorate_guest_images::KV;
use quorate_verifier::config::group_file;
use quorate_vmm::Image;
use quorate_vmm::genesis::genesis;

use super::super::records::Records;
use super::{Arguments, examine, judge};
use crate::verify::trust::Trust;
use quorate_host::client::hosts::SlotRecords;

const MEMORY: u64 = 16 << 20;
const LAST: u64 = 6;
const MOVED_AT: u64 = 3;
const COSIGNED: u64 = 1_700_000_000;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    arguments: Arguments,
}

/// Exit code and first failed rule.
fn verify<S: AsRef<str>>(words: &[S]) -> (u8, Option<String>) {
    let words = std::iter::once("verify").chain(words.iter().map(AsRef::as_ref));
    let arguments = Line::try_parse_from(words).unwrap().arguments;
    let findings = Trust::gather(&arguments).and_then(|trust| examine(&arguments, &trust));
    match findings {
        Ok(findings) => {
            let failed = findings.iter().find_map(|finding| finding.failed.clone());
            (judge(&findings).code, failed.map(|(kind, _)| kind))
        }
        Err(failure) => (failure.code, Some(failure.kind)),
    }
}

fn key(role: u8, number: u8) -> SecretKey {
    let mut seed = [role; 32];
    seed[0] = number;
    SecretKey::from_seed(seed)
}

struct World {
    group: GroupConfig,
    orchestrators: GroupConfig,
    spec: VmSpec,
    mode: Mode,
}

impl World {
    fn new(mode: Mode) -> Self {
        let member = |index: u8| Member {
            name: format!("verifier-{index}"),
            vote_key: key(1, index).public(),
            cosigner_key: key(2, index).public(),
            transport_key: key(3, index).public(),
        };
        let host = |name: &str, index| Host { name: name.into(), key: key(4, index).public() };
        let group = GroupConfig {
            name: "test".into(),
            hash_algorithm: HASH_SHA256,
            epoch: Epoch(0),
            genesis: None,
            f: 1,
            members: (0..4).map(member).collect(),
            operators: vec![key(5, 0).public()],
            hosts: vec![host("host-a", 0), host("host-b", 1)],
        };
        let spec = VmSpec {
            name: "kv".into(),
            image: ImageDigest::from_bytes(KV.digest()),
            machine_version: MACHINE_VERSION,
            memory_bytes: MEMORY,
            input_policy: InputPolicy::ClientSigned,
            output_policy: OutputPolicy::Certified,
            host: key(4, 0).public(),
            nonce: Nonce::from_bytes([7; 16]),
        };
        let orchestrator = |index: u8| Member {
            name: format!("orchestrator-{index}"),
            vote_key: key(6, index).public(),
            cosigner_key: key(7, index).public(),
            transport_key: key(8, index).public(),
        };
        let members = (0..4).map(orchestrator).collect();
        let orchestrators = GroupConfig { name: "order".into(), members, ..group.clone() };
        Self { group, orchestrators, spec, mode }
    }

    fn genesis(&self) -> SlotStatement {
        let measured = genesis(&Image::admit(KV.elf).unwrap(), MEMORY).unwrap().measurement;
        let nothing = Sha256Tree::empty();
        SlotStatement {
            group: self.group.id(),
            epoch: self.group.epoch,
            vm: self.spec.id(),
            slot: Slot(0),
            body: SlotBody {
                generation: Generation(0),
                image: self.spec.image,
                machine_version: MACHINE_VERSION,
                platform: PlatformClass::ZERO,
                page_root: measured.page_root,
                page_count: measured.page_count,
                cpu: measured.cpu,
                device: measured.device,
                input_root: InputRoot::from_bytes(nothing),
                first_input: 0,
                end_input: 0,
                ordered: 0,
                client_signed: 0,
                unauthenticated: 0,
                output_root: OutputRoot::from_bytes(nothing),
                output_count: 0,
                doorbells: 0,
                previous: StatementDigest::ZERO,
                host: self.spec.host,
            },
        }
    }

    fn after(&self, before: &SlotStatement) -> SlotStatement {
        let slot = before.slot.next().unwrap();
        let moved = slot.get() > MOVED_AT;
        let number = slot.get() as u8;
        SlotStatement {
            slot,
            body: SlotBody {
                generation: Generation(moved.into()),
                page_root: PageRoot::from_bytes([number; 32]),
                cpu: CpuDigest::from_bytes([number; 32]),
                device: DeviceDigest::from_bytes([number; 32]),
                input_root: InputRoot::from_bytes([number; 32]),
                first_input: before.body.end_input,
                end_input: before.body.end_input + 2,
                client_signed: 2,
                doorbells: before.body.doorbells + 5,
                previous: before.digest(),
                host: key(4, moved.into()).public(),
                ..before.body.clone()
            },
            ..before.clone()
        }
    }

    fn chain(&self) -> Vec<SlotStatement> {
        let mut chain = vec![self.genesis()];
        while chain.len() as u64 <= LAST {
            chain.push(self.after(chain.last().unwrap()));
        }
        chain
    }

    fn certify(&self, statement: &SlotStatement, verifiers: std::ops::Range<u16>) -> SlotCertificate {
        let mut tally = Tally::new(&self.group, statement.clone()).unwrap();
        for verifier in verifiers {
            let attestation = Attestation::sign(statement, verifier, self.mode, &key(1, verifier as u8));
            tally.add(attestation).unwrap();
        }
        tally.certificate().unwrap()
    }

    fn activation(&self, chain: &[SlotStatement]) -> ActivationCertificate {
        let last = &chain[MOVED_AT as usize];
        let decision = Decision {
            group: self.orchestrators.id(),
            epoch: self.orchestrators.epoch,
            vm: last.vm,
            generation: Generation(1),
            operation: OperationId::from_bytes([9; 32]),
            index: 4,
            action: Action::Grant { slot: last.slot, statement: last.digest(), host: key(4, 1).public() },
        };
        let mut granted = DecisionTally::new(&self.orchestrators, decision.clone()).unwrap();
        for orchestrator in 0..3u16 {
            granted.add(orchestrator, decision.sign(&key(6, orchestrator as u8))).unwrap();
        }
        let instance = Nonce::from_bytes([3; 16]);
        let grant = granted.certificate().unwrap();
        let activation =
            Activation::of(&grant.decision, self.group.id(), self.group.epoch, instance).unwrap();
        let mut tally = ActivationTally::new(&self.group, activation.clone(), grant).unwrap();
        for verifier in 0..3u16 {
            tally.add(verifier, activation.sign(&key(1, verifier as u8))).unwrap();
        }
        tally.certificate().unwrap()
    }

    fn cosignatures(&self, chain: &[SlotStatement]) -> Vec<String> {
        let mut log = Frontier::<Sha256Tree>::new();
        chain.iter().for_each(|statement| log.push(&statement_leaf(statement)));
        let head = head_checkpoint(&self.spec.id(), log.size(), log.root()).unwrap();
        let cosign = |index: u16| {
            let name = self.group.cosigner(index).unwrap().name().to_owned();
            let time = COSIGNED + u64::from(index);
            cosignature::cosign(&name, &key(2, index as u8), time, &head).unwrap().to_string()
        };
        let mut lines: Vec<String> = (0..4).map(cosign).collect();
        // A Byzantine verifier's line must not spoil the note.
        lines[3] = lines[2].replace("verifier-2", "verifier-3");
        lines
    }

    /// Writes the folder of an honest run.
    fn write(&self, folder: &Path) {
        let chain = self.chain();
        let mut records = Records::new(self.spec.clone());
        records.add(SlotRecords {
            certificates: chain.iter().map(|statement| self.certify(statement, 0..3)).collect(),
            activations: vec![self.activation(&chain)],
            cosignatures: self.cosignatures(&chain),
        });
        let written = records.write(folder, &self.group, &self.orchestrators, Slot(MOVED_AT)).unwrap();
        assert!(written.head && written.slots as u64 == LAST + 1, "{written:?}");
    }
}

struct Run {
    folder: tempfile::TempDir,
    world: World,
}

impl Run {
    fn new(mode: Mode) -> Self {
        let (folder, world) = (tempfile::tempdir().unwrap(), World::new(mode));
        world.write(folder.path());
        Self { folder, world }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }

    fn verify(&self, more: &[&str]) -> (u8, Option<String>) {
        let folder = self.text("");
        verify(&[&[folder.as_str()], more].concat())
    }

    fn change<T: Bounded>(&self, name: &str, change: impl FnOnce(&mut T)) {
        let mut value = T::decoded(&fs::read(self.path(name)).unwrap()).unwrap();
        change(&mut value);
        fs::write(self.path(name), value.encoded()).unwrap();
    }
}

/// Spoils one thing.
type Change<T> = fn(&mut T);

const VALID: (u8, Option<String>) = (0, None);

fn invalid(kind: &str) -> (u8, Option<String>) {
    (1, Some(kind.to_owned()))
}

#[test]
fn folder_of_an_honest_run_is_valid() {
    let run = Run::new(Mode::Replayed);
    assert_eq!(run.verify(&[]), VALID);
    assert_eq!(run.verify(&["--replayed-only"]), VALID);
    for name in ["slot-000003.cert", "generation-000001.activation", "head.note", "slot-000003.tlog-proof"] {
        assert_eq!(verify(&[run.text(name)]), VALID, "{name}");
    }
}

#[test]
fn each_changed_field_of_a_certificate_is_refused() {
    let changes: [(&str, Change<SlotStatement>); 22] = [
        ("WrongCluster", |s| s.group = quorate_attest::id::GroupId::ZERO),
        ("WrongEpoch", |s| s.epoch = Epoch(1)),
        ("WrongVm", |s| s.vm = quorate_attest::id::VmId::ZERO),
        ("BadSignature", |s| s.slot = Slot(9)),
        ("BadSignature", |s| s.body.generation = Generation(1)),
        ("BadSignature", |s| s.body.image = ImageDigest::ZERO),
        ("BadSignature", |s| s.body.machine_version = 2),
        ("BadSignature", |s| s.body.platform = PlatformClass::from_bytes([1; 32])),
        ("BadSignature", |s| s.body.page_root = PageRoot::ZERO),
        ("BadSignature", |s| s.body.page_count += 1),
        ("BadSignature", |s| s.body.cpu = CpuDigest::ZERO),
        ("BadSignature", |s| s.body.device = DeviceDigest::ZERO),
        ("BadSignature", |s| s.body.input_root = InputRoot::ZERO),
        ("BadSignature", |s| s.body.first_input += 1),
        ("BadSignature", |s| s.body.end_input += 1),
        ("BadSignature", |s| s.body.ordered += 1),
        ("BadSignature", |s| s.body.client_signed += 1),
        ("BadSignature", |s| s.body.unauthenticated += 1),
        ("BadSignature", |s| s.body.output_root = OutputRoot::ZERO),
        ("BadSignature", |s| s.body.output_count += 1),
        ("BadSignature", |s| s.body.doorbells += 1),
        ("BadSignature", |s| s.body.previous = StatementDigest::ZERO),
    ];
    let run = Run::new(Mode::Replayed);
    let name = "slot-000002.cert";
    let original = fs::read(run.path(name)).unwrap();
    for (number, (kind, change)) in changes.into_iter().enumerate() {
        fs::write(run.path(name), &original).unwrap();
        run.change::<SlotCertificate>(name, |certificate| change(&mut certificate.statement));
        assert_eq!(verify(&[run.text(name)]), invalid(kind), "change {number}");
        assert_eq!(run.verify(&[]).0, 1, "change {number}");
    }
}

#[test]
fn attestations_that_do_not_make_a_quorum_are_refused() {
    let run = Run::new(Mode::Replayed);
    let name = "slot-000002.cert";
    let original = fs::read(run.path(name)).unwrap();
    let changes: [(&str, Change<Vec<Attestation>>); 5] = [
        ("QuorumNotReached", |votes| votes.truncate(2)),
        ("DuplicateSigner", |votes| votes[1] = votes[0]),
        ("SignerOutOfOrder", |votes| votes.swap(0, 1)),
        ("SignerOutOfRange", |votes| votes[2].verifier = 9),
        ("BadSignature", |votes| votes[0].mode = Mode::Sampled),
    ];
    for (kind, change) in changes {
        fs::write(run.path(name), &original).unwrap();
        run.change::<SlotCertificate>(name, |certificate| change(&mut certificate.attestations));
        assert_eq!(verify(&[run.text(name)]), invalid(kind));
    }
}

#[test]
fn gap_in_the_chain_is_named() {
    let run = Run::new(Mode::Replayed);
    fs::remove_file(run.path("slot-000002.cert")).unwrap();
    assert_eq!(run.verify(&[]), invalid("LogChainBroken"));
}

#[test]
fn generation_without_its_activation_is_refused() {
    let run = Run::new(Mode::Replayed);
    fs::remove_file(run.path("generation-000001.activation")).unwrap();
    assert_eq!(run.verify(&[]), invalid("NoActivationCertificate"));
}

#[test]
fn activation_with_a_changed_field_is_refused() {
    let run = Run::new(Mode::Replayed);
    let name = "generation-000001.activation";
    run.change::<ActivationCertificate>(name, |certificate| certificate.activation.host = key(4, 0).public());
    assert_eq!(verify(&[run.text(name)]), invalid("KeyRoleMismatch"));
    assert_eq!(run.verify(&[]).0, 1);
}

#[test]
fn certified_statement_that_does_not_continue_the_chain_is_refused() {
    let run = Run::new(Mode::Replayed);
    let mut statement = run.world.chain()[5].clone();
    statement.body.previous = StatementDigest::from_bytes([1; 32]);
    let forged = run.world.certify(&statement, 0..3);
    fs::write(run.path("slot-000005.cert"), forged.encoded()).unwrap();
    assert_eq!(run.verify(&[]), invalid("LogChainBroken"));
}

#[test]
fn slot_0_that_is_not_the_genesis_of_the_image_is_refused() {
    let run = Run::new(Mode::Replayed);
    for number in 1..=LAST {
        fs::remove_file(run.path(&format!("slot-{number:06}.cert"))).unwrap();
    }
    let mut statement = run.world.genesis();
    statement.body.cpu = CpuDigest::from_bytes([9; 32]);
    fs::write(run.path("slot-000000.cert"), run.world.certify(&statement, 0..3).encoded()).unwrap();
    assert_eq!(run.verify(&[]), invalid("RootMismatch"));
}

#[test]
fn sampled_chain_is_valid_but_not_for_who_demands_replay() {
    let run = Run::new(Mode::Sampled);
    assert_eq!(run.verify(&[]), VALID);
    assert_eq!(run.verify(&["--replayed-only"]), invalid("WrongDomain"));
}

#[test]
fn proof_stands_with_policy_and_statement_alone() {
    let run = Run::new(Mode::Replayed);
    let elsewhere = tempfile::tempdir().unwrap();
    let proof = elsewhere.path().join("entry.tlog-proof");
    fs::copy(run.path("slot-000003.tlog-proof"), &proof).unwrap();
    let proof = proof.display().to_string();
    let (policy, statement) = (run.text("policy.txt"), run.text("slot-000003.statement"));
    let words = ["--policy", &policy, "--statement", &statement, &proof];
    assert_eq!(verify(&words), VALID);
    let other = elsewhere.path().join("other.statement");
    fs::write(&other, statement_leaf(&run.world.chain()[4])).unwrap();
    let other = other.display().to_string();
    assert_eq!(verify(&["--policy", &policy, "--statement", &other, &proof]), invalid("ProofInvalid"));
    assert_eq!(verify(&["--policy", &policy, &proof]).0, 2, "without a statement there is nothing to prove");
    assert_eq!(verify(&["--statement", &statement, &proof]).0, 2, "without a policy nobody's word counts");
}

#[test]
fn damaged_proofs_and_heads_are_refused() {
    let run = Run::new(Mode::Replayed);
    let damage = |name: &str, from: &str, to: &str| {
        let path = run.path(name);
        let original = fs::read_to_string(&path).unwrap();
        assert!(original.contains(from), "{original}");
        fs::write(&path, original.replacen(from, to, 1)).unwrap();
        let result = verify(&[path.display().to_string()]);
        fs::write(&path, original).unwrap();
        result
    };
    assert_eq!(damage("slot-000003.tlog-proof", "index 3", "index 2"), invalid("ProofInvalid"));
    assert_eq!(damage("slot-000003.tlog-proof", "@v1", "@v2"), invalid("DecodeError"));
    assert_eq!(damage("head.note", "\n7\n", "\n8\n"), invalid("BadSignature"));
    assert_eq!(damage("head.note", "test/verifier-0", "test/verifier-9"), invalid("QuorumNotReached"));
    let note = Note::parse(&fs::read_to_string(run.path("head.note")).unwrap()).unwrap();
    assert_eq!(note.lines().len(), 3, "the spoilt line is not in the note");
}

#[test]
fn cosignatures_older_than_demanded_are_stale() {
    let run = Run::new(Mode::Replayed);
    let since = |seconds: u64| format!("@{seconds}");
    assert_eq!(run.verify(&["--not-older-than", &since(COSIGNED)]), VALID);
    for seconds in [COSIGNED + 1, COSIGNED + 100] {
        assert_eq!(run.verify(&["--not-older-than", &since(seconds)]), (3, None), "{seconds}");
        assert_eq!(verify(&[&run.text("head.note"), "--not-older-than", &since(seconds)]), (3, None));
    }
    assert_eq!(run.verify(&["--not-older-than", "1h"]), (3, None));
}

#[test]
fn slots_older_than_demanded_are_stale() {
    let run = Run::new(Mode::Replayed);
    assert_eq!(run.verify(&["--min-slot", &LAST.to_string()]), VALID);
    assert_eq!(run.verify(&["--min-slot", &(LAST + 1).to_string()]), (3, None));
}

#[test]
fn two_certificates_for_one_slot_are_a_conflict() {
    let run = Run::new(Mode::Replayed);
    let mut statement = run.world.chain()[2].clone();
    statement.body.cpu = CpuDigest::from_bytes([9; 32]);
    let fork = run.world.certify(&statement, 1..4);
    fs::write(run.path("fork.cert"), fork.encoded()).unwrap();
    let pair = [run.text("slot-000002.cert"), run.text("fork.cert")];
    assert_eq!(verify(&pair), invalid("ConflictingCertificates"));
    let first = run.world.certify(&run.world.chain()[2], 0..3);
    let evidence = ConflictingCertificates { first, second: fork };
    fs::write(run.path("pair.evidence"), evidence.encoded()).unwrap();
    assert_eq!(verify(&[run.text("pair.evidence")]), VALID, "evidence that holds is a valid file");
    fs::remove_file(run.path("fork.cert")).unwrap();
    assert_eq!(run.verify(&[]), invalid("ConflictingCertificates"), "but a chain beside it proves nothing");
    let none = ConflictingCertificates { second: evidence.first.clone(), ..evidence };
    fs::write(run.path("pair.evidence"), none.encoded()).unwrap();
    assert_eq!(verify(&[run.text("pair.evidence")]), invalid("NoConflict"));
}

#[test]
fn certificate_of_another_group_or_vm_is_refused() {
    let run = Run::new(Mode::Replayed);
    let certificate = run.text("slot-000002.cert");
    let other = GroupConfig { name: "other".into(), ..run.world.group.clone() };
    let group = run.path("other.toml");
    group_file::write(&group, &other).unwrap();
    let group = group.display().to_string();
    assert_eq!(verify(&[&certificate, "--group", &group]), invalid("WrongCluster"));
    let vm = "11".repeat(32);
    assert_eq!(verify(&[&certificate, "--vm", &vm]), invalid("WrongVm"));
}

#[test]
fn what_is_expected_must_be_said() {
    let run = Run::new(Mode::Replayed);
    let elsewhere = tempfile::tempdir().unwrap();
    let certificate = elsewhere.path().join("slot.cert");
    fs::copy(run.path("slot-000002.cert"), &certificate).unwrap();
    let certificate = certificate.display().to_string();
    assert_eq!(verify(&[&certificate]).0, 2);
    assert_eq!(verify(&[&certificate, "--group", &run.text("group.toml")]).0, 2, "no VM");
    let vm = run.world.spec.id().to_string();
    assert_eq!(verify(&[&certificate, "--group", &run.text("group.toml"), "--vm", &vm]), VALID);
    assert_eq!(verify(&["/nowhere/slot.cert"]).0, 2);
    assert_eq!(verify(&[elsewhere.path().join("").display().to_string()]).0, 2, "no group beside it");
}

#[test]
fn truncated_or_foreign_files_are_refused_without_a_panic() {
    let run = Run::new(Mode::Replayed);
    let certificate = fs::read(run.path("slot-000002.cert")).unwrap();
    let name = run.text("slot-000002.cert");
    for length in [0, 1, 40, certificate.len() - 1] {
        fs::write(&name, &certificate[..length]).unwrap();
        assert_eq!(verify(&[&name]), invalid("DecodeError"), "{length}");
    }
    let odd = run.text("odd.bin");
    for bytes in [&b""[..], b"hello", b"\n\n\xe2\x80\x94 ", &[0xff; 300]] {
        fs::write(&odd, bytes).unwrap();
        assert_eq!(verify(&[&odd]), invalid("DecodeError"), "{bytes:?}");
    }
    fs::write(&odd, &certificate).unwrap();
    assert_eq!(verify(&[&odd]), VALID, "the content says what it is");
}

proptest::proptest! {
    #[test]
    fn damaged_files_never_panic_and_never_verify(at in 0usize..2000, bit in 0u8..8, which in 0usize..4) {
        thread_local!(static RUN: Run = Run::new(Mode::Replayed));
        RUN.with(|run| {
            let names =
                ["slot-000002.cert", "generation-000001.activation", "head.note", "slot-000003.tlog-proof"];
            let path = run.path(names[which]);
            let original = fs::read(&path).unwrap();
            let mut bytes = original.clone();
            let at = at % bytes.len();
            bytes[at] ^= 1 << bit;
            fs::write(&path, &bytes).unwrap();
            let result = verify(&[path.display().to_string()]);
            fs::write(&path, &original).unwrap();
            // In a note a line of an unknown key means nothing, so a changed name may leave a quorum of the others.
            assert!(result.0 == 1 || which >= 2, "byte {at} bit {bit} of {}", names[which]);
        });
    }
}
