use std::collections::BTreeSet;

use quorate_attest::id::{Epoch, GroupId};
use quorate_attest::statement::Statement;

use super::*;
use crate::rules::Allowed;
use crate::tests::fixture::{ORIGIN, head, receipt, rules, service, statement};

/// What becomes of one request, and whether anything was to be recorded for it.
fn one(state: &mut SignState, rules: &Rules, request: Request) -> (Result<(), &'static str>, bool) {
    let mut effects = state.step(rules, &[request]);
    let Some(Effect::Release(mut verdicts)) = effects.pop() else { panic!("nothing is released") };
    let recorded = !effects.is_empty();
    assert_eq!(verdicts.len(), 1);
    match verdicts.remove(0) {
        Verdict::Sign | Verdict::Cosign(_) => (Ok(()), recorded),
        Verdict::Refuse(refusal) => (Err(refusal.kind()), recorded),
    }
}

fn sign(state: &mut SignState, of: u16, number: u64, result: u8) -> (Result<(), &'static str>, bool) {
    one(state, &rules(), Request::Sign(statement(of, number, result)))
}

fn sign_bytes(bytes: Vec<u8>, rules: &Rules) -> Result<(), &'static str> {
    let (verdict, recorded) = one(&mut SignState::default(), rules, Request::Sign(bytes));
    assert_eq!(verdict.is_ok(), recorded, "what is refused is not recorded, and what is new is");
    verdict
}

fn cosign(state: &mut SignState, request: CosignRequest) -> (Result<(), &'static str>, bool) {
    one(state, &rules(), Request::Cosign(request))
}

#[test]
fn the_same_receipt_is_signed_again_and_another_one_of_its_number_never() {
    let mut state = SignState::default();
    assert_eq!(sign(&mut state, 0, 5, 1), (Ok(()), true));
    assert_eq!(sign(&mut state, 0, 5, 1), (Ok(()), false), "nothing new to record");
    assert_eq!(sign(&mut state, 0, 5, 2), (Err("DoubleVote"), false));
    assert_eq!(sign(&mut state, 1, 5, 2), (Ok(()), true), "another service has numbers of its own");
    let base = receipt(0, 5, 1);
    let mut all = ["log index", "operation", "log root", "state root", "state size"].map(|name| (name, base));
    all[0].1.log_index += 1;
    all[1].1.operation = [0; 32].into();
    all[2].1.log_root[0] ^= 1;
    all[3].1.state.root[0] ^= 1;
    all[4].1.state.size += 1;
    for (name, changed) in all {
        let changed = Request::Sign(changed.to_statement().encode());
        assert_eq!(one(&mut state, &rules(), changed), (Err("DoubleVote"), false), "{name}");
    }
}

#[test]
fn a_replica_restored_from_an_older_checkpoint_gets_its_signatures_again_and_no_others() {
    let mut state = SignState::default();
    for number in 0..100 {
        assert_eq!(sign(&mut state, 0, number, 1).0, Ok(()));
    }
    // Back to the checkpoint after 40: the same execution leads to the same receipts, another one to none.
    for number in 40..100 {
        assert_eq!(sign(&mut state, 0, number, 1), (Ok(()), false));
        assert_eq!(sign(&mut state, 0, number, 2), (Err("DoubleVote"), false));
    }
    assert_eq!(sign(&mut state, 0, 100, 2), (Ok(()), true));
}

#[test]
fn numbers_ascend_and_skipped_ones_are_never_signed() {
    let mut state = SignState::default();
    assert_eq!(sign(&mut state, 0, 10, 1).0, Ok(()));
    assert_eq!(sign(&mut state, 0, 20, 1).0, Ok(()), "gaps upward are allowed");
    for number in [0, 9, 11, 19] {
        assert_eq!(sign(&mut state, 0, number, 1), (Err("StaleSlot"), false), "{number}");
    }
    assert_eq!(sign(&mut state, 0, 10, 1).0, Ok(()));
    assert_eq!(sign(&mut state, 0, u64::MAX - 1, 1).0, Ok(()));
    assert_eq!(sign(&mut state, 0, u64::MAX - 1, 2).0, Err("DoubleVote"));
}

#[test]
fn below_the_window_nothing_is_signed_not_even_the_same() {
    let mut state = SignState::default();
    for number in 0..=WINDOW as u64 {
        assert_eq!(sign(&mut state, 0, number, 1).0, Ok(()));
    }
    assert_eq!(sign(&mut state, 0, 0, 1), (Err("StaleSlot"), false));
    assert_eq!(sign(&mut state, 0, 1, 1), (Ok(()), false));
    let [floor] = state.floors().try_into().unwrap();
    assert_eq!((floor.lowest, floor.newest), (1, WINDOW as u64));
    assert_eq!(floor.digest, receipt(0, WINDOW as u64, 1).to_statement().digest());
}

