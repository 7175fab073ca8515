//! Nodes that kill themselves when a step is reached, as a power failure would.

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use quorate_host::conduct as host;
use quorate_verifier::node::conduct as verifier;
use rustix::process::{Signal, getpid, kill_process};

/// Ends this process without giving it a chance to do anything more.
pub fn die() -> ! {
    loop {
        // Cannot fail for the own process; the signal is delivered before or shortly after the call returns.
        let _ = kill_process(getpid(), Signal::KILL);
        std::thread::yield_now();
    }
}

/// Dies when something happens for the n-th time.
#[derive(Debug)]
struct Countdown {
    left: AtomicU32,
}

impl Countdown {
    fn new(times: u32) -> Self {
        Self { left: AtomicU32::new(times) }
    }

    fn happened(&self) {
        if self.left.fetch_sub(1, Ordering::SeqCst) == 1 {
            die();
        }
    }
}

/// A step and the number of times it is reached, as `NAME` or `NAME:N` with N from 1.
fn parse<S>(text: &str, find: impl Fn(&str) -> Option<S>) -> Option<(S, Countdown)> {
    let (name, times) = match text.split_once(':') {
        Some((name, times)) => (name, times.parse().ok().filter(|times| *times > 0)?),
        None => (text, 1),
    };
    Some((find(name)?, Countdown::new(times)))
}

/// A host that dies at a step.
#[derive(Debug)]
pub struct CrashingHost {
    step: host::Step,
    countdown: Countdown,
    counting: AtomicBool,
}

impl CrashingHost {
    /// From `STEP` or `STEP:N`.
    pub fn parse(text: &str) -> Option<Self> {
        let (step, countdown) = parse(text, host_step)?;
        Some(Self { step, countdown, counting: AtomicBool::new(true) })
    }

    /// Counts only from the moment at which a VM is offered by this host or to it.
    pub fn after_offer(self) -> Self {
        Self { counting: AtomicBool::new(false), ..self }
    }
}

fn host_step(name: &str) -> Option<host::Step> {
    let plain = |text: &str| text.replace('-', "").to_ascii_lowercase();
    host::Step::ALL.into_iter().find(|step| plain(&step.name()) == plain(name))
}

impl host::Conduct for CrashingHost {
    fn reached(&self, step: host::Step, _view: &host::View<'_>) {
        if matches!(step, host::Step::OfferSent | host::Step::OfferAccepted) {
            self.counting.store(true, Ordering::SeqCst);
        }
        if step == self.step && self.counting.load(Ordering::SeqCst) {
            self.countdown.happened();
        }
    }
}

/// A verifier that dies at a step.
#[derive(Debug)]
pub struct CrashingVerifier {
    step: verifier::Step,
    countdown: Countdown,
}

impl CrashingVerifier {
    /// From `STEP` or `STEP:N`.
    pub fn parse(text: &str) -> Option<Self> {
        let (step, countdown) = parse(text, verifier::Step::parse)?;
        Some(Self { step, countdown })
    }
}

impl verifier::Conduct for CrashingVerifier {
    fn step(&self, step: verifier::Step) {
        if step == self.step {
            self.countdown.happened();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_step_is_found_by_its_name() {
        for step in host::Step::ALL {
            assert_eq!(CrashingHost::parse(&step.name()).unwrap().step, step);
        }
        for step in verifier::Step::ALL {
            assert_eq!(CrashingVerifier::parse(step.name()).unwrap().step, step);
        }
        assert_eq!(CrashingHost::parse("relinquish-durable").unwrap().step, host::Step::RelinquishDurable);
    }

    #[test]
    fn malformed_steps_and_counts_are_refused() {
        for text in ["", "Nowhere", "Running:0", "Running:-1", "Running:x", ":1"] {
            assert!(CrashingHost::parse(text).is_none(), "{text}");
        }
        assert_eq!(CrashingHost::parse("Running:3").unwrap().countdown.left.into_inner(), 3);
    }
}
