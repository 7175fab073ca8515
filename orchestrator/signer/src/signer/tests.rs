use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use quorate_attest::id::{Epoch, GroupId};
use quorate_attest::key::{SecretKey, Signature};
use quorate_attest::note::{KeyType, SignatureLine, VerifierKey};
use quorate_attest::service::service_checkpoint;

use super::*;
use crate::tests::fixture::{Device, ask, head, keys, rules, statement};

const NOW: u64 = 1_700_000_000;

fn signatures(answer: FromSigner) -> Vec<Result<Signature, String>> {
    let FromSigner::Signed { signatures } = answer else { panic!("{answer:?}") };
    signatures.into_iter().map(|signature| signature.map_err(|refused| refused.kind)).collect()
}

fn sign(signer: &mut Signer<Device>, statements: &[(u16, u64, u8)]) -> Vec<Result<Signature, String>> {
    signatures(signer.handle(NOW, &[ask(statements)]).unwrap().remove(0))
}

fn refused<T>(kind: &str) -> Result<T, String> {
    Err(kind.to_owned())
}

#[test]
fn a_signature_verifies_and_the_same_statement_gets_the_same_signature() {
    let mut signer = Device::initialised().signer();
    let [first] = sign(&mut signer, &[(0, 5, 1)]).try_into().unwrap();
    let first = first.unwrap();
    assert_eq!(keys().vote.public().verify(&statement(0, 5, 1), &first), Ok(()));
    assert_eq!(sign(&mut signer, &[(0, 5, 1), (0, 5, 2)]), [Ok(first), refused("DoubleVote")]);
}

#[test]
fn all_connections_of_a_moment_share_one_sync_and_nothing_new_costs_none() {
    let device = Device::initialised();
    let mut signer = device.signer();
    let before = device.disk().syncs;
    let batch = [ask(&[(0, 1, 1), (0, 2, 1)]), ToSigner::Cosign(head(0, 0, 0, 3)), ask(&[(1, 1, 1)])];
    let answers = signer.handle(NOW, &batch).unwrap();
    assert_eq!(answers.len(), 3);
    // One for the space ahead of the log's end may come on top.
    let after = device.disk().syncs;
    assert!((1..=2).contains(&(after - before)), "{}", after - before);
    assert_eq!(signer.handle(NOW, &batch).unwrap(), answers);
    assert_eq!(device.disk().syncs, after);
}

#[test]
fn a_cosignature_verifies_as_c2sp_under_the_members_name_with_the_signers_time() {
    let mut signer = Device::initialised().signer();
    let asked = head(0, 0, 0, 5);
    let answer = signer.handle(NOW, &[ToSigner::Cosign(asked.clone())]).unwrap().remove(0);
    let FromSigner::Cosigned { line } = answer else { panic!("{answer:?}") };
    let line: SignatureLine = line.parse().unwrap();
    let key = VerifierKey::new("demo/replica-0", KeyType::Cosignature, keys().cosigner.public()).unwrap();
    let text = service_checkpoint("demo", "kv", 5, asked.head.root).unwrap().to_text();
    assert_eq!(key.verify(&text, &line), Ok(Some(NOW)));
}

#[test]
fn promises_outlive_a_kill_and_a_power_cut_before_the_answer() {
    let device = Device::initialised();
    let mut signer = device.signer();
    // The answers are dropped: the process ends after the sync and before the send.
    signer.handle(NOW, &[ask(&[(0, 5, 1)]), ToSigner::Cosign(head(1, 2, 0, 4))]).unwrap();
    for device in [device.after_kill(), device.after_power_cut()] {
        let mut signer = device.signer();
        assert!(
            matches!(&sign(&mut signer, &[(0, 5, 2), (0, 5, 1)])[..], [Err(kind), Ok(_)] if kind == "DoubleVote")
        );
        let fork = signer.handle(NOW, &[ToSigner::Cosign(head(2, 2, 0, 4))]).unwrap().remove(0);
        assert!(matches!(&fork, FromSigner::Refused(refused) if refused.kind == "DoubleVote"), "{fork:?}");
    }
}

