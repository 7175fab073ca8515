//! The sign-log: what a verifier promised, durable before the promise leaves the process.
//!
//! One file, append-only, zero-filled ahead of its end. Each append writes one frame and calls `fdatasync` once; only then
//! does the caller release signatures. A frame is
//!
//! ```text
//! offset  0  length    u32  bytes of payload, 1 ..= PAYLOAD_BYTES_MAX
//!         4  kind      u8
//!         5  sequence  u64  0, 1, 2 ...
//!        13  previous  16   checksum of the frame before (zero for the first)
//!        29  checksum  16   BLAKE3, truncated, over bytes 0..29 and the payload
//!        45  payload
//! ```
//!
//! all integers little-endian. Because the file is filled with zeros ahead of its end, the log ends where nothing but zeros follow.
//!
//! What one sync makes durable is always exactly one frame, so a power cut leaves at most one bad frame and nothing after it:
//! that tail is cut (`WalTornTail`, and a `.broken` copy is kept). A bad frame with a good one anywhere after it was damaged
//! after it had been synced: `WalCorrupt`, and the process ends. A storage error poisons the log for good; the file is never
//! synced a second time, because the kernel marks pages clean after a failed sync and the next call would lie. Opening
//! syncs once and then reads from the device, past the page cache, so that nothing is relied on that a power cut could take.
//!
//! Not promised: damage inside the *last* frame is indistinguishable from a torn write and is cut as such.

mod data_dir;
mod frame;
mod storage;
#[cfg(test)]
pub(crate) mod tests;

pub use data_dir::{DataDir, LOG_FILE};
pub use frame::{Checksum, FRAME_HEADER_BYTES, PAYLOAD_BYTES_MAX};
pub use storage::write_durably;
pub use storage::{FileStorage, Storage};

use std::io;
use std::path::PathBuf;

use frame::{Scan, encode, scan};

/// The file grows by this many bytes of zeros at a time.
pub const GROWTH_BYTES: u64 = 1 << 20;

/// Why the sign-log cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SignLogError {
    /// Another process has the data directory.
    #[error("data directory {} is locked by another process", path.display())]
    DataDirLocked {
        /// The directory.
        path: PathBuf,
    },
    /// The identity has been registered but its sign-log is not there, or is another one's.
    #[error("sign-state of {} is missing: {reason}", path.display())]
    SignStateMissing {
        /// Where it was expected.
        path: PathBuf,
        /// What was found instead.
        reason: String,
    },
    /// `init` found a sign-log.
    #[error("{} already holds a sign-log", path.display())]
    AlreadyInitialised {
        /// The directory.
        path: PathBuf,
    },
    /// A frame that had been synced is damaged.
    #[error("sign-log is corrupt at byte {offset}")]
    WalCorrupt {
        /// Where the bad frame begins.
        offset: u64,
    },
    /// The device refused to write or to sync.
    #[error("storage failed while it had to {action}: {source}")]
    StorageSyncFailed {
        /// What was being done.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// The device is full.
    #[error("storage is full")]
    StorageFull,
    /// The log failed before and takes nothing any more.
    #[error("the sign-log failed earlier and is closed")]
    Poisoned,
    /// A frame larger than the format allows.
    #[error("a frame of {got} bytes exceeds the limit of {limit}")]
    FrameTooLarge {
        /// Largest payload.
        limit: usize,
        /// What was to be written.
        got: usize,
    },
}

impl SignLogError {
    /// Stable identifier.
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::DataDirLocked { .. } => "DataDirLocked",
            Self::SignStateMissing { .. } => "SignStateMissing",
            Self::AlreadyInitialised { .. } => "AlreadyInitialised",
            Self::WalCorrupt { .. } => "WalCorrupt",
            Self::StorageSyncFailed { .. } | Self::Poisoned => "StorageSyncFailed",
            Self::StorageFull => "StorageFull",
            Self::FrameTooLarge { .. } => "MessageTooLarge",
        }
    }

    /// Exit code of a process that meets this error.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::DataDirLocked { .. } => crate::exit::RETRY,
            Self::SignStateMissing { .. } | Self::AlreadyInitialised { .. } => crate::exit::CONFIGURATION,
            _ => crate::exit::STORAGE,
        }
    }

    pub(crate) fn storage(action: &'static str, source: io::Error) -> Self {
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::WriteZero | io::ErrorKind::QuotaExceeded => {
                Self::StorageFull
            }
            _ => Self::StorageSyncFailed { action, source },
        }
    }
}

/// One frame's content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What the payload is; the log does not interpret it.
    pub kind: u8,
    /// Bytes.
    pub payload: Vec<u8>,
}

/// What opening a log found.
#[derive(Debug)]
pub struct Opened<S> {
    /// The log, ready to append.
    pub log: SignLog<S>,
    /// All entries, oldest first.
    pub entries: Vec<Entry>,
    /// Bytes of a torn tail that were cut.
    pub torn: Option<u64>,
}

/// An open sign-log.
#[derive(Debug)]
pub struct SignLog<S> {
    storage: S,
    end: u64,
    capacity: u64,
    sequence: u64,
    last: Checksum,
    failed: bool,
}

