//! One other member: its connection, its share of our queues, its rate.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use quorate_agreement_engine::committee::EngineKey;
use quorate_agreement_engine::network::{Channel, Delivered};
use quorate_attest::key::PublicKey;
use quorate_transport::Connection;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use super::frame::Frame;

/// Frames a second that a member may send in a channel, on average over some seconds.
const RATE: f64 = 2000.0;
/// Bytes a second.
const BYTE_RATE: f64 = 256.0 * 1024.0 * 1024.0;
/// Seconds of the rate that may come at once.
const BURST: f64 = 2.0;
/// Frames over the rate after which a member is blocked.
const FLOOD: u32 = 20_000;

pub(crate) struct Peer {
    pub(crate) transport: PublicKey,
    address: Mutex<SocketAddr>,
    outgoing: Mutex<Option<Outgoing>>,
    slots: Vec<Arc<Semaphore>>,
    rates: Mutex<Rates>,
}

struct Outgoing {
    serial: u64,
    queues: Vec<mpsc::Sender<Frame>>,
}

struct Rates {
    buckets: [(f64, f64); Channel::ALL.len()],
    refilled: Instant,
    over: u32,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Votes before everything, blocks that others wait for before old ones.
fn priority(channel: Channel) -> i32 {
    match channel {
        Channel::Votes | Channel::Certificates => 3,
        Channel::Resolver | Channel::Blocks => 2,
        Channel::Gossip => 1,
        Channel::Backfill => 0,
    }
}

impl Peer {
    pub(crate) fn new(transport: PublicKey, address: SocketAddr) -> Self {
        let full = (RATE * BURST, BYTE_RATE * BURST);
        let rates = Rates { buckets: [full; Channel::ALL.len()], refilled: Instant::now(), over: 0 };
        Self {
            transport,
            address: Mutex::new(address),
            outgoing: Mutex::default(),
            slots: Channel::ALL.map(|channel| Arc::new(Semaphore::new(channel.slots()))).into(),
            rates: Mutex::new(rates),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        *lock(&self.address)
    }

    pub(crate) fn move_to(&self, address: SocketAddr) {
        *lock(&self.address) = address;
    }

    pub(crate) fn is_connected(&self) -> bool {
        lock(&self.outgoing).is_some()
    }

    /// From now on frames go over this connection. The tasks end with the queues or the connection.
    pub(crate) fn connect(&self, serial: u64, connection: &Connection) -> JoinSet<()> {
        let mut writers = JoinSet::new();
        let queues = Channel::ALL
            .map(|channel| {
                let (queue, frames) = mpsc::channel(channel.slots());
                writers.spawn(write(connection.clone(), channel, frames));
                queue
            })
            .into();
        *lock(&self.outgoing) = Some(Outgoing { serial, queues });
        writers
    }

    /// Forgets a connection, unless a newer one has taken its place.
    pub(crate) fn disconnect(&self, serial: u64) {
        let mut outgoing = lock(&self.outgoing);
        if outgoing.as_ref().is_some_and(|current| current.serial == serial) {
            *outgoing = None;
        }
    }

    /// Queues a frame; false if there is no room.
    pub(crate) fn send(&self, frame: Frame) -> bool {
        let outgoing = lock(&self.outgoing);
        let queue = outgoing.as_ref().and_then(|outgoing| outgoing.queues.get(frame.channel as usize));
        queue.is_some_and(|queue| queue.try_send(frame).is_ok())
    }

    /// Takes a slot of the member's share for a frame; `None` if it has none left.
    pub(crate) fn admit(&self, channel: Channel, from: EngineKey, frame: Bytes) -> Option<Delivered> {
        let slots = self.slots.get(channel as usize)?;
        let slot = Arc::clone(slots).try_acquire_owned().ok()?;
        Some(Delivered { from, frame, slot: Box::new(slot) })
    }

    /// Counts a frame against the member's rate.
    pub(crate) fn is_within_rate(&self, channel: Channel, bytes: usize) -> bool {
        let mut rates = lock(&self.rates);
        let now = Instant::now();
        let passed = now.duration_since(rates.refilled).as_secs_f64();
        rates.refilled = now;
        for (frames, left) in &mut rates.buckets {
            *frames = (*frames + passed * RATE).min(RATE * BURST);
            *left = (*left + passed * BYTE_RATE).min(BYTE_RATE * BURST);
        }
        let Some((frames, left)) = rates.buckets.get_mut(channel as usize) else { return false };
        if *frames >= 1.0 && *left >= bytes as f64 {
            (*frames, *left) = (*frames - 1.0, *left - bytes as f64);
            return true;
        }
        rates.over = rates.over.saturating_add(1);
        false
    }

    /// Whether the member has been over its rate so often that it cannot be chance; counts from zero again.
    pub(crate) fn floods(&self) -> bool {
        let mut rates = lock(&self.rates);
        let floods = rates.over >= FLOOD;
        if floods {
            rates.over = 0;
        }
        floods
    }
}

async fn write(connection: Connection, channel: Channel, mut frames: mpsc::Receiver<Frame>) {
    let Some(mut frame) = frames.recv().await else { return };
    let Ok(mut exchange) = connection.open().await else { return };
    exchange.set_priority(priority(channel));
    loop {
        if let Err(error) = exchange.send(&frame).await {
            tracing::debug!(peer = %connection.peer(), error_kind = error.kind(), %error, "stream to a member ended");
            return;
        }
        match frames.recv().await {
            Some(next) => frame = next,
            None => return,
        }
    }
}
