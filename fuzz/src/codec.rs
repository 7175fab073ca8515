//! What holds of every encoding, whatever type it is of.

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::encoding::{Bounded, DecodeError, from_bytes, to_bytes};

/// Decodes. What decodes has this one encoding, and neither less nor more of it is a value of the type too.
pub(crate) fn read<T: BorshSerialize + BorshDeserialize>(bytes: &[u8], limit: usize) -> Option<T> {
    let value: T = match from_bytes(bytes, limit) {
        Ok(value) => value,
        Err(DecodeError::MessageTooLarge { limit, got }) => {
            assert!(got > limit, "{got} bytes are refused for a limit of {limit}");
            return None;
        }
        Err(DecodeError::Malformed { offset, .. }) => {
            assert!(offset <= bytes.len(), "an error at byte {offset} of {}", bytes.len());
            return None;
        }
    };
    assert_eq!(to_bytes(&value), bytes, "encoded again");
    if let Some((_, shorter)) = bytes.split_last() {
        let shorter = &bytes[..shorter.len()];
        assert!(from_bytes::<T>(shorter, limit).is_err(), "a truncated encoding decodes");
    }
    let longer = [bytes, &[0]].concat();
    assert!(from_bytes::<T>(&longer, limit).is_err(), "an encoding with a byte behind it decodes");
    Some(value)
}

/// [`read`] with the type's own limit.
pub(crate) fn bounded<T: Bounded>(bytes: &[u8]) -> Option<T> {
    read(bytes, T::LIMIT)
}
