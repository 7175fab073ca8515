//! Pairs of signed statements: which convict, whom, and which convict nobody.

use quorate_attest::certificate::Certificate;
use quorate_attest::encoding::to_bytes;
use quorate_attest::id::{OperationId, ServiceId};
use quorate_attest::receipt::{LOG_INSTANCE, Receipt};
use quorate_attest::service::ServiceReceipt;
use quorate_attest::state_tree::StateCommitment;
use quorate_attest::statement::{Kind, Statement};
use quorate_attest::vm::{Equivocation, Proposal};
use quorate_verifier::core::Evidence;

use super::*;
use crate::verify::evidence;

#[derive(Parser)]
struct PairLine {
    #[command(flatten)]
    arguments: evidence::Arguments,
}

/// Kind of the evidence and who is convicted, or why nobody is.
fn convicted(words: &[String]) -> Result<(String, Vec<String>), String> {
    let words = std::iter::once("evidence").chain(words.iter().map(String::as_str));
    let arguments = PairLine::try_parse_from(words).unwrap().arguments;
    let finding = evidence::examine(&arguments).map_err(|failure| failure.kind)?;
    let facts = finding.map_err(|error| error.kind().to_owned())?.facts;
    let names = facts["signers"].as_array().unwrap().iter().map(|name| name.as_str().unwrap().to_owned());
    Ok((facts["evidence"].as_str().unwrap().to_owned(), names.collect()))
}

fn proved(kind: &str, names: &[&str]) -> Result<(String, Vec<String>), String> {
    Ok((kind.into(), names.iter().map(|name| (*name).to_owned()).collect()))
}

/// Writes both beside the group's file and asks about them.
fn pair(run: &Run, first: &[u8], second: &[u8]) -> Result<(String, Vec<String>), String> {
    fs::write(run.path("a.bin"), first).unwrap();
    fs::write(run.path("b.bin"), second).unwrap();
    convicted(&[run.text("a.bin"), run.text("b.bin")])
}

fn forked(run: &Run) -> (SlotStatement, SlotStatement) {
    let first = run.world.chain()[2].clone();
    let mut second = first.clone();
    second.body.cpu = CpuDigest::from_bytes([9; 32]);
    (first, second)
}

#[test]
fn two_certificates_for_one_place_convict_everyone_who_signed_both() {
    let run = Run::new(Mode::Replayed);
    let (first, second) = forked(&run);
    let (one, two) = (run.world.certify(&first, 0..3), run.world.certify(&second, 1..4));
    let expected = proved("ConflictingCertificates", &["verifier-1", "verifier-2"]);
    assert_eq!(pair(&run, &one.encoded(), &two.encoded()), expected);
    let stored = ConflictingCertificates { first: one.clone(), second: two };
    fs::write(run.path("pair.bin"), to_bytes(&Evidence::ConflictingCertificates(Box::new(stored)))).unwrap();
    assert_eq!(convicted(&[run.text("pair.bin")]), expected, "as a verifier stores it");
    assert_eq!(pair(&run, &one.encoded(), &one.encoded()), Err("NoConflict".into()));
}

#[test]
fn two_votes_of_one_verifier_convict_it_in_any_mix_of_modes_and_without_a_quorum() {
    let run = Run::new(Mode::Replayed);
    let (first, second) = forked(&run);
    let vote = |statement: &SlotStatement, verifier: u16, mode: Mode| {
        let attestations = vec![Attestation::sign(statement, verifier, mode, &key(1, verifier as u8))];
        SlotCertificate { statement: statement.clone(), attestations }.encoded()
    };
    for modes in [(Mode::Replayed, Mode::Replayed), (Mode::Sampled, Mode::Replayed)] {
        let found = pair(&run, &vote(&first, 3, modes.0), &vote(&second, 3, modes.1));
        assert_eq!(found, proved("DoubleVote", &["verifier-3"]));
    }
    let others = pair(&run, &vote(&first, 3, Mode::Replayed), &vote(&second, 2, Mode::Replayed));
    assert_eq!(others, Err("NoConflict".into()), "two verifiers may differ");
    let next = run.world.chain()[4].clone();
    let places = pair(&run, &vote(&first, 3, Mode::Replayed), &vote(&next, 3, Mode::Replayed));
    assert_eq!(places, Err("NoConflict".into()), "two slots");
    let mut foreign = SlotCertificate::decoded(&vote(&second, 3, Mode::Replayed)).unwrap();
    foreign.attestations[0].signature = Attestation::sign(&second, 3, Mode::Replayed, &key(1, 2)).signature;
    let framed = pair(&run, &vote(&first, 3, Mode::Replayed), &foreign.encoded());
    assert_eq!(framed, Err("BadSignature".into()), "a forged signature convicts nobody");
}

