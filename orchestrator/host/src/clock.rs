//! Clocks of the host agent. No safety decision reads them.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of the system's monotonic clock. Comparable between processes of one machine, and meaningless between
/// machines.
pub fn monotonic_ns() -> u64 {
    let now = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(now.tv_sec).unwrap_or(0);
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(now.tv_nsec).unwrap_or(0))
}

/// Milliseconds of the monotonic clock, for deadlines of the pure state machines.
pub fn monotonic_ms() -> u64 {
    monotonic_ns() / 1_000_000
}
