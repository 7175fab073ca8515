//! The newest head of a VM that a client has seen proved. It never goes back, also not over a restart.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use quorate_attest::id::{Generation, Slot, StatementDigest, VmId};
use serde::{Deserialize, Serialize};

/// Largest head file that is read.
const FILE_BYTES_MAX: u64 = 4096;

/// How far a VM is known to be. Ordered by generation, then slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Head {
    /// Highest generation that was proved.
    pub generation: Generation,
    /// Newest certified slot seen.
    pub slot: Option<Slot>,
    /// Digest of that slot's statement; zero without a slot.
    pub statement: StatementDigest,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct HeadFile {
    vm: VmId,
    head: Head,
}

/// A head file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum HeadStoreError {
    /// The file belongs to another VM.
    #[error("{} is the head of VM {got}, not of {want}", path.display())]
    WrongVm {
        /// The file.
        path: PathBuf,
        /// VM expected.
        want: VmId,
        /// VM in the file.
        got: VmId,
    },
    /// The file is no head. It is not replaced: starting without it would allow a rollback.
    #[error("{} is damaged ({reason}); remove it only if you accept answers of any age", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

impl HeadStoreError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::WrongVm { .. } => "WrongVm",
            Self::Damaged { .. } => "DecodeError",
            Self::Io { .. } => "StorageFailed",
        }
    }
}

/// A file with the newest head of one VM.
#[derive(Clone, Debug)]
pub struct HeadStore {
    path: PathBuf,
}

impl HeadStore {
    /// Opens the file; an absent one is a client's first contact with the VM.
    ///
    /// # Errors
    /// The file is there and cannot be used.
    pub fn open(path: &Path, vm: &VmId) -> Result<(Self, Option<Head>), HeadStoreError> {
        let path = path.to_owned();
        let damaged = |reason: String| HeadStoreError::Damaged { path: path.clone(), reason };
        let text = match read_bounded(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Self { path }, None)),
            Err(source) => return Err(HeadStoreError::Io { path, source }),
        };
        let file: HeadFile = serde_json::from_str(&text).map_err(|error| damaged(error.to_string()))?;
        if file.vm != *vm {
            return Err(HeadStoreError::WrongVm { path, want: *vm, got: file.vm });
        }
        Ok((Self { path }, Some(file.head)))
    }

    /// Makes a head durable.
    ///
    /// # Errors
    /// The system's.
    pub fn save(&self, vm: &VmId, head: &Head) -> io::Result<()> {
        let text = serde_json::to_string(&HeadFile { vm: *vm, head: *head })?;
        let partial = self.path.with_extension("partial");
        let mut file = File::create(&partial)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&partial, &self.path)?;
        // The rename itself must survive a crash too.
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
    }
}

fn read_bounded(path: &Path) -> io::Result<String> {
    if fs::metadata(path)?.len() > FILE_BYTES_MAX {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    fs::read_to_string(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    const VM: VmId = VmId::from_bytes([7; 32]);

    fn head(generation: u64, slot: u64) -> Head {
        let statement = StatementDigest::from_bytes([slot as u8; 32]);
        Head { generation: Generation(generation), slot: Some(Slot(slot)), statement }
    }

    #[test]
    fn generation_outranks_slot_and_any_slot_outranks_none() {
        assert!(head(1, 0) > head(0, 9));
        assert!(head(0, 1) > head(0, 0));
        assert!(head(0, 0) > Head::default());
    }

    #[test]
    fn head_survives_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("head.json");
        let (store, none) = HeadStore::open(&path, &VM).unwrap();
        assert_eq!(none, None);
        store.save(&VM, &head(2, 5)).unwrap();
        assert_eq!(HeadStore::open(&path, &VM).unwrap().1, Some(head(2, 5)));
    }

    #[test]
    fn damaged_or_foreign_head_file_is_refused_and_not_forgotten() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("head.json");
        for text in ["", "{", "{\"vm\":1}", &"x".repeat(5000)] {
            fs::write(&path, text).unwrap();
            assert!(HeadStore::open(&path, &VM).is_err(), "{text:.20}");
        }
        HeadStore { path: path.clone() }.save(&VM, &head(0, 1)).unwrap();
        let error = HeadStore::open(&path, &VmId::from_bytes([8; 32])).unwrap_err();
        assert_eq!(error.kind(), "WrongVm");
    }
}
