//! The budget between two doorbells, and the helper thread that ends a guest which exceeds it.
//!
//! Time is not part of the machine: a guest that is killed here is never checkpointed, and what a verifier replays
//! can only be an execution that was not killed. What counts is the time that the guest's thread had a processor: a
//! host that is busy, suspended or stopped in a debugger has not used up anybody's budget. A kick is a signal without
//! effect to the thread in KVM_RUN; it and every other signal only make that call return early, after which the guest
//! is entered again where it was.

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, Weak};
use std::time::Duration;

use vmm_sys_util::signal::{register_signal_handler, unblock_signal};

const TICK_MIN: Duration = Duration::from_millis(1);
const TICK_MAX: Duration = Duration::from_millis(250);
/// How many times the helper looks at a guest within its budget.
const LOOKS: u32 = 8;

/// All live watches of this process; one helper thread serves them and ends when the last is dropped.
static WATCHES: Mutex<Registry> = Mutex::new(Registry { watches: Vec::new(), helper_runs: false });
static HANDLER: Once = Once::new();

struct Registry {
    watches: Vec<Weak<Shared>>,
    helper_runs: bool,
}

/// Seen by the vCPU's thread and the helper.
struct Shared {
    /// Processor time between two doorbells.
    budget: Duration,
    /// Odd while the guest runs. Even and odd together never repeat, so an old verdict cannot hit a new entry.
    entry: AtomicU64,
    /// The thread that runs the guest.
    thread: AtomicI32,
    /// The clock of that thread's processor time.
    clock: AtomicI32,
    /// The entry that exceeded the budget, or zero.
    expired: AtomicU64,
}

/// Watches one machine. Dropping it ends the watch.
pub(crate) struct Watch(Arc<Shared>);

impl Watch {
    /// Starts watching with this budget of processor time. Fails if the system gives no thread.
    pub(crate) fn start(budget: Duration) -> std::io::Result<Self> {
        HANDLER.call_once(install_handler);
        let shared = Arc::new(Shared {
            budget,
            entry: AtomicU64::new(0),
            thread: AtomicI32::new(0),
            clock: AtomicI32::new(libc::CLOCK_MONOTONIC),
            expired: AtomicU64::new(0),
        });
        let mut registry = registry();
        registry.watches.push(Arc::downgrade(&shared));
        if !registry.helper_runs {
            std::thread::Builder::new().name("quorate-watchdog".into()).spawn(watch_all)?;
            registry.helper_runs = true;
        }
        Ok(Self(shared))
    }

    /// The budget.
    pub(crate) fn budget(&self) -> Duration {
        self.0.budget
    }

    /// To be called on the thread that is about to run the guest, once a doorbell and not again after a signal.
    pub(crate) fn enter(&self) {
        let thread = current_thread();
        if self.0.thread.swap(thread, Ordering::Relaxed) != thread {
            unblock_kick();
            self.0.clock.store(current_clock(), Ordering::Relaxed);
        }
        self.0.entry.fetch_add(1, Ordering::Release);
    }

    /// To be called when the guest rang.
    pub(crate) fn leave(&self) {
        self.0.entry.fetch_add(1, Ordering::Release);
    }

    /// Whether the entry that lasts now has exceeded the budget.
    pub(crate) fn has_expired(&self) -> bool {
        self.0.expired.load(Ordering::Acquire) == self.0.entry.load(Ordering::Relaxed)
    }
}

fn registry() -> MutexGuard<'static, Registry> {
    WATCHES.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Body of the helper thread.
fn watch_all() {
    // By watch: the entry seen last, and what its thread's clock showed when it was seen first.
    let mut seen: Vec<(Weak<Shared>, u64, Duration)> = Vec::new();
    loop {
        let Some(watches) = live_watches() else { return };
        seen.retain(|(weak, ..)| weak.strong_count() > 0);
        let mut tick = TICK_MAX;
        for shared in &watches {
            tick = tick.min(shared.budget / LOOKS);
            let entry = shared.entry.load(Ordering::Acquire);
            let now = time_of(shared.clock.load(Ordering::Relaxed));
            let at = seen.iter_mut().find(|(weak, ..)| std::ptr::eq(weak.as_ptr(), Arc::as_ptr(shared)));
            match at {
                Some((_, last, since)) if *last == entry => {
                    if entry % 2 == 1 && now.saturating_sub(*since) >= shared.budget {
                        shared.expired.store(entry, Ordering::Release);
                        // Repeated at every tick: a kick that comes just before KVM_RUN begins is lost.
                        kick(shared.thread.load(Ordering::Relaxed));
                    }
                }
                Some((_, last, since)) => (*last, *since) = (entry, now),
                None => seen.push((Arc::downgrade(shared), entry, now)),
            }
        }
        drop(watches);
        std::thread::sleep(tick.max(TICK_MIN));
    }
}

/// The watches that still exist, or `None` if there are none and the helper is to end.
fn live_watches() -> Option<Vec<Arc<Shared>>> {
    let mut registry = registry();
    let live: Vec<_> = registry.watches.iter().filter_map(Weak::upgrade).collect();
    registry.watches.retain(|weak| weak.strong_count() > 0);
    registry.helper_runs = !live.is_empty();
    registry.helper_runs.then_some(live)
}

/// The signal of a kick: the last real-time signal, which nothing in the standard library or tokio uses.
fn kick_signal() -> libc::c_int {
    libc::SIGRTMAX()
}

extern "C" fn ignore(_signal: libc::c_int, _info: *mut libc::siginfo_t, _context: *mut libc::c_void) {}

/// The handler does nothing, and so is async-signal-safe.
fn install_handler() {
    // Fails only for a number that is no signal.
    let installed = register_signal_handler(kick_signal(), ignore);
    debug_assert!(installed.is_ok(), "the kick is a signal");
}

/// The thread's own mask decides whether a kick arrives; a caller may have blocked everything.
fn unblock_kick() {
    // Fails only for a number that is no signal.
    let unblocked = unblock_signal(kick_signal());
    debug_assert!(unblocked.is_ok(), "the kick is a signal");
}

fn current_thread() -> libc::pid_t {
    thread_local!(static ID: libc::pid_t = {
        // SAFETY: gettid has no arguments and cannot fail.
        unsafe { libc::gettid() }
    });
    ID.with(|id| *id)
}

/// The clock that shows how long the calling thread has had a processor, for other threads to read.
fn current_clock() -> libc::clockid_t {
    let mut clock = libc::CLOCK_MONOTONIC;
    // SAFETY: the thread is the calling one, so it lives, and `clock` outlives the call. A failure leaves it as it is.
    unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &raw mut clock) };
    clock
}

/// How long the calling thread has had a processor.
pub(crate) fn processor_time() -> Duration {
    time_of(libc::CLOCK_THREAD_CPUTIME_ID)
}

/// What a clock shows; zero for that of a thread that has ended.
fn time_of(clock: libc::clockid_t) -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` outlives the call. A clock that does not exist any more leaves it as it is.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    Duration::new(time.tv_sec.try_into().unwrap_or(0), time.tv_nsec.try_into().unwrap_or(0))
}

fn kick(thread: libc::pid_t) {
    signal(thread, kick_signal());
}

fn signal(thread: libc::pid_t, signal: libc::c_int) {
    // SAFETY: tgkill names this process, so at worst a thread that has ended or another of ours gets a signal of ours,
    // whose handler is async-signal-safe.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, signal) };
}

#[cfg(test)]
mod tests;