#[test]
fn after_a_failed_sync_nothing_is_answered_and_nothing_signed_any_more() {
    let device = Device::initialised();
    let mut signer = device.signer();
    device.disk().broken = true;
    let error = signer.handle(NOW, &[ask(&[(0, 5, 1)])]).unwrap_err();
    assert_eq!((error.kind(), error.exit_code()), ("StorageSyncFailed", 74));
    device.disk().broken = false;
    assert_eq!(signer.handle(NOW, &[ask(&[(0, 6, 1)])]).unwrap_err().kind(), "StorageSyncFailed");
}

#[test]
fn the_sign_log_of_other_keys_or_another_group_is_refused() {
    let device = Device::initialised();
    let other = SecretKey::from_seed([8; 32]);
    let cases = [
        (Rules { group: GroupId::from_bytes([1; 32]), ..rules() }, keys()),
        (rules(), Keys { vote: other.clone(), ..keys() }),
        (rules(), Keys { cosigner: other, ..keys() }),
    ];
    for (rules, keys) in cases {
        let error = device.signer_with(rules, keys).unwrap_err();
        assert_eq!((error.kind(), error.exit_code()), ("SignStateMissing", 78));
    }
    device.signer();
}

#[test]
fn a_later_epoch_keeps_the_promises_of_the_earlier_and_there_is_no_way_back() {
    let device = Device::initialised();
    sign(&mut device.signer(), &[(0, 5, 1)]);
    let next = Rules { epoch: Epoch(4), ..rules() };
    let mut signer = device.signer_with(next.clone(), keys()).unwrap();
    assert_eq!(sign(&mut signer, &[(0, 6, 1)]), [refused("WrongEpoch")]);
    let repeated = |number| {
        let mut receipt = crate::tests::fixture::receipt(0, number, 1);
        receipt.epoch = Epoch(4);
        ToSigner::Sign { statements: vec![receipt.to_statement().encode()] }
    };
    let answers = signer.handle(NOW, &[repeated(5), repeated(6)]).unwrap().into_iter().map(signatures);
    let answers: Vec<_> = answers.flatten().map(|answer| answer.is_ok()).collect();
    assert_eq!(answers, [false, true], "number 5 was signed in the epoch before");
    let error = device.signer_with(rules(), keys()).unwrap_err();
    assert_eq!((error.kind(), error.exit_code()), ("EpochRetired", 78));
    assert!(device.signer_with(next, keys()).is_ok());
}

#[test]
fn the_log_is_replaced_by_a_summary_when_it_is_long_and_nothing_is_forgotten() {
    let device = Device::initialised();
    let mut signer = device.signer();
    signer.handle(NOW, &[ToSigner::Cosign(head(0, 0, 0, 4))]).unwrap();
    let (mut number, mut largest) = (0, 0);
    loop {
        let requests: Vec<_> =
            (number..number + 8192).map(|number| Request::Sign(statement(0, number, 1))).collect();
        // Without the signatures, which take most of the time.
        for effect in signer.state.step(&rules(), &requests) {
            if let Effect::Record(promises) = effect {
                signer.journal.record(&promises, &signer.state).unwrap();
            }
        }
        number += 8192;
        let size = signer.journal.size();
        if size < largest {
            break;
        }
        largest = size;
    }
    assert!(largest > 30 << 20, "{largest}");
    let before = signer.public();
    let mut signer = device.after_power_cut().signer();
    assert_eq!(signer.public(), before);
    let number = number - 1;
    assert_eq!(
        sign(&mut signer, &[(0, number, 2), (0, 0, 1)]),
        [refused("DoubleVote"), refused("StaleSlot")]
    );
}

#[test]
fn a_directory_restored_from_an_old_copy_is_not_noticed_here_but_shown_to_who_asks() {
    let device = Device::initialised();
    let mut signer = device.signer();
    sign(&mut signer, &[(0, 5, 1)]);
    let copy = device.after_kill();
    sign(&mut signer, &[(0, 6, 1)]);
    let (newest, old) = (signer.public(), copy.signer().public());
    assert_eq!((newest.floors[0].newest, old.floors[0].newest), (6, 5), "others can compare");
    let mut restored = copy.signer();
    assert!(sign(&mut restored, &[(0, 6, 2)])[0].is_ok(), "the limit that the crate's documentation states");
}

