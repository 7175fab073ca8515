use quorate_attest::encoding::Bounded as _;
use quorate_attest::id::{
    CpuDigest, DeviceDigest, Epoch, Generation, GroupId, ImageDigest, InputRoot, OutputRoot, PageRoot,
    PlatformClass, Slot, StatementDigest, VmId,
};
use quorate_attest::merkle::{Frontier, Sha256Tree};
use quorate_attest::note::{SignatureLine, VerifierKey};
use quorate_attest::vm::{InputPolicy, Mode, SlotStatement, head_checkpoint, statement_leaf};

use super::model::*;
use crate::core::*;
use crate::protocol::*;

fn run() -> HostRun {
    HostRun::new(&group(4, 1), spec())
}

/// A verifier that has attested slots 0 and 1, and the run.
fn at_slot_1() -> (Verifier, HostRun) {
    let mut run = run();
    let mut verifier = Verifier::replayed(&run);
    attested(verifier.propose(&run.next(&[])));
    attested(verifier.propose(&run.next(&inputs(2))));
    (verifier, run)
}

#[test]
fn honest_chain_is_attested_slot_by_slot() {
    let (mut run, mut log) = (run(), Frontier::<Sha256Tree>::new());
    let mut verifier = Verifier::replayed(&run);
    for slot in 0..5 {
        let propose = run.next(&inputs(slot));
        let statement = &propose.proposal.statement;
        log.push(&statement_leaf(statement));
        let answer = attested(verifier.propose(&propose));
        assert_eq!((answer.slot, answer.attestation.mode), (Slot(slot as u64), Mode::Replayed));
        answer.attestation.verify(&run.group, statement).unwrap();
        let line: SignatureLine = answer.cosignature.parse().unwrap();
        let text = head_checkpoint(&run.vm(), log.size(), log.root()).unwrap().to_text();
        let cosigner: VerifierKey = run.group.cosigner(0).unwrap();
        assert_eq!(cosigner.verify(&text, &line).unwrap(), Some(NOW));
    }
    assert_eq!((verifier.boots, verifier.pulls), (1, 0), "one machine, booted from the image");
}

#[test]
fn rollback_to_any_older_slot_is_refused_as_stale() {
    let mut run = run();
    let mut verifier = Verifier::replayed(&run);
    let proposals: Vec<_> = (0..6).map(|slot| run.next(&inputs(slot))).collect();
    for propose in &proposals {
        attested(verifier.propose(propose));
    }
    for old in &proposals[..5] {
        assert_eq!(kind(&verifier.propose(old)), "StaleSlot");
    }
    let mut verifier = verifier.restart();
    for old in &proposals[..5] {
        assert_eq!(kind(&verifier.propose(old)), "StaleSlot", "after a restart too");
    }
}

#[test]
fn same_question_gets_the_same_answer_byte_by_byte_also_after_a_restart() {
    let (mut verifier, mut run) = at_slot_1();
    let propose = run.next(&inputs(1));
    let first = verifier.propose(&propose);
    attested(first.clone());
    let durable = verifier.records.len();
    assert_eq!(verifier.propose(&propose), first);
    let mut verifier = verifier.restart();
    assert_eq!(verifier.propose(&propose), first);
    assert_eq!(verifier.records.len(), durable, "nothing new was signed");
}

#[test]
fn fork_of_one_slot_is_kept_as_evidence_and_never_signed() {
    let (mut verifier, run) = at_slot_1();
    let mut honest = run.clone();
    let mut forked = run;
    attested(verifier.propose(&honest.next(&inputs(1))));
    let second = forked.next(&inputs(3));
    let mut verifier = verifier.restart();
    assert_eq!(kind(&verifier.propose(&second)), "EquivocationEvidence");
    let [Evidence::Equivocation(pair)] = &verifier.evidence[..] else { panic!("no evidence") };
    let expected = verifier.context.expected(honest.vm(), Mode::Replayed.kind());
    assert_eq!(pair.verify(&expected), Ok(host_a().public()));
}

#[test]
fn slots_ahead_are_answered_with_the_slot_that_is_missing() {
    let (mut verifier, mut run) = at_slot_1();
    run.next(&[]);
    let ahead = run.next(&[]);
    assert_eq!(verifier.propose(&ahead), FromVerifier::Behind(Behind { next: Slot(2) }));
}

