//! Which connection attempts may start a handshake. Pure but for its lock: no sockets and no clock.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::limits::Limits;

/// What to do with an attempt.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// Start the handshake and hold the ticket as long as it is pending.
    Admit(Ticket),
    /// Let the address prove first that it can receive.
    Retry,
    /// Too many are pending; carries how many.
    Refuse(usize),
}

#[derive(Debug, Default)]
struct Pending {
    total: usize,
    by_address: HashMap<IpAddr, usize>,
    by_subnet: HashMap<IpAddr, usize>,
}

/// Counts pending handshakes, in total, by address and by subnet.
#[derive(Debug, Clone)]
pub(crate) struct Admission {
    pending: Arc<Mutex<Pending>>,
    total: usize,
    retry_at: usize,
    per_address: usize,
    per_subnet: usize,
}

impl Admission {
    pub(crate) fn new(limits: &Limits) -> Self {
        Self {
            pending: Arc::default(),
            total: limits.max_pending_handshakes,
            retry_at: limits.retry_threshold,
            per_address: limits.max_pending_per_address,
            per_subnet: limits.max_pending_per_subnet,
        }
    }

    /// Judges an attempt. An address that has not shown that it can receive may be forged, so it can neither use
    /// up the quota of the real one nor more than `retry_threshold` places.
    pub(crate) fn judge(&self, from: SocketAddr, validated: bool) -> Verdict {
        let (address, subnet) = (from.ip(), subnet_of(from.ip()));
        let mut pending = lock(&self.pending);
        let of_address = pending.by_address.get(&address).copied().unwrap_or(0);
        let of_subnet = pending.by_subnet.get(&subnet).copied().unwrap_or(0);
        let over_quota = of_address >= self.per_address || of_subnet >= self.per_subnet;
        if !validated && (over_quota || pending.total >= self.retry_at) {
            return Verdict::Retry;
        }
        if over_quota || pending.total >= self.total {
            return Verdict::Refuse(pending.total);
        }
        pending.total += 1;
        if validated {
            *pending.by_address.entry(address).or_default() += 1;
            *pending.by_subnet.entry(subnet).or_default() += 1;
        }
        Verdict::Admit(Ticket { pending: Arc::clone(&self.pending), address, validated })
    }

    /// Handshakes in progress.
    pub(crate) fn pending(&self) -> usize {
        lock(&self.pending).total
    }
}

/// A place among the pending handshakes; given back when dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    pending: Arc<Mutex<Pending>>,
    address: IpAddr,
    validated: bool,
}

impl Drop for Ticket {
    fn drop(&mut self) {
        let mut pending = lock(&self.pending);
        pending.total = pending.total.saturating_sub(1);
        if self.validated {
            release(&mut pending.by_address, self.address);
            release(&mut pending.by_subnet, subnet_of(self.address));
        }
    }
}

fn release(counts: &mut HashMap<IpAddr, usize>, key: IpAddr) {
    if let Some(count) = counts.get_mut(&key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(&key);
        }
    }
}

fn lock(pending: &Mutex<Pending>) -> MutexGuard<'_, Pending> {
    pending.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The network an address is counted in: IPv4 /24, IPv6 /48.
fn subnet_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(v4) => {
            let [a, b, c, _] = v4.octets();
            IpAddr::from([a, b, c, 0])
        }
        IpAddr::V6(v6) => {
            let [a, b, c, ..] = v6.segments();
            IpAddr::from([a, b, c, 0, 0, 0, 0, 0])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn admission(total: usize, retry_at: usize, per_address: usize, per_subnet: usize) -> Admission {
        Admission::new(&Limits {
            max_pending_handshakes: total,
            retry_threshold: retry_at,
            max_pending_per_address: per_address,
            max_pending_per_subnet: per_subnet,
            ..Limits::default()
        })
    }

    fn from(last: u8) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, last], 1))
    }

    #[test]
    fn test_forged_addresses_fill_only_the_places_below_the_retry_threshold() {
        let admission = admission(8, 3, 8, 8);
        let held: Vec<_> = (0..3).map(|i| admission.judge(from(i), false)).collect();
        assert!(held.iter().all(|verdict| matches!(verdict, Verdict::Admit(_))));
        assert!(matches!(admission.judge(from(9), false), Verdict::Retry));
        assert!(matches!(admission.judge(from(9), true), Verdict::Admit(_)));
    }

    #[test]
    fn test_one_address_cannot_use_the_places_of_others() {
        let admission = admission(8, 8, 2, 4);
        let _held: Vec<_> = (0..2).map(|_| admission.judge(from(1), true)).collect();
        assert!(matches!(admission.judge(from(1), true), Verdict::Refuse(2)));
        assert!(matches!(admission.judge(from(2), true), Verdict::Admit(_)));
    }

    #[test]
    fn test_one_subnet_cannot_use_the_places_of_others() {
        let admission = admission(8, 8, 2, 3);
        let _held: Vec<_> = (0..3).map(|i| admission.judge(from(i), true)).collect();
        assert!(matches!(admission.judge(from(9), true), Verdict::Refuse(3)));
        let elsewhere = SocketAddr::from(([10, 0, 1, 1], 1));
        assert!(matches!(admission.judge(elsewhere, true), Verdict::Admit(_)));
    }

    #[test]
    fn test_places_are_given_back_and_no_count_is_left_behind() {
        let admission = admission(2, 2, 2, 2);
        for i in 0..100 {
            assert!(matches!(admission.judge(from(i), i % 2 == 0), Verdict::Admit(_)));
        }
        assert_eq!(admission.pending(), 0);
        let pending = lock(&admission.pending);
        assert!(pending.by_address.is_empty() && pending.by_subnet.is_empty());
    }
}