#[test]
fn two_proposals_of_one_host_convict_the_host_and_an_unknown_host_is_nobody() {
    let run = Run::new(Mode::Replayed);
    let (first, second) = forked(&run);
    let propose = |statement: &SlotStatement| Proposal::sign(statement.clone(), &key(4, 0));
    let expected = proved("EquivocationEvidence", &["host-a"]);
    assert_eq!(pair(&run, &propose(&first).encoded(), &propose(&second).encoded()), expected);
    let stored = Equivocation { first: propose(&first), second: propose(&second) };
    fs::create_dir(run.path("evidence")).unwrap();
    fs::write(run.path("evidence/0123.bin"), to_bytes(&Evidence::Equivocation(Box::new(stored)))).unwrap();
    let file = run.text("evidence/0123.bin");
    assert_eq!(convicted(&[file.clone(), "--group".into(), run.text("group.toml")]), expected);
    assert_eq!(convicted(&[file]), Err("Usage".into()), "no group is beside it");

    let stranger = |statement: &SlotStatement| {
        let mut statement = statement.clone();
        statement.body.host = key(9, 9).public();
        Proposal::sign(statement, &key(9, 9)).encoded()
    };
    assert_eq!(pair(&run, &stranger(&first), &stranger(&second)), Err("KeyRoleMismatch".into()));
}

#[test]
fn evidence_that_a_verifier_keeps_is_read_with_the_folder() {
    let run = Run::new(Mode::Replayed);
    let (first, second) = forked(&run);
    fs::create_dir(run.path("evidence")).unwrap();
    let propose = |statement: &SlotStatement| Proposal::sign(statement.clone(), &key(4, 0));
    let pair = Equivocation { first: propose(&first), second: propose(&second) };
    let mut bytes = to_bytes(&Evidence::Equivocation(Box::new(pair)));
    fs::write(run.path("evidence/0123.bin"), &bytes).unwrap();
    assert_eq!(run.verify(&[]), VALID, "a host's guilt takes nothing from the certificates");
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(run.path("evidence/0123.bin"), &bytes).unwrap();
    assert_eq!(run.verify(&[]).0, 1, "evidence that does not hold is an invalid file");
    let (one, two) = (run.world.certify(&first, 0..3), run.world.certify(&second, 0..3));
    let pair = ConflictingCertificates { first: one, second: two };
    fs::write(run.path("evidence/0123.bin"), to_bytes(&Evidence::ConflictingCertificates(Box::new(pair))))
        .unwrap();
    assert_eq!(run.verify(&[]), invalid("ConflictingCertificates"));
}

/// A statement with one orchestrator's signature.
fn signed(statement: &Statement, orchestrator: u16) -> Vec<u8> {
    let signature = statement.sign(&key(6, orchestrator as u8));
    Certificate { statement: statement.clone(), signatures: vec![(orchestrator, signature)] }.encoded()
}

#[test]
fn orchestrator_that_signs_two_receipts_for_one_entry_is_convicted() {
    let run = Run::new(Mode::Replayed);
    group_file::write(&run.path("orchestrators.toml"), &run.world.orchestrators).unwrap();
    let receipt = |state: u8| Receipt {
        group: run.world.orchestrators.id(),
        epoch: run.world.orchestrators.epoch,
        index: 5,
        operation: OperationId::ZERO,
        result: [1; 32],
        log_root: [2; 32],
        log_size: 6,
        state_root: [state; 32],
        state_size: 1,
    };
    let (first, second) = (receipt(3).to_statement(), receipt(4).to_statement());
    assert_eq!(first.instance, LOG_INSTANCE);
    let found = pair(&run, &signed(&first, 1), &signed(&second, 1));
    assert_eq!(found, proved("DoubleVote", &["orchestrator-1"]));
    assert_eq!(pair(&run, &signed(&first, 1), &signed(&first, 1)), Err("NoConflict".into()));
}