#[test]
fn splice_of_any_component_of_another_slot_is_refused_by_name() {
    type Change = fn(&mut SlotStatement);
    let changes: [(&str, Change); 7] = [
        ("memory", |s| s.body.page_root = PageRoot::from_bytes([0; 32])),
        ("cpu", |s| s.body.cpu = CpuDigest::from_bytes([0; 32])),
        ("device", |s| s.body.device = DeviceDigest::from_bytes([0; 32])),
        ("outputs", |s| s.body.output_root = OutputRoot::from_bytes([0; 32])),
        ("outputs", |s| s.body.output_count += 1),
        ("memory", |s| {
            s.body.page_root = PageRoot::from_bytes([0; 32]);
            s.body.cpu = CpuDigest::from_bytes([0; 32]);
        }),
        ("cpu", |s| {
            s.body.cpu = CpuDigest::from_bytes([0; 32]);
            s.body.output_count = 0;
        }),
    ];
    for (component, change) in changes {
        let (mut verifier, mut run) = at_slot_1();
        let propose = run.next(&inputs(2));
        let FromVerifier::Refused(refused) = verifier.propose(&run.forged(&propose, change)) else {
            panic!("{component} was attested")
        };
        assert_eq!(
            (&refused.kind[..], refused.detail.starts_with(component)),
            ("RootMismatch", true),
            "{refused:?}"
        );
        // The machine has left the chain: it is loaded again before the honest slot can be attested.
        assert_eq!(verifier.machine, None);
        assert_eq!(verifier.propose(&propose), FromVerifier::NeedState(NeedState { next: Slot(2) }));
    }
}

#[test]
fn more_or_fewer_doorbells_than_were_rung_are_refused() {
    for change in [1i64, -1] {
        let (mut verifier, mut run) = at_slot_1();
        let propose = run.next(&inputs(2));
        let forged =
            run.forged(&propose, |s| s.body.doorbells = s.body.doorbells.wrapping_add_signed(change));
        assert_eq!(kind(&verifier.propose(&forged)), "ReplayDivergence");
    }
    let (mut verifier, mut run) = at_slot_1();
    let propose = run.next(&inputs(2));
    assert_eq!(kind(&verifier.propose(&run.forged(&propose, |s| s.body.doorbells = 0))), "RootMismatch");
    let endless = run.forged(&propose, |s| s.body.doorbells += SLOT_DOORBELLS_MAX + 1);
    assert_eq!(kind(&verifier.propose(&endless)), "MessageTooLarge", "a replay must end");
}

#[test]
fn log_with_missing_added_or_changed_inputs_is_refused() {
    let (mut verifier, mut run) = at_slot_1();
    let propose = run.next(&inputs(4));
    type Change = fn(&mut Vec<Vec<u8>>);
    let changes: [(&str, Change); 7] = [
        ("LogTruncated", |i| i.truncate(3)),
        ("LogTruncated", Vec::clear),
        ("LogTrailingRecords", |i| i.push(vec![1])),
        ("LogTrailingRecords", |i| i.insert(0, vec![1])),
        ("LogChainBroken", |i| i.swap(0, 3)),
        ("LogChainBroken", |i| i[2][0] ^= 1),
        ("LogChainBroken", |i| i[3].truncate(1)),
    ];
    for (want, change) in changes {
        let mut cut = propose.clone();
        change(&mut cut.inputs);
        assert_eq!(kind(&verifier.propose(&cut)), want);
    }
    attested(verifier.propose(&propose));
}

#[test]
fn gap_and_overlap_of_input_ranges_are_refused() {
    let (mut verifier, mut run) = at_slot_1();
    let propose = run.next(&inputs(4));
    let gap = run.forged(&propose, |s| s.body.first_input += 1);
    let overlap = run.forged(&propose, |s| s.body.first_input -= 1);
    let reversed = run.forged(&propose, |s| s.body.end_input = s.body.first_input - 1);
    let root = run.forged(&propose, |s| s.body.input_root = InputRoot::from_bytes([3; 32]));
    let kinds = [gap, overlap, reversed, root].map(|forged| kind(&verifier.propose(&forged)));
    assert_eq!(kinds, ["LogTruncated", "LogTrailingRecords", "LogTruncated", "LogChainBroken"]);
    assert!(verifier.machine.is_some(), "nothing was executed");
}

#[test]
fn previous_statement_that_is_not_the_head_is_refused() {
    let (mut verifier, mut run) = at_slot_1();
    let propose = run.next(&[]);
    let first = run.chain[0].digest();
    for previous in [StatementDigest::ZERO, first] {
        let forged = run.forged(&propose, |s| s.body.previous = previous);
        assert_eq!(kind(&verifier.propose(&forged)), "LogChainBroken");
    }
}

