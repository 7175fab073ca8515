//! What goes over the socket: a length in four little-endian bytes, then that many bytes of strict borsh.
//!
//! One answer follows each request, in order. A frame that is too large or does not decode is answered with [`FromSigner::Refused`], and the
//! connection ends: what follows it cannot be told apart.

use std::io;
use std::time::Duration;

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::encoding::{Bounded, DecodeError, bounded_bytes, bounded_list, bounded_text};
use quorate_attest::id::{StatementDigest, VmId};
use quorate_attest::key::{PublicKey, Signature};
use quorate_attest::merkle::{Digest, PROOF_LIMIT};
use quorate_attest::statement::{Kind, Statement};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::state::{INSTANCES_MAX, ORIGINS_MAX};

/// Most bytes of a frame.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// Most statements of a request.
pub const STATEMENTS_MAX: usize = 2048;
/// Most bytes of an origin: two names and a slash.
pub const ORIGIN_BYTES_MAX: usize = 129;
/// Most bytes of the text of a refusal.
pub const DETAIL_BYTES_MAX: usize = 256;
/// Most bytes of the identifier of a refusal.
const KIND_BYTES_MAX: usize = 64;
/// Most bytes of a signature line.
const LINE_BYTES_MAX: usize = 512;

/// Head of a log.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Head {
    /// C2SP origin of the log.
    #[borsh(deserialize_with = "bounded_text::<ORIGIN_BYTES_MAX, _>")]
    pub origin: String,
    /// Entries.
    pub size: u64,
    /// RFC 6962 root over them.
    pub root: Digest,
}

/// Asks for a cosignature.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct CosignRequest {
    /// Size at which the proof begins: that of the newest head cosigned, 0 for the first.
    pub old_size: u64,
    /// What shall be cosigned.
    pub head: Head,
    /// RFC 6962 consistency proof between them.
    #[borsh(deserialize_with = "bounded_list::<PROOF_LIMIT, _, _>")]
    pub proof: Vec<Digest>,
}

/// A request.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum ToSigner {
    /// Signatures of the vote key.
    Sign {
        /// Encodings of statements.
        #[borsh(deserialize_with = "statements")]
        statements: Vec<Vec<u8>>,
    },
    /// A signature of the cosigner key.
    Cosign(CosignRequest),
    /// Who signs, and what was signed last.
    Public,
}

/// What is remembered of one service and kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Floor {
    /// Service.
    pub instance: VmId,
    /// Kind.
    pub kind: Kind,
    /// Lowest number that may be signed again.
    pub lowest: u64,
    /// Highest number signed.
    pub newest: u64,
    /// What was signed there.
    pub digest: StatementDigest,
}

/// Who signs, and what was signed last.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Public {
    /// Key of receipts.
    pub vote: PublicKey,
    /// Key of cosignatures.
    pub cosigner: PublicKey,
    /// Name on the cosignatures' lines: that of the group, a slash, that of the member.
    #[borsh(deserialize_with = "bounded_text::<ORIGIN_BYTES_MAX, _>")]
    pub cosigner_name: String,
    /// Services.
    #[borsh(deserialize_with = "bounded_list::<INSTANCES_MAX, _, _>")]
    pub floors: Vec<Floor>,
    /// Logs.
    #[borsh(deserialize_with = "bounded_list::<ORIGINS_MAX, _, _>")]
    pub heads: Vec<Head>,
}

/// Something was not signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, BorshSerialize, BorshDeserialize)]
#[error("{kind}: {detail}")]
pub struct Refused {
    /// Stable identifier.
    #[borsh(deserialize_with = "bounded_text::<KIND_BYTES_MAX, _>")]
    pub kind: String,
    /// For people.
    #[borsh(deserialize_with = "bounded_text::<DETAIL_BYTES_MAX, _>")]
    pub detail: String,
}

impl Refused {
    /// A refusal; a text that is too long is cut.
    #[must_use]
    pub fn new(kind: &str, detail: impl ToString) -> Self {
        let mut detail = detail.to_string();
        while detail.len() > DETAIL_BYTES_MAX {
            detail.pop();
        }
        Self { kind: kind.to_owned(), detail }
    }
}

