//! C2SP cosignature/v1 ([c2sp.org/tlog-cosignature]): "at this time, this is the largest consistent tree of this origin
//! that I have seen".
//!
//! The time is an argument: nothing here reads a clock, and nothing that is attested may depend on it. The signed bytes do
//! not name the cosigner, so a cosigner's key must serve no other cosigner ([`crate::group::GroupConfig::validate`]).
//!
//! [c2sp.org/tlog-cosignature]: https://c2sp.org/tlog-cosignature

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::checkpoint::Checkpoint;
use crate::key::{SecretKey, Signature};
use crate::note::{KeyType, NoteError, SignatureLine, VerifierKey, malformed};

/// Latest time that can be signed.
pub const TIMESTAMP_MAX: u64 = i64::MAX as u64;

/// What is signed: a header, the time and the whole checkpoint text.
fn message(timestamp: u64, text: &str) -> String {
    format!("cosignature/v1\ntime {timestamp}\n{text}")
}

/// Cosigns a checkpoint as `name` at `timestamp` (POSIX seconds, at most [`TIMESTAMP_MAX`]).
pub fn cosign(
    name: &str,
    key: &SecretKey,
    timestamp: u64,
    checkpoint: &Checkpoint,
) -> Result<SignatureLine, NoteError> {
    if timestamp > TIMESTAMP_MAX {
        return Err(malformed("cosignature", "time is over 2^63 - 1"));
    }
    let verifier = VerifierKey::new(name, KeyType::Cosignature, key.public())?;
    let signature = key.sign(message(timestamp, &checkpoint.to_text()).as_bytes());
    let bytes: Vec<u8> = [&timestamp.to_be_bytes()[..], signature.as_bytes()].concat();
    Ok(SignatureLine { name: name.to_string(), key_id: verifier.id(), signature: bytes })
}

/// Checks a cosignature line of `key` over a checkpoint text; answers its time.
pub(crate) fn verify(key: &VerifierKey, text: &str, line: &SignatureLine) -> Result<u64, NoteError> {
    // A cosignature on anything but a checkpoint has no meaning.
    Checkpoint::parse(text)?;
    let bytes = <[u8; 72]>::try_from(&line.signature[..])
        .map_err(|_| malformed("signature line", "cosignature has not 72 bytes"))?;
    let (mut time, mut signature) = ([0u8; 8], [0u8; 64]);
    time.copy_from_slice(&bytes[..8]);
    signature.copy_from_slice(&bytes[8..]);
    let timestamp = u64::from_be_bytes(time);
    if timestamp > TIMESTAMP_MAX {
        return Err(malformed("cosignature", "time is over 2^63 - 1"));
    }
    key.key()
        .verify(message(timestamp, text).as_bytes(), &Signature::from_bytes(signature))
        .map_err(|error| NoteError::signature(key.name(), error))?;
    Ok(timestamp)
}
