//! The proofs of the newest answers, in a folder, so that anybody can check them again without the network.

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use quorate_attest::encoding::Bounded;
use quorate_services::AnswerProof;

use crate::backend::{Backend, Called, Freshness, Page, Read, ServiceError, Shared};

/// Ending of the files' names.
const ENDING: &str = "answer";

/// A folder with a bounded number of proofs.
#[derive(Debug)]
pub struct Proofs {
    folder: PathBuf,
    most: usize,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    /// Oldest first.
    files: VecDeque<PathBuf>,
    next: u64,
    newest: Option<Arc<Vec<u8>>>,
}

impl Proofs {
    /// Opens a folder, which is created if need be. What an earlier run left counts, and is the first to go.
    ///
    /// # Errors
    /// The system's.
    pub fn open(folder: &Path, most: usize) -> io::Result<Self> {
        fs::create_dir_all(folder)?;
        let mut found: Vec<(u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if let Some(place) = place(&path) {
                found.push((place, path));
            }
        }
        found.sort();
        let next = found.last().map_or(0, |(place, _)| place + 1);
        let files = found.into_iter().map(|(_, path)| path).collect();
        let proofs = Self {
            folder: folder.to_owned(),
            most: most.max(1),
            kept: Mutex::new(Kept { files, next, newest: None }),
        };
        Ok(proofs)
    }

    /// Keeps the proof of an answer of the service with this name.
    ///
    /// # Errors
    /// The system's.
    pub fn keep(&self, service: &str, proof: &AnswerProof) -> io::Result<()> {
        let bytes = Arc::new(proof.encoded());
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let name = format!("{:012}-{service}-{}.{ENDING}", kept.next, proof.number());
        let path = self.folder.join(name);
        // Written beside and moved: whoever lists the folder finds whole files only.
        let partial = self.folder.join(format!(".{:012}", kept.next));
        fs::write(&partial, bytes.as_slice())?;
        fs::rename(&partial, &path)?;
        kept.next += 1;
        kept.files.push_back(path);
        kept.newest = Some(bytes);
        while kept.files.len() > self.most {
            let Some(oldest) = kept.files.pop_front() else { break };
            match fs::remove_file(oldest) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// The proof of the newest answer of this run.
    #[must_use]
    pub fn newest(&self) -> Option<Arc<Vec<u8>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).newest.clone()
    }
}

/// The place of a proof in the order of answers, if the file is one of ours.
fn place(path: &Path) -> Option<u64> {
    let name = path.file_name()?.to_str()?.strip_suffix(ENDING)?.strip_suffix('.')?;
    name.split_once('-')?.0.parse().ok()
}

/// A service whose answers are handed on after their proofs were kept.
#[derive(Debug)]
pub struct Recorded {
    service: String,
    backend: Shared,
    proofs: Arc<Proofs>,
}

impl Recorded {
    /// Keeps the proofs of `backend`, whose service has this name.
    #[must_use]
    pub fn new(service: &str, backend: Shared, proofs: Arc<Proofs>) -> Self {
        Self { service: service.to_owned(), backend, proofs }
    }

    async fn keep(&self, proof: &Arc<AnswerProof>) {
        let (service, proofs, proof) = (self.service.clone(), Arc::clone(&self.proofs), Arc::clone(proof));
        let kept = tokio::task::spawn_blocking(move || proofs.keep(&service, &proof)).await;
        // The answer is right all the same.
        match kept {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error_kind = "StorageFailed", "proof not kept: {error}"),
            Err(error) => tracing::warn!(error_kind = "StorageFailed", "proof not kept: {error}"),
        }
    }
}

impl Backend for Recorded {
    fn call(&self, op: u16, body: Vec<u8>) -> BoxFuture<'_, Result<Called, ServiceError>> {
        Box::pin(async move {
            let called = self.backend.call(op, body).await?;
            self.keep(&called.proof).await;
            Ok(called)
        })
    }

    fn get<'a>(
        &'a self,
        key: &'a [u8],
        freshness: Freshness,
    ) -> BoxFuture<'a, Result<Read<Option<Vec<u8>>>, ServiceError>> {
        Box::pin(async move {
            let read = self.backend.get(key, freshness).await?;
            self.keep(&read.proof).await;
            Ok(read)
        })
    }

    fn range<'a>(
        &'a self,
        low: &'a [u8],
        high: &'a [u8],
        limit: u16,
        freshness: Freshness,
    ) -> BoxFuture<'a, Result<Read<Page>, ServiceError>> {
        Box::pin(async move {
            let read = self.backend.range(low, high, limit, freshness).await?;
            self.keep(&read.proof).await;
            Ok(read)
        })
    }
}
