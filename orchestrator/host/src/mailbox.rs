//! What the rest of the host agent may ask of the thread that owns the VM.
//!
//! Three queues: control first, so that a freeze does not wait behind queued requests; then inputs and queries, in turns
//! when both wait. The latter two are bounded; a full one is answered with `Busy`, never with memory.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};

/// A control queue `C`, a bounded input queue and a bounded queue of queries `Q`, with one consumer.
#[derive(Debug)]
pub struct Mailbox<C, Q> {
    queues: Mutex<Queues<C, Q>>,
    filled: Condvar,
    inputs_max: usize,
    queries_max: usize,
}

#[derive(Debug)]
struct Queues<C, Q> {
    control: VecDeque<C>,
    inputs: VecDeque<Vec<u8>>,
    queries: VecDeque<Q>,
    /// Whether an input was handed out since the last query.
    query_is_next: bool,
    closed: bool,
}

/// What the consumer takes besides control messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Whether the guest can be fed.
    pub inputs: bool,
    /// Whether it can be asked.
    pub queries: bool,
}

/// What the consumer got.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<C, Q> {
    /// A control message.
    Control(C),
    /// An input for the guest.
    Input(Vec<u8>),
    /// A query.
    Query(Q),
    /// The host agent is gone.
    Closed,
}

impl<C, Q> Queues<C, Q> {
    fn take(&mut self, wanted: Wanted) -> Option<Next<C, Q>> {
        if self.closed {
            return Some(Next::Closed);
        }
        if let Some(message) = self.control.pop_front() {
            return Some(Next::Control(message));
        }
        let input_waits = wanted.inputs && !self.inputs.is_empty();
        if wanted.queries
            && (self.query_is_next || !input_waits)
            && let Some(query) = self.queries.pop_front()
        {
            self.query_is_next = false;
            return Some(Next::Query(query));
        }
        let input = if wanted.inputs { self.inputs.pop_front() } else { None }?;
        self.query_is_next = true;
        Some(Next::Input(input))
    }
}

impl<C, Q> Mailbox<C, Q> {
    /// A mailbox that holds at most so many inputs and queries.
    pub fn new(inputs_max: usize, queries_max: usize) -> Self {
        let queues = Queues {
            control: VecDeque::new(),
            inputs: VecDeque::new(),
            queries: VecDeque::new(),
            query_is_next: false,
            closed: false,
        };
        Self { queues: Mutex::new(queues), filled: Condvar::new(), inputs_max, queries_max }
    }

    /// Adds a control message; `false` when the consumer is gone.
    pub fn control(&self, message: C) -> bool {
        self.add(|queues| {
            queues.control.push_back(message);
            true
        })
    }

    /// Adds an input; `false` when the queue is full or the consumer is gone.
    pub fn input(&self, bytes: Vec<u8>) -> bool {
        self.add(|queues| {
            let room = queues.inputs.len() < self.inputs_max;
            if room {
                queues.inputs.push_back(bytes);
            }
            room
        })
    }

    /// Adds a query; `false` when the queue is full or the consumer is gone.
    pub fn query(&self, query: Q) -> bool {
        self.add(|queues| {
            let room = queues.queries.len() < self.queries_max;
            if room {
                queues.queries.push_back(query);
            }
            room
        })
    }

    fn add(&self, push: impl FnOnce(&mut Queues<C, Q>) -> bool) -> bool {
        let mut queues = self.lock();
        let added = !queues.closed && push(&mut queues);
        drop(queues);
        if added {
            self.filled.notify_one();
        }
        added
    }

    /// Ends the consumer after what it is doing now; queued messages are dropped.
    pub fn close(&self) {
        let mut queues = self.lock();
        queues.closed = true;
        queues.control.clear();
        queues.inputs.clear();
        queues.queries.clear();
        drop(queues);
        self.filled.notify_all();
    }

    /// Forgets queued inputs and queries: their clients repeat them wherever the VM runs next.
    pub fn drop_requests(&self) {
        let mut queues = self.lock();
        queues.inputs.clear();
        queues.queries.clear();
    }

    /// Waits for the next message of those wanted.
    pub fn next(&self, wanted: Wanted) -> Next<C, Q> {
        let mut queues = self.lock();
        loop {
            if let Some(next) = queues.take(wanted) {
                return next;
            }
            queues = self.filled.wait(queues).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A control message if one waits.
    pub fn try_control(&self) -> Option<C> {
        self.lock().control.pop_front()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queues<C, Q>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: Wanted = Wanted { inputs: true, queries: true };

    fn mailbox() -> Mailbox<&'static str, char> {
        Mailbox::new(2, 3)
    }

    #[test]
    fn control_goes_before_inputs_and_queries() {
        let mailbox = mailbox();
        assert!(mailbox.input(vec![1]) && mailbox.query('q'));
        assert!(mailbox.control("freeze"));
        assert_eq!(mailbox.next(BOTH), Next::Control("freeze"));
        assert_eq!(mailbox.next(BOTH), Next::Input(vec![1]));
    }

    #[test]
    fn a_full_queue_refuses_the_newest() {
        let mailbox = mailbox();
        assert!(mailbox.input(vec![1]) && mailbox.input(vec![2]));
        assert!(!mailbox.input(vec![3]));
        assert!(mailbox.query('a') && mailbox.query('b') && mailbox.query('c'), "a queue of its own");
        assert!(!mailbox.query('d'));
        mailbox.drop_requests();
        assert!(mailbox.query('e') && mailbox.input(vec![4]));
        assert_eq!(mailbox.next(BOTH), Next::Input(vec![4]));
        assert_eq!(mailbox.next(BOTH), Next::Query('e'));
    }

    #[test]
    fn neither_inputs_nor_queries_starve_while_both_wait() {
        let mailbox = mailbox();
        assert!(mailbox.query('a') && mailbox.query('b') && mailbox.query('c'));
        for round in 0..20u8 {
            assert!(mailbox.input(vec![round]));
            assert_eq!(mailbox.next(BOTH), Next::Input(vec![round]), "an input goes first");
            assert!(mailbox.input(vec![round]));
            assert!(matches!(mailbox.next(BOTH), Next::Query(_)), "then a query, although an input waits");
            assert_eq!(mailbox.next(BOTH), Next::Input(vec![round]));
            assert!(matches!(mailbox.next(BOTH), Next::Query(_)));
            assert!(mailbox.query('x') && mailbox.query('y'));
        }
    }

    #[test]
    fn only_what_is_wanted_is_handed_out() {
        let mailbox = mailbox();
        assert!(mailbox.query('q') && mailbox.input(vec![1]));
        assert_eq!(mailbox.next(Wanted { inputs: false, queries: true }), Next::Query('q'));
        assert!(mailbox.query('r'));
        assert_eq!(mailbox.next(Wanted { inputs: true, queries: false }), Next::Input(vec![1]));
        assert!(mailbox.control("end"));
        assert_eq!(mailbox.next(Wanted { inputs: false, queries: false }), Next::Control("end"));
        assert_eq!(mailbox.next(BOTH), Next::Query('r'));
    }

    #[test]
    fn closing_wakes_the_consumer() {
        let mailbox = std::sync::Arc::new(mailbox());
        let consumer = {
            let mailbox = std::sync::Arc::clone(&mailbox);
            std::thread::spawn(move || mailbox.next(BOTH))
        };
        mailbox.close();
        assert_eq!(consumer.join().unwrap(), Next::Closed);
        assert!(!mailbox.control("x") && !mailbox.input(Vec::new()) && !mailbox.query('q'));
    }
}
