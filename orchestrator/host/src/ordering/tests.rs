//! What a host makes of the orchestrators' answers, honest and forged.

use quorate_attest::group::{GroupConfig, HASH_SHA256, Member};
use quorate_attest::id::Epoch;
use quorate_attest::key::Signature;
use quorate_attest::receipt::{Receipt, ReceiptCertificate};
use quorate_attest::vm::Decision;
use quorate_control::Answer;

use super::*;

fn key(number: u8) -> SecretKey {
    SecretKey::from_seed([number; 32])
}

fn source() -> PublicKey {
    key(90).public()
}

fn destination() -> PublicKey {
    key(91).public()
}

fn orchestrators() -> GroupConfig {
    let member = |index: u8| Member {
        name: format!("orchestrator-{index}"),
        vote_key: key(10 + index).public(),
        cosigner_key: key(20 + index).public(),
        transport_key: key(30 + index).public(),
    };
    GroupConfig {
        name: "log".into(),
        hash_algorithm: HASH_SHA256,
        epoch: Epoch(0),
        genesis: None,
        f: 1,
        members: (0..4).map(member).collect(),
        operators: Vec::new(),
        hosts: Vec::new(),
    }
}

const VM: VmId = VmId::from_bytes([1; 32]);
const MIGRATION: OperationId = OperationId::from_bytes([2; 32]);
const LAST: StatementDigest = StatementDigest::from_bytes([3; 32]);

/// The source gives up generation 4 after slot 7.
fn claim() -> Claim {
    let relinquish = Relinquish {
        vm: VM,
        group: orchestrators().id(),
        epoch: Epoch(0),
        generation: Generation(4),
        slot: Slot(7),
        statement: LAST,
        successor: destination(),
        signature: Signature::NONE,
    };
    Claim::new(relinquish, MIGRATION)
}

fn decision(generation: u64, action: Action) -> Decision {
    let group = orchestrators().id();
    let generation = Generation(generation);
    Decision { group, epoch: Epoch(0), vm: VM, generation, operation: MIGRATION, index: 8, action }
}

fn grant(generation: u64, slot: u64, host: PublicKey) -> Decision {
    decision(generation, Action::Grant { slot: Slot(slot), statement: LAST, host })
}

fn signed(decision: Decision, signers: &[u8]) -> DecisionCertificate {
    let sign = |index: &u8| (u16::from(*index), decision.sign(&key(10 + index)));
    DecisionCertificate { signatures: signers.iter().map(sign).collect(), decision }
}

fn ordered(decision: Option<DecisionCertificate>) -> Ordered {
    let receipt = Receipt {
        group: orchestrators().id(),
        epoch: Epoch(0),
        index: 8,
        operation: MIGRATION,
        result: [0; 32],
        log_root: [0; 32],
        log_size: 9,
        state_root: [0; 32],
        state_size: 1,
    };
    let receipt = ReceiptCertificate { receipt, signatures: Vec::new() };
    Ordered { receipt, outcome: Vec::new(), decision }
}

fn failure(code: u16, kind: &str) -> Outcome {
    Err(Failure { code, kind: kind.into(), text: "for people".into(), winner: None })
}

/// What the destination makes of a decision.
fn judged(decision: Option<DecisionCertificate>, outcome: Outcome) -> Verdict {
    judge(&claim(), &destination(), &orchestrators(), outcome, ordered(decision))
}

fn kind(verdict: &Verdict) -> &str {
    match verdict {
        Verdict::Granted(_) => "granted",
        Verdict::Overruled(_) => "overruled",
        Verdict::Refused(why) => &why.kind,
        Verdict::Unordered(_) => "unordered",
    }
}

fn recorded() -> Outcome {
    Ok(Answer::Recorded { vm: VM, slot: Slot(7) })
}

#[test]
fn grant_for_this_host_is_taken_whichever_operation_led_to_it() {
    let mine = signed(grant(5, 7, destination()), &[0, 1, 3]);
    let conflict = failure(status::CONFLICT, "Conflict");
    for outcome in [recorded(), conflict] {
        assert_eq!(judged(Some(mine.clone()), outcome), Verdict::Granted(Box::new(mine.clone())));
    }
    let skipped = signed(grant(9, 7, destination()), &[0, 1, 3]);
    assert_eq!(kind(&judged(Some(skipped), recorded())), "granted", "generations may be skipped");
}

