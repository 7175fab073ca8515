//! Frames: encoding, and the scan that tells a torn tail from damage in the middle.

use std::ops::Range;

use super::{Entry, SignLogError};

/// Bytes before the payload.
pub const FRAME_HEADER_BYTES: usize = 45;
/// Largest payload of one frame.
pub const PAYLOAD_BYTES_MAX: usize = 4 << 20;
/// How far ahead of the expected sequence a frame still counts as one of ours when the scan looks for survivors.
const SEQUENCE_WINDOW: u64 = 1 << 32;

/// Truncated BLAKE3 over a frame.
pub type Checksum = [u8; 16];

fn checksum(header: &[u8], payload: &[u8]) -> Checksum {
    let mut hasher = blake3::Hasher::new();
    hasher.update(header).update(payload);
    let mut short = Checksum::default();
    short.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    short
}

/// The bytes of one frame and its checksum.
pub(super) fn encode(kind: u8, sequence: u64, previous: &Checksum, payload: &[u8]) -> (Vec<u8>, Checksum) {
    let mut bytes = Vec::with_capacity(FRAME_HEADER_BYTES + payload.len());
    bytes.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    bytes.push(kind);
    bytes.extend_from_slice(&sequence.to_le_bytes());
    bytes.extend_from_slice(previous);
    let sum = checksum(&bytes, payload);
    bytes.extend_from_slice(&sum);
    bytes.extend_from_slice(payload);
    (bytes, sum)
}

/// A frame whose own checksum is right.
struct Frame<'a> {
    kind: u8,
    sequence: u64,
    previous: Checksum,
    checksum: Checksum,
    payload: &'a [u8],
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn parse(bytes: &[u8]) -> Option<Frame<'_>> {
    let length = u32::from_le_bytes(array(bytes, 0)?) as usize;
    if length == 0 || length > PAYLOAD_BYTES_MAX {
        return None;
    }
    let payload = bytes.get(FRAME_HEADER_BYTES..FRAME_HEADER_BYTES + length)?;
    let frame = Frame {
        kind: *bytes.get(4)?,
        sequence: u64::from_le_bytes(array(bytes, 5)?),
        previous: array(bytes, 13)?,
        checksum: array(bytes, 29)?,
        payload,
    };
    (checksum(bytes.get(..29)?, payload) == frame.checksum).then_some(frame)
}

/// Everything a log file holds.
#[derive(Debug)]
pub(super) struct Scan {
    pub entries: Vec<Entry>,
    pub end: u64,
    pub sequence: u64,
    pub last: Checksum,
    pub torn: Option<u64>,
}

/// Walks the frames from the start. Consumes every byte: what is not a frame must be zeros or a torn tail.
pub(super) fn scan(bytes: &[u8]) -> Result<Scan, SignLogError> {
    let used = bytes.iter().rposition(|b| *b != 0).map_or(0, |last| last + 1);
    let mut found = Scan { entries: Vec::new(), end: 0, sequence: 0, last: Checksum::default(), torn: None };
    let mut at = 0usize;
    while at < used {
        match parse(&bytes[at..]) {
            Some(frame) if frame.sequence == found.sequence && frame.previous == found.last => {
                at += FRAME_HEADER_BYTES + frame.payload.len();
                found.last = frame.checksum;
                found.sequence += 1;
                found.entries.push(Entry { kind: frame.kind, payload: frame.payload.to_vec() });
            }
            // A whole frame that does not continue the chain was not torn: something was lost or exchanged before it.
            Some(_) => return Err(SignLogError::WalCorrupt { offset: at as u64 }),
            // The first frame was made by one atomic rename, so it cannot be torn.
            None if at == 0 || survivor_after(bytes, at..used, found.sequence) => {
                return Err(SignLogError::WalCorrupt { offset: at as u64 });
            }
            None => {
                found.torn = Some((used - at) as u64);
                break;
            }
        }
    }
    found.end = at as u64;
    Ok(found)
}

/// Whether any good frame begins after the bad one at the start of `range`.
fn survivor_after(bytes: &[u8], range: Range<usize>, expected: u64) -> bool {
    range.skip(1).any(|start| {
        let Some(sequence) = array(bytes, start + 5).map(u64::from_le_bytes) else { return false };
        // Cheap filter before hashing up to 4 MiB at each of many offsets.
        sequence > expected && sequence - expected < SEQUENCE_WINDOW && parse(&bytes[start..]).is_some()
    })
}
