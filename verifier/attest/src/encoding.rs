//! The one encoding of everything that is signed, hashed or sent: borsh with strictly ordered collections.
//!
//! Decoding is injective: one value, one byte string. The limit is checked before anything is read, the whole buffer
//! must be used, and the decoded value is encoded again and compared, so that a decoder that is too lenient in one
//! field cannot make two byte strings stand for one value.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use borsh::io::{Error, ErrorKind, Read};
use borsh::{BorshDeserialize, BorshSerialize};

/// Bytes that are not the encoding of a value of the wanted type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// More bytes than the type allows; nothing was read.
    #[error("message of {got} bytes is over the limit of {limit}")]
    MessageTooLarge {
        /// Most bytes allowed.
        limit: usize,
        /// Bytes given.
        got: usize,
    },
    /// The bytes are malformed, truncated, followed by others or not canonical.
    #[error("{name} does not decode at byte {offset}: {reason}")]
    Malformed {
        /// Type that was decoded.
        name: &'static str,
        /// How far reading came.
        offset: usize,
        /// What was wrong there.
        reason: String,
    },
}

impl DecodeError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::MessageTooLarge { .. } => "MessageTooLarge",
            Self::Malformed { .. } => "DecodeError",
        }
    }
}

/// A type that travels, with the most bytes its encoding may have.
pub trait Bounded: BorshSerialize + BorshDeserialize {
    /// Most bytes of an encoding.
    const LIMIT: usize;

    /// The encoding.
    fn encoded(&self) -> Vec<u8> {
        to_bytes(self)
    }

    /// Reads an encoding of at most [`Self::LIMIT`] bytes.
    fn decoded(bytes: &[u8]) -> Result<Self, DecodeError> {
        from_bytes(bytes, Self::LIMIT)
    }
}

/// The encoding of `value`.
///
/// # Panics
///
/// When a collection has more than `u32::MAX` elements, which no type here can hold.
pub fn to_bytes<T: BorshSerialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut bytes = Vec::new();
    let written = value.serialize(&mut bytes);
    assert!(written.is_ok(), "writing into memory failed: {written:?}");
    bytes
}

/// The value whose encoding is exactly `bytes`, of which there may be at most `limit`.
pub fn from_bytes<T>(bytes: &[u8], limit: usize) -> Result<T, DecodeError>
where
    T: BorshSerialize + BorshDeserialize,
{
    if bytes.len() > limit {
        return Err(DecodeError::MessageTooLarge { limit, got: bytes.len() });
    }
    let mut rest = bytes;
    let value = T::deserialize(&mut rest)
        .map_err(|error| malformed::<T>(bytes.len() - rest.len(), error.to_string()))?;
    if !rest.is_empty() {
        return Err(malformed::<T>(bytes.len() - rest.len(), "trailing bytes".to_string()));
    }
    let again = to_bytes(&value);
    if again != bytes {
        let same = again.iter().zip(bytes).take_while(|(a, b)| a == b).count();
        return Err(malformed::<T>(same, "not the canonical encoding".to_string()));
    }
    Ok(value)
}

fn malformed<T>(offset: usize, reason: String) -> DecodeError {
    DecodeError::Malformed { name: short_name::<T>(), offset, reason }
}

fn short_name<T>() -> &'static str {
    let full = core::any::type_name::<T>();
    let plain = full.split('<').next().unwrap_or(full);
    plain.rsplit("::").next().unwrap_or(plain)
}

/// Error for a decoder that refuses a well-formed but forbidden value.
pub(crate) fn invalid(reason: &'static str) -> Error {
    Error::new(ErrorKind::InvalidData, reason)
}

/// Reads bytes whose length prefix is at most `LIMIT`, checked before anything is allocated.
pub fn bounded_bytes<const LIMIT: usize, R: Read>(reader: &mut R) -> borsh::io::Result<Vec<u8>> {
    let length = u32::deserialize_reader(reader)? as usize;
    if length > LIMIT {
        return Err(invalid("length is over the limit"));
    }
    let mut bytes = Vec::new();
    let mut chunk = [0u8; 1024];
    // Grows with what really arrives: a length alone must not reserve memory.
    while bytes.len() < length {
        let take = chunk.len().min(length - bytes.len());
        reader.read_exact(&mut chunk[..take])?;
        bytes.extend_from_slice(&chunk[..take]);
    }
    Ok(bytes)
}