#[test]
fn grant_for_the_other_host_overrules() {
    let conflict = || failure(status::CONFLICT, "Conflict");
    let other = signed(grant(5, 7, source()), &[1, 2, 3]);
    assert_eq!(kind(&judged(Some(other), conflict())), "overruled");
    let recovered = signed(grant(6, 3, key(92).public()), &[1, 2, 3]);
    assert_eq!(kind(&judged(Some(recovered), conflict())), "overruled", "from another slot, too");
}

#[test]
fn forged_stale_or_foreign_grants_are_refused() {
    let forged =
        |decision, signers: &[u8]| kind(&judged(Some(signed(decision, signers)), recorded())).to_owned();
    let good = grant(5, 7, destination());
    assert_eq!(forged(good.clone(), &[0, 1]), "QuorumNotReached");
    assert_eq!(forged(good.clone(), &[0, 1, 1]), "DuplicateSigner");
    assert_eq!(forged(Decision { vm: VmId::ZERO, ..good.clone() }, &[0, 1, 2]), "WrongVm");
    assert_eq!(forged(Decision { epoch: Epoch(1), ..good.clone() }, &[0, 1, 2]), "WrongEpoch");
    assert_eq!(forged(grant(4, 7, destination()), &[0, 1, 2]), "FencedGeneration");
    assert_eq!(forged(grant(5, 6, destination()), &[0, 1, 2]), "WrongSlot");
    let begun = Action::Migrate { source: source(), destination: destination() };
    assert_eq!(forged(decision(5, begun), &[0, 1, 2]), "Inconsistent");
    let mut broken = signed(good, &[0, 1, 2]);
    broken.signatures[1].1 = broken.signatures[0].1;
    assert_eq!(kind(&judged(Some(broken), recorded())), "BadSignature");
}

#[test]
fn outcome_without_a_decision_grants_nothing() {
    assert_eq!(kind(&judged(None, recorded())), "NoActivationCertificate");
    assert_eq!(kind(&judged(None, failure(status::STALE, "Stale"))), "Stale");
    assert_eq!(kind(&judged(None, failure(status::INCONCLUSIVE, "QuorumNotReached"))), "unordered");
}

/// Where the VM of generation 4 may move from `source` under this order.
fn permitted(order: Decision, signers: &[u8]) -> Result<PublicKey, String> {
    check_migration(&orchestrators(), &signed(order, signers), VM, Generation(4), &source())
        .map_err(|refused| refused.kind)
}

#[test]
fn migration_needs_the_orchestrators_order_for_this_vm_source_and_a_later_generation() {
    let migrate = |from, to| Action::Migrate { source: from, destination: to };
    let order = decision(5, migrate(source(), destination()));
    assert_eq!(permitted(order.clone(), &[0, 1, 2]), Ok(destination()));
    let later = decision(8, migrate(source(), destination()));
    assert_eq!(permitted(later, &[0, 1, 2]), Ok(destination()));
    let refused = [
        (order.clone(), &[0u8, 1][..], "QuorumNotReached"),
        (order.clone(), &[], "QuorumNotReached"),
        (Decision { vm: VmId::ZERO, ..order.clone() }, &[0, 1, 2], "WrongVm"),
        (
            Decision { group: quorate_attest::id::GroupId::from_bytes([7; 32]), ..order },
            &[0, 1, 2],
            "WrongCluster",
        ),
        (decision(4, migrate(source(), destination())), &[0, 1, 2], "FencedGeneration"),
        (decision(5, migrate(destination(), source())), &[0, 1, 2], "WrongMigration"),
        (grant(5, 7, destination()), &[0, 1, 2], "WrongMigration"),
    ];
    for (order, signers, want) in refused {
        assert_eq!(permitted(order, signers), Err(want.to_owned()));
    }
}