#[test]
fn replica_that_signs_two_receipts_for_one_entry_of_a_service_is_convicted() {
    let run = Run::new(Mode::Replayed);
    group_file::write(&run.path("services.toml"), &run.world.orchestrators).unwrap();
    let receipt = |result: u8, number: u64| ServiceReceipt {
        group: run.world.orchestrators.id(),
        epoch: run.world.orchestrators.epoch,
        service: ServiceId::from_bytes([7; 32]),
        number,
        log_index: 9,
        operation: OperationId::ZERO,
        result: [result; 32],
        log_root: [2; 32],
        log_size: number + 1,
        state: StateCommitment { root: [3; 32], size: 1 },
    };
    let pair = |first: &ServiceReceipt, second: &ServiceReceipt| {
        pair(&run, &signed(&first.to_statement(), 1), &signed(&second.to_statement(), 1))
    };
    assert_eq!(pair(&receipt(1, 5), &receipt(4, 5)), proved("DoubleVote", &["orchestrator-1"]));
    assert_eq!(pair(&receipt(1, 5), &receipt(1, 5)), Err("NoConflict".into()));
    assert_eq!(pair(&receipt(1, 5), &receipt(4, 6)), Err("NoConflict".into()));
}

#[test]
fn right_to_create_a_generation_is_given_once_but_migrations_may_be_ordered_again() {
    let run = Run::new(Mode::Replayed);
    group_file::write(&run.path("orchestrators.toml"), &run.world.orchestrators).unwrap();
    let decision = |index: u64, action: Action| {
        let group = &run.world.orchestrators;
        let decision = Decision {
            group: group.id(),
            epoch: group.epoch,
            vm: run.world.spec.id(),
            generation: Generation(1),
            operation: OperationId::from_bytes([index as u8; 32]),
            index,
            action,
        };
        signed(&decision.to_statement(), 2)
    };
    let grant = |host: u8| Action::Grant {
        slot: Slot(3),
        statement: StatementDigest::ZERO,
        host: key(4, host).public(),
    };
    let migrate = |to: u8| Action::Migrate { source: key(4, 0).public(), destination: key(4, to).public() };
    let convicted = proved("DoubleVote", &["orchestrator-2"]);
    assert_eq!(pair(&run, &decision(7, grant(0)), &decision(9, grant(1))), convicted);
    assert_eq!(pair(&run, &decision(7, migrate(1)), &decision(9, migrate(2))), Err("NoConflict".into()));
    assert_eq!(pair(&run, &decision(7, migrate(1)), &decision(9, grant(1))), Err("NoConflict".into()));
    assert_eq!(
        pair(&run, &decision(7, migrate(1)), &decision(7, migrate(2))),
        convicted,
        "one entry of the log"
    );
}

#[test]
fn statement_of_a_kind_that_may_be_signed_twice_is_no_evidence() {
    let run = Run::new(Mode::Replayed);
    let statement = |body: u8| Statement {
        kind: Kind::HEAD,
        group: run.world.group.id(),
        epoch: run.world.group.epoch,
        instance: run.world.spec.id(),
        seq: 0,
        body: vec![body],
    };
    let signed = |body: u8| {
        let statement = statement(body);
        let signatures = vec![(0, statement.sign(&key(1, 0)))];
        Certificate { statement, signatures }.encoded()
    };
    assert_eq!(pair(&run, &signed(1), &signed(2)), Err("NoConflict".into()));
}

#[test]
fn files_of_another_group_or_of_nothing_convict_nobody() {
    let run = Run::new(Mode::Replayed);
    let (mut first, mut second) = forked(&run);
    for statement in [&mut first, &mut second] {
        statement.group = quorate_attest::id::GroupId::ZERO;
    }
    let vote = |statement: &SlotStatement| {
        let attestations = vec![Attestation::sign(statement, 0, Mode::Replayed, &key(1, 0))];
        SlotCertificate { statement: statement.clone(), attestations }.encoded()
    };
    assert_eq!(pair(&run, &vote(&first), &vote(&second)), Err("WrongCluster".into()));
    assert_eq!(pair(&run, b"nothing", b"else"), Err("DecodeError".into()));
    assert_eq!(convicted(&[run.text("slot-000001.cert")]), Err("NoConflict".into()), "one statement");
}

proptest::proptest! {
    #[test]
    fn files_of_any_bytes_convict_nobody(first: Vec<u8>, second: Vec<u8>) {
        thread_local!(static RUN: Run = Run::new(Mode::Replayed));
        RUN.with(|run| assert!(pair(run, &first, &second).is_err()));
    }
}
