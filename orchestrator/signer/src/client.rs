//! The other end of the socket, for the process that runs replicas.
//!
//! Asking again is always safe: the same statement gets the same signature. So a connection that broke is made anew, once for each request.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use quorate_attest::encoding::DecodeError;
use quorate_attest::key::Signature;
use tokio::net::UnixStream;
use tokio::sync::Mutex;
use tokio::time::timeout;

use crate::protocol::{
    self, CosignRequest, FRAME_BYTES_MAX, FrameError, FromSigner, Public, Refused, STATEMENTS_MAX, ToSigner,
};

/// How long an answer may take. A slow disk is waited for; a signer that hangs is not.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes that the other fields of a request take at most.
const REQUEST_BYTES: usize = 16;

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody answers.
    #[error("no signer at {}: {source}", path.display())]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The listener is a process of another user.
    #[error("the signer at {} is a process of another user", path.display())]
    Foreign {
        /// The socket.
        path: PathBuf,
    },
    /// What was to be sent, or came back, is no message.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// An answer to another question.
    #[error("the signer answered something else than was asked")]
    Unexpected,
    /// The signer refused.
    #[error(transparent)]
    Refused(#[from] Refused),
}

impl ClientError {
    /// Stable identifier.
    #[must_use]
    pub fn kind(&self) -> &str {
        match self {
            Self::Unreachable { .. } => "SocketError",
            Self::Foreign { .. } => "NotAuthorized",
            Self::Decode(error) => error.kind(),
            Self::Unexpected => "Inconsistent",
            Self::Refused(refused) => &refused.kind,
        }
    }
}

/// Asks a signer. One request is on its way at a time; requests that need not wait for each other take a client each.
#[derive(Debug)]
pub struct SignerClient {
    path: PathBuf,
    user: u32,
    stream: Mutex<Option<UnixStream>>,
}

impl SignerClient {
    /// A client of the signer that listens at `path`. Connects with the first request.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        let user = rustix::process::geteuid().as_raw();
        Self { path: path.to_owned(), user, stream: Mutex::new(None) }
    }

    /// Signatures over statements, one for each, in their order. What does not fit one request goes in several.
    ///
    /// # Errors
    /// Nobody answered, or something else.
    pub async fn sign(
        &self,
        statements: Vec<Vec<u8>>,
    ) -> Result<Vec<Result<Signature, Refused>>, ClientError> {
        let mut signatures = Vec::with_capacity(statements.len());
        for statements in portions(statements) {
            let asked = statements.len();
            match self.ask(&ToSigner::Sign { statements }).await? {
                FromSigner::Signed { signatures: some } if some.len() == asked => signatures.extend(some),
                other => return Err(unexpected(other)),
            }
        }
        Ok(signatures)
    }

    /// A cosignature line over the head of a service's log.
    ///
    /// # Errors
    /// `Refused`, and as [`Self::sign`].
    pub async fn cosign(&self, request: CosignRequest) -> Result<String, ClientError> {
        match self.ask(&ToSigner::Cosign(request)).await? {
            FromSigner::Cosigned { line } => Ok(line),
            other => Err(unexpected(other)),
        }
    }

    /// Who signs, and what was signed last.
    ///
    /// # Errors
    /// As [`Self::sign`].
    pub async fn public(&self) -> Result<Public, ClientError> {
        match self.ask(&ToSigner::Public).await? {
            FromSigner::Public(public) => Ok(public),
            other => Err(unexpected(other)),
        }
    }

    async fn ask(&self, asked: &ToSigner) -> Result<FromSigner, ClientError> {
        let mut place = self.stream.lock().await;
        // Taken out while it is in use: whoever stops waiting leaves no connection with half a frame in it.
        if let Some(mut stream) = place.take() {
            match exchange(&mut stream, asked).await {
                Ok(answer) => {
                    *place = Some(stream);
                    return Ok(answer);
                }
                Err(FrameError::Decode(error)) => return Err(error.into()),
                // The signer may have been restarted.
                Err(FrameError::Io(_)) => {}
            }
        }
        let mut stream = self.connect().await?;
        match exchange(&mut stream, asked).await {
            Ok(answer) => {
                *place = Some(stream);
                Ok(answer)
            }
            Err(FrameError::Decode(error)) => Err(error.into()),
            Err(FrameError::Io(source)) => Err(self.unreachable(source)),
        }
    }

    async fn connect(&self) -> Result<UnixStream, ClientError> {
        let stream = UnixStream::connect(&self.path).await.map_err(|e| self.unreachable(e))?;
        let owner = stream.peer_cred().map_err(|e| self.unreachable(e))?;
        if owner.uid() != self.user {
            return Err(ClientError::Foreign { path: self.path.clone() });
        }
        Ok(stream)
    }

    fn unreachable(&self, source: io::Error) -> ClientError {
        ClientError::Unreachable { path: self.path.clone(), source }
    }
}

async fn exchange(stream: &mut UnixStream, asked: &ToSigner) -> Result<FromSigner, FrameError> {
    let answer = async {
        protocol::write(stream, asked).await?;
        let ended = || FrameError::Io(io::ErrorKind::UnexpectedEof.into());
        protocol::read(stream, ANSWER_TIMEOUT).await?.ok_or_else(ended)
    };
    timeout(ANSWER_TIMEOUT, answer).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?
}

fn unexpected(answer: FromSigner) -> ClientError {
    match answer {
        FromSigner::Refused(refused) => ClientError::Refused(refused),
        _ => ClientError::Unexpected,
    }
}

/// Splits statements so that each portion fits a frame.
fn portions(statements: Vec<Vec<u8>>) -> Vec<Vec<Vec<u8>>> {
    let (mut portions, mut bytes) = (Vec::<Vec<Vec<u8>>>::new(), FRAME_BYTES_MAX);
    for statement in statements {
        bytes += 4 + statement.len();
        match portions.last_mut() {
            Some(last) if bytes <= FRAME_BYTES_MAX && last.len() < STATEMENTS_MAX => last.push(statement),
            _ => {
                bytes = REQUEST_BYTES + 4 + statement.len();
                portions.push(vec![statement]);
            }
        }
    }
    portions
}
