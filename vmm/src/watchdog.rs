//! The budget between two doorbells, and the helper thread that ends a guest which exceeds it.
//!
//! Time is not part of the machine: a guest that is killed here is never checkpointed, and what a verifier replays
//! can only be an execution that was not killed. A kick is a signal without effect to the thread in KVM_RUN; it and
//! every other signal only make that call return early, after which the guest is entered again where it was.

use std::sync::atomic::{AtomicI32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, Weak};
use std::time::{Duration, Instant};

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
    budget: Duration,
    /// Odd while the guest runs. Even and odd together never repeat, so an old verdict cannot hit a new entry.
    entry: AtomicU64,
    /// The thread that runs the guest.
    thread: AtomicI32,
    /// The entry that exceeded the budget, or zero.
    expired: AtomicU64,
}

/// Watches one machine. Dropping it ends the watch.
pub(crate) struct Watch(Arc<Shared>);

impl Watch {
    /// Starts watching with this budget. Fails if the system gives no thread.
    pub(crate) fn start(budget: Duration) -> std::io::Result<Self> {
        HANDLER.call_once(install_handler);
        let shared = Arc::new(Shared {
            budget,
            entry: AtomicU64::new(0),
            thread: AtomicI32::new(0),
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
    // By watch: the entry seen last and when it was seen first.
    let mut seen: Vec<(Weak<Shared>, u64, Instant)> = Vec::new();
    loop {
        let Some(watches) = live_watches() else { return };
        let now = Instant::now();
        seen.retain(|(weak, ..)| weak.strong_count() > 0);
        let mut tick = TICK_MAX;
        for shared in &watches {
            tick = tick.min(shared.budget / LOOKS);
            let entry = shared.entry.load(Ordering::Acquire);
            let at = seen.iter_mut().find(|(weak, ..)| std::ptr::eq(weak.as_ptr(), Arc::as_ptr(shared)));
            match at {
                Some((_, last, since)) if *last == entry => {
                    if entry % 2 == 1 && now.duration_since(*since) >= shared.budget {
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

fn kick(thread: libc::pid_t) {
    // SAFETY: tgkill names this process, so at worst a thread that has ended or another of ours gets a signal whose
    // handler does nothing.
    unsafe { libc::syscall(libc::SYS_tgkill, libc::getpid(), thread, kick_signal()) };
}
