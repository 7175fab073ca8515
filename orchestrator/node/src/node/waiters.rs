//! Who waits for the execution of which operation. Bounded in total and for each author.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_attest::id::OperationId;
use quorate_attest::key::PublicKey;
use quorate_ordering::protocol::Applied;
use tokio::sync::oneshot;

/// Room for waiting.
#[derive(Clone, Copy, Debug)]
pub struct WaiterLimits {
    /// In total.
    pub total: usize,
    /// For one author's operations.
    pub author: usize,
}

/// No room to wait: of the queue with this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no room in queue {queue}")]
pub struct QueueFull {
    /// Name of the queue, a metric label.
    pub queue: &'static str,
}

/// A ticket, and where its answer goes.
type Waiter = (u64, oneshot::Sender<Arc<Applied>>);

#[derive(Debug, Default)]
struct Waiting {
    next: u64,
    by_operation: HashMap<OperationId, Vec<Waiter>>,
    by_author: HashMap<PublicKey, usize>,
    total: usize,
}

/// All who wait.
#[derive(Debug)]
pub struct Waiters {
    limits: WaiterLimits,
    waiting: Mutex<Waiting>,
}

/// A place among those who wait; given back when dropped.
#[derive(Debug)]
pub struct Wait {
    waiters: Arc<Waiters>,
    operation: OperationId,
    author: PublicKey,
    ticket: u64,
    answer: oneshot::Receiver<Arc<Applied>>,
}

impl Waiters {
    /// Nobody waits yet.
    #[must_use]
    pub fn new(limits: WaiterLimits) -> Arc<Self> {
        Arc::new(Self { limits, waiting: Mutex::default() })
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for an operation from now on.
    ///
    /// # Errors
    /// `QueueFull`: in total, or of this author.
    pub fn wait(self: &Arc<Self>, operation: OperationId, author: PublicKey) -> Result<Wait, QueueFull> {
        let mut waiting = self.lock();
        if waiting.total >= self.limits.total {
            return Err(QueueFull { queue: "waiters" });
        }
        let of_author = waiting.by_author.entry(author).or_default();
        if *of_author >= self.limits.author {
            return Err(QueueFull { queue: "author" });
        }
        *of_author += 1;
        waiting.total += 1;
        let ticket = waiting.next;
        waiting.next += 1;
        let (answered, answer) = oneshot::channel();
        waiting.by_operation.entry(operation).or_default().push((ticket, answered));
        drop(waiting);
        Ok(Wait { waiters: Arc::clone(self), operation, author, ticket, answer })
    }

    /// Answers everybody who waits for this operation.
    pub fn answer(&self, applied: Applied) {
        let found = self.lock().by_operation.remove(&applied.receipt.operation);
        let applied = Arc::new(applied);
        for (_, waiter) in found.unwrap_or_default() {
            // One who has gone away wants no answer.
            let _ = waiter.send(Arc::clone(&applied));
        }
    }

    /// Whether anybody waits for this operation.
    #[must_use]
    pub fn has(&self, operation: &OperationId) -> bool {
        self.lock().by_operation.contains_key(operation)
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().total
    }

    /// Whether nobody waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

impl Wait {
    /// The answer; `None` if this node will give none.
    pub async fn answered(&mut self) -> Option<Arc<Applied>> {
        (&mut self.answer).await.ok()
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        let mut waiting = self.waiters.lock();
        waiting.total -= 1;
        if let Some(count) = waiting.by_author.get_mut(&self.author) {
            *count -= 1;
            if *count == 0 {
                waiting.by_author.remove(&self.author);
            }
        }
        if let Some(waiters) = waiting.by_operation.get_mut(&self.operation) {
            waiters.retain(|(ticket, _)| *ticket != self.ticket);
            if waiters.is_empty() {
                waiting.by_operation.remove(&self.operation);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use quorate_attest::id::{Epoch, GroupId};
    use quorate_attest::key::{SecretKey, Signature};
    use quorate_attest::receipt::Receipt;

    use super::*;

    fn applied(operation: OperationId) -> Applied {
        let receipt = Receipt {
            group: GroupId::ZERO,
            epoch: Epoch::ZERO,
            index: 0,
            operation,
            result: [0; 32],
            log_root: [0; 32],
            log_size: 1,
            state_root: [0; 32],
            state_size: 0,
        };
        Applied { orchestrator: 0, receipt, signature: Signature::NONE, outcome: Vec::new(), decision: None }
    }

    fn author(seed: u8) -> PublicKey {
        SecretKey::from_seed([seed; 32]).public()
    }

    #[tokio::test]
    async fn everybody_who_waits_for_an_operation_gets_its_one_answer() {
        let waiters = Waiters::new(WaiterLimits { total: 8, author: 8 });
        let operation = OperationId::from_bytes([1; 32]);
        let mut first = waiters.wait(operation, author(1)).unwrap();
        let mut second = waiters.wait(operation, author(2)).unwrap();
        let mut other = waiters.wait(OperationId::from_bytes([2; 32]), author(1)).unwrap();
        assert!(waiters.has(&operation));
        waiters.answer(applied(operation));
        assert!(!waiters.has(&operation));
        assert_eq!(first.answered().await.as_deref(), Some(&applied(operation)));
        assert_eq!(second.answered().await.as_deref(), Some(&applied(operation)));
        waiters.answer(applied(OperationId::from_bytes([2; 32])));
        assert!(other.answered().await.is_some());
    }

    #[test]
    fn one_author_cannot_use_up_the_places_of_others() {
        let waiters = Waiters::new(WaiterLimits { total: 3, author: 2 });
        let operation = |byte| OperationId::from_bytes([byte; 32]);
        let held: Vec<_> = (0..2).map(|i| waiters.wait(operation(i), author(1)).unwrap()).collect();
        assert_eq!(waiters.wait(operation(9), author(1)).unwrap_err().queue, "author");
        let other = waiters.wait(operation(9), author(2)).unwrap();
        assert_eq!(waiters.wait(operation(9), author(3)).unwrap_err().queue, "waiters");
        drop((held, other));
        assert!(waiters.is_empty());
        let waiting = waiters.lock();
        assert!(waiting.by_author.is_empty() && waiting.by_operation.is_empty(), "no count is left behind");
    }
}
