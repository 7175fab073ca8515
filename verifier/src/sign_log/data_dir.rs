//! The data directory: one process at a time, and never without the sign-log it was created with.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use super::storage::write_durably;
use super::{Entry, FileStorage, Opened, SignLog, SignLogError, image};

/// Name of the sign-log in the data directory.
pub const LOG_FILE: &str = "sign-log";
const LOCK_FILE: &str = "lock";

/// A locked data directory. The lock ends with the value, or with the process.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

impl DataDir {
    /// Creates the sign-log of a new identity. `first` becomes its first entry.
    ///
    /// # Errors
    /// `AlreadyInitialised` when there is one: it is never overwritten.
    pub fn init(path: &Path, first: &Entry) -> Result<(), SignLogError> {
        fs::create_dir_all(path).map_err(|e| SignLogError::storage("create the data directory", e))?;
        let _lock = lock(path)?;
        let log = path.join(LOG_FILE);
        if log.try_exists().map_err(|e| SignLogError::storage("look for a sign-log", e))? {
            return Err(SignLogError::AlreadyInitialised { path: path.to_owned() });
        }
        let (bytes, ..) = image(std::slice::from_ref(first))?;
        write_durably(&log, &bytes).map_err(|e| SignLogError::storage("create the sign-log", e))
    }

    /// Locks the directory and reads its sign-log.
    ///
    /// # Errors
    /// `DataDirLocked`, `SignStateMissing`, `WalCorrupt`, storage errors.
    pub fn open(path: &Path) -> Result<(Self, Opened<FileStorage>), SignLogError> {
        if !path.is_dir() {
            return Err(missing(path, "no such directory"));
        }
        let lock = lock(path)?;
        let storage = match FileStorage::open(&path.join(LOG_FILE)) {
            Ok(storage) => storage,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Err(missing(path, "no sign-log")),
            Err(e) => return Err(SignLogError::storage("open the sign-log", e)),
        };
        let opened = SignLog::open(storage)?;
        if opened.entries.is_empty() {
            return Err(missing(path, "the sign-log is empty"));
        }
        Ok((Self { path: path.to_owned(), _lock: lock }, opened))
    }

    /// Looks whether there is a sign-log, without locking or reading it.
    ///
    /// # Errors
    /// `SignStateMissing`.
    pub fn check(path: &Path) -> Result<(), SignLogError> {
        match fs::metadata(path.join(LOG_FILE)) {
            Ok(found) if found.len() > 0 => Ok(()),
            Ok(_) => Err(missing(path, "the sign-log is empty")),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Err(missing(path, "no sign-log")),
            Err(e) => Err(SignLogError::storage("look for the sign-log", e)),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes a file below the directory, durably and atomically.
    ///
    /// # Errors
    /// The system's.
    pub fn write(&self, folder: &str, name: &str, bytes: &[u8]) -> io::Result<()> {
        let folder = self.path.join(folder);
        fs::create_dir_all(&folder)?;
        write_durably(&folder.join(name), bytes)
    }

    /// Reads a file below the directory, up to `limit` bytes.
    ///
    /// # Errors
    /// The system's; `FileTooLarge` above the limit.
    pub fn read(&self, folder: &str, name: &str, limit: u64) -> io::Result<Vec<u8>> {
        let path = self.path.join(folder).join(name);
        if fs::metadata(&path)?.len() > limit {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        fs::read(path)
    }
}

fn lock(path: &Path) -> Result<File, SignLogError> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path.join(LOCK_FILE))
        .map_err(|e| SignLogError::storage("open the lock file", e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(SignLogError::DataDirLocked { path: path.to_owned() }),
        Err(TryLockError::Error(e)) => Err(SignLogError::storage("lock the data directory", e)),
    }
}

fn missing(path: &Path, reason: &str) -> SignLogError {
    SignLogError::SignStateMissing { path: path.to_owned(), reason: reason.to_owned() }
}
