//! One bidirectional stream of framed messages.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use quinn::{ReadError, RecvStream, SendStream, WriteError};
use quorate_attest::key::PublicKey;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout, timeout_at};

use crate::close::CloseReason;
use crate::connection::Link;
use crate::counters::Counters;
use crate::directory::Role;
use crate::error::TransportError;
use crate::peers::VIOLATION;
use crate::wire::{HEADER, Header, Wire, encode_frame};

/// Memory taken for a body before its bytes arrive; the rest follows them.
const FIRST_ALLOCATION: usize = 64 * 1024;

/// A bidirectional stream of messages. Dropping it ends both directions.
#[derive(Debug)]
pub struct Exchange {
    sender: FrameSender,
    receiver: FrameReceiver,
}

impl Exchange {
    pub(crate) fn new(link: Arc<Link>, (send, recv): (SendStream, RecvStream)) -> Self {
        let patience = link.gate.limits.patience;
        let sender = FrameSender { link: Arc::clone(&link), stream: send, broken: false };
        let receiver = FrameReceiver { link, stream: recv, patience, partial: None, broken: false };
        Self { sender, receiver }
    }

    /// Sends one message. Returns when QUIC has taken it, not when the peer has it.
    ///
    /// Not cancel safe: a send that was dropped half-way resets the stream.
    ///
    /// # Errors
    /// `MessageTooLarge` if the message is over its own limit; `StreamStalled` if the peer does not take it at the
    /// minimum rate; the reason of a peer that refused the stream, or of the closed connection.
    pub async fn send<W: Wire>(&mut self, message: &W) -> Result<(), TransportError> {
        self.sender.send(message).await
    }

    /// The next message, or `None` once the peer has finished.
    ///
    /// Cancel safe: a message that had begun to arrive continues in the next call.
    ///
    /// # Errors
    /// `PeerTimeout` if nothing begins to arrive within the patience; `StreamStalled`, `MessageTooLarge`,
    /// `DecodeError`, after which the stream is dead; the reason of the closed connection.
    pub async fn recv<W: Wire>(&mut self) -> Result<Option<W>, TransportError> {
        self.receiver.recv().await
    }

    /// Sends a request and waits for one answer; an end of the stream instead is a `DecodeError`.
    ///
    /// # Errors
    /// As [`Exchange::send`] and [`Exchange::recv`].
    pub async fn ask<Q: Wire + Sync, A: Wire>(&mut self, request: &Q) -> Result<A, TransportError> {
        self.send(request).await?;
        self.recv().await?.ok_or(TransportError::Truncated { done: 0 })
    }

    /// Says that we send nothing more. Receiving goes on.
    ///
    /// # Errors
    /// If the stream is already dead.
    pub fn finish(&mut self) -> Result<(), TransportError> {
        self.sender.finish()
    }

    /// Finishes and waits until the peer's transport has acknowledged everything. Wanted only before closing the
    /// connection right after the last message.
    ///
    /// # Errors
    /// As [`Exchange::send`].
    pub async fn delivered(mut self) -> Result<(), TransportError> {
        self.sender.finish()?;
        self.sender.delivered().await
    }

    /// Sets how long [`Exchange::recv`] waits for the first byte of a message, for streams that are silent by
    /// design. A peer that is gone is still noticed after the connection's idle time.
    pub fn set_patience(&mut self, patience: Duration) {
        self.receiver.patience = patience;
    }

    /// Streams of higher priority are sent first; 0 is the default.
    pub fn set_priority(&self, priority: i32) {
        // Fails only on a stream that has ended, where it does not matter.
        let _ = self.sender.stream.set_priority(priority);
    }

    /// The peer's key.
    pub fn peer(&self) -> &PublicKey {
        &self.sender.link.peer.key
    }

    /// The peer's role.
    pub fn role(&self) -> Role {
        self.sender.link.role()
    }

    /// Both directions separately, for tasks that send and receive at once.
    pub fn split(self) -> (FrameSender, FrameReceiver) {
        (self.sender, self.receiver)
    }
}

/// The sending half of an [`Exchange`].
pub struct FrameSender {
    link: Arc<Link>,
    stream: SendStream,
    broken: bool,
}

impl fmt::Debug for FrameSender {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameSender").field("stream", &self.stream.id()).finish_non_exhaustive()
    }
}

