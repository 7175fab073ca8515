//! A blocking TLS stream with large buffers and deadlines.

use std::fmt;
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use quorate_attest::key::PublicKey;
use rustls::Connection;
use rustls::pki_types::CertificateDer;

use crate::bulk::{Purpose, tls_error};
use crate::directory::Role;
use crate::error::TransportError;
use crate::hello::Session;
use crate::identity::key_of_spki;
use crate::limits::Limits;

/// Bytes taken from the socket at once, and plaintext encrypted before it is written. Measured: `rustls::Stream`, which
/// reads 4 KiB and buffers 64 KiB, reaches about three quarters of the throughput; larger buffers gain nothing.
const BUFFER: usize = 256 * 1024;

/// Longest wait for the end of a refused peer.
const LINGER: Duration = Duration::from_secs(1);

/// A bulk connection. Owned by one thread at a time; [`BulkStream::handle`] closes it from another.
pub struct BulkStream {
    tls: Connection,
    socket: TcpStream,
    /// Bytes from the socket that TLS has not taken yet: `input[start..end]`.
    input: Box<[u8]>,
    start: usize,
    end: usize,
    limits: Limits,
    patience: Duration,
    /// No operation goes on beyond this.
    deadline: Option<Instant>,
    session: Option<Session>,
}

impl fmt::Debug for BulkStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BulkStream").field("session", &self.session).finish_non_exhaustive()
    }
}

/// How far an operation may go.
#[derive(Clone, Copy)]
struct Pace {
    deadline: Instant,
    limit: Duration,
    done: usize,
    total: usize,
}

impl BulkStream {
    /// Performs the TLS handshake.
    pub(super) fn open(
        mut tls: Connection,
        socket: TcpStream,
        limits: &Limits,
        deadline: Instant,
    ) -> Result<Self, TransportError> {
        socket.set_nodelay(true).map_err(|error| TransportError::io("no delay", &error))?;
        tls.set_buffer_limit(Some(BUFFER));
        let mut stream = Self {
            tls,
            socket,
            input: vec![0; BUFFER].into_boxed_slice(),
            start: 0,
            end: 0,
            limits: limits.clone(),
            patience: limits.idle,
            deadline: Some(deadline),
            session: None,
        };
        match stream.handshake() {
            Ok(()) => Ok(stream),
            Err(error) => {
                stream.linger();
                Err(error)
            }
        }
    }

    fn handshake(&mut self) -> Result<(), TransportError> {
        let pace = self.pace(self.limits.handshake, 0);
        while self.tls.is_handshaking() {
            self.flush_tls(pace)?;
            if self.tls.is_handshaking() && !self.fill(pace)? {
                return Err(TransportError::Connection(
                    "TCP stream ended inside the TLS handshake".to_owned(),
                ));
            }
        }
        self.flush_tls(pace)
    }

    /// Ends a refused connection so that the reason arrives: closing while bytes of the peer are unread would reset the
    /// connection and could overtake it. Waits for the peer's end, within the handshake's deadline.
    pub(super) fn linger(&mut self) {
        if self.socket.shutdown(Shutdown::Write).is_err() {
            return;
        }
        let pace = self.pace(LINGER, 0);
        let mut read = 1;
        while read > 0 {
            let result = self
                .within(pace, TcpStream::set_read_timeout, |stream| (&stream.socket).read(&mut stream.input));
            read = result.unwrap_or(0);
        }
    }

    /// The hello is done: from now on deadlines are those of the stream.
    pub(super) fn established(&mut self, session: Session) {
        self.session = Some(session);
        self.deadline = None;
    }

    pub(super) fn tls(&self) -> &Connection {
        &self.tls
    }

