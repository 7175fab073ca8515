//! Every decoder against hostile bytes: it answers an error or a value whose encoding is those bytes, and never panics.

use crate::fixtures::*;
use crate::golden::{Sample, samples};
use crate::services;
use proptest::prelude::*;
use quorate_attest::certificate::Certificate;
use quorate_attest::encoding::Bounded;
use quorate_attest::receipt::ReceiptCertificate;
use quorate_attest::service::ServiceReceiptCertificate;
use quorate_attest::statement::Kind;
use quorate_attest::vm::*;

fn decode(sample: &Sample, bytes: &[u8]) -> Result<Vec<u8>, &'static str> {
    (sample.again)(bytes).map_err(|error| error.kind())
}

#[test]
fn test_every_sample_decodes_to_itself_within_its_limit() {
    for sample in samples() {
        assert!(sample.bytes.len() <= sample.limit, "{}", sample.name);
        assert_eq!(decode(&sample, &sample.bytes), Ok(sample.bytes.clone()), "{}", sample.name);
    }
}

#[test]
fn test_every_type_of_fixed_size_has_exactly_its_limit() {
    let fixed = [
        "PublicKey",
        "SlotStatement",
        "Proposal",
        "Attestation",
        "Relinquish",
        "Activation",
        "HeadAnswer",
        "Equivocation",
        "DoubleVote",
        "Decision to grant",
        "LogLeaf",
        "Receipt",
        "ServiceReceipt",
        "StateCommitment",
    ];
    for sample in samples().iter().filter(|sample| fixed.contains(&sample.name)) {
        assert_eq!(sample.bytes.len(), sample.limit, "{}", sample.name);
    }
}

#[test]
fn test_truncation_at_each_byte_is_refused() {
    for sample in samples() {
        for length in 0..sample.bytes.len() {
            let verdict = decode(&sample, &sample.bytes[..length]);
            assert_eq!(verdict, Err("DecodeError"), "{} cut at {length}", sample.name);
        }
    }
}

#[test]
fn test_trailing_byte_is_refused() {
    for sample in samples() {
        let longer = [&sample.bytes[..], &[0]].concat();
        let verdict = decode(&sample, &longer);
        let kind = if longer.len() > sample.limit { "MessageTooLarge" } else { "DecodeError" };
        assert_eq!(verdict, Err(kind), "{}", sample.name);
    }
}

#[test]
fn test_oversize_is_refused_before_anything_is_read() {
    for sample in samples() {
        let oversize = vec![0; sample.limit + 1];
        assert_eq!(decode(&sample, &oversize), Err("MessageTooLarge"), "{}", sample.name);
    }
}

#[test]
fn test_certificates_with_more_than_64_signatures_are_refused() {
    let group = group(4, 1);
    let statement = slot(&group, 5);
    let vote = attest(&statement, 0, Mode::Replayed);
    for (count, fits) in [(64, true), (65, false)] {
        let slots = SlotCertificate { statement: statement.clone(), attestations: vec![vote; count] };
        let generic = Certificate {
            statement: statement.to_statement(Kind::SLOT_REPLAYED),
            signatures: vec![(0, vote.signature); count],
        };
        let activated =
            ActivationCertificate { attestations: vec![(0, vote.signature); count], ..activated(&group) };
        let decided = DecisionCertificate {
            signatures: vec![(0, vote.signature); count],
            ..decision_certificate(decision(&group, migrate()), &[0])
        };
        assert_eq!(DecisionCertificate::decoded(&decided.encoded()).is_ok(), fits);
        let received =
            ReceiptCertificate { signatures: vec![(0, vote.signature); count], receipt: receipt(&group) };
        assert_eq!(ReceiptCertificate::decoded(&received.encoded()).is_ok(), fits);
        let executed = ServiceReceiptCertificate {
            signatures: vec![(0, vote.signature); count],
            ..services::certificate(&group, &[0])
        };
        assert_eq!(ServiceReceiptCertificate::decoded(&executed.encoded()).is_ok(), fits);
        assert_eq!(SlotCertificate::decoded(&slots.encoded()).is_ok(), fits);
        assert_eq!(Certificate::decoded(&generic.encoded()).is_ok(), fits);
        assert_eq!(ActivationCertificate::decoded(&activated.encoded()).is_ok(), fits);
    }
}

#[test]
fn test_every_byte_set_to_its_extremes_is_refused_or_another_value() {
    for sample in samples() {
        for at in 0..sample.bytes.len() {
            for value in [0x00, 0x80, 0xff] {
                let mut bytes = sample.bytes.clone();
                bytes[at] = value;
                // A four-byte length at this place becomes huge: it must be refused, not allocated.
                if let Ok(again) = decode(&sample, &bytes) {
                    assert_eq!(again, bytes, "{} byte {at}", sample.name);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn test_mutated_encodings_are_refused_or_canonical(
        changes in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in any::<prop::sample::Index>(),
        repeat in any::<prop::sample::Index>(),
    ) {
        for sample in samples() {
            let mut bytes = sample.bytes.clone();
            for (at, value) in &changes {
                let at = at.index(bytes.len());
                bytes[at] = *value;
            }
            let (cut, repeat) = (cut.index(bytes.len()), repeat.index(bytes.len()));
            let spliced = [&bytes[..cut], &bytes[repeat..]].concat();
            for bytes in [bytes, spliced] {
                if let Ok(again) = decode(&sample, &bytes) {
                    prop_assert_eq!(&again, &bytes, "{}", sample.name);
                }
            }
        }
    }

    #[test]
    fn test_random_bytes_are_refused_or_canonical(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        for sample in samples() {
            if let Ok(again) = decode(&sample, &bytes) {
                prop_assert_eq!(&again, &bytes, "{}", sample.name);
            }
        }
    }
}
