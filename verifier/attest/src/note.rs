//! C2SP signed notes: a text with signature lines, and the keys that verify them ([c2sp.org/signed-note]).
//!
//! Signatures of unknown keys are ignored, as other tools add theirs; one bad signature of a *known* key refuses the
//! whole note. An [`Assembler`] therefore verifies each line before it adds it.
//!
//! [c2sp.org/signed-note]: https://c2sp.org/signed-note

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;
use core::str::FromStr;

use base64ct::{Base64, Encoding};
use sha2::{Digest as _, Sha256};

use crate::cosignature;
use crate::key::{PublicKey, SecretKey, Signature, SignatureError};

/// Most bytes of a note.
pub const NOTE_LIMIT: usize = 512 * 1024;

/// Most signature lines of a note.
pub const LINES_LIMIT: usize = 128;

/// A note, checkpoint, cosignature or verifier key that is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// The text does not follow its format.
    #[error("{what} is malformed: {reason}")]
    Malformed {
        /// What was read.
        what: &'static str,
        /// The rule it breaks.
        reason: &'static str,
    },
    /// More bytes or lines than allowed.
    #[error("{what} of {got} is over the limit of {limit}")]
    TooLarge {
        /// What is too large.
        what: &'static str,
        /// Most allowed.
        limit: usize,
        /// Found.
        got: usize,
    },
    /// A signature by a known key does not verify.
    #[error("signature of {name} does not verify")]
    BadSignature {
        /// Name of the key.
        name: String,
    },
    /// A signature by a known key is malformed, whatever it signs.
    #[error("signature of {name} is not canonical")]
    SignatureNonCanonical {
        /// Name of the key.
        name: String,
    },
    /// The line's name and key id belong to no known key.
    #[error("{name} is not a known key")]
    UnknownKey {
        /// Name on the line.
        name: String,
    },
    /// The key has a line already.
    #[error("{name} signed already")]
    DuplicateSigner {
        /// Name of the key.
        name: String,
    },
}

impl NoteError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => "DecodeError",
            Self::TooLarge { .. } => "MessageTooLarge",
            Self::BadSignature { .. } => "BadSignature",
            Self::SignatureNonCanonical { .. } => "SignatureNonCanonical",
            Self::UnknownKey { .. } => "SignerNotMember",
            Self::DuplicateSigner { .. } => "DuplicateSigner",
        }
    }

    pub(crate) fn signature(name: &str, error: SignatureError) -> Self {
        let name = name.to_string();
        match error {
            SignatureError::Bad => Self::BadSignature { name },
            SignatureError::NonCanonical => Self::SignatureNonCanonical { name },
        }
    }
}

pub(crate) const fn malformed(what: &'static str, reason: &'static str) -> NoteError {
    NoteError::Malformed { what, reason }
}

/// What a key signs with. The byte is part of the key id, so one key may serve two of them without ambiguity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum KeyType {
    /// Ed25519 over the note text.
    Ed25519,
    /// cosignature/v1: Ed25519 over a time and the checkpoint.
    Cosignature,
}

impl KeyType {
    /// The byte C2SP assigned.
    pub const fn byte(self) -> u8 {
        match self {
            Self::Ed25519 => 0x01,
            Self::Cosignature => 0x04,
        }
    }

    fn from_byte(byte: u8) -> Result<Self, NoteError> {
        match byte {
            0x01 => Ok(Self::Ed25519),
            0x04 => Ok(Self::Cosignature),
            _ => Err(malformed("verifier key", "signature type is not supported")),
        }
    }
}

/// A named public key in C2SP's text form (vkey): `name+id+base64(type || key)`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VerifierKey {
    name: String,
    key_type: KeyType,
    key: PublicKey,
}

impl VerifierKey {
    /// A key under a name, which must not be empty nor contain spaces or `+`.
    pub fn new(name: &str, key_type: KeyType, key: PublicKey) -> Result<Self, NoteError> {
        check_name(name)?;
        Ok(Self { name: name.to_string(), key_type, key })
    }

    /// Name on the key's signature lines.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What the key signs with.
    pub fn key_type(&self) -> KeyType {
        self.key_type
    }

    /// The key itself.
    pub fn key(&self) -> &PublicKey {
        &self.key
    }

    /// First four bytes of SHA-256(name, newline, type, key): tells lines apart, proves nothing.
    pub fn id(&self) -> [u8; 4] {
        let hash = Sha256::new()
            .chain_update(&self.name)
            .chain_update([b'\n', self.key_type.byte()])
            .chain_update(self.key.as_bytes())
            .finalize();
        [hash[0], hash[1], hash[2], hash[3]]
    }

