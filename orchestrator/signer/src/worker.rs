//! The one thread that touches sign-log and keys. Whatever waits at the same time shares a sync.

use std::io;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use quorate_verifier::sign_log::{SignLogError, Storage};
use tokio::sync::{mpsc, oneshot};

use crate::protocol::{FromSigner, ToSigner};
use crate::signer::Signer;

/// Requests that wait for the thread.
const QUEUE: usize = 256;
/// No further request joins a batch that has this many things to sign. With one request more it still fits one record.
const BATCH_MAX: usize = 16_384;

/// A request, and where its answer goes.
#[derive(Debug)]
pub struct Job {
    /// The request.
    pub asked: ToSigner,
    /// Dropped unanswered when storage has failed.
    pub answer: oneshot::Sender<FromSigner>,
}

/// The way to the thread.
#[derive(Debug)]
pub struct Worker {
    /// Takes requests; the thread ends when nobody can send any more.
    pub jobs: mpsc::Sender<Job>,
    /// The error that ended the thread. No answer was given after it.
    pub failed: oneshot::Receiver<SignLogError>,
}

impl Worker {
    /// Starts the thread, which holds `lock` as long as it may write: a process that ends lets nobody else in before.
    ///
    /// # Errors
    /// The system's.
    pub fn start<S: Storage + 'static>(signer: Signer<S>, lock: impl Send + 'static) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (fail, failed) = oneshot::channel();
        thread::Builder::new().name("signer".to_owned()).spawn(move || {
            let ended = work(signer, queue);
            drop(lock);
            if let Err(error) = ended {
                // Whoever started the thread may be gone; then nobody is left to be told.
                let _ = fail.send(error);
            }
        })?;
        Ok(Self { jobs, failed })
    }
}

fn work<S: Storage>(mut signer: Signer<S>, mut queue: mpsc::Receiver<Job>) -> Result<(), SignLogError> {
    while let Some(first) = queue.blocking_recv() {
        let mut things = things(&first.asked);
        let (mut batch, mut waiting) = (vec![first.asked], vec![first.answer]);
        while things < BATCH_MAX
            && let Ok(job) = queue.try_recv()
        {
            things += self::things(&job.asked);
            batch.push(job.asked);
            waiting.push(job.answer);
        }
        for (answer, waiter) in signer.handle(posix_time(), &batch)?.into_iter().zip(waiting) {
            // Its connection may have ended; it will ask again.
            let _ = waiter.send(answer);
        }
    }
    Ok(())
}

fn things(asked: &ToSigner) -> usize {
    match asked {
        ToSigner::Sign { statements } => statements.len(),
        ToSigner::Cosign(_) | ToSigner::Public => 1,
    }
}

fn posix_time() -> u64 {
    // A clock before 1970 is a clock that is not set.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs())
}
