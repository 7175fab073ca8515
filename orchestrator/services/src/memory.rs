//! What a client remembers of a service over restarts: its newest head, and evidence.
//!
//! The head never goes back. A larger one counts only with a proof that its log extends the known one, and one of the same size
//! only if it is the same. What is written is verified before; what cannot be read is not replaced. Processes may share a memory.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use borsh::{BorshDeserialize, BorshSerialize};
use quorate_attest::encoding::{Bounded, to_bytes};
use quorate_attest::id::ServiceId;
use quorate_attest::merkle::{Digest, ProofError, Sha256Tree, verify_consistency};
use quorate_attest::service::ServiceReceiptCertificate;
use quorate_verifier::sign_log::write_durably;
use sha2::{Digest as _, Sha256};

/// Most files of evidence that are kept.
const EVIDENCE_MAX: usize = 1024;
/// Locked while something is written.
const LOCK: &str = "lock";
/// Folder of the evidence.
const EVIDENCE: &str = "evidence";

/// The newest head of a service's log that was proved to a client.
#[derive(Debug, Clone, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Head {
    /// The service.
    pub service: ServiceId,
    /// The receipt whose log root it is.
    pub certificate: ServiceReceiptCertificate,
}

impl Bounded for Head {
    const LIMIT: usize = 32 + ServiceReceiptCertificate::LIMIT;
}

impl Head {
    /// Entries of the log and their root.
    pub fn log(&self) -> (u64, Digest) {
        (self.certificate.receipt.log_size, self.certificate.receipt.log_root)
    }
}

/// Why a head is not taken, or cannot be kept.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The file is no head of this service. Going on without it would allow a rollback.
    #[error("{} is damaged or of another service; remove it only if you accept answers of any age", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
    },
    /// The system refused.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The head is older than the known one.
    #[error("the answer stops at entry {got}, but entry {have} is known")]
    Stale {
        /// Newest entry known.
        have: u64,
        /// Newest entry of the answer.
        got: u64,
    },
    /// Another process has moved the head meanwhile: another proof is needed.
    #[error("the head was moved to {have} entries by another process")]
    Overtaken {
        /// Entries known now.
        have: u64,
    },
    /// The log is another one than before: more than `f` replicas lie.
    #[error("the log of the service was replaced: {0}")]
    Forked(ProofError),
}

impl MemoryError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Damaged { .. } => "DecodeError",
            Self::Io { .. } => "StorageFailed",
            Self::Stale { .. } => "StaleHead",
            Self::Overtaken { .. } => "Conflict",
            Self::Forked(_) => "ConflictingCertificates",
        }
    }
}

/// The memory of one service.
#[derive(Debug)]
pub struct Memory {
    folder: PathBuf,
    service: ServiceId,
    head: Option<Head>,
}

