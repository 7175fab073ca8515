//! The engine's network traits over whatever carries frames between members.
//!
//! The node gives a [`Carrier`] for what goes out and feeds [`Inbox`]es with what came in. Both sides are bounded: a frame
//! that does not fit is dropped and counted by the carrier, and the engine repeats what matters.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use commonware_actor::{Feedback, Unreliable};
use commonware_p2p::{
    BlockedSubscription, Blocker, CheckedSender, LimitedSender, PeerSetSubscription, PeerSetUpdate, Provider,
    Receiver, Recipients, TrackedPeers,
};
use commonware_runtime::{IoBuf, IoBufs};
use commonware_utils::channel::{mpsc as engine_mpsc, ring};
use commonware_utils::ordered::Set;
use tokio::sync::mpsc;

use crate::block::MAX_BLOCK;
use crate::committee::EngineKey;
use crate::limits::GOSSIP_BYTES;

/// The kinds of traffic between members, each with a stream and queues of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum Channel {
    /// Votes.
    Votes = 0,
    /// Certificates.
    Certificates = 1,
    /// Requests for missing certificates.
    Resolver = 2,
    /// Operations on their way to whoever leads.
    Gossip = 3,
    /// Proposed blocks.
    Blocks = 4,
    /// Requests for finalized blocks.
    Backfill = 5,
}

impl Channel {
    /// All channels.
    pub const ALL: [Self; 6] =
        [Self::Votes, Self::Certificates, Self::Resolver, Self::Gossip, Self::Blocks, Self::Backfill];

    /// Most bytes of a frame.
    pub fn limit(self) -> usize {
        match self {
            Self::Votes => 4 << 10,
            Self::Certificates | Self::Resolver => 64 << 10,
            Self::Gossip => GOSSIP_BYTES,
            Self::Blocks => MAX_BLOCK,
            Self::Backfill => MAX_BLOCK + (64 << 10),
        }
    }

    /// Most frames of one member that wait to be read.
    pub fn slots(self) -> usize {
        match self {
            Self::Votes | Self::Certificates => 256,
            Self::Resolver | Self::Gossip | Self::Backfill => 64,
            Self::Blocks => 16,
        }
    }
}

/// Carries frames to other members.
pub trait Carrier: Send + Sync + 'static {
    /// Queues a frame; false if it was dropped.
    fn send(&self, to: &EngineKey, epoch: u64, channel: Channel, frame: Bytes) -> bool;

    /// A member broke the protocol.
    fn block(&self, member: &EngineKey);
}

/// A frame of a member. Its slot in that member's share of the queue is free again once it is read.
pub struct Delivered {
    /// The member.
    pub from: EngineKey,
    /// The frame.
    pub frame: Bytes,
    /// Held until the engine has read the frame.
    pub slot: Box<dyn Send>,
}

/// Where the node puts the frames of a channel.
pub type Inbox = mpsc::Sender<Delivered>;

#[derive(Clone)]
pub(crate) struct Sender {
    pub(crate) carrier: Arc<dyn Carrier>,
    pub(crate) epoch: u64,
    pub(crate) channel: Channel,
    pub(crate) others: Arc<[EngineKey]>,
}

pub(crate) struct Checked {
    sender: Sender,
    to: Vec<EngineKey>,
}

impl LimitedSender for Sender {
    type PublicKey = EngineKey;
    type Checked<'a> = Checked;

    fn check(&mut self, recipients: Recipients<EngineKey>) -> Result<Checked, SystemTime> {
        let to = match recipients {
            Recipients::All => self.others.to_vec(),
            Recipients::Some(some) => some,
            Recipients::One(one) => vec![one],
        };
        Ok(Checked { sender: self.clone(), to })
    }
}

impl CheckedSender for Checked {
    type PublicKey = EngineKey;

    fn recipients(&self) -> Vec<EngineKey> {
        self.to.clone()
    }

    fn send(self, message: impl Into<IoBufs> + Send, _priority: bool) -> Unreliable<Feedback> {
        let frame: Bytes = message.into().coalesce().into();
        let Sender { carrier, epoch, channel, .. } = &self.sender;
        let sent = self.to.iter().filter(|to| carrier.send(to, *epoch, *channel, frame.clone())).count();
        if sent == 0 { Unreliable::rejected() } else { Unreliable::new(Feedback::Ok) }
    }
}

/// The node is gone.
#[derive(Debug, thiserror::Error)]
#[error("the node closed the channel")]
pub(crate) struct Closed;

pub(crate) struct Incoming {
    pub(crate) queue: mpsc::Receiver<Delivered>,
    pub(crate) capacity: NonZeroUsize,
}

impl fmt::Debug for Incoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Incoming").field("capacity", &self.capacity).finish_non_exhaustive()
    }
}

impl Receiver for Incoming {
    type Error = Closed;
    type PublicKey = EngineKey;

    async fn recv(&mut self) -> Result<(EngineKey, IoBuf), Closed> {
        let Delivered { from, frame, slot } = self.queue.recv().await.ok_or(Closed)?;
        drop(slot);
        Ok((from, IoBuf::from(frame)))
    }

    fn capacity(&self) -> NonZeroUsize {
        self.capacity
    }
}

/// The members of an epoch, and the way to say that one misbehaved.
#[derive(Clone)]
pub(crate) struct Peers {
    pub(crate) carrier: Arc<dyn Carrier>,
    pub(crate) members: Set<EngineKey>,
    // The engine takes a closed subscription for the end of the network, so the other ends are kept.
    held: Arc<Mutex<Held>>,
}

#[derive(Default)]
struct Held {
    updates: Vec<engine_mpsc::UnboundedSender<PeerSetUpdate<EngineKey>>>,
    blocked: Vec<ring::Sender<Set<EngineKey>>>,
}

impl Peers {
    pub(crate) fn new(carrier: Arc<dyn Carrier>, members: Set<EngineKey>) -> Self {
        Self { carrier, members, held: Arc::default() }
    }
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Peers").field("members", &self.members.len()).finish_non_exhaustive()
    }
}

impl Provider for Peers {
    type PublicKey = EngineKey;

    async fn peer_set(&mut self, _: u64) -> Option<TrackedPeers<EngineKey>> {
        Some(TrackedPeers::primary(self.members.clone()))
    }

    async fn subscribe(&mut self) -> PeerSetSubscription<EngineKey> {
        let (sender, receiver) = engine_mpsc::unbounded_channel();
        let all = TrackedPeers::primary(self.members.clone());
        // The receiver is in our hands, so this cannot fail.
        let _ = sender.send(PeerSetUpdate { index: 0, latest: all.clone(), all });
        self.held.lock().unwrap_or_else(PoisonError::into_inner).updates.push(sender);
        receiver
    }
}

impl Blocker for Peers {
    type PublicKey = EngineKey;

    fn block(&mut self, peer: EngineKey) -> Feedback {
        self.carrier.block(&peer);
        Feedback::Ok
    }

    fn blocked(&mut self) -> BlockedSubscription<EngineKey> {
        let (sender, receiver) = ring::channel(NonZeroUsize::MIN);
        self.held.lock().unwrap_or_else(PoisonError::into_inner).blocked.push(sender);
        receiver
    }
}
