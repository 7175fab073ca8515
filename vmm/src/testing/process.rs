//! Running part of a test in another process, and disturbing a thread with signals.

use std::process::Command;
use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const PAYLOAD: &str = "QUORATE_VMM_TEST_PAYLOAD";
const ANSWER: &str = "answer-of-child:";

/// What the parent handed over, if this process is a child of [`ask_child`].
pub(crate) fn payload() -> Option<String> {
    std::env::var(PAYLOAD).ok()
}

/// Gives the parent its answer.
pub(crate) fn answer(text: &str) {
    println!("\n{ANSWER}{text}");
}

/// Runs one test of this binary in a new process, which finds `payload` there, and returns what it answered.
pub(crate) fn ask_child(test: &str, payload: &str) -> String {
    let output = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(PAYLOAD, payload)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let answer = text.lines().find_map(|line| line.strip_prefix(ANSWER));
    match answer {
        Some(answer) if output.status.success() => answer.to_owned(),
        _ => panic!("child {test}: {}\n{text}\n{}", output.status, String::from_utf8_lossy(&output.stderr)),
    }
}

extern "C" fn ignore(_signal: libc::c_int) {}

/// Runs `work` while another thread sends this one a signal every 50 to 950 microseconds.
pub(crate) fn under_signals<T>(seed: u64, work: impl FnOnce() -> T) -> T {
    static HANDLER: Once = Once::new();
    HANDLER.call_once(|| {
        // SAFETY: a zeroed sigaction is valid, and the handler does nothing.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = ignore as extern "C" fn(libc::c_int) as usize;
            libc::sigaction(libc::SIGUSR1, &action, std::ptr::null_mut());
        }
    });
    // SAFETY: gettid and getpid have no arguments and cannot fail.
    let (process, thread) = unsafe { (libc::getpid(), libc::gettid()) };
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut state = seed | 1;
            while !done.load(Ordering::Relaxed) {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                std::thread::sleep(Duration::from_micros(50 + state % 900));
                // SAFETY: the thread lives until this scope ends, and its handler does nothing.
                unsafe { libc::syscall(libc::SYS_tgkill, process, thread, libc::SIGUSR1) };
            }
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        result
    })
}
