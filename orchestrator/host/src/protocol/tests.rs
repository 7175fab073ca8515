//! The messages of queries, damaged.

use proptest::prelude::*;
use quorate_transport::Wire;

use super::*;

fn check<W: Wire + PartialEq + std::fmt::Debug>(
    message: &W,
    at: prop::sample::Index,
    bit: u8,
) -> Result<(), TestCaseError> {
    let body = message.encode_body();
    prop_assert!(Some(body.len()) <= W::limit(message.tag()));
    prop_assert!(W::decode_body(message.tag(), &body).as_ref() == Ok(message));
    prop_assert!(W::decode_body(message.tag(), &body[..at.index(body.len())]).is_err(), "truncated");
    prop_assert!(W::decode_body(message.tag(), &[&body[..], &[0]].concat()).is_err(), "trailing");
    let mut changed = body.clone();
    changed[at.index(body.len())] ^= 1 << (bit % 8);
    if let Ok(other) = W::decode_body(message.tag(), &changed) {
        prop_assert!(other != *message);
        prop_assert_eq!(other.encode_body(), changed, "one encoding only");
    }
    Ok(())
}

proptest! {
    #[test]
    fn damaged_queries_and_answers_are_refused_or_are_other_messages(
        request in prop::collection::vec(any::<u8>(), 0..200),
        outputs in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..50), 0..QUERIED_OUTPUTS_MAX),
        inputs in any::<u64>(),
        at in any::<prop::sample::Index>(),
        bit in any::<u8>(),
    ) {
        check(&ToHost::from(Query { vm: VmId::from_bytes([3; 32]), request }), at, bit)?;
        check(&FromHost::from(Queried { outputs, inputs }), at, bit)?;
    }

    #[test]
    fn any_bytes_as_a_query_or_answer_decode_to_what_encodes_to_them_or_not_at_all(
        bytes in prop::collection::vec(any::<u8>(), 0..600),
    ) {
        if let Ok(message) = ToHost::decode_body(7, &bytes) {
            prop_assert_eq!(message.encode_body(), bytes.clone());
        }
        if let Ok(message) = FromHost::decode_body(10, &bytes) {
            prop_assert_eq!(message.encode_body(), bytes);
        }
    }
}

#[test]
fn largest_query_and_answer_fit_and_a_longer_one_is_refused_by_its_header() {
    let query = ToHost::from(Query { vm: VmId::from_bytes([3; 32]), request: vec![7; CALL_BYTES_MAX] });
    assert_eq!(query.tag(), 7);
    assert!(Some(query.encode_body().len()) <= ToHost::limit(7));
    let mut outputs = vec![vec![7; CALL_BYTES_MAX / QUERIED_OUTPUTS_MAX]; QUERIED_OUTPUTS_MAX];
    let queried = FromHost::from(Queried { outputs: outputs.clone(), inputs: u64::MAX });
    assert_eq!(queried.tag(), 10);
    assert!(Some(queried.encode_body().len()) <= FromHost::limit(10));
    outputs[0].extend([0; 16]);
    let larger = FromHost::from(Queried { outputs, inputs: 0 });
    assert!(Some(larger.encode_body().len()) > FromHost::limit(10));
    for (head, limit) in [([7], ToHost::limit(7)), ([10], FromHost::limit(10))] {
        let length = (limit.unwrap() as u32 + 1).to_le_bytes();
        let frame = [head[0], length[0], length[1], length[2], length[3]];
        let kind = match head {
            [7] => quorate_transport::Header::decode::<ToHost>(frame).unwrap_err().kind(),
            _ => quorate_transport::Header::decode::<FromHost>(frame).unwrap_err().kind(),
        };
        assert_eq!(kind, "MessageTooLarge");
    }
}