    /// Whether the line claims to be by this key.
    pub fn owns(&self, line: &SignatureLine) -> bool {
        line.name == self.name && line.key_id == self.id()
    }

    /// Checks a line that this key owns, over the note text; answers the time for a cosignature.
    pub fn verify(&self, text: &str, line: &SignatureLine) -> Result<Option<u64>, NoteError> {
        if !self.owns(line) {
            return Err(NoteError::UnknownKey { name: line.name.clone() });
        }
        match self.key_type {
            KeyType::Cosignature => cosignature::verify(self, text, line).map(Some),
            KeyType::Ed25519 => {
                let bytes = <[u8; 64]>::try_from(&line.signature[..])
                    .map_err(|_| malformed("signature line", "Ed25519 signature has not 64 bytes"))?;
                let verified = self.key.verify(text.as_bytes(), &Signature::from_bytes(bytes));
                verified.map(|()| None).map_err(|error| NoteError::signature(&self.name, error))
            }
        }
    }
}

impl fmt::Display for VerifierKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [self.key_type.byte(); 33];
        bytes[1..].copy_from_slice(self.key.as_bytes());
        let [a, b, c, d] = self.id();
        write!(out, "{}+{a:02x}{b:02x}{c:02x}{d:02x}+{}", self.name, Base64::encode_string(&bytes))
    }
}

impl FromStr for VerifierKey {
    type Err = NoteError;
    fn from_str(text: &str) -> Result<Self, NoteError> {
        let mut parts = text.splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(malformed("verifier key", "needs name+id+key"));
        };
        let bytes =
            Base64::decode_vec(key).map_err(|_| malformed("verifier key", "key is not standard base64"))?;
        let Some((key_type, key)) = bytes.split_first() else {
            return Err(malformed("verifier key", "key is empty"));
        };
        let key_type = KeyType::from_byte(*key_type)?;
        let key = <[u8; 32]>::try_from(key).map_err(|_| malformed("verifier key", "key has not 32 bytes"))?;
        let key = PublicKey::from_bytes(key).map_err(|_| malformed("verifier key", "key is refused"))?;
        let parsed = Self::new(name, key_type, key)?;
        let [a, b, c, d] = parsed.id();
        if id != format!("{a:02x}{b:02x}{c:02x}{d:02x}") {
            return Err(malformed("verifier key", "id does not match name and key"));
        }
        Ok(parsed)
    }
}

fn check_name(name: &str) -> Result<(), NoteError> {
    let refused = |c: char| c.is_whitespace() || c.is_control() || c == '+';
    if name.is_empty() || name.contains(refused) {
        return Err(malformed("key name", "is empty or has a space, control character or +"));
    }
    Ok(())
}

/// One line `— name base64(key id || signature)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignatureLine {
    /// Name of the key.
    pub name: String,
    /// Id of the key.
    pub key_id: [u8; 4],
    /// What follows the id: layout by key type.
    pub signature: Vec<u8>,
}

impl SignatureLine {
    /// Signs a note text as `name` with an Ed25519 note key.
    pub fn sign(name: &str, key: &SecretKey, text: &str) -> Result<Self, NoteError> {
        let verifier = VerifierKey::new(name, KeyType::Ed25519, key.public())?;
        let signature = key.sign(text.as_bytes()).as_bytes().to_vec();
        Ok(Self { name: name.to_string(), key_id: verifier.id(), signature })
    }
}

impl fmt::Display for SignatureLine {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes = [&self.key_id[..], &self.signature].concat();
        write!(out, "— {} {}", self.name, Base64::encode_string(&bytes))
    }
}

impl FromStr for SignatureLine {
    type Err = NoteError;
    fn from_str(line: &str) -> Result<Self, NoteError> {
        const WHAT: &str = "signature line";
        let rest = line.strip_prefix("— ").ok_or(malformed(WHAT, "does not start with an em dash"))?;
        let (name, signature) = rest.split_once(' ').ok_or(malformed(WHAT, "has no signature"))?;
        check_name(name)?;
        let bytes =
            Base64::decode_vec(signature).map_err(|_| malformed(WHAT, "signature is not standard base64"))?;
        let Some((key_id, signature)) = bytes.split_first_chunk::<4>().filter(|(_, rest)| !rest.is_empty())
        else {
            return Err(malformed(WHAT, "signature is too short"));
        };
        Ok(Self { name: name.to_string(), key_id: *key_id, signature: signature.to_vec() })
    }
}

/// A text with its signature lines. Reading one proves nothing: see [`Note::verify`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    text: String,
    lines: Vec<SignatureLine>,
}