/// An answer.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum FromSigner {
    /// To `Sign`: one for each statement, in their order.
    Signed {
        /// Signature, or why there is none.
        #[borsh(deserialize_with = "bounded_list::<STATEMENTS_MAX, _, _>")]
        signatures: Vec<Result<Signature, Refused>>,
    },
    /// To `Cosign`.
    Cosigned {
        /// C2SP signature line.
        #[borsh(deserialize_with = "bounded_text::<LINE_BYTES_MAX, _>")]
        line: String,
    },
    /// To `Public`.
    Public(Public),
    /// To anything.
    Refused(Refused),
}

impl Bounded for ToSigner {
    const LIMIT: usize = FRAME_BYTES_MAX;
}

impl Bounded for FromSigner {
    const LIMIT: usize = FRAME_BYTES_MAX;
}

fn statements<R: borsh::io::Read>(reader: &mut R) -> borsh::io::Result<Vec<Vec<u8>>> {
    struct Bytes(Vec<u8>);
    impl BorshDeserialize for Bytes {
        fn deserialize_reader<R: borsh::io::Read>(reader: &mut R) -> borsh::io::Result<Self> {
            bounded_bytes::<{ <Statement as Bounded>::LIMIT }, R>(reader).map(Self)
        }
    }
    let list = bounded_list::<STATEMENTS_MAX, Bytes, R>(reader)?;
    Ok(list.into_iter().map(|Bytes(bytes)| bytes).collect())
}

/// A frame that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The socket's.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Too long, or not the encoding of a message.
    #[error(transparent)]
    Decode(#[from] DecodeError),
}

impl FrameError {
    /// Stable identifier.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Io(_) => "SocketError",
            Self::Decode(error) => error.kind(),
        }
    }
}

/// Reads the next message; none when the connection ended before it. Waits for its beginning for ever, for the rest of it no longer than
/// `patience`.
///
/// # Errors
/// `MessageTooLarge`, `DecodeError`, or the socket's.
pub async fn read<T: Bounded>(
    stream: &mut (impl AsyncRead + Unpin),
    patience: Duration,
) -> Result<Option<T>, FrameError> {
    let mut first = [0u8];
    if stream.read(&mut first).await? == 0 {
        return Ok(None);
    }
    let rest = timeout(patience, read_rest(stream, first[0])).await;
    rest.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?.map(Some)
}

async fn read_rest<T: Bounded>(stream: &mut (impl AsyncRead + Unpin), first: u8) -> Result<T, FrameError> {
    let mut length = [first, 0, 0, 0];
    stream.read_exact(&mut length[1..]).await?;
    let length = u32::from_le_bytes(length) as usize;
    if length > FRAME_BYTES_MAX {
        return Err(DecodeError::MessageTooLarge { limit: FRAME_BYTES_MAX, got: length }.into());
    }
    // Grows with what really arrives: a length alone reserves nothing.
    let mut bytes = Vec::new();
    stream.take(length as u64).read_to_end(&mut bytes).await?;
    if bytes.len() < length {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(T::decoded(&bytes)?)
}

/// The bytes of a frame.
///
/// # Errors
/// `MessageTooLarge`.
pub fn frame<T: Bounded>(message: &T) -> Result<Vec<u8>, DecodeError> {
    let body = message.encoded();
    if body.len() > FRAME_BYTES_MAX {
        return Err(DecodeError::MessageTooLarge { limit: FRAME_BYTES_MAX, got: body.len() });
    }
    let mut bytes = Vec::with_capacity(4 + body.len());
    bytes.extend_from_slice(&(body.len() as u32).to_le_bytes());
    bytes.extend_from_slice(&body);
    Ok(bytes)
}

/// Writes a message.
///
/// # Errors
/// `MessageTooLarge`, or the socket's.
pub async fn write<T: Bounded>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &T,
) -> Result<(), FrameError> {
    stream.write_all(&frame(message)?).await?;
    Ok(stream.flush().await?)
}

#[cfg(test)]
mod tests;
