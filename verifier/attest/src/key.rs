//! Ed25519 keys and signatures (RFC 8032) under one strict validation rule.
//!
//! Strict means: S below the group order, canonical encodings of the key and of R, neither of small order. The
//! permissive rule accepts, for the identity point as public key, one signature for *every* message; here such a key
//! does not even decode. Signatures are verified singly, by one function, so all nodes agree about each.

use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use borsh::io::{Read, Write};
use borsh::{BorshDeserialize, BorshSerialize};
use ed25519_dalek::Signer;
use zeroize::Zeroizing;

use crate::encoding::{Bounded, invalid};
use crate::id::{ParseError, from_hex, hex_serde, write_hex};

/// Bytes that are refused as a public key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// No point of the curve has this encoding.
    #[error("public key is no point of the curve")]
    NotAPoint,
    /// The point has another, canonical encoding.
    #[error("public key is not canonically encoded")]
    NonCanonical,
    /// The point has small order: some signature would be valid for every message.
    #[error("public key has small order")]
    SmallOrder,
}

impl KeyError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        "SignatureNonCanonical"
    }

    const fn reason(&self) -> &'static str {
        match self {
            Self::NotAPoint => "no point of the curve",
            Self::NonCanonical => "not canonical",
            Self::SmallOrder => "small order",
        }
    }
}

/// A signature that is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    /// S is not below the group order, or R is not canonical or of small order: malformed, whatever the message.
    #[error("signature is not canonical")]
    NonCanonical,
    /// Well formed, but not of this key over these bytes.
    #[error("signature does not verify")]
    Bad,
}

impl SignatureError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NonCanonical => "SignatureNonCanonical",
            Self::Bad => "BadSignature",
        }
    }
}

/// A public key that passed the strict rule: canonical and not of small order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PublicKey([u8; 32]);

impl PublicKey {
    /// Number of bytes.
    pub const LENGTH: usize = 32;

    /// Stands where there is no client. It is the base point: its private scalar is 1, so nothing may be believed because
    /// of it.
    pub const NOBODY: Self = {
        let mut bytes = [0x66; 32];
        bytes[0] = 0x58;
        Self(bytes)
    };

    /// Checks and wraps the RFC 8032 encoding of a key.
    pub fn from_bytes(bytes: [u8; 32]) -> Result<Self, KeyError> {
        let key = ed25519_dalek::VerifyingKey::from_bytes(&bytes).map_err(|_| KeyError::NotAPoint)?;
        if key.is_weak() {
            return Err(KeyError::SmallOrder);
        }
        if key.to_edwards().compress().to_bytes() != bytes {
            return Err(KeyError::NonCanonical);
        }
        Ok(Self(bytes))
    }

    /// The RFC 8032 encoding.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The RFC 8032 encoding, by value.
    pub const fn to_bytes(self) -> [u8; 32] {
        self.0
    }

    /// Checks that `signature` is this key's over `message`, by the strict rule.
    pub fn verify(&self, message: &[u8], signature: &Signature) -> Result<(), SignatureError> {
        let key = ed25519_dalek::VerifyingKey::from_bytes(&self.0).map_err(|_| SignatureError::Bad)?;
        let parsed = ed25519_dalek::Signature::from_bytes(&signature.0);
        match key.verify_strict(message, &parsed) {
            Ok(()) => Ok(()),
            Err(_) if signature.is_canonical() => Err(SignatureError::Bad),
            Err(_) => Err(SignatureError::NonCanonical),
        }
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(out, &self.0)
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("PublicKey(")?;
        write_hex(out, &self.0[..4])?;
        out.write_str("..)")
    }
}

impl FromStr for PublicKey {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let bytes = from_hex("PublicKey", text)?;
        Self::from_bytes(bytes)
            .map_err(|error| ParseError::Refused { name: "PublicKey", reason: error.reason() })
    }
}

impl BorshSerialize for PublicKey {
    fn serialize<W: Write>(&self, writer: &mut W) -> borsh::io::Result<()> {
        writer.write_all(&self.0)
    }
}

impl BorshDeserialize for PublicKey {
    fn deserialize_reader<R: Read>(reader: &mut R) -> borsh::io::Result<Self> {
        let bytes = <[u8; 32]>::deserialize_reader(reader)?;
        Self::from_bytes(bytes).map_err(|error| invalid(error.reason()))
    }
}

impl Bounded for PublicKey {
    const LIMIT: usize = 32;
}

hex_serde!(PublicKey);

/// The group order, little endian (RFC 8032, section 5.1).
const ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

/// The 64 bytes of an Ed25519 signature, R then S. Whether it is canonical is found out by verifying it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
pub struct Signature([u8; 64]);

impl Signature {
    /// Number of bytes.
    pub const LENGTH: usize = 64;

    /// Placeholder of what is not signed yet; no key verifies it.
    pub const NONE: Self = Self([0; 64]);

    /// Wraps the bytes unchecked.
    pub const fn from_bytes(bytes: [u8; 64]) -> Self {
        Self(bytes)
    }

    /// The bytes, R then S.
    pub const fn as_bytes(&self) -> &[u8; 64] {
        &self.0
    }

    /// The bytes, by value.
    pub const fn to_bytes(self) -> [u8; 64] {
        self.0
    }

    /// Whether S is below the group order and R a canonical point that is not of small order.
    pub fn is_canonical(&self) -> bool {
        let mut r = [0u8; 32];
        r.copy_from_slice(&self.0[..32]);
        self.0[32..].iter().rev().lt(ORDER.iter().rev()) && PublicKey::from_bytes(r).is_ok()
    }
}

impl fmt::Display for Signature {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(out, &self.0)
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("Signature(")?;
        write_hex(out, &self.0[..4])?;
        out.write_str("..)")
    }
}

impl FromStr for Signature {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        from_hex("Signature", text).map(Self)
    }
}

hex_serde!(Signature);

/// A private key. Erased from memory when dropped, never printed.
#[derive(Clone)]
pub struct SecretKey(ed25519_dalek::SigningKey);

impl SecretKey {
    /// The key of an RFC 8032 seed.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        let seed = Zeroizing::new(seed);
        Self(ed25519_dalek::SigningKey::from_bytes(&seed))
    }

    /// The seed, for storing the key.
    pub fn to_seed(&self) -> Zeroizing<[u8; 32]> {
        Zeroizing::new(self.0.to_bytes())
    }

    /// The RFC 8410 PKCS#8 version 1 form, for TLS libraries.
    pub fn to_pkcs8(&self) -> Zeroizing<Vec<u8>> {
        const PREFIX: [u8; 16] =
            [0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20];
        let mut der = Zeroizing::new(Vec::with_capacity(PREFIX.len() + 32));
        der.extend_from_slice(&PREFIX);
        der.extend_from_slice(self.0.as_bytes());
        der
    }

    /// The matching public key.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Signs `message`; the same message gives the same signature.
    pub fn sign(&self, message: &[u8]) -> Signature {
        Signature(self.0.sign(message).to_bytes())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "SecretKey(of {:?})", self.public())
    }
}

#[cfg(test)]
mod tests;
