//! A TCP or unix listener with bounds on what a peer may send and how long it may take, for HTTP/1.1 and for gRPC.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tower::ServiceExt;

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 256;
/// Time for the head of a request, also on a connection that was used before.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Longest life of an HTTP/1.1 connection: whoever wants to go on connects again.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(300);
/// Most bytes of a request's head.
const HEAD_BYTES_MAX: u32 = 16 << 10;
/// Most headers of a request.
const HEADERS_MAX: usize = 64;
/// Most requests at once on a gRPC connection.
const STREAMS_MAX: u32 = 256;
/// A gRPC peer that is silent for so long is asked whether it is there, and has as long to answer.
const ALIVE_EVERY: Duration = Duration::from_secs(30);

/// What is spoken on a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http,
    /// HTTP/2 without TLS, as gRPC has it.
    Grpc,
}

/// A bound TCP listener.
#[derive(Debug)]
pub struct Listener {
    socket: TcpListener,
    address: SocketAddr,
    protocol: Protocol,
}

impl Listener {
    /// Binds the address.
    ///
    /// # Errors
    /// The system's.
    pub async fn bind(address: SocketAddr, protocol: Protocol) -> io::Result<Self> {
        let socket = TcpListener::bind(address).await?;
        let address = socket.local_addr()?;
        Ok(Self { socket, address, protocol })
    }

    /// Where it listens, with the port that the system gave.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Serves until it is dropped.
    pub async fn serve(self, router: Router) -> Infallible {
        let (socket, protocol) = (&self.socket, self.protocol);
        accept(
            || async { socket.accept().await.map(|(stream, _)| stream) },
            |stream, permit| converse(stream, router.clone(), protocol, permit),
        )
        .await
    }
}

/// Accepts connections for ever, a bounded number at a time, and has each served by a task of its own.
pub async fn accept<S, A, C>(next: impl Fn() -> A, serve: impl Fn(S, OwnedSemaphorePermit) -> C) -> Infallible
where
    A: Future<Output = io::Result<S>>,
    C: Future<Output = ()> + Send + 'static,
{
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        // The semaphore is never closed, so there is always a permit in the end.
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else { continue };
        match next().await {
            Ok(stream) => {
                connections.spawn(serve(stream, permit));
            }
            Err(error) => {
                // Out of descriptors, most likely: others must end first.
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(stream: TcpStream, router: Router, protocol: Protocol, _permit: OwnedSemaphorePermit) {
    let service = router.map_request(|request: hyper::Request<Incoming>| request.map(axum::body::Body::new));
    let (stream, service) = (TokioIo::new(stream), TowerToHyperService::new(service));
    let ended = match protocol {
        Protocol::Http => {
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .max_header_size(HEAD_BYTES_MAX as usize)
                .max_headers(HEADERS_MAX)
                .serve_connection(stream, service);
            tokio::time::timeout(CONNECTION_TIMEOUT, connection).await.unwrap_or(Ok(()))
        }
        Protocol::Grpc => {
            http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .keep_alive_interval(ALIVE_EVERY)
                .keep_alive_timeout(ALIVE_EVERY)
                .max_header_list_size(HEAD_BYTES_MAX)
                .max_concurrent_streams(STREAMS_MAX)
                .serve_connection(stream, service)
                .await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "connection ended");
    }
}

/// A unix socket that goes with its listener.
#[derive(Debug)]
pub struct UnixSocket {
    /// The listener.
    pub listener: UnixListener,
    path: PathBuf,
}

impl Drop for UnixSocket {
    fn drop(&mut self) {
        // A socket that is left behind is replaced by the next start.
        let _ = std::fs::remove_file(&self.path);
    }
}

impl UnixSocket {
    /// Binds a path. A socket that nobody listens on is replaced; any other file stays.
    ///
    /// # Errors
    /// The system's.
    pub async fn bind(path: &Path, mode: u32) -> io::Result<Self> {
        use std::os::unix::fs::{FileTypeExt, PermissionsExt};
        if tokio::net::UnixStream::connect(path).await.is_ok() {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        match std::fs::symlink_metadata(path) {
            Ok(found) if found.file_type().is_socket() => std::fs::remove_file(path)?,
            Ok(_) => return Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) => {}
        }
        let listener = UnixListener::bind(path)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}