#[test]
fn another_image_machine_size_or_platform_is_refused_by_field() {
    let (mut verifier, mut run) = at_slot_1();
    let propose = run.next(&[]);
    type Change = fn(&mut SlotStatement);
    let changes: [(&str, Change); 4] = [
        ("image", |s| s.body.image = ImageDigest::from_bytes([1; 32])),
        ("machine_version", |s| s.body.machine_version = 2),
        ("page_count", |s| s.body.page_count += 1),
        ("platform", |s| s.body.platform = PlatformClass::from_bytes([1; 32])),
    ];
    for (field, change) in changes {
        let FromVerifier::Refused(refused) = verifier.propose(&run.forged(&propose, change)) else {
            panic!()
        };
        assert_eq!(refused.kind, "PlatformMismatch");
        assert!(refused.detail.ends_with(field), "{refused:?}");
    }
}

#[test]
fn slot_zero_that_is_not_the_genesis_is_refused() {
    let mut run = run();
    let honest = run.next(&[]);
    type Change = fn(&mut SlotStatement);
    let changes: [(&str, Change); 8] = [
        ("RootMismatch", |s| s.body.page_root = PageRoot::from_bytes([1; 32])),
        ("RootMismatch", |s| s.body.cpu = CpuDigest::from_bytes([1; 32])),
        ("RootMismatch", |s| s.body.device = DeviceDigest::from_bytes([1; 32])),
        ("RootMismatch", |s| s.body.output_count = 1),
        ("RootMismatch", |s| s.body.doorbells = 1),
        ("LogChainBroken", |s| s.body.previous = StatementDigest::from_bytes([1; 32])),
        ("LogChainBroken", |s| s.body.input_root = InputRoot::from_bytes([1; 32])),
        ("LogTrailingRecords", |s| {
            s.body.end_input = 1;
            s.body.unauthenticated = 1;
        }),
    ];
    for mode in [Mode::Replayed, Mode::Sampled] {
        let mut verifier = Verifier::new(&run.group, 0, mode, &run.spec);
        for (want, change) in changes {
            assert_eq!(kind(&verifier.propose(&run.forged(&honest, change))), want, "{mode:?}");
        }
        attested(verifier.propose(&honest));
    }
}

#[test]
fn input_that_no_client_signed_is_refused_where_the_vm_demands_it() {
    let spec = quorate_attest::vm::VmSpec { input_policy: InputPolicy::ClientSigned, ..spec() };
    let mut run = HostRun::new(&group(4, 1), spec.clone());
    let mut verifier = Verifier::replayed(&run);
    attested(verifier.propose(&run.next(&[])));
    let own_spec = quorate_attest::encoding::to_bytes(&spec);
    let before = run.clone();

    let forged = run.next(&[b"forged".to_vec()]);
    assert_eq!(kind(&verifier.propose(&forged)), "InputUnauthenticated");
    let (mut run, mut other) = (before.clone(), before);
    let late_spec = other.next(&[request(&spec, 1), own_spec.clone()]);
    assert_eq!(kind(&verifier.propose(&late_spec)), "InputUnauthenticated", "only as the very first input");
    let mut changed = request(&spec, 1);
    *changed.last_mut().unwrap() ^= 1;

    attested(verifier.propose(&run.next(&[own_spec, request(&spec, 1)])));
    let before = run.clone();
    assert_eq!(kind(&verifier.propose(&run.next(&[request(&spec, 2), changed]))), "InputUnauthenticated");
    let elsewhere = quorate_attest::vm::VmSpec { name: "other".into(), ..spec };
    let mut run = before;
    assert_eq!(
        kind(&verifier.propose(&run.next(&[request(&elsewhere, 2)]))),
        "InputUnauthenticated",
        "signed for another VM"
    );
}

#[test]
fn input_of_another_client_is_refused_where_the_vm_admits_one_only() {
    let client = |policy| quorate_attest::vm::VmSpec { input_policy: policy, ..spec() };
    let stranger = quorate_attest::key::SecretKey::from_seed([0xee; 32]).public();
    let spec = client(InputPolicy::SignedBy(stranger));
    let mut run = HostRun::new(&group(4, 1), spec.clone());
    let mut verifier = Verifier::replayed(&run);
    attested(verifier.propose(&run.next(&[])));
    assert_eq!(kind(&verifier.propose(&run.next(&[request(&spec, 1)]))), "InputUnauthenticated");

    let admitted = quorate_attest::request::Request::decoded(&request(&spec, 1)).unwrap().client;
    let spec = client(InputPolicy::SignedBy(admitted));
    let mut run = HostRun::new(&group(4, 1), spec.clone());
    let mut verifier = Verifier::replayed(&run);
    attested(verifier.propose(&run.next(&[])));
    attested(verifier.propose(&run.next(&[request(&spec, 1)])));
}

