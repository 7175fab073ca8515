//! Newtypes for numbers and digests, so that two of them cannot be swapped.
//!
//! Digests are 32 opaque bytes. Their text form is 64 lower-case hexadecimal digits and nothing else is parsed.

use alloc::string::String;
use core::fmt;
use core::str::FromStr;

use borsh::{BorshDeserialize, BorshSerialize};

/// A text that is not the hexadecimal form of the type it was parsed as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// The text has another length.
    #[error("{name} needs {want} hexadecimal digits, got {got} bytes")]
    Length {
        /// Type that was parsed.
        name: &'static str,
        /// Digits needed.
        want: usize,
        /// Bytes given.
        got: usize,
    },
    /// A byte is not a lower-case hexadecimal digit.
    #[error("{name} has a byte at {offset} that is no lower-case hexadecimal digit")]
    Digit {
        /// Type that was parsed.
        name: &'static str,
        /// Where the byte stands.
        offset: usize,
    },
    /// The bytes are well formed but are no value of the type (a refused public key).
    #[error("{name} is refused: {reason}")]
    Refused {
        /// Type that was parsed.
        name: &'static str,
        /// Rule that refused it.
        reason: &'static str,
    },
}

impl ParseError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        "DecodeError"
    }
}

const HEX_DIGITS: &[u8; 16] = b"0123456789abcdef";

/// Lower-case hexadecimal text of `bytes`.
pub fn to_hex(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(HEX_DIGITS[usize::from(byte >> 4)] as char);
        text.push(HEX_DIGITS[usize::from(byte & 0xf)] as char);
    }
    text
}