impl FrameSender {
    /// As [`Exchange::send`].
    ///
    /// # Errors
    /// As [`Exchange::send`].
    pub async fn send<W: Wire>(&mut self, message: &W) -> Result<(), TransportError> {
        if self.broken {
            return Err(TransportError::Closed { reason: CloseReason::StreamStalled });
        }
        let frame = encode_frame(message)?;
        self.broken = true;
        self.write(&frame).await?;
        self.broken = false;
        Counters::add(&self.link.gate.counters.message_sent);
        Ok(())
    }

    async fn write(&mut self, frame: &[u8]) -> Result<(), TransportError> {
        let limit = self.link.gate.limits.frame_deadline(frame.len());
        let deadline = Instant::now() + limit;
        let mut done = 0;
        while let Some(rest) = frame.get(done..).filter(|rest| !rest.is_empty()) {
            match timeout_at(deadline, self.stream.write(rest)).await {
                Ok(Ok(written)) => done += written,
                Ok(Err(error)) => return Err(write_error(&self.link, error)),
                Err(_) => return Err(TransportError::StreamStalled { done, total: frame.len(), limit }),
            }
        }
        Ok(())
    }

    /// As [`Exchange::finish`].
    ///
    /// # Errors
    /// If the stream is already dead.
    pub fn finish(&mut self) -> Result<(), TransportError> {
        if self.broken {
            return Err(TransportError::Closed { reason: CloseReason::StreamStalled });
        }
        // Finishing twice is the same as finishing once.
        let _ = self.stream.finish();
        Ok(())
    }

    async fn delivered(&mut self) -> Result<(), TransportError> {
        let limit = self.link.gate.limits.frame_deadline(0);
        match timeout(limit, self.stream.stopped()).await {
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some(code))) => Err(write_error(&self.link, WriteError::Stopped(code))),
            Ok(Err(error)) => Err(write_error(&self.link, error.into())),
            Err(_) => Err(TransportError::StreamStalled { done: 0, total: 0, limit }),
        }
    }
}

impl Drop for FrameSender {
    fn drop(&mut self) {
        if self.broken {
            // Half a frame is out; without a reset the peer would take the end for an orderly one.
            let _ = self.stream.reset(CloseReason::StreamStalled.varint());
        }
    }
}

/// The receiving half of an [`Exchange`].
pub struct FrameReceiver {
    link: Arc<Link>,
    stream: RecvStream,
    patience: Duration,
    partial: Option<Partial>,
    broken: bool,
}

impl fmt::Debug for FrameReceiver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameReceiver").field("stream", &self.stream.id()).finish_non_exhaustive()
    }
}

/// A frame of which the first byte has arrived.
struct Partial {
    started: Instant,
    head: [u8; HEADER],
    head_done: usize,
    body: Vec<u8>,
    permit: Option<OwnedSemaphorePermit>,
}

impl FrameReceiver {
    /// As [`Exchange::recv`].
    ///
    /// # Errors
    /// As [`Exchange::recv`].
    pub async fn recv<W: Wire>(&mut self) -> Result<Option<W>, TransportError> {
        if self.broken {
            return Err(TransportError::Closed { reason: CloseReason::DecodeError });
        }
        let result = self.frame::<W>().await;
        match &result {
            Ok(Some(_)) => Counters::add(&self.link.gate.counters.message_received),
            Ok(None) | Err(TransportError::PeerTimeout { .. }) => {}
            Err(error) => self.refuse(error),
        }
        result
    }

    /// As [`Exchange::set_patience`].
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Ends the stream after an error and holds the peer to account for it.
    fn refuse(&mut self, error: &TransportError) {
        self.broken = true;
        self.partial = None;
        let _ = self.stream.stop(error.close_reason().varint());
        let gate = &self.link.gate;
        if error.is_about_a_message() {
            gate.counters.message_rejected.add(error.kind());
        }
        if error.is_misbehaviour() {
            tracing::debug!(peer = %self.link.peer.key, error_kind = error.kind(), %error, "message refused");
            gate.strike(&self.link.peer, error.kind(), VIOLATION);
        }
    }