#[test]
fn class_counts_that_claim_more_than_is_there_are_refused() {
    let (mut verifier, mut run) = at_slot_1();
    let propose = run.next(&[request(&run.spec, 1), vec![1]]);
    assert_eq!(
        (propose.proposal.statement.body.client_signed, propose.proposal.statement.body.unauthenticated),
        (1, 1)
    );
    let counts = [(0, 2, 0), (1, 1, 0), (2, 0, 0), (0, 1, 2), (u64::MAX, 2, 1), (0, 0, 0)];
    for (ordered, client_signed, unauthenticated) in counts {
        let forged = run.forged(&propose, |s| {
            (s.body.ordered, s.body.client_signed, s.body.unauthenticated) =
                (ordered, client_signed, unauthenticated);
        });
        assert_eq!(kind(&verifier.propose(&forged)), "InputUnauthenticated", "{ordered} {client_signed}");
    }
    attested(verifier.propose(&propose));
}

#[test]
fn inputs_over_the_limits_are_refused_before_anything_runs() {
    let (mut verifier, run) = at_slot_1();
    for inputs in [vec![vec![0; 262_145]], vec![vec![0; 262_144]; 33], vec![Vec::new(); SLOT_INPUTS_MAX + 1]]
    {
        let mut run = run.clone();
        assert_eq!(kind(&verifier.propose(&run.next(&inputs))), "MessageTooLarge");
    }
    assert!(verifier.machine.is_some());
}

#[test]
fn statement_of_another_group_epoch_or_vm_is_refused() {
    let (mut verifier, mut run) = at_slot_1();
    let propose = run.next(&[]);
    type Change = fn(&mut SlotStatement);
    let changes: [(&str, Change); 4] = [
        ("WrongCluster", |s| s.group = GroupId::from_bytes([1; 32])),
        ("EpochUnlinked", |s| s.epoch = Epoch(6)),
        ("EpochRetired", |s| s.epoch = Epoch(4)),
        ("WrongVm", |s| s.vm = VmId::from_bytes([1; 32])),
    ];
    for (want, change) in changes {
        assert_eq!(kind(&verifier.propose(&run.forged(&propose, change))), want);
    }
}

#[test]
fn proposal_of_another_host_or_with_a_foreign_signature_is_refused() {
    let (mut verifier, mut run) = at_slot_1();
    let propose = run.next(&[]);
    let by_b = HostRun { key: host_b(), ..run.clone() };
    let claimed = by_b.forged(&propose, |s| s.body.host = host_b().public());
    assert_eq!(kind(&verifier.propose(&claimed)), "KeyRoleMismatch");
    let stolen = by_b.forged(&propose, |_| {});
    assert_eq!(kind(&verifier.propose(&stolen)), "BadSignature");
    // An attestation is no proposal: the kind is signed too.
    let mut relabelled = propose.clone();
    relabelled.proposal.signature = host_a().sign(&propose.proposal.statement.encode(Mode::Replayed.kind()));
    assert_eq!(kind(&verifier.propose(&relabelled)), "BadSignature");
}

#[test]
fn proposal_of_a_later_generation_needs_its_activation_first() {
    let (mut verifier, mut run) = at_slot_1();
    let propose = run.next(&[]);
    let later = run.forged(&propose, |s| s.body.generation = Generation(1));
    assert_eq!(kind(&verifier.propose(&later)), "(NeedActivation)");
}

#[test]
fn verifier_of_another_platform_class_refuses_instead_of_diverging() {
    let mut run = run();
    let honest = run.next(&[]);
    let foreign = run.forged(&honest, |s| s.body.platform = PlatformClass::from_bytes([8; 32]));
    assert_eq!(kind(&Verifier::replayed(&run).propose(&foreign)), "PlatformMismatch");
    attested(Verifier::sampled(&run).propose(&foreign));
}

#[test]
fn refusal_that_quotes_a_stranger_is_cut_and_printable() {
    let refusal = Refusal::Image { kind: "ImageInvalid", detail: "\u{1b}[2Jname\n".repeat(1000) };
    let answer = answer_of(&refusal);
    assert_eq!(answer.detail.chars().count(), 500);
    assert!(!answer.detail.contains(char::is_control));
    assert!(quorate_attest::encoding::to_bytes(&answer).len() <= 4096);
}
