//! Guests that ring too late, and hosts that are too slow. All of it needs /dev/kvm and fails without it.

#![cfg(test)]

use std::sync::atomic::AtomicBool;

use super::*;
use crate::crash::{CrashKind, CrashReport};
use crate::machine::{Exit, Machine, MachineError};
use crate::tests::fixture::{MEMORY, ask, command, probe, work_input};

fn crash(machine: &mut Machine, input: &[u8]) -> Box<CrashReport> {
    match ask(machine, input) {
        Exit::Crashed(report) => report,
        other => panic!("{input:?} did not crash the guest: {other:?}"),
    }
}

#[test]
fn guest_that_rings_no_doorbell_is_killed_and_its_neighbours_are_not() {
    let mut neighbour = probe(MEMORY);
    neighbour.set_watchdog(Some(Duration::from_secs(60))).unwrap();
    let mut machine = probe(MEMORY);
    machine.set_watchdog(Some(Duration::from_millis(500))).unwrap();
    let start = processor_time();
    let report = crash(&mut machine, &[command::SPIN]);
    assert_eq!(report.kind, CrashKind::Watchdog { budget: Duration::from_millis(500) });
    assert!(processor_time() - start >= Duration::from_millis(500));
    assert!(matches!(machine.measure(), Err(MachineError::Terminal("Watchdog"))));
    assert!(matches!(ask(&mut neighbour, &work_input(1, 1000)), Exit::Output(_)));
}

#[test]
fn watchdog_reaches_a_thread_that_blocks_every_signal() {
    let report = std::thread::spawn(|| {
        // SAFETY: the set is filled before it is used, and only the mask of this thread changes.
        unsafe {
            let mut all: libc::sigset_t = std::mem::zeroed();
            libc::sigfillset(&mut all);
            libc::pthread_sigmask(libc::SIG_BLOCK, &all, std::ptr::null_mut());
        }
        let mut machine = probe(MEMORY);
        machine.set_watchdog(Some(Duration::from_secs(1))).unwrap();
        // Well-behaved rings in between do not use the budget up.
        for _ in 0..20 {
            ask(&mut machine, &work_input(1, 100));
        }
        crash(&mut machine, &[command::SPIN])
    });
    assert_eq!(report.join().unwrap().kind(), "Watchdog");
}

/// Whether the thread of the guest was stopped.
static STOPPED: AtomicBool = AtomicBool::new(false);

/// Holds a thread up without using its processor.
extern "C" fn stop(_signal: libc::c_int, _info: *mut libc::siginfo_t, _context: *mut libc::c_void) {
    let time = libc::timespec { tv_sec: 1, tv_nsec: 0 };
    // SAFETY: nanosleep is async-signal-safe, and `time` outlives the call.
    unsafe { libc::nanosleep(&raw const time, std::ptr::null_mut()) };
    STOPPED.store(true, Ordering::Release);
}

/// As when the host is suspended, or others have its processors: the guest is not to blame.
#[test]
fn time_without_a_processor_does_not_count() {
    let stop_signal = libc::SIGRTMAX() - 1;
    register_signal_handler(stop_signal, stop).unwrap();
    let mut machine = probe(MEMORY);
    let mut rounds = 1_000;
    let work = loop {
        let began = processor_time();
        assert!(matches!(ask(&mut machine, &work_input(1, rounds)), Exit::Output(_)));
        let work = processor_time() - began;
        if work >= Duration::from_millis(50) {
            break work;
        }
        rounds *= 2;
    };
    // It is stopped for five times as long, or longer.
    let budget = Duration::from_millis(200).max(work * 3);
    machine.set_watchdog(Some(budget)).unwrap();
    let (thread, clock) = (current_thread(), current_clock());
    // One that came too late for the guest stopped something else.
    while !STOPPED.load(Ordering::Acquire) {
        let half = time_of(clock) + work / 2;
        let stopper = std::thread::spawn(move || {
            while time_of(clock) < half {
                std::thread::sleep(TICK_MIN);
            }
            signal(thread, stop_signal);
        });
        assert!(matches!(ask(&mut machine, &work_input(2, rounds)), Exit::Output(_)), "it was killed");
        let in_time = STOPPED.load(Ordering::Acquire);
        stopper.join().unwrap();
        STOPPED.store(in_time, Ordering::Release);
    }
}
