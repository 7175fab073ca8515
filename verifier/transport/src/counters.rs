//! Counters of one endpoint, named as in the operations reference (without the `quorate_` prefix).

use std::sync::atomic::{AtomicU64, Ordering};

/// One value as a metrics exporter wants it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sample {
    /// Metric name.
    pub name: &'static str,
    /// Label name and value.
    pub label: Option<(&'static str, &'static str)>,
    /// Count since start.
    pub value: u64,
}

/// Label values: error kinds, results and queues. A closed list bounds the cardinality of the metrics.
const LABELS: [&str; 24] = [
    "ok",
    "PeerUnknown",
    "PeerRevoked",
    "PeerBlocked",
    "KeyRoleMismatch",
    "HandshakeTimeout",
    "IncomingRefused",
    "SessionBindingMismatch",
    "NonceReused",
    "VersionUnsupported",
    "StreamStalled",
    "MessageTooLarge",
    "DecodeError",
    "StreamLimit",
    "QueueFull",
    "PeerTimeout",
    "Closed",
    "ConnectionFailed",
    "SocketError",
    "connections",
    "exchanges",
    "bulk",
    "requested",
    "other",
];

/// A family of counters that differ in one label.
#[derive(Debug)]
pub struct Labelled {
    name: &'static str,
    label: &'static str,
    cells: [AtomicU64; LABELS.len()],
}

impl Labelled {
    fn new(name: &'static str, label: &'static str) -> Self {
        Self { name, label, cells: std::array::from_fn(|_| AtomicU64::new(0)) }
    }

    pub(crate) fn add(&self, value: &str) {
        let index = LABELS.iter().position(|label| *label == value).unwrap_or(LABELS.len() - 1);
        self.cells[index].fetch_add(1, Ordering::Relaxed);
    }

    /// The count of one label value.
    pub fn get(&self, value: &str) -> u64 {
        let index = LABELS.iter().position(|label| *label == value);
        index.map_or(0, |index| self.cells[index].load(Ordering::Relaxed))
    }

    /// The sum over all label values.
    pub fn total(&self) -> u64 {
        self.cells.iter().map(|cell| cell.load(Ordering::Relaxed)).sum()
    }

    fn samples(&self) -> impl Iterator<Item = Sample> + '_ {
        let counted = LABELS.iter().zip(&self.cells).filter_map(|(label, cell)| {
            let value = cell.load(Ordering::Relaxed);
            (value > 0).then_some((*label, value))
        });
        counted.map(|(label, value)| Sample { name: self.name, label: Some((self.label, label)), value })
    }
}

/// All counters of an endpoint. They only rise.
#[derive(Debug)]
pub struct Counters {
    /// Handshakes by outcome: `ok` or an error kind.
    pub handshake: Labelled,
    /// Connection attempts refused before any cryptography.
    pub incoming_refused: AtomicU64,
    /// Connection attempts that were told to prove their address first.
    pub incoming_retried: AtomicU64,
    /// Frames that were refused, by error kind.
    pub message_rejected: Labelled,
    /// Entries dropped from bounded queues, by queue.
    pub queue_dropped: Labelled,
    /// Peers blocked, by the kind of the last misbehaviour.
    pub peer_blocked: Labelled,
    /// Frames sent whole.
    pub message_sent: AtomicU64,
    /// Frames received and decoded.
    pub message_received: AtomicU64,
}

impl Default for Counters {
    fn default() -> Self {
        Self {
            handshake: Labelled::new("handshake_total", "result"),
            incoming_refused: AtomicU64::new(0),
            incoming_retried: AtomicU64::new(0),
            message_rejected: Labelled::new("message_rejected_total", "error_kind"),
            queue_dropped: Labelled::new("queue_dropped_total", "queue"),
            peer_blocked: Labelled::new("peer_blocked_total", "reason"),
            message_sent: AtomicU64::new(0),
            message_received: AtomicU64::new(0),
        }
    }
}

impl Counters {
    /// Everything that was counted; label values that never occurred are left out.
    pub fn samples(&self) -> Vec<Sample> {
        let plain = [
            ("incoming_refused_total", &self.incoming_refused),
            ("incoming_retried_total", &self.incoming_retried),
            ("message_sent_total", &self.message_sent),
            ("message_received_total", &self.message_received),
        ];
        let plain = plain.into_iter().map(|(name, cell)| Sample {
            name,
            label: None,
            value: cell.load(Ordering::Relaxed),
        });
        let families = [&self.handshake, &self.message_rejected, &self.queue_dropped, &self.peer_blocked];
        plain.chain(families.into_iter().flat_map(|family| family.samples())).collect()
    }

    pub(crate) fn add(cell: &AtomicU64) {
        cell.fetch_add(1, Ordering::Relaxed);
    }
}
