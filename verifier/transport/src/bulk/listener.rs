//! Accepts bulk connections that were announced by the control plane, and no others.

use std::collections::HashMap;
use std::fmt;
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use quorate_attest::key::PublicKey;
use rustls::{Connection, ServerConfig, ServerConnection};

use crate::admission::{Admission, Verdict};
use crate::bulk::{Bulk, BulkStream, Purpose, hello, tls_error};
use crate::counters::Counters;
use crate::error::TransportError;
use crate::hello::NonceMemory;
use crate::limits::Limits;
use crate::peers::VIOLATION;
use crate::tls;

/// Pending handshakes have a thread each, so fewer of them than in the message transport.
const PENDING_MAX: usize = 64;
const PENDING_PER_ADDRESS_MAX: usize = 16;

/// A purpose we wait for.
struct Awaited {
    peer: PublicKey,
    to: SyncSender<BulkStream>,
}

struct Shared {
    bulk: Bulk,
    tls: Arc<ServerConfig>,
    awaited: Mutex<HashMap<[u8; 32], Awaited>>,
    nonces: Mutex<NonceMemory>,
    closed: AtomicBool,
}

impl Shared {
    fn awaited(&self) -> MutexGuard<'_, HashMap<[u8; 32], Awaited>> {
        self.awaited.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A TCP listener for announced bulk connections. Dropping it stops accepting; streams already accepted stay.
pub struct BulkListener {
    shared: Arc<Shared>,
    listener: TcpListener,
}

impl fmt::Debug for BulkListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BulkListener").field("listener", &self.listener).finish_non_exhaustive()
    }
}

impl BulkListener {
    pub(super) fn bind(bulk: Bulk, addr: SocketAddr) -> Result<Self, TransportError> {
        let failed = |error: &std::io::Error| TransportError::io(&format!("bind {addr}"), error);
        let tls = tls::server(&bulk.us, Arc::clone(&bulk.gate), tls::ALPN_BULK)?;
        let listener = TcpListener::bind(addr).map_err(|error| failed(&error))?;
        let accepting = listener.try_clone().map_err(|error| failed(&error))?;
        let shared = Arc::new(Shared {
            bulk,
            tls: Arc::new(tls),
            awaited: Mutex::default(),
            nonces: Mutex::default(),
            closed: AtomicBool::new(false),
        });
        let for_thread = Arc::clone(&shared);
        thread::Builder::new()
            .name("bulk-accept".to_owned())
            .spawn(move || accept_all(&for_thread, &accepting))
            .map_err(|error| failed(&error))?;
        Ok(Self { shared, listener })
    }

    /// The bound address.
    ///
    /// # Errors
    /// `SocketError` if the system does not tell.
    pub fn local_addr(&self) -> Result<SocketAddr, TransportError> {
        self.listener.local_addr().map_err(|error| TransportError::io("local address", &error))
    }

    /// Announces one connection from `peer` for `purpose`. Until it has come or the result is dropped, that key may
    /// connect for that purpose, once.
    ///
    /// # Errors
    /// `SessionBindingMismatch` if the purpose is already awaited.
    pub fn announce(&self, peer: &PublicKey, purpose: Purpose) -> Result<Expected, TransportError> {
        let (to, from) = sync_channel(1);
        let mut awaited = self.shared.awaited();
        if awaited.contains_key(purpose.as_bytes()) {
            return Err(TransportError::PurposeRefused { what: "awaited already" });
        }
        awaited.insert(*purpose.as_bytes(), Awaited { peer: *peer, to });
        Ok(Expected { shared: Arc::clone(&self.shared), purpose, from })
    }
}

impl Drop for BulkListener {
    fn drop(&mut self) {
        self.shared.closed.store(true, Ordering::SeqCst);
        // On Linux, shutting a listening socket down ends the accept that blocks on it; std offers it for streams only.
        if let Ok(same) = self.listener.try_clone() {
            let _ = TcpStream::from(OwnedFd::from(same)).shutdown(Shutdown::Both);
        }
    }
}

/// A connection that was announced and has not been taken yet. Dropping it withdraws the announcement.
pub struct Expected {
    shared: Arc<Shared>,
    purpose: Purpose,
    from: Receiver<BulkStream>,
}

impl fmt::Debug for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Expected").field("purpose", &self.purpose).finish_non_exhaustive()
    }
}

