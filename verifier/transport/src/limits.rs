//! Every bound of the transport in one place.

use std::time::Duration;

use borsh::{BorshDeserialize, BorshSerialize};

use crate::directory::Role;
use crate::error::TransportError;

/// The protocol versions a node speaks, both ends included. Raise `lowest` to set a floor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Versions {
    /// Lowest version accepted.
    pub lowest: u16,
    /// Highest version spoken.
    pub highest: u16,
}

impl Versions {
    /// What this build speaks.
    pub const SPOKEN: Self = Self { lowest: 1, highest: 1 };

    /// The highest version both sides speak. Both sides compute it, from offers that both have signed, so neither
    /// a peer nor anyone between can talk them down.
    pub(crate) fn choose(self, peer: Self) -> Result<u16, TransportError> {
        let version = self.highest.min(peer.highest);
        if version < self.lowest || version < peer.lowest || peer.lowest > peer.highest {
            return Err(TransportError::VersionUnsupported { min: self.lowest, got: peer.highest });
        }
        Ok(version)
    }
}

/// Bounds on time, memory and numbers. The defaults suit a node of a cluster; tests narrow them.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Protocol versions offered and accepted.
    pub versions: Versions,
    /// TLS handshake and application hello together.
    pub handshake: Duration,
    /// A connection without any packet for so long is dead. Keep-alives go out at a third of it.
    pub idle: Duration,
    /// Longest wait of [`crate::Exchange::recv`] for the first byte of a message. See
    /// [`crate::Exchange::set_patience`] for streams that are silent by design.
    pub patience: Duration,
    /// Time every frame gets, whatever its length, from its first byte on.
    pub frame_grace: Duration,
    /// Bytes a second that a frame must reach on top of `frame_grace`, in both directions.
    pub min_rate: u64,
    /// Streams a peer may hold open at once on one connection.
    pub max_streams: u32,
    /// Streams that wait for [`crate::Connection::accept`]; the newest beyond it is refused.
    pub stream_queue: usize,
    /// Established connections that wait for [`crate::Endpoint::accept`]; the newest beyond it is refused.
    pub connection_queue: usize,
    /// Established connections of this endpoint, both directions.
    pub max_connections: usize,
    /// Established connections with one peer key.
    pub max_connections_per_peer: usize,
    /// Handshakes in progress; attempts beyond it are refused before any cryptography.
    pub max_pending_handshakes: usize,
    /// Pending handshakes from which on an address must prove that it can receive (QUIC Retry).
    pub retry_threshold: usize,
    /// Pending handshakes of one address.
    pub max_pending_per_address: usize,
    /// Pending handshakes of one subnet (IPv4 /24, IPv6 /48).
    pub max_pending_per_subnet: usize,
    /// Unread bytes a member may have on its way to us: the flow control window of a connection, and
    /// separately the bodies being assembled over all its connections.
    pub bytes_in_flight: u32,
    /// The same for a client, of which there may be many. All peers together can make us hold at most
    /// `max_connections` times twice the larger that applies.
    pub client_bytes_in_flight: u32,
    /// Unread bytes of one stream.
    pub stream_window: u32,
    /// Misbehaviour points after which a peer is blocked; see [`crate::Endpoint::block`].
    pub strikes: u32,
    /// Time in which the points must come together.
    pub strike_window: Duration,
    /// How long a blocked peer stays blocked.
    pub block_period: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            versions: Versions::SPOKEN,
            handshake: Duration::from_secs(5),
            idle: Duration::from_secs(30),
            patience: Duration::from_secs(30),
            frame_grace: Duration::from_secs(5),
            min_rate: 64 * 1024,
            max_streams: 256,
            stream_queue: 128,
            connection_queue: 128,
            max_connections: 1024,
            max_connections_per_peer: 8,
            max_pending_handshakes: 256,
            retry_threshold: 32,
            max_pending_per_address: 64,
            max_pending_per_subnet: 128,
            bytes_in_flight: 16 << 20,
            client_bytes_in_flight: 512 << 10,
            stream_window: 4 << 20,
            strikes: 256,
            strike_window: Duration::from_secs(60),
            block_period: Duration::from_secs(60),
        }
    }
}

impl Limits {
    /// Bytes in flight of a peer with this role.
    pub(crate) fn bytes_of(&self, role: Role) -> u32 {
        if role == Role::Client { self.client_bytes_in_flight } else { self.bytes_in_flight }
    }

    /// Time a frame of `bytes` may take from its first byte on.
    pub fn frame_deadline(&self, bytes: usize) -> Duration {
        let rate = self.min_rate.max(1);
        let millis = (bytes as u64).saturating_mul(1000) / rate;
        self.frame_grace.saturating_add(Duration::from_millis(millis))
    }
}
