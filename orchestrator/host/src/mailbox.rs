//! What the rest of the host agent may ask of the thread that owns the VM.
//!
//! Two queues: control before inputs, so that a freeze does not wait behind queued requests. The input queue is bounded;
//! a full one is answered with `Busy`, never with memory.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, PoisonError};

/// A control queue and a bounded input queue with one consumer.
#[derive(Debug)]
pub struct Mailbox<C> {
    queues: Mutex<Queues<C>>,
    filled: Condvar,
    inputs_max: usize,
}

#[derive(Debug)]
struct Queues<C> {
    control: VecDeque<C>,
    inputs: VecDeque<Vec<u8>>,
    closed: bool,
}

/// What the consumer got.
#[derive(Debug, PartialEq, Eq)]
pub enum Next<C> {
    /// A control message.
    Control(C),
    /// An input for the guest.
    Input(Vec<u8>),
    /// The host agent is gone.
    Closed,
}

impl<C> Mailbox<C> {
    /// A mailbox that holds at most `inputs_max` inputs.
    pub fn new(inputs_max: usize) -> Self {
        let queues = Queues { control: VecDeque::new(), inputs: VecDeque::new(), closed: false };
        Self { queues: Mutex::new(queues), filled: Condvar::new(), inputs_max }
    }

    /// Adds a control message; `false` when the consumer is gone.
    pub fn control(&self, message: C) -> bool {
        let mut queues = self.lock();
        if queues.closed {
            return false;
        }
        queues.control.push_back(message);
        drop(queues);
        self.filled.notify_one();
        true
    }

    /// Adds an input; `false` when the queue is full or the consumer is gone.
    pub fn input(&self, bytes: Vec<u8>) -> bool {
        let mut queues = self.lock();
        if queues.closed || queues.inputs.len() >= self.inputs_max {
            return false;
        }
        queues.inputs.push_back(bytes);
        drop(queues);
        self.filled.notify_one();
        true
    }

    /// Ends the consumer after what it is doing now; queued messages are dropped.
    pub fn close(&self) {
        let mut queues = self.lock();
        queues.closed = true;
        queues.control.clear();
        queues.inputs.clear();
        drop(queues);
        self.filled.notify_all();
    }

    /// Forgets queued inputs: their clients repeat them wherever the VM runs next.
    pub fn drop_inputs(&self) {
        self.lock().inputs.clear();
    }

    /// Waits for the next message; inputs are handed out only when `inputs_wanted`.
    pub fn next(&self, inputs_wanted: bool) -> Next<C> {
        let mut queues = self.lock();
        loop {
            if queues.closed {
                return Next::Closed;
            }
            if let Some(message) = queues.control.pop_front() {
                return Next::Control(message);
            }
            if inputs_wanted && let Some(bytes) = queues.inputs.pop_front() {
                return Next::Input(bytes);
            }
            queues = self.filled.wait(queues).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A control message if one waits.
    pub fn try_control(&self) -> Option<C> {
        self.lock().control.pop_front()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queues<C>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_goes_before_inputs() {
        let mailbox = Mailbox::new(8);
        assert!(mailbox.input(vec![1]));
        assert!(mailbox.control("freeze"));
        assert_eq!(mailbox.next(true), Next::Control("freeze"));
        assert_eq!(mailbox.next(true), Next::Input(vec![1]));
    }

    #[test]
    fn a_full_queue_refuses_the_newest() {
        let mailbox = Mailbox::<()>::new(2);
        assert!(mailbox.input(vec![1]) && mailbox.input(vec![2]));
        assert!(!mailbox.input(vec![3]));
        mailbox.drop_inputs();
        assert!(mailbox.input(vec![4]));
        assert_eq!(mailbox.next(true), Next::Input(vec![4]));
    }

    #[test]
    fn closing_wakes_the_consumer() {
        let mailbox = std::sync::Arc::new(Mailbox::<()>::new(1));
        let consumer = {
            let mailbox = std::sync::Arc::clone(&mailbox);
            std::thread::spawn(move || mailbox.next(true))
        };
        mailbox.close();
        assert_eq!(consumer.join().unwrap(), Next::Closed);
        assert!(!mailbox.control(()) && !mailbox.input(Vec::new()));
    }
}
