//! Where the bytes go. A small trait, so that tests can refuse the i-th sync.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::Advice;

/// The device below a sign-log.
pub trait Storage: Send {
    /// All bytes, read from the device and not from memory that stands in for it.
    ///
    /// # Errors
    /// The system's.
    fn read_all(&mut self) -> io::Result<Vec<u8>>;
    /// Writes at an offset; may write fewer bytes than asked.
    ///
    /// # Errors
    /// The system's.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<usize>;
    /// Makes all written bytes durable.
    ///
    /// # Errors
    /// The system's. Never called again after it failed once.
    fn sync(&mut self) -> io::Result<()>;
    /// Keeps a copy of a log whose tail is about to be cut.
    ///
    /// # Errors
    /// The system's.
    fn keep_broken(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// Replaces everything in one durable, atomic step.
    ///
    /// # Errors
    /// The system's.
    fn replace(&mut self, bytes: &[u8]) -> io::Result<()>;
}

/// A file in a directory that this process has locked.
#[derive(Debug)]
pub struct FileStorage {
    path: PathBuf,
    file: File,
}

impl FileStorage {
    /// Opens an existing file.
    ///
    /// # Errors
    /// The system's; `NotFound` when it does not exist.
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(Self { path: path.to_owned(), file })
    }

    fn beside(&self, suffix: &str) -> PathBuf {
        let mut name = self.path.as_os_str().to_owned();
        name.push(suffix);
        PathBuf::from(name)
    }
}

impl Storage for FileStorage {
    fn read_all(&mut self) -> io::Result<Vec<u8>> {
        // After a failed sync the kernel keeps the lost bytes as clean pages; reading those would hide the loss.
        rustix::fs::fadvise(&self.file, 0, None, Advice::DontNeed)?;
        let mut bytes = Vec::new();
        File::open(&self.path)?.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> io::Result<usize> {
        self.file.write_at(bytes, offset)
    }

    fn sync(&mut self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn keep_broken(&mut self, bytes: &[u8]) -> io::Result<()> {
        write_durably(&self.beside(".broken"), bytes)
    }

    fn replace(&mut self, bytes: &[u8]) -> io::Result<()> {
        write_durably(&self.path, bytes)?;
        self.file = OpenOptions::new().read(true).write(true).open(&self.path)?;
        Ok(())
    }
}

/// Writes a file so that after a crash it holds either all of the new bytes or what it held before.
///
/// # Errors
/// The system's.
pub fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.as_os_str().to_owned();
    name.push(".tmp");
    let temporary = PathBuf::from(name);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    let directory = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}