/// One step of a history.
#[derive(Clone, Debug)]
enum Step {
    /// Requests of several connections at once: statements (service, number, result) and heads (branch, old size, size).
    Ask(Vec<(u16, u64, u8)>, Vec<(u8, u64, u64)>),
    /// The same, but the process is killed before it answers.
    Kill(Vec<(u16, u64, u8)>, Vec<(u8, u64, u64)>),
    /// The same, but the sync fails, and then what was written may be there or not.
    Fail(Vec<(u16, u64, u8)>, bool),
    /// The process is killed between two requests.
    Restart,
}

const FORK: u64 = 3;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let statements = || proptest::collection::vec((0u16..3, 0u64..12, 0u8..3), 0..6);
    let heads = || proptest::collection::vec((1u8..4, 0u64..9, 0u64..9), 0..3);
    let step = prop_oneof![
        6 => (statements(), heads()).prop_map(|(s, h)| Step::Ask(s, h)),
        2 => (statements(), heads()).prop_map(|(s, h)| Step::Kill(s, h)),
        1 => (statements(), any::<bool>()).prop_map(|(s, written)| Step::Fail(s, written)),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 1..24)
}

/// What has left the signer.
#[derive(Default)]
struct Seen {
    statements: BTreeMap<(u16, u64), u8>,
    heads: BTreeSet<(u64, [u8; 32])>,
}

impl Seen {
    fn take(&mut self, batch: &[ToSigner], asked: &[(u16, u64, u8)], answers: Vec<FromSigner>) {
        for (request, answer) in batch.iter().zip(answers) {
            match (request, answer) {
                (ToSigner::Sign { .. }, FromSigner::Signed { signatures }) => {
                    for (&(of, number, result), signature) in asked.iter().zip(signatures) {
                        let Ok(signature) = signature else { continue };
                        assert_eq!(
                            keys().vote.public().verify(&statement(of, number, result), &signature),
                            Ok(())
                        );
                        let known = *self.statements.entry((of, number)).or_insert(result);
                        assert_eq!(known, result, "two receipts of service {of}, number {number}");
                    }
                }
                (ToSigner::Cosign(request), FromSigner::Cosigned { .. }) => {
                    self.heads.insert((request.head.size, request.head.root));
                    let on = |branch: u8| {
                        self.heads.iter().all(|(size, root)| head(branch, FORK, 0, *size).head.root == *root)
                    };
                    assert!((1..4).any(on), "heads of a fork were cosigned: {:?}", self.heads);
                }
                (_, FromSigner::Refused(_)) => {}
                (request, answer) => panic!("{request:?} was answered by {answer:?}"),
            }
        }
    }
}

fn batch(statements: &[(u16, u64, u8)], heads: &[(u8, u64, u64)]) -> Vec<ToSigner> {
    let cosign = |&(branch, old, size): &_| ToSigner::Cosign(head(branch, FORK, old, size));
    [ask(statements)].into_iter().chain(heads.iter().map(cosign)).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn no_sequence_of_requests_and_crashes_gets_two_statements_of_one_number_or_two_logs_signed(steps in steps()) {
        let mut device = Device::initialised();
        let mut signer = device.signer();
        let mut seen = Seen::default();
        for step in steps {
            match step {
                Step::Ask(statements, heads) => {
                    let batch = batch(&statements, &heads);
                    let answers = signer.handle(NOW, &batch).unwrap();
                    seen.take(&batch, &statements, answers);
                }
                Step::Kill(statements, heads) => {
                    signer.handle(NOW, &batch(&statements, &heads)).unwrap();
                    device = device.after_power_cut();
                    signer = device.signer();
                }
                Step::Fail(statements, written) => {
                    device.disk().broken = true;
                    if let Ok(answers) = signer.handle(NOW, &batch(&statements, &[])) {
                        // There was nothing new to make durable.
                        seen.take(&batch(&statements, &[]), &statements, answers);
                    }
                    device = if written { device.after_kill() } else { device.after_power_cut() };
                    signer = device.signer();
                }
                Step::Restart => {
                    device = device.after_power_cut();
                    signer = device.signer();
                }
            }
        }
    }
}