impl Memory {
    /// Opens the memory in a folder, which is created if need be. A client without one meets the service for the first time.
    ///
    /// # Errors
    /// There is a head that cannot be read.
    pub fn open(folder: &Path, service: ServiceId) -> Result<Self, MemoryError> {
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| MemoryError::Io { path, source }
        };
        fs::create_dir_all(folder.join(EVIDENCE)).map_err(at(folder))?;
        let mut memory = Self { folder: folder.to_owned(), service, head: None };
        memory.head = memory.read()?;
        Ok(memory)
    }

    fn path(&self) -> PathBuf {
        self.folder.join(format!("{}.head", self.service))
    }

    /// The head in the file.
    fn read(&self) -> Result<Option<Head>, MemoryError> {
        let path = self.path();
        let failed = |source| MemoryError::Io { path: path.clone(), source };
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(failed(error)),
            Ok(metadata) if metadata.len() > Head::LIMIT as u64 => Err(MemoryError::Damaged { path }),
            Ok(_) => {
                let bytes = fs::read(&path).map_err(failed)?;
                let head = Head::decoded(&bytes).ok().filter(|head| head.service == self.service);
                head.map_or(Err(MemoryError::Damaged { path }), |head| Ok(Some(head)))
            }
        }
    }

    /// Keeps other processes with the same memory from writing until it is dropped.
    fn lock(&self) -> Result<File, MemoryError> {
        let path = self.folder.join(LOCK);
        let locked = File::create(&path).and_then(|file| file.lock().map(|()| file));
        locked.map_err(|source| MemoryError::Io { path, source })
    }

    /// The newest head.
    pub fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    /// Entries that are known to have been executed.
    pub fn size(&self) -> u64 {
        self.head.as_ref().map_or(0, |head| head.log().0)
    }

    /// Whether a certified receipt needs a proof that its log extends the known one; none if it is the known one or the first.
    ///
    /// # Errors
    /// It is older than the head, or contradicts it.
    pub fn needs(&self, certificate: &ServiceReceiptCertificate) -> Result<Option<(u64, u64)>, MemoryError> {
        let Some(head) = &self.head else { return Ok(None) };
        let ((have, root), receipt) = (head.log(), &certificate.receipt);
        match receipt.log_size {
            got if got < have => Err(MemoryError::Stale { have: have - 1, got: receipt.number }),
            got if got == have && receipt.log_root != root => {
                let differs = verify_consistency::<Sha256Tree>(have, &root, got, &receipt.log_root, &[]);
                differs.map_or_else(|error| Err(MemoryError::Forked(error)), |()| Ok(None))
            }
            got if got == have => Ok(None),
            got => Ok(Some((have, got))),
        }
    }

    /// Moves the head to a certified receipt that was verified, durably. `consistency` is the RFC 6962 proof that
    /// [`Self::needs`] asked for.
    ///
    /// # Errors
    /// As [`Self::needs`]; the proof does not hold; the file cannot be written. The head stays then. [`MemoryError::Overtaken`]: begin
    /// again with [`Self::needs`].
    pub fn advance(
        &mut self,
        certificate: ServiceReceiptCertificate,
        consistency: &[Digest],
    ) -> Result<(), MemoryError> {
        let _lock = self.lock()?;
        if let Some(newer) = self.read()?.filter(|stored| stored.log().0 > self.size()) {
            // Another process was faster. It has verified what it wrote, as this one has.
            let have = newer.log().0;
            self.head = Some(newer);
            if certificate.receipt.log_size > have {
                return Err(MemoryError::Overtaken { have });
            }
        }
        let needed = self.needs(&certificate)?;
        if needed.is_none() && self.head.is_some() {
            return Ok(());
        }
        if let (Some((have, got)), Some(head)) = (needed, &self.head) {
            let (known, new) = (head.log().1, certificate.receipt.log_root);
            verify_consistency::<Sha256Tree>(have, &known, got, &new, consistency)
                .map_err(MemoryError::Forked)?;
        }
        let head = Head { service: self.service, certificate };
        let path = self.path();
        write_durably(&path, &head.encoded()).map_err(|source| MemoryError::Io { path, source })?;
        self.head = Some(head);
        Ok(())
    }

    /// Keeps evidence, under a name that follows from it; the same is kept once.
    ///
    /// # Errors
    /// The system refuses.
    pub fn keep<T: Bounded>(&self, evidence: &T) -> Result<PathBuf, MemoryError> {
        let bytes = to_bytes(evidence);
        let digest = Sha256::digest(&bytes);
        let name: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let folder = self.folder.join(EVIDENCE);
        let path = folder.join(format!("{name}.bin"));
        let failed = |source| MemoryError::Io { path: path.clone(), source };
        let _lock = self.lock()?;
        let kept = fs::read_dir(&folder).map_err(failed)?.count();
        if !path.exists() && kept < EVIDENCE_MAX {
            write_durably(&path, &bytes).map_err(failed)?;
        }
        Ok(path)
    }
}

#[cfg(test)]
mod tests;