/// A known key that signed a note.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VerifiedLine {
    /// Place of the key in the list that was given.
    pub key: usize,
    /// Time of a cosignature, in seconds of POSIX time, as its signer claims.
    pub timestamp: Option<u64>,
}

impl Note {
    /// A note of a text, which must end in a newline, and its lines.
    pub fn new(text: &str, lines: Vec<SignatureLine>) -> Result<Self, NoteError> {
        check_text(text)?;
        if lines.is_empty() {
            return Err(malformed("note", "has no signature line"));
        }
        if lines.len() > LINES_LIMIT {
            return Err(NoteError::TooLarge { what: "note", limit: LINES_LIMIT, got: lines.len() });
        }
        Ok(Self { text: text.to_string(), lines })
    }

    /// Reads a note; the text ends before the last empty line.
    pub fn parse(note: &str) -> Result<Self, NoteError> {
        if note.len() > NOTE_LIMIT {
            return Err(NoteError::TooLarge { what: "note", limit: NOTE_LIMIT, got: note.len() });
        }
        let end = note.rfind("\n\n").ok_or(malformed("note", "has no empty line before its signatures"))?;
        let (text, signatures) = (&note[..=end], &note[end + 2..]);
        let signatures =
            signatures.strip_suffix('\n').ok_or(malformed("note", "does not end in a newline"))?;
        let got = signatures.split('\n').count();
        if got > LINES_LIMIT {
            return Err(NoteError::TooLarge { what: "note", limit: LINES_LIMIT, got });
        }
        let lines = signatures.split('\n').map(str::parse).collect::<Result<_, _>>()?;
        Self::new(text, lines)
    }

    /// What is signed, with its final newline.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// All signature lines, of known and unknown keys.
    pub fn lines(&self) -> &[SignatureLine] {
        &self.lines
    }

    /// The keys that signed, each once. A bad line of a known key refuses the note; lines of others are ignored.
    pub fn verify(&self, keys: &[VerifierKey]) -> Result<Vec<VerifiedLine>, NoteError> {
        let mut verified: Vec<VerifiedLine> = Vec::new();
        for line in &self.lines {
            for (key, verifier) in keys.iter().enumerate().filter(|(_, verifier)| verifier.owns(line)) {
                let timestamp = verifier.verify(&self.text, line)?;
                if !verified.iter().any(|known| known.key == key) {
                    verified.push(VerifiedLine { key, timestamp });
                }
            }
        }
        Ok(verified)
    }
}

impl fmt::Display for Note {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(out, "{}", self.text)?;
        self.lines.iter().try_for_each(|line| writeln!(out, "{line}"))
    }
}

impl FromStr for Note {
    type Err = NoteError;
    fn from_str(note: &str) -> Result<Self, NoteError> {
        Self::parse(note)
    }
}

fn check_text(text: &str) -> Result<(), NoteError> {
    if !text.ends_with('\n') {
        return Err(malformed("note", "text does not end in a newline"));
    }
    if text.bytes().any(|byte| byte < 0x20 && byte != b'\n') {
        return Err(malformed("note", "text has a control character"));
    }
    Ok(())
}

/// Collects signature lines for one text. Each is verified before it is added, so that one Byzantine signer cannot make
/// conforming verifiers refuse the whole note.
#[derive(Debug, Clone)]
pub struct Assembler {
    text: String,
    keys: Vec<VerifierKey>,
    lines: Vec<SignatureLine>,
}

impl Assembler {
    /// Starts with a text and the keys whose lines are wanted.
    pub fn new(text: &str, keys: Vec<VerifierKey>) -> Result<Self, NoteError> {
        check_text(text)?;
        Ok(Self { text: text.to_string(), keys, lines: Vec::new() })
    }

    /// Verifies and adds a line; answers how many there are. A refused one changes nothing, and the error names its key.
    pub fn add(&mut self, line: SignatureLine) -> Result<usize, NoteError> {
        let unknown = || NoteError::UnknownKey { name: line.name.clone() };
        let key = self.keys.iter().find(|key| key.owns(&line)).ok_or_else(unknown)?;
        if self.lines.iter().any(|known| key.owns(known)) {
            return Err(NoteError::DuplicateSigner { name: line.name });
        }
        key.verify(&self.text, &line)?;
        self.lines.push(line);
        Ok(self.lines.len())
    }

    /// The note of all lines so far; refused while there is none.
    pub fn note(&self) -> Result<Note, NoteError> {
        Note::new(&self.text, self.lines.clone())
    }
}

#[cfg(test)]
mod tests;
