use crate::fixtures::*;
use proptest::prelude::*;
use quorate_attest::encoding::Bounded;
use quorate_attest::id::{GroupId, Nonce};
use quorate_attest::key::Signature;
use quorate_attest::operation::{COMMAND_LIMIT, OPERATION_LIMIT, Operation};

#[test]
fn test_operation_is_valid_in_its_group_only() {
    let (here, elsewhere) = (group(4, 1), group(7, 2));
    let original = operation(&here);
    assert_eq!(original.verify(&here.id()), Ok(()));
    assert_eq!(original.verify(&elsewhere.id()).map_err(|e| e.kind()), Err("WrongCluster"));
    let moved = Operation { group: elsewhere.id(), ..original };
    assert_eq!(moved.verify(&elsewhere.id()).map_err(|e| e.kind()), Err("BadSignature"));
}

#[test]
fn test_each_changed_field_of_an_operation_is_another_unsigned_operation() {
    let group = group(4, 1);
    let original = operation(&group);
    let changes: [fn(&mut Operation); 4] = [
        |o| o.author = secret(Use::Operator, 1).public(),
        |o| o.nonce = Nonce::ZERO,
        |o| o.command.push(0),
        |o| o.group = GroupId::ZERO,
    ];
    for (number, changed) in each_changed(&original, &changes) {
        assert_ne!(changed.id(), original.id(), "field {number}");
        assert!(changed.verify(&changed.group).is_err(), "field {number}");
    }
}

#[test]
fn test_second_signature_does_not_make_a_second_operation() {
    let group = group(4, 1);
    let original = operation(&group);
    let unsigned = Operation { signature: Signature::from_bytes([1; 64]), ..original.clone() };
    assert_eq!(unsigned.id(), original.id());
    assert!(unsigned.verify(&group.id()).is_err());
}

#[test]
fn test_largest_operation_has_exactly_the_limit_and_one_byte_more_is_refused() {
    let key = secret(Use::Client, 0);
    let largest = Operation::new(&key, GroupId::ZERO, Nonce::ZERO, vec![7; COMMAND_LIMIT]);
    assert_eq!(largest.encoded().len(), OPERATION_LIMIT);
    assert_eq!(Operation::decoded(&largest.encoded()), Ok(largest));
    let larger = Operation::new(&key, GroupId::ZERO, Nonce::ZERO, vec![7; COMMAND_LIMIT + 1]);
    assert_eq!(Operation::decoded(&larger.encoded()).map_err(|e| e.kind()), Err("MessageTooLarge"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn test_one_changed_byte_of_an_operation_never_verifies_as_another(
        command in proptest::collection::vec(any::<u8>(), 0..200),
        at in any::<prop::sample::Index>(),
        flip in 1u8..,
    ) {
        let group = group(4, 1);
        let original = Operation::new(&secret(Use::Client, 1), group.id(), Nonce::ZERO, command);
        let mut bytes = original.encoded();
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        if let Ok(changed) = Operation::decoded(&bytes) {
            prop_assert!(changed.verify(&group.id()).is_err(), "byte {}", at);
        }
    }
}