#[test]
fn services_share_what_is_remembered_and_there_is_a_most_of_them() {
    let mut state = SignState::default();
    for number in 0..2000 {
        assert_eq!(sign(&mut state, 0, number, 1).0, Ok(()));
    }
    for of in 1..INSTANCES_MAX as u16 {
        assert_eq!(sign(&mut state, of, 0, 1).0, Ok(()));
    }
    let share = (DIGESTS_MAX / INSTANCES_MAX) as u64;
    assert_eq!(state.floors().iter().map(|floor| floor.newest - floor.lowest).max(), Some(share - 1));
    assert_eq!(sign(&mut state, INSTANCES_MAX as u16, 0, 1), (Err("QuotaExceeded"), false));
    assert_eq!(sign(&mut state, 0, 2000, 1).0, Ok(()), "those that are known go on");
}

#[test]
fn of_two_receipts_of_one_number_in_one_batch_the_first_is_signed() {
    let mut state = SignState::default();
    let batch = [1, 2, 1].map(|result| Request::Sign(statement(0, 5, result)));
    let effects = state.step(&rules(), &batch);
    let [Effect::Record(promises), Effect::Release(verdicts)] = &effects[..] else { panic!("{effects:?}") };
    assert_eq!(promises.statements.len(), 1);
    let kinds: Vec<_> = verdicts.iter().map(|verdict| matches!(verdict, Verdict::Sign)).collect();
    assert_eq!(kinds, [true, false, true]);
}

#[test]
fn statements_of_another_kind_group_or_epoch_are_refused() {
    let right = receipt(0, 5, 1).to_statement();
    let changed = [
        (Statement { kind: Kind::RECEIPT, ..right.clone() }, "WrongDomain"),
        (Statement { kind: Kind::SLOT_REPLAYED, ..right.clone() }, "WrongDomain"),
        (Statement { kind: Kind::EPOCH_LINK, ..right.clone() }, "WrongDomain"),
        (Statement { kind: Kind(0x0211), ..right.clone() }, "WrongDomain"),
        (Statement { group: GroupId::from_bytes([8; 32]), ..right.clone() }, "WrongCluster"),
        (Statement { epoch: Epoch(2), ..right.clone() }, "WrongEpoch"),
        (Statement { epoch: Epoch(4), ..right.clone() }, "WrongEpoch"),
    ];
    for (statement, kind) in changed {
        assert_eq!(sign_bytes(statement.encode(), &rules()), Err(kind), "{statement:?}");
    }
    assert_eq!(sign_bytes(right.encode(), &rules()), Ok(()));
}

#[test]
fn bodies_that_are_no_receipt_or_contradict_themselves_are_refused() {
    let right = receipt(0, 5, 1).to_statement();
    let longer = Statement { body: [&right.body[..], &[0]].concat(), ..right.clone() };
    let shorter = Statement { body: right.body[..right.body.len() - 1].to_vec(), ..right.clone() };
    let empty = Statement { body: Vec::new(), ..right.clone() };
    for (statement, kind) in [(longer, "MessageTooLarge"), (shorter, "DecodeError"), (empty, "DecodeError")] {
        assert_eq!(sign_bytes(statement.encode(), &rules()), Err(kind));
    }
    for number in [4, 6, u64::MAX] {
        assert_eq!(
            sign_bytes(Statement { seq: number, ..right.clone() }.encode(), &rules()),
            Err("Inconsistent")
        );
    }
    assert_eq!(sign_bytes(Vec::new(), &rules()), Err("DecodeError"));
    assert_eq!(sign_bytes([&right.encode()[..], &[0]].concat(), &rules()), Err("DecodeError"));
}

#[test]
fn services_and_logs_that_the_configuration_does_not_list_are_refused() {
    let listed = Rules {
        receipts: Allowed::Only(BTreeSet::from([service(1)])),
        logs: Allowed::Only(BTreeSet::from(["uid".to_owned()])),
        ..rules()
    };
    assert_eq!(sign_bytes(statement(0, 5, 1), &listed), Err("NotAuthorized"));
    assert_eq!(sign_bytes(statement(1, 5, 1), &listed), Ok(()));
    let mut state = SignState::default();
    let kv = Request::Cosign(head(0, 0, 0, 3));
    assert_eq!(one(&mut state, &listed, kv), (Err("NotAuthorized"), false));
    let mut uid = head(0, 0, 0, 3);
    uid.head.origin = "demo/uid".to_owned();
    assert_eq!(one(&mut state, &listed, Request::Cosign(uid)), (Ok(()), true));
}

