//! The unix socket: for processes of the same user on this machine, and for nobody else.

use std::convert::Infallible;
use std::fs::{DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use quorate_verifier::exit;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::protocol::{self, FrameError, FromSigner, Refused};
use crate::worker::Job;

/// Connections at once; more wait in the kernel's queue.
pub const CONNECTIONS_MAX: usize = 64;
/// Time for the rest of a frame that has begun, and for an answer to be taken.
const FRAME_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after the system refused a connection, which it does when descriptors run out.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Mode bits that let somebody else reach the socket.
const FOREIGN_BITS: u32 = 0o077;

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Others may reach the folder.
    #[error("{}: the folder of the socket must be its owner's alone (mode 0700), it has mode {mode:04o} and user {owner}", path.display())]
    FolderTooOpen {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// Its user.
        owner: u32,
    },
    /// Another process listens there.
    #[error("{}: another process listens there", path.display())]
    InUse {
        /// The socket.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl BindError {
    /// Stable identifier.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        "SocketError"
    }

    /// Exit code of a process that meets this error.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::FolderTooOpen { .. } => exit::NOT_PERMITTED,
            Self::InUse { .. } => exit::RETRY,
            Self::Io { .. } => exit::CONFIGURATION,
        }
    }
}

/// A bound socket; its file is removed with the value.
#[derive(Debug)]
pub struct Listener {
    socket: UnixListener,
    path: PathBuf,
    user: u32,
}

impl Drop for Listener {
    fn drop(&mut self) {
        // A socket that is left behind is replaced by the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Listener {
    /// Binds `path` for processes of this process's user.
    ///
    /// # Errors
    /// When the folder is open to others, somebody listens there, or the system refuses.
    pub async fn bind(path: &Path) -> Result<Self, BindError> {
        Self::bind_for(path, rustix::process::geteuid().as_raw()).await
    }

    /// Binds `path` for processes of `user`.
    pub(crate) async fn bind_for(path: &Path, user: u32) -> Result<Self, BindError> {
        let failed = |source| BindError::Io { path: path.to_owned(), source };
        prepare_folder(path.parent().unwrap_or(Path::new("")))?;
        if UnixStream::connect(path).await.is_ok() {
            return Err(BindError::InUse { path: path.to_owned() });
        }
        match std::fs::symlink_metadata(path) {
            // Only a socket that a killed process left behind; anything else is somebody's file.
            Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path).map_err(failed)?,
            Ok(_) => return Err(failed(io::ErrorKind::AlreadyExists.into())),
            Err(_) => {}
        }
        let socket = UnixListener::bind(path).map_err(failed)?;
        let listener = Self { socket, path: path.to_owned(), user };
        std::fs::set_permissions(path, Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(listener)
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Answers until it is dropped.
    pub async fn serve(&self, jobs: mpsc::Sender<Job>) -> Infallible {
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            // The semaphore is never closed, so there is always a permit in the end.
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { continue };
            match self.socket.accept().await {
                Ok((stream, _)) if self.knows(&stream) => {
                    connections.spawn(converse(stream, jobs.clone(), permit));
                }
                Ok(_) => {
                    tracing::warn!(error_kind = "NotAuthorized", "a process of another user was refused")
                }
                Err(error) => {
                    tracing::warn!(error_kind = "SocketError", "no connection: {error}");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn knows(&self, stream: &UnixStream) -> bool {
        stream.peer_cred().is_ok_and(|peer| peer.uid() == self.user)
    }
}

fn prepare_folder(folder: &Path) -> Result<(), BindError> {
    let folder = if folder.as_os_str().is_empty() { Path::new(".") } else { folder };
    let failed = |source| BindError::Io { path: folder.to_owned(), source };
    if !folder.is_dir() {
        DirBuilder::new().mode(0o700).create(folder).map_err(failed)?;
    }
    let found = std::fs::metadata(folder).map_err(failed)?;
    let (mode, owner) = (found.mode() & 0o7777, found.uid());
    if mode & FOREIGN_BITS != 0 || owner != rustix::process::geteuid().as_raw() {
        return Err(BindError::FolderTooOpen { path: folder.to_owned(), mode, owner });
    }
    Ok(())
}

async fn converse(mut stream: UnixStream, jobs: mpsc::Sender<Job>, _permit: OwnedSemaphorePermit) {
    if let Err(error) = answer_all(&mut stream, &jobs).await {
        tracing::debug!(error_kind = error.kind(), "a connection ends: {error}");
        if let FrameError::Decode(error) = error {
            let refused = FromSigner::Refused(Refused::new(error.kind(), &error));
            // The peer may not listen any more.
            let _ = timeout(FRAME_TIMEOUT, protocol::write(&mut stream, &refused)).await;
        }
    }
}

async fn answer_all(stream: &mut UnixStream, jobs: &mpsc::Sender<Job>) -> Result<(), FrameError> {
    let late = |_| FrameError::Io(io::ErrorKind::TimedOut.into());
    while let Some(asked) = protocol::read(stream, FRAME_TIMEOUT).await? {
        let (answer, answered) = oneshot::channel();
        // Without the worker the process is about to end, and nothing is answered.
        let gone = || FrameError::Io(io::ErrorKind::BrokenPipe.into());
        jobs.send(Job { asked, answer }).await.map_err(|_| gone())?;
        let answer = answered.await.map_err(|_| gone())?;
        timeout(FRAME_TIMEOUT, protocol::write(stream, &answer)).await.map_err(late)??;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