impl<S: Storage> SignLog<S> {
    /// Reads the log back from the device and cuts a torn tail.
    ///
    /// # Errors
    /// `WalCorrupt` when a bad frame is followed by a good one, storage errors otherwise.
    pub fn open(mut storage: S) -> Result<Opened<S>, SignLogError> {
        // A process that was killed may have left bytes that only memory holds. What is read now will be relied on.
        storage.sync().map_err(|e| SignLogError::storage("sync the sign-log", e))?;
        let bytes = storage.read_all().map_err(|e| SignLogError::storage("read the sign-log", e))?;
        let Scan { entries, end, sequence, last, torn } = scan(&bytes)?;
        if let Some(torn) = torn {
            storage
                .keep_broken(&bytes)
                .map_err(|e| SignLogError::storage("keep a copy of the torn log", e))?;
            let zeros = vec![0u8; torn as usize];
            write_all(&mut storage, end, &zeros)?;
            storage.sync().map_err(|e| SignLogError::storage("sync the cut log", e))?;
        }
        let log = Self { storage, end, capacity: bytes.len() as u64, sequence, last, failed: false };
        Ok(Opened { log, entries, torn })
    }

    /// Makes one entry durable. When this returns `Ok`, it survives a power cut.
    ///
    /// # Errors
    /// The first error closes the log: every later call answers `Poisoned`.
    pub fn append(&mut self, kind: u8, payload: &[u8]) -> Result<(), SignLogError> {
        self.append_then(kind, payload, || {})
    }

    /// [`SignLog::append`] with a step between the write and the sync, where tests end the process.
    ///
    /// # Errors
    /// As [`SignLog::append`].
    pub fn append_then(
        &mut self,
        kind: u8,
        payload: &[u8],
        written: impl FnOnce(),
    ) -> Result<(), SignLogError> {
        if self.failed {
            return Err(SignLogError::Poisoned);
        }
        if payload.is_empty() || payload.len() > PAYLOAD_BYTES_MAX {
            return Err(SignLogError::FrameTooLarge { limit: PAYLOAD_BYTES_MAX, got: payload.len() });
        }
        let (bytes, checksum) = encode(kind, self.sequence, &self.last, payload);
        self.failed = true;
        self.reserve(bytes.len() as u64)?;
        write_all(&mut self.storage, self.end, &bytes)?;
        written();
        self.storage.sync().map_err(|e| SignLogError::storage("sync the sign-log", e))?;
        self.failed = false;
        self.end += bytes.len() as u64;
        self.sequence += 1;
        self.last = checksum;
        Ok(())
    }

    /// Replaces the whole log by `entries` in one atomic step, so that it does not grow without bound.
    ///
    /// # Errors
    /// As [`SignLog::append`].
    pub fn rewrite(&mut self, entries: &[Entry]) -> Result<(), SignLogError> {
        if self.failed {
            return Err(SignLogError::Poisoned);
        }
        let (bytes, end, last) = image(entries)?;
        self.failed = true;
        self.storage.replace(&bytes).map_err(|e| SignLogError::storage("replace the sign-log", e))?;
        self.failed = false;
        self.end = end;
        self.capacity = bytes.len() as u64;
        self.sequence = entries.len() as u64;
        self.last = last;
        Ok(())
    }

    /// Bytes in use.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.end
    }

    /// Fills zeros ahead of the end: a full device is noticed before a promise is written, not in the middle of it.
    fn reserve(&mut self, bytes: u64) -> Result<(), SignLogError> {
        if self.end + bytes <= self.capacity {
            return Ok(());
        }
        let capacity = (self.end + bytes).next_multiple_of(GROWTH_BYTES);
        let zeros = vec![0u8; (capacity - self.capacity) as usize];
        write_all(&mut self.storage, self.capacity, &zeros)?;
        self.storage.sync().map_err(|e| SignLogError::storage("sync the grown log", e))?;
        self.capacity = capacity;
        Ok(())
    }
}

/// The bytes of a log that holds exactly `entries`, its end and its last checksum.
fn image(entries: &[Entry]) -> Result<(Vec<u8>, u64, Checksum), SignLogError> {
    let mut bytes = Vec::new();
    let mut last = Checksum::default();
    for (sequence, entry) in entries.iter().enumerate() {
        if entry.payload.is_empty() || entry.payload.len() > PAYLOAD_BYTES_MAX {
            return Err(SignLogError::FrameTooLarge { limit: PAYLOAD_BYTES_MAX, got: entry.payload.len() });
        }
        let (frame, checksum) = encode(entry.kind, sequence as u64, &last, &entry.payload);
        bytes.extend_from_slice(&frame);
        last = checksum;
    }
    let end = bytes.len() as u64;
    bytes.resize(end.next_multiple_of(GROWTH_BYTES) as usize, 0);
    Ok((bytes, end, last))
}

fn write_all(storage: &mut impl Storage, mut offset: u64, mut bytes: &[u8]) -> Result<(), SignLogError> {
    while !bytes.is_empty() {
        match storage.write_at(offset, bytes) {
            Ok(0) => return Err(SignLogError::StorageFull),
            Ok(n) => {
                offset += n as u64;
                bytes = bytes.get(n..).unwrap_or_default();
            }
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(SignLogError::storage("write the sign-log", e)),
        }
    }
    Ok(())
}