    async fn frame<W: Wire>(&mut self) -> Result<Option<W>, TransportError> {
        if !self.begin().await? {
            return Ok(None);
        }
        self.fill_head().await?;
        let head = self.partial.as_ref().map_or([0; HEADER], |partial| partial.head);
        let header = Header::decode::<W>(head)?;
        self.fill_body(header.length).await?;
        let body = self.partial.take().map(|partial| partial.body).unwrap_or_default();
        W::decode_body(header.tag, &body).map(Some).map_err(TransportError::Decode)
    }

    /// Waits for the first byte of a frame; false at an orderly end.
    async fn begin(&mut self) -> Result<bool, TransportError> {
        if self.partial.is_some() {
            return Ok(true);
        }
        let limit = self.patience;
        let waited = timeout(limit, self.stream.read_chunk(HEADER, true)).await;
        let chunk = waited.map_err(|_| TransportError::PeerTimeout { limit })?;
        let Some(chunk) = chunk.map_err(|error| read_error(&self.link, error))? else { return Ok(false) };
        let mut head = [0; HEADER];
        head[..chunk.bytes.len()].copy_from_slice(&chunk.bytes);
        self.partial = Some(Partial {
            started: Instant::now(),
            head,
            head_done: chunk.bytes.len(),
            body: Vec::new(),
            permit: None,
        });
        Ok(true)
    }

    async fn fill_head(&mut self) -> Result<(), TransportError> {
        let Some(partial) = &mut self.partial else { return Ok(()) };
        let limit = self.link.gate.limits.frame_deadline(HEADER);
        while partial.head_done < HEADER {
            let done = partial.head_done;
            let read = timeout_at(partial.started + limit, self.stream.read_chunk(HEADER - done, true)).await;
            let chunk = read.map_err(|_| TransportError::StreamStalled { done, total: HEADER, limit })?;
            let chunk = chunk.map_err(|error| read_error(&self.link, error))?;
            let bytes = chunk.ok_or(TransportError::Truncated { done })?.bytes;
            partial.head[done..done + bytes.len()].copy_from_slice(&bytes);
            partial.head_done += bytes.len();
        }
        Ok(())
    }

    async fn fill_body(&mut self, length: usize) -> Result<(), TransportError> {
        let Some(partial) = &mut self.partial else { return Ok(()) };
        let limits = &self.link.gate.limits;
        let (limit, total) = (limits.frame_deadline(length), HEADER + length);
        let deadline = partial.started + limit;
        let stalled = |done: usize| TransportError::StreamStalled { done: HEADER + done, total, limit };
        if partial.permit.is_none() {
            let wanted = (length as u64).min(u64::from(self.link.peer.bytes)) as u32;
            let acquired = timeout_at(deadline, acquire(&self.link.peer.budget, wanted)).await;
            partial.permit = acquired.map_err(|_| stalled(0))?;
            partial.body.reserve_exact(length.min(FIRST_ALLOCATION));
        }
        while partial.body.len() < length {
            let done = partial.body.len();
            let read = timeout_at(deadline, self.stream.read_chunk(length - done, true)).await;
            let chunk = read.map_err(|_| stalled(done))?.map_err(|error| read_error(&self.link, error))?;
            let bytes = chunk.ok_or(TransportError::Truncated { done: HEADER + done })?.bytes;
            partial.body.extend_from_slice(&bytes);
        }
        Ok(())
    }
}

/// Takes `wanted` bytes of the peer's budget. The semaphore is never closed, so there is always a permit.
async fn acquire(budget: &Arc<Semaphore>, wanted: u32) -> Option<OwnedSemaphorePermit> {
    Arc::clone(budget).acquire_many_owned(wanted).await.ok()
}

fn read_error(link: &Link, error: ReadError) -> TransportError {
    match error {
        ReadError::Reset(code) => {
            TransportError::ClosedByPeer { reason: CloseReason::from_code(code.into_inner()) }
        }
        ReadError::ConnectionLost(error) => link.error(error),
        other => TransportError::Connection(other.to_string()),
    }
}

fn write_error(link: &Link, error: WriteError) -> TransportError {
    match error {
        WriteError::Stopped(code) => {
            TransportError::ClosedByPeer { reason: CloseReason::from_code(code.into_inner()) }
        }
        WriteError::ConnectionLost(error) => link.error(error),
        other => TransportError::Connection(other.to_string()),
    }
}