#[test]
fn only_logs_of_services_of_this_group_are_cosigned() {
    let foreign = [
        "demo/log", "demo", "demo/", "other/kv", "demo/a/b", "demo/KV", "demo/k v", "demo//kv", "xdemo/kv",
        "demokv", "",
    ];
    for origin in foreign {
        let mut asked = head(0, 0, 0, 3);
        asked.head.origin = origin.to_owned();
        assert_eq!(cosign(&mut SignState::default(), asked), (Err("NotAuthorized"), false), "{origin:?}");
    }
    assert_eq!(cosign(&mut SignState::default(), head(0, 0, 0, 3)), (Ok(()), true));
}

#[test]
fn a_fork_of_a_services_log_is_refused() {
    let mut state = SignState::default();
    assert_eq!(cosign(&mut state, head(1, 4, 0, 6)), (Ok(()), true));
    assert_eq!(cosign(&mut state, head(2, 4, 0, 6)), (Err("DoubleVote"), false), "another root of this size");
    assert_eq!(
        cosign(&mut state, head(2, 4, 6, 9)),
        (Err("ProofInvalid"), false),
        "a fork that grew past it"
    );
    assert_eq!(
        cosign(&mut state, head(2, 4, 4, 9)),
        (Err("Conflict"), false),
        "a proof from before the fork"
    );
    assert_eq!(cosign(&mut state, head(1, 4, 0, 5)), (Err("Stale"), false), "a smaller head of the same log");
    assert_eq!(cosign(&mut state, head(1, 4, 0, 0)), (Err("Stale"), false));
    assert_eq!(cosign(&mut state, head(1, 4, 6, 9)), (Ok(()), true));
    assert_eq!(cosign(&mut state, head(1, 4, 6, 9)), (Ok(()), false), "the answer may have been lost");
    assert_eq!(state.heads(), [head(1, 4, 0, 9).head]);
}

#[test]
fn a_proof_that_is_wrong_anywhere_is_refused() {
    let mut state = SignState::default();
    assert_eq!(cosign(&mut state, head(0, 0, 0, 6)).0, Ok(()));
    let right = head(0, 0, 6, 11);
    for at in 0..right.proof.len() {
        let mut wrong = right.clone();
        wrong.proof[at][7] ^= 1;
        assert_eq!(cosign(&mut state, wrong), (Err("ProofInvalid"), false), "hash {at}");
        let mut short = right.clone();
        short.proof.remove(at);
        assert_eq!(cosign(&mut state, short), (Err("ProofInvalid"), false), "without hash {at}");
    }
    let mut root = right.clone();
    root.head.root[0] ^= 1;
    assert_eq!(cosign(&mut state, root), (Err("ProofInvalid"), false));
    assert_eq!(cosign(&mut state, right), (Ok(()), true));
}

#[test]
fn there_is_a_most_of_logs() {
    let mut state = SignState::default();
    let named = |number: usize| {
        let mut asked = head(0, 0, 0, 3);
        asked.head.origin = format!("demo/service-{number}");
        asked
    };
    for number in 0..ORIGINS_MAX {
        assert_eq!(cosign(&mut state, named(number)).0, Ok(()));
    }
    assert_eq!(cosign(&mut state, named(ORIGINS_MAX)), (Err("QuotaExceeded"), false));
    assert_eq!(cosign(&mut state, named(0)).0, Ok(()));
}

#[test]
fn the_empty_log_has_one_head() {
    let mut state = SignState::default();
    assert_eq!(cosign(&mut state, head(0, 0, 0, 0)), (Ok(()), false));
    let mut other = head(0, 0, 0, 0);
    other.head.root = [1; 32];
    assert_eq!(cosign(&mut state, other), (Err("DoubleVote"), false));
}

#[test]
fn a_summary_leads_to_the_same_state_and_records_out_of_order_to_none() {
    let mut state = SignState::default();
    for number in (0..9000).step_by(3) {
        assert_eq!(sign(&mut state, (number % 2) as u16, number, 1).0, Ok(()));
    }
    assert_eq!(cosign(&mut state, head(0, 0, 0, 6)).0, Ok(()));
    let summary = state.summary();
    let mut again = SignState::default();
    for promises in &summary {
        again.restore(promises).unwrap();
    }
    assert_eq!(again, state);
    for promises in summary.iter().filter(|promises| !promises.is_empty()) {
        assert_eq!(again.clone().restore(promises), Err(Contradiction), "a record occurs once");
    }
    assert_eq!(again.heads()[0].origin, ORIGIN);
}
