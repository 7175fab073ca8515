use proptest::prelude::*;

use super::*;
use crate::tests::fixture::*;

fn heard(gather: &mut Gather<'_>, replica: u16, receipt: ServiceReceipt) -> &'static str {
    match gather.add(replica, receipt, receipt.sign(&vote_key(replica))) {
        Ok(Heard::Counted) => "counted",
        Ok(Heard::Certified(_)) => "certified",
        Ok(Heard::Contradicts(_)) => "contradicts",
        Err(error) => error.kind(),
    }
}

#[test]
fn a_liar_that_answers_first_is_not_believed_and_f_plus_one_liars_are() {
    let (group, log, lies) = (replicas(), Log::new(5, 1), Log::new(5, 2));
    let mut gather = Gather::new(&group, SERVICE);
    assert_eq!(heard(&mut gather, 0, lies.receipts[4]), "counted");
    assert_eq!(heard(&mut gather, 1, log.receipts[4]), "counted");
    assert_eq!(gather.progress(4), (1, 2));
    assert_eq!(heard(&mut gather, 2, log.receipts[4]), "certified");
    assert_eq!(gather.certified(4).unwrap().receipt, log.receipts[4]);
    let [dissent] = &gather.dissents(4)[..] else { panic!("the liar's signed receipt is at hand") };
    assert_eq!((dissent.replica, dissent.verify(&group)), (0, Ok(())));
    assert_eq!(Dissent::decoded(&dissent.encoded()).as_ref(), Ok(dissent));
    let framed = Dissent { replica: 3, ..dissent.clone() };
    assert_eq!(framed.verify(&group).map_err(|e| e.kind()), Err("BadSignature"));
    let agreeing = Dissent { said: (log.receipts[4], dissent.said.1), ..dissent.clone() };
    assert_eq!(agreeing.verify(&group).map_err(|e| e.kind()), Err("NoConflict"));
    let alone = ServiceReceiptCertificate {
        signatures: dissent.certificate.signatures[..1].to_vec(),
        ..dissent.certificate.clone()
    };
    let unproven = Dissent { certificate: alone, ..dissent.clone() };
    assert_eq!(unproven.verify(&group).map_err(|e| e.kind()), Err("QuorumNotReached"));
    let mut deceived = Gather::new(&group, SERVICE);
    assert_eq!(heard(&mut deceived, 0, lies.receipts[4]), "counted");
    assert_eq!(heard(&mut deceived, 3, lies.receipts[4]), "certified", "one fault too many");
}

#[test]
fn one_replica_is_counted_once_however_often_it_answers() {
    let (group, log) = (replicas(), Log::new(3, 1));
    let mut gather = Gather::new(&group, SERVICE);
    for _ in 0..5 {
        assert_eq!(heard(&mut gather, 1, log.receipts[2]), "counted");
    }
    assert_eq!(gather.progress(2), (1, 2));
}

#[test]
fn two_receipts_of_one_replica_for_one_entry_convict_it_and_nobody_else() {
    let (group, log, other) = (replicas(), Log::new(3, 1), Log::new(3, 2));
    let mut gather = Gather::new(&group, SERVICE);
    assert_eq!(heard(&mut gather, 2, log.receipts[2]), "counted");
    let second = other.receipts[2];
    let Ok(Heard::Contradicts(pair)) = gather.add(2, second, second.sign(&vote_key(2))) else { panic!() };
    assert_eq!(pair.verify(&group), Ok(()));
    assert_eq!(Contradiction::decoded(&pair.encoded()).as_ref(), Ok(&*pair));
    let framed = Contradiction { replica: 1, ..*pair.clone() };
    assert_eq!(framed.verify(&group).map_err(|e| e.kind()), Err("BadSignature"));
    let same = Contradiction { second: pair.first, ..*pair.clone() };
    assert_eq!(same.verify(&group).map_err(|e| e.kind()), Err("NoConflict"));
    let later = log.receipts[1];
    let apart = Contradiction { second: (later, later.sign(&vote_key(2))), ..*pair };
    assert_eq!(apart.verify(&group).map_err(|e| e.kind()), Err("NoConflict"));
}

#[test]
fn receipts_of_other_services_groups_epochs_and_signers_are_refused() {
    let (group, log) = (replicas(), Log::new(3, 1));
    let mut gather = Gather::new(&group, SERVICE);
    let honest = log.receipts[1];
    let cases = [
        (ServiceReceipt { service: ServiceId::ZERO, ..honest }, "WrongVm"),
        (ServiceReceipt { group: quorate_attest::id::GroupId::ZERO, ..honest }, "WrongCluster"),
        (ServiceReceipt { epoch: quorate_attest::id::Epoch(1), ..honest }, "WrongEpoch"),
        (ServiceReceipt { log_size: 9, ..honest }, "Inconsistent"),
    ];
    for (receipt, kind) in cases {
        assert_eq!(heard(&mut gather, 0, receipt), kind);
    }
    let by_another = gather.add(0, honest, honest.sign(&vote_key(1))).map_err(|error| error.kind());
    assert_eq!(by_another, Err("BadSignature"));
    let unknown = gather.add(4, honest, honest.sign(&vote_key(0))).map_err(|error| error.kind());
    assert_eq!(unknown, Err("SignerOutOfRange"));
    assert_eq!(gather.progress(1), (0, 2), "nothing of it was counted");
}

proptest! {
    #[test]
    fn whatever_f_replicas_say_and_in_any_order_only_the_truth_is_certified(
        liar in 0u16..4,
        words in proptest::collection::vec((0u16..4, 0u64..6, 2u8..5), 0..40),
    ) {
        let (group, log) = (replicas(), Log::new(6, 1));
        let mut gather = Gather::new(&group, SERVICE);
        for (replica, number, salt) in words {
            let salt = if replica == liar { salt } else { 1 };
            heard(&mut gather, replica, Log::new(6, salt).receipts[number as usize]);
            if let Some(certificate) = gather.certified(number) {
                prop_assert_eq!(certificate.receipt, log.receipts[number as usize]);
            }
        }
    }

    #[test]
    fn arbitrary_bytes_are_no_evidence(bytes in proptest::collection::vec(any::<u8>(), 0..900)) {
        if let Ok(pair) = Contradiction::decoded(&bytes) {
            prop_assert!(pair.verify(&replicas()).is_err());
        }
    }
}