/// Reads UTF-8 text of at most `LIMIT` bytes.
pub fn bounded_text<const LIMIT: usize, R: Read>(reader: &mut R) -> borsh::io::Result<String> {
    let bytes = bounded_bytes::<LIMIT, R>(reader)?;
    String::from_utf8(bytes).map_err(|_| invalid("text is not UTF-8"))
}

/// Reads a list of at most `LIMIT` elements.
pub fn bounded_list<const LIMIT: usize, T: BorshDeserialize, R: Read>(
    reader: &mut R,
) -> borsh::io::Result<Vec<T>> {
    let length = u32::deserialize_reader(reader)? as usize;
    if length > LIMIT {
        return Err(invalid("list is over the limit"));
    }
    (0..length).map(|_| T::deserialize_reader(reader)).collect()
}

/// Whether `text` is 1 to `limit` bytes of `a-z`, `0-9` and `-`: the character set of every name.
pub fn is_name(text: &str, limit: usize) -> bool {
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.len() <= limit && text.bytes().all(allowed)
}

/// Reads a name of at most 64 bytes.
pub(crate) fn name<R: Read>(reader: &mut R) -> borsh::io::Result<String> {
    let text = bounded_text::<64, R>(reader)?;
    if is_name(&text, 64) { Ok(text) } else { Err(invalid("name has a character outside a-z 0-9 -")) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::collections::BTreeMap;
    use alloc::vec;

    #[test]
    fn test_limit_is_checked_before_reading() {
        let error = from_bytes::<Vec<u8>>(&[0xff; 9], 8).unwrap_err();
        assert_eq!(error, DecodeError::MessageTooLarge { limit: 8, got: 9 });
        assert_eq!(error.kind(), "MessageTooLarge");
    }

    #[test]
    fn test_trailing_bytes_are_refused() {
        let error = from_bytes::<u16>(&[1, 0, 0], 8).unwrap_err();
        assert_eq!(error.kind(), "DecodeError");
        assert!(matches!(error, DecodeError::Malformed { name: "u16", offset: 2, .. }), "{error}");
    }

    #[test]
    fn test_unsorted_and_duplicate_map_keys_are_refused() {
        let sorted = to_bytes(&BTreeMap::from([(1u8, 5u8), (2, 6)]));
        assert!(from_bytes::<BTreeMap<u8, u8>>(&sorted, 64).is_ok());
        for pairs in [[2u8, 6, 1, 5], [1, 5, 1, 5]] {
            let mut bytes = vec![2, 0, 0, 0];
            bytes.extend_from_slice(&pairs);
            assert_eq!(from_bytes::<BTreeMap<u8, u8>>(&bytes, 64).unwrap_err().kind(), "DecodeError");
        }
    }

    #[test]
    fn test_decoder_that_normalises_is_caught_by_encoding_again() {
        #[derive(Debug)]
        struct Lenient(u8);
        impl BorshSerialize for Lenient {
            fn serialize<W: borsh::io::Write>(&self, writer: &mut W) -> borsh::io::Result<()> {
                self.0.serialize(writer)
            }
        }
        impl BorshDeserialize for Lenient {
            fn deserialize_reader<R: Read>(reader: &mut R) -> borsh::io::Result<Self> {
                Ok(Self(u8::deserialize_reader(reader)? & 0x7f))
            }
        }
        assert_eq!(from_bytes::<Lenient>(&[0x05], 1).unwrap().0, 5);
        let error = from_bytes::<Lenient>(&[0x85], 1).unwrap_err();
        assert!(matches!(error, DecodeError::Malformed { name: "Lenient", offset: 0, .. }), "{error}");
    }

    #[test]
    fn test_length_prefix_alone_reserves_nothing() {
        let huge = u32::MAX.to_le_bytes();
        assert!(bounded_bytes::<{ usize::MAX }, _>(&mut &huge[..]).is_err());
        assert!(bounded_list::<{ usize::MAX }, u8, _>(&mut &huge[..]).is_err());
        assert!(bounded_bytes::<4, _>(&mut &[5, 0, 0, 0, 1, 2, 3, 4, 5][..]).is_err());
        assert_eq!(bounded_bytes::<5, _>(&mut &[5, 0, 0, 0, 1, 2, 3, 4, 5][..]).unwrap(), [1, 2, 3, 4, 5]);
    }

    #[test]
    fn test_names_have_one_character_set() {
        for good in ["a", "vm-1", &"x".repeat(64)] {
            assert!(is_name(good, 64), "{good}");
        }
        for bad in ["", "A", "a b", "a/b", "..", "é", "a\0", &"x".repeat(65)] {
            assert!(!is_name(bad, 64), "{bad}");
        }
    }
}