/// Bytes of a lower-case hexadecimal text of exactly `2 * N` digits; `name` is used in the error.
pub fn from_hex<const N: usize>(name: &'static str, text: &str) -> Result<[u8; N], ParseError> {
    let digits = text.as_bytes();
    if digits.len() != N * 2 {
        return Err(ParseError::Length { name, want: N * 2, got: digits.len() });
    }
    let mut bytes = [0u8; N];
    for (index, pair) in digits.chunks_exact(2).enumerate() {
        let high = nibble(pair[0]).ok_or(ParseError::Digit { name, offset: index * 2 })?;
        let low = nibble(pair[1]).ok_or(ParseError::Digit { name, offset: index * 2 + 1 })?;
        bytes[index] = high << 4 | low;
    }
    Ok(bytes)
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

macro_rules! opaque_bytes {
    ($($(#[$meta:meta])* $name:ident[$length:literal];)*) => { $(
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, BorshSerialize, BorshDeserialize)]
        pub struct $name([u8; $length]);

        impl $name {
            /// Number of bytes.
            pub const LENGTH: usize = $length;
            /// All bytes zero: "none" where a field allows it.
            pub const ZERO: Self = Self([0; $length]);

            /// Wraps the bytes; every value is valid.
            pub const fn from_bytes(bytes: [u8; $length]) -> Self {
                Self(bytes)
            }

            /// The bytes.
            pub const fn as_bytes(&self) -> &[u8; $length] {
                &self.0
            }

            /// The bytes, by value.
            pub const fn to_bytes(self) -> [u8; $length] {
                self.0
            }
        }

        impl From<[u8; $length]> for $name {
            fn from(bytes: [u8; $length]) -> Self {
                Self(bytes)
            }
        }

        impl AsRef<[u8]> for $name {
            fn as_ref(&self) -> &[u8] {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                write_hex(out, &self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str(concat!(stringify!($name), "("))?;
                write_hex(out, &self.0[..4])?;
                out.write_str("..)")
            }
        }

        impl FromStr for $name {
            type Err = ParseError;
            fn from_str(text: &str) -> Result<Self, ParseError> {
                from_hex(stringify!($name), text).map(Self)
            }
        }

        hex_serde!($name);
    )* };
}

impl ServiceId {
    /// The service as an instance: what statements about it and requests to it name in the place of a VM.
    pub const fn instance(self) -> VmId {
        VmId::from_bytes(self.0)
    }
}

/// Implements serde through `Display` and `FromStr`, when the feature is on.
macro_rules! hex_serde {
    ($name:ident) => {
        #[cfg(feature = "serde")]
        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        #[cfg(feature = "serde")]
        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <alloc::string::String as serde::Deserialize>::deserialize(deserializer)?;
                text.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use hex_serde;

pub(crate) fn write_hex(out: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}"))
}

opaque_bytes! {
    /// A group of nodes: SHA-256 of its genesis configuration, in every epoch.
    GroupId[32];
    /// SHA-256 of a group's configuration in one epoch.
    ConfigDigest[32];
    /// A VM: digest of its specification ([`crate::vm::VmSpec::id`]).
    VmId[32];
    /// An ordered service: digest of its specification ([`crate::service::ServiceSpec::id`]).
    ServiceId[32];
    /// SHA-256 of an image (a guest ELF file).
    ImageDigest[32];
    /// BLAKE3 tree root over all memory pages of a machine.
    PageRoot[32];
    /// Digest of the canonical register state.
    CpuDigest[32];
    /// Digest of the device state.
    DeviceDigest[32];
    /// SHA-256 tree root over all inputs a VM has consumed so far.
    InputRoot[32];
    /// SHA-256 tree root over the outputs of one transition.
    OutputRoot[32];
    /// SHA-256 of the encoding of a statement.
    StatementDigest[32];
    /// An operation of the ordered log: SHA-256 of its encoding without the signature.
    OperationId[32];
    /// Digest of the host features that execution depends on.
    PlatformClass[32];
    /// Sixteen bytes that its maker uses once.
    Nonce[16];
}

macro_rules! number {
    ($($(#[$meta:meta])* $name:ident;)*) => { $(
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, BorshSerialize, BorshDeserialize)]
        #[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize), serde(transparent))]
        pub struct $name(pub u64);

        impl $name {
            /// The first one.
            pub const ZERO: Self = Self(0);

            /// The number itself.
            pub const fn get(self) -> u64 {
                self.0
            }

            /// The successor; none after `u64::MAX`.
            pub const fn next(self) -> Option<Self> {
                match self.0.checked_add(1) {
                    Some(next) => Some(Self(next)),
                    None => None,
                }
            }

            /// The predecessor; none before zero.
            pub const fn previous(self) -> Option<Self> {
                match self.0.checked_sub(1) {
                    Some(previous) => Some(Self(previous)),
                    None => None,
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, out)
            }
        }
    )* };
}

number! {
    /// Number of a VM's certified checkpoint.
    Slot;
    /// Fencing number of a VM's active instance; rises by one at each activation.
    Generation;
    /// Version of a group's membership.
    Epoch;
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::ToString;

    #[test]
    fn test_text_form_of_a_digest_is_lower_case_hex_and_parses_back() {
        let id = VmId::from_bytes(core::array::from_fn(|i| i as u8 * 7));
        assert_eq!(id.to_string().parse::<VmId>(), Ok(id));
        assert_eq!(id.to_string(), to_hex(id.as_bytes()));
        assert_eq!(format!("{id:?}"), "VmId(00070e15..)");
    }

    #[test]
    fn test_upper_case_short_and_foreign_digits_are_refused() {
        let text = "ab".repeat(32);
        assert!(text.parse::<VmId>().is_ok());
        let upper = text.to_uppercase().parse::<VmId>();
        assert_eq!(upper, Err(ParseError::Digit { name: "VmId", offset: 0 }));
        assert_eq!(text[1..].parse::<VmId>(), Err(ParseError::Length { name: "VmId", want: 64, got: 63 }));
        let foreign = format!("{}é", &text[..62]);
        assert_eq!(foreign.parse::<VmId>(), Err(ParseError::Digit { name: "VmId", offset: 62 }));
        assert_eq!("x".repeat(32).parse::<Nonce>().map_err(|e| e.kind()), Err("DecodeError"));
    }

    #[test]
    fn test_numbers_do_not_wrap() {
        assert_eq!(Slot(u64::MAX).next(), None);
        assert_eq!(Slot(4).next(), Some(Slot(5)));
        assert_eq!(Generation::ZERO.previous(), None);
        assert_eq!(Epoch(1).previous(), Some(Epoch(0)));
    }

    #[cfg(feature = "serde")]
    #[test]
    fn test_serde_form_is_the_text_form() {
        let nonce = Nonce::from_bytes([0xa5; 16]);
        let json = serde_json::to_string(&(nonce, Slot(3))).unwrap();
        assert_eq!(json, format!("[\"{nonce}\",3]"));
        assert_eq!(serde_json::from_str::<(Nonce, Slot)>(&json).unwrap(), (nonce, Slot(3)));
        assert!(serde_json::from_str::<Nonce>("\"A5\"").is_err());
    }
}