    /// Key the peer proved in the TLS handshake.
    pub(super) fn peer_key(&self) -> Option<PublicKey> {
        let chain: &[CertificateDer<'_>] = self.tls.peer_certificates()?;
        key_of_spki(chain.first()?)
    }

    /// The peer's key, proved in the TLS handshake and again in the hello. `None` only inside the hello.
    pub fn peer(&self) -> Option<&PublicKey> {
        self.session.as_ref().map(|session| &session.peer)
    }

    /// The peer's role.
    pub fn role(&self) -> Option<Role> {
        self.session.as_ref().map(|session| session.role)
    }

    /// What both ends agreed the connection is for.
    pub fn purpose(&self) -> Option<Purpose> {
        self.session.as_ref().and_then(|session| Purpose::new(session.purpose).ok())
    }

    /// Sets how long reading waits for the first byte; [`Limits::idle`] until then.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Sets a time after which every operation fails, for a bound on the whole transfer.
    pub fn set_deadline(&mut self, deadline: Option<Instant>) {
        self.deadline = deadline;
    }

    /// A handle that closes the connection from another thread.
    ///
    /// # Errors
    /// `SocketError` if the system refuses another descriptor.
    pub fn handle(&self) -> Result<BulkHandle, TransportError> {
        let socket = self.socket.try_clone().map_err(|error| TransportError::io("handle", &error))?;
        Ok(BulkHandle { socket })
    }

    /// Says that we write nothing more. The peer reads an orderly end; without it, an end is an error there.
    ///
    /// # Errors
    /// `StreamStalled`, `SocketError`.
    pub fn finish(&mut self) -> Result<(), TransportError> {
        self.tls.send_close_notify();
        self.flush_tls(self.pace(self.limits.frame_deadline(0), 0))
    }

    /// Reads until `bytes` is full. Waits with the patience for the first byte, then as long as a frame of this length may
    /// take.
    ///
    /// # Errors
    /// `PeerTimeout`, `StreamStalled`, `Truncated`, `SocketError`.
    pub fn receive(&mut self, bytes: &mut [u8]) -> Result<(), TransportError> {
        let total = bytes.len();
        let mut done = self.receive_some(bytes)?;
        if done == total {
            return Ok(());
        }
        let mut pace = self.pace(self.limits.frame_deadline(total), total);
        while done > 0 && done < total {
            let taken = self.plaintext(&mut bytes[done..])?;
            match taken {
                Some(0) => break,
                Some(read) => done += read,
                None => {
                    pace.done = done;
                    self.fill(pace)?;
                }
            }
        }
        if done == total { Ok(()) } else { Err(TransportError::Truncated { done }) }
    }

    /// Reads what is there, at least one byte; 0 at an orderly end or for an empty buffer.
    ///
    /// # Errors
    /// `PeerTimeout`, `SocketError`, and `ConnectionFailed` for an end that is not orderly.
    pub fn receive_some(&mut self, bytes: &mut [u8]) -> Result<usize, TransportError> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let limit = self.patience;
        let pace = self.pace(limit, 0);
        loop {
            if let Some(read) = self.plaintext(bytes)? {
                return Ok(read);
            }
            self.fill(pace).map_err(|error| match error {
                TransportError::StreamStalled { .. } => TransportError::PeerTimeout { limit },
                other => other,
            })?;
        }
    }

    /// Writes all of `bytes`, which go out at once.
    ///
    /// # Errors
    /// `StreamStalled` if the peer does not take them at the minimum rate; `SocketError`.
    pub fn transmit(&mut self, bytes: &[u8]) -> Result<(), TransportError> {
        self.transmit_vectored(&[IoSlice::new(bytes)])
    }