impl Expected {
    /// Blocks until the connection has come.
    ///
    /// # Errors
    /// `PeerTimeout` if it does not come in time; it may be waited for again.
    pub fn accept(&self, within: Duration) -> Result<BulkStream, TransportError> {
        self.from.recv_timeout(within).map_err(|error| match error {
            RecvTimeoutError::Timeout => TransportError::PeerTimeout { limit: within },
            RecvTimeoutError::Disconnected => {
                TransportError::Closed { reason: crate::close::CloseReason::Done }
            }
        })
    }
}

impl Drop for Expected {
    fn drop(&mut self) {
        self.shared.awaited().remove(self.purpose.as_bytes());
    }
}

fn accept_all(shared: &Arc<Shared>, listener: &TcpListener) {
    let limits = &shared.bulk.gate.limits;
    let admission = Admission::new(&Limits {
        max_pending_handshakes: limits.max_pending_handshakes.min(PENDING_MAX),
        retry_threshold: limits.max_pending_handshakes.min(PENDING_MAX),
        max_pending_per_address: limits.max_pending_per_address.min(PENDING_PER_ADDRESS_MAX),
        max_pending_per_subnet: limits.max_pending_per_subnet.min(PENDING_MAX),
        ..limits.clone()
    });
    loop {
        let accepted = listener.accept();
        if shared.closed.load(Ordering::SeqCst) {
            return;
        }
        match accepted {
            Ok((socket, from)) => admit(shared, &admission, socket, from),
            Err(error) => {
                tracing::warn!(%error, "bulk accept failed");
                // Out of descriptors: they come back as connections end, not by trying harder.
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

/// A TCP connection shows that its address can receive, so only the quotas count.
fn admit(shared: &Arc<Shared>, admission: &Admission, socket: TcpStream, from: SocketAddr) {
    let Verdict::Admit(ticket) = admission.judge(from, true) else {
        Counters::add(&shared.bulk.gate.counters.incoming_refused);
        return;
    };
    let for_thread = Arc::clone(shared);
    let spawned = thread::Builder::new().name("bulk-hello".to_owned()).spawn(move || {
        let result = handshake(&for_thread, socket);
        let counters = &for_thread.bulk.gate.counters;
        counters.handshake.add(result.as_ref().map_or_else(TransportError::kind, |()| "ok"));
        if let Err(error) = result {
            tracing::debug!(%from, error_kind = error.kind(), %error, "bulk handshake failed");
        }
        drop(ticket);
    });
    if let Err(error) = spawned {
        tracing::warn!(%error, "no thread for a bulk handshake");
    }
}

fn handshake(shared: &Shared, socket: TcpStream) -> Result<(), TransportError> {
    let gate = &shared.bulk.gate;
    let deadline = Instant::now() + gate.limits.handshake;
    let tls = ServerConnection::new(Arc::clone(&shared.tls)).map_err(tls_error)?;
    let mut stream = BulkStream::open(Connection::Server(tls), socket, &gate.limits, deadline)?;
    let result = take(shared, &mut stream);
    match result {
        Ok(to) => to.send(stream).map_err(|_| TransportError::QueueFull { queue: "bulk" }),
        Err(error) => {
            // What counts is the error; the peer may be gone.
            let _ = hello::conclude(&mut stream, error.close_reason().code());
            if let (true, Some(key)) = (error.is_misbehaviour(), stream.peer_key()) {
                gate.strike(&gate.peer(&key), error.kind(), VIOLATION);
            }
            stream.linger();
            Err(error)
        }
    }
}

/// The hello, after which the announcement is used up.
fn take(shared: &Shared, stream: &mut BulkStream) -> Result<SyncSender<BulkStream>, TransportError> {
    let expected = |peer: &PublicKey, purpose: &[u8; 32]| match shared.awaited().get(purpose) {
        Some(awaited) if awaited.peer == *peer => Ok(()),
        Some(_) => Err(TransportError::PurposeRefused { what: "awaited from another key" }),
        None => Err(TransportError::PurposeRefused { what: "not awaited" }),
    };
    let session = hello::accept(&shared.bulk, stream, &shared.nonces, expected)?;
    // Two connections for one purpose may have come this far; only the first finds it.
    let awaited = shared.awaited().remove(&session.purpose);
    let awaited = awaited.ok_or(TransportError::PurposeRefused { what: "used up" })?;
    hello::conclude(stream, 0)?;
    stream.established(session);
    Ok(awaited.to)
}
