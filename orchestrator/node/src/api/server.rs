//! The HTTP server: a listener, bounds on what a peer may send and how long it may take.

use std::convert::Infallible;
use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tower::ServiceExt;

use crate::config::ApiAddress;

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;
/// Time for the head of a request, also on a connection that was used before.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest life of a connection: whoever wants to go on connects again.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);
/// Most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 16 << 10;
/// Most headers of a request.
const HEADERS_MAX: usize = 64;

/// A bound listener.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    address: ApiAddress,
    /// Held as long as anybody listens.
    _file: Option<SocketFile>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Removes a unix socket when the listener goes.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A socket that is left behind is replaced by the next start.
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Listener {
    /// Binds the address. A unix socket that nobody listens on is replaced, and belongs to its owner alone.
    ///
    /// # Errors
    /// The system's.
    pub async fn bind(address: &ApiAddress) -> io::Result<Self> {
        match address {
            ApiAddress::Loopback(address) => {
                let listener = TcpListener::bind(address).await?;
                let address = ApiAddress::Loopback(listener.local_addr()?);
                Ok(Self { socket: Socket::Tcp(listener), address, _file: None })
            }
            ApiAddress::Unix(path) => {
                if tokio::net::UnixStream::connect(path).await.is_ok() {
                    return Err(io::ErrorKind::AddrInUse.into());
                }
                match std::fs::symlink_metadata(path) {
                    // Only a socket that a killed process left behind; anything else is somebody's file.
                    Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)?,
                    Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
                    Err(_) => {}
                }
                let listener = UnixListener::bind(path)?;
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))?;
                let file = SocketFile(path.clone());
                Ok(Self { socket: Socket::Unix(listener), address: address.clone(), _file: Some(file) })
            }
        }
    }

    /// Where it listens, with the port that the system gave.
    #[must_use]
    pub fn address(&self) -> &ApiAddress {
        &self.address
    }

    /// Serves until it is dropped.
    pub async fn serve(self, router: Router) -> Infallible {
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            // The semaphore is never closed, so there is always a permit in the end.
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { continue };
            let router = router.clone();
            let accepted = match &self.socket {
                Socket::Tcp(listener) => listener.accept().await.map(|(stream, _)| {
                    connections.spawn(converse(stream, router, permit));
                }),
                Socket::Unix(listener) => listener.accept().await.map(|(stream, _)| {
                    connections.spawn(converse(stream, router, permit));
                }),
            };
            if let Err(error) = accepted {
                // Out of descriptors, most likely: others must end first.
                tracing::warn!(%error, "HTTP connection not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    _permit: OwnedSemaphorePermit,
) {
    let service = router.map_request(|request: hyper::Request<Incoming>| request.map(axum::body::Body::new));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_header_size(HEAD_BYTES_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(service));
    if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_TIMEOUT, connection).await {
        tracing::debug!(%error, "HTTP connection ended");
    }
}
