//! State of the one device, the doorbell: the position and what the guest waits for.
//!
//! Encoding `device-v1` (borsh, little-endian): `inputs` u64, `doorbells` u64, `pending` u8 (0 none, 1 receive),
//! `exited` u8 (0 or 1) followed by the exit code u64 if 1. Digest: BLAKE3 of `device-v1` zero-padded to 16 bytes and
//! the encoding. The arguments of a pending receive are not here: they lie in the mailbox, which is guest memory.

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::id::DeviceDigest;

const TAG: &[u8; 16] = b"device-v1\0\0\0\0\0\0\0";

/// A point in an execution. Positions of one execution are totally ordered; each step raises exactly one number.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize,
)]
pub struct Position {
    /// Inputs consumed.
    pub inputs: u64,
    /// Doorbells rung, refused operations included.
    pub doorbells: u64,
}

impl std::fmt::Display for Position {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "(input {}, doorbell {})", self.inputs, self.doorbells)
    }
}

/// What the guest waits for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Pending {
    /// Nothing: it may run.
    #[default]
    None,
    /// An input; buffer and capacity are in the mailbox.
    Recv,
}

/// State of the doorbell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct DeviceState {
    /// Inputs consumed.
    pub inputs: u64,
    /// Doorbells rung.
    pub doorbells: u64,
    /// What the guest waits for.
    pub pending: Pending,
    /// Exit code, once the guest has exited.
    pub exited: Option<u64>,
}

impl DeviceState {
    /// Largest encoding.
    pub const BYTES_MAX: usize = 26;

    /// The two counters.
    pub fn position(&self) -> Position {
        Position { inputs: self.inputs, doorbells: self.doorbells }
    }

    /// The canonical bytes.
    pub fn encode(&self) -> Vec<u8> {
        quorate_attest::encoding::to_bytes(self)
    }

    /// Decodes what [`DeviceState::encode`] wrote and nothing else.
    pub fn decode(bytes: &[u8]) -> Result<Self, quorate_attest::encoding::DecodeError> {
        quorate_attest::encoding::from_bytes(bytes, Self::BYTES_MAX)
    }

    /// Tagged BLAKE3 of the canonical bytes.
    pub fn digest(&self) -> DeviceDigest {
        let mut hasher = blake3::Hasher::new();
        hasher.update(TAG).update(&self.encode());
        DeviceDigest::from_bytes(*hasher.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATE: DeviceState = DeviceState { inputs: 3, doorbells: 9, pending: Pending::Recv, exited: None };

    #[test]
    fn golden_encoding_of_device_v1() {
        let mut expected = vec![3, 0, 0, 0, 0, 0, 0, 0, 9, 0, 0, 0, 0, 0, 0, 0, 1, 0];
        assert_eq!(STATE.encode(), expected);
        let finished = DeviceState { pending: Pending::None, exited: Some(0x0102), ..STATE };
        expected[16] = 0;
        expected[17] = 1;
        expected.extend([2, 1, 0, 0, 0, 0, 0, 0]);
        assert_eq!(finished.encode(), expected);
        assert_eq!(expected.len(), DeviceState::BYTES_MAX);
        assert_eq!(DeviceState::decode(&expected).unwrap(), finished);
    }

    #[test]
    fn every_field_changes_the_digest() {
        let others = [
            DeviceState { inputs: 4, ..STATE },
            DeviceState { doorbells: 8, ..STATE },
            DeviceState { pending: Pending::None, ..STATE },
            DeviceState { exited: Some(0), ..STATE },
            DeviceState { exited: Some(1), ..STATE },
        ];
        for (index, other) in others.iter().enumerate() {
            assert_ne!(other.digest(), STATE.digest(), "state {index}");
        }
    }

    #[test]
    fn malformed_device_state_is_refused_at_every_length() {
        let bytes = STATE.encode();
        for length in 0..bytes.len() {
            assert!(DeviceState::decode(&bytes[..length]).is_err(), "{length} bytes");
        }
        for (at, value) in [(16, 2), (17, 2)] {
            let mut bad = bytes.clone();
            bad[at] = value;
            assert!(DeviceState::decode(&bad).is_err());
        }
        assert!(DeviceState::decode(&[bytes, vec![0]].concat()).is_err());
    }
}