    /// As [`BulkStream::transmit`] for several pieces, for example a header and a page, without copying them together.
    ///
    /// # Errors
    /// As [`BulkStream::transmit`].
    pub fn transmit_vectored(&mut self, pieces: &[IoSlice<'_>]) -> Result<(), TransportError> {
        let total = pieces.iter().map(|piece| piece.len()).sum();
        let mut pace = self.pace(self.limits.frame_deadline(total), total);
        for piece in pieces {
            let mut rest: &[u8] = piece;
            while !rest.is_empty() {
                let taken =
                    self.tls.writer().write(rest).map_err(|error| TransportError::io("TLS write", &error))?;
                rest = &rest[taken..];
                pace.done += taken;
                if !rest.is_empty() {
                    // The TLS buffer is full.
                    self.flush_tls(pace)?;
                }
            }
        }
        self.flush_tls(pace)
    }

    fn pace(&self, limit: Duration, total: usize) -> Pace {
        let deadline = Instant::now() + limit;
        let deadline = self.deadline.map_or(deadline, |other| other.min(deadline));
        Pace { deadline, limit, done: 0, total }
    }

    /// Decrypted bytes, if there are any; `Some(0)` at an orderly end.
    fn plaintext(&mut self, bytes: &mut [u8]) -> Result<Option<usize>, TransportError> {
        loop {
            match self.tls.reader().read(bytes) {
                Ok(read) => return Ok(Some(read)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    if self.start == self.end {
                        return Ok(None);
                    }
                    // Take records that are here already before asking the system for more.
                    self.take_input()?;
                }
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => {
                    let what = "TCP stream ended without an orderly end";
                    return Err(TransportError::Connection(what.to_owned()));
                }
                Err(error) => return Err(TransportError::io("TLS read", &error)),
            }
        }
    }

    /// Reads from the socket into TLS; false at the end of the TCP stream.
    fn fill(&mut self, pace: Pace) -> Result<bool, TransportError> {
        if self.start == self.end {
            let read = self.within(pace, TcpStream::set_read_timeout, |stream| {
                (&stream.socket).read(&mut stream.input)
            })?;
            (self.start, self.end) = (0, read);
        }
        let open = self.end > 0;
        self.take_input()?;
        Ok(open)
    }

    /// Gives TLS what it takes of the input, one record at least.
    fn take_input(&mut self) -> Result<(), TransportError> {
        let mut input = &self.input[self.start..self.end];
        let taken = self.tls.read_tls(&mut input).map_err(|error| TransportError::io("TLS read", &error))?;
        self.start += taken;
        let Err(error) = self.tls.process_new_packets() else { return Ok(()) };
        // Tell the peer by the alert that is waiting. What matters is the error, whether or not the alert gets out.
        let _ = self.flush_tls(self.pace(Duration::from_secs(1), 0));
        Err(tls_error(error))
    }

    /// Writes everything TLS has encrypted.
    fn flush_tls(&mut self, pace: Pace) -> Result<(), TransportError> {
        while self.tls.wants_write() {
            let written = self.within(pace, TcpStream::set_write_timeout, |stream| {
                stream.tls.write_tls(&mut &stream.socket)
            })?;
            if written == 0 {
                return Err(TransportError::Connection("TCP stream takes no more bytes".to_owned()));
            }
        }
        Ok(())
    }

    /// Performs one operation on the socket that ends with the deadline.
    fn within(
        &mut self,
        pace: Pace,
        set_timeout: fn(&TcpStream, Option<Duration>) -> io::Result<()>,
        mut operation: impl FnMut(&mut Self) -> io::Result<usize>,
    ) -> Result<usize, TransportError> {
        let Pace { deadline, limit, done, total } = pace;
        let (handshaking, handshake) = (self.session.is_none(), self.limits.handshake);
        let stalled = || match handshaking {
            true => TransportError::HandshakeTimeout { limit: handshake },
            false => TransportError::StreamStalled { done, total, limit },
        };
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(stalled());
            }
            set_timeout(&self.socket, Some(left)).map_err(|error| TransportError::io("timeout", &error))?;
            match operation(self) {
                Ok(count) => return Ok(count),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    return Err(stalled());
                }
                Err(error) => return Err(TransportError::io("bulk stream", &error)),
            }
        }
    }
}

impl Read for BulkStream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        Ok(self.receive_some(bytes)?)
    }

    fn read_exact(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        Ok(self.receive(bytes)?)
    }
}

impl Write for BulkStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.transmit(bytes)?;
        Ok(bytes.len())
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        Ok(self.transmit(bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Closes a [`BulkStream`] that another thread uses.
#[derive(Debug)]
pub struct BulkHandle {
    socket: TcpStream,
}

impl BulkHandle {
    /// Closes the connection; a blocked read or write returns with an error.
    pub fn close(&self) {
        // An error means that it is closed already.
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}
