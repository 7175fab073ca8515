//! Which pages may have changed since the last measurement, found in the way that was cheapest so far.
//!
//! | way | cost (development machine) |
//! | --- | --- |
//! | KVM's dirty log | 12.7 µs a written page, paid while the guest runs, and no large pages |
//! | hashing everything that exists | 2.0 µs a page of existing memory, paid when measuring |
//!
//! The first interval of a machine runs without the log, because a starting guest touches much new memory. After each
//! measurement both costs of the interval are known to a good approximation, and the next interval uses the cheaper
//! way. The way never influences a digest.
//!
//! A [fork](crate::fork) asks more often than measurements come. While a machine has one, the log stays on, and what
//! the fork takes from it is kept for the next measurement.

use std::sync::{Arc, Weak};

use super::MachineError;
use super::vcpu::Vcpu;
use crate::memory::GuestMemory;

/// Cost of one written page under the dirty log, in tenths of a microsecond.
const LOGGED_PAGE: u64 = 127;
/// Cost of hashing one page, in the same unit.
const HASHED_PAGE: u64 = 20;

/// Pages that may differ from the page tree.
pub(super) struct DirtyPages {
    /// Written by the VMM, of which KVM knows nothing. One bit a page.
    touched: Vec<u64>,
    /// Whether the log is on.
    logged: bool,
    /// Whether the guest has run since the last measurement.
    ran: bool,
    /// Pages of memory that exist, as last counted.
    existing: u64,
    follower: Option<Follower>,
}

/// Identifies who follows a machine's memory, for as long as it does.
pub(crate) type FollowToken = Arc<()>;

/// Somebody who keeps a copy of memory.
struct Follower {
    token: Weak<()>,
    /// What changed since it last asked, as far as it was taken from the log. One bit a page.
    changed: Vec<u64>,
    /// Whether the guest has run since the log was last taken.
    ran: bool,
}

fn words(page_count: u32) -> usize {
    page_count.div_ceil(64) as usize
}

fn set(bits: &mut [u64], page: u32) {
    bits[page as usize / 64] |= 1 << (page % 64);
}

/// Takes all pages out of a set, ascending.
fn drain(bits: &mut [u64]) -> Vec<u32> {
    let mut pages = Vec::new();
    for (base, word) in (0u32..).step_by(64).zip(bits) {
        let mut rest = std::mem::take(word);
        while rest != 0 {
            pages.push(base + rest.trailing_zeros());
            rest &= rest - 1;
        }
    }
    pages
}

impl DirtyPages {
    pub(super) fn new(page_count: u32) -> Self {
        Self { touched: vec![0; words(page_count)], logged: false, ran: false, existing: 0, follower: None }
    }

    /// Marks the pages of a range the VMM wrote.
    pub(super) fn touch(&mut self, address: u64, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let first = address / 4096;
        let last = (address + bytes as u64 - 1) / 4096;
        for page in first..=last {
            set(&mut self.touched, page as u32);
            if let Some(follower) = &mut self.follower {
                set(&mut follower.changed, page as u32);
            }
        }
    }

    /// Marks a page that the VMM replaced as a whole, which is no change that a follower must hear of.
    pub(super) fn replaced(&mut self, page: u32) {
        set(&mut self.touched, page);
    }

    /// Whether the coming interval is logged.
    #[cfg(test)]
    pub(super) fn is_logged(&self) -> bool {
        self.logged
    }

    /// Notes that the guest runs.
    pub(super) fn guest_runs(&mut self) {
        self.ran = true;
        if let Some(follower) = &mut self.follower {
            follower.ran = true;
        }
    }

    /// Begins to tell the changes from now on to a new follower; an earlier one hears no more.
    pub(super) fn follow(&mut self, vcpu: &Vcpu, memory: &GuestMemory) -> Result<FollowToken, MachineError> {
        if !self.logged {
            if self.ran {
                // What was written before the log was on is not in it.
                memory.existing_pages().into_iter().for_each(|page| set(&mut self.touched, page));
            }
            vcpu.log_dirty_pages(true)?;
            self.logged = true;
        }
        let token = Arc::new(());
        let changed = vec![0; self.touched.len()];
        self.follower = Some(Follower { token: Arc::downgrade(&token), changed, ran: self.ran });
        Ok(token)
    }

    /// Every page that may have changed since this follower last asked, ascending; `None` if it follows no more.
    pub(super) fn followed(
        &mut self,
        vcpu: &Vcpu,
        token: &FollowToken,
    ) -> Result<Option<Vec<u32>>, MachineError> {
        let Some(follower) = self.follower.as_mut().filter(|known| known.is(token)) else { return Ok(None) };
        if std::mem::take(&mut follower.ran) {
            for page in vcpu.take_dirty_pages()? {
                set(&mut self.touched, page);
                set(&mut follower.changed, page);
            }
        }
        Ok(Some(drain(&mut follower.changed)))
    }

    /// Takes the set: every page that may have changed, ascending.
    pub(super) fn take(&mut self, vcpu: &Vcpu, memory: &GuestMemory) -> Result<Vec<u32>, MachineError> {
        let mut pages = match (self.ran, self.logged) {
            (false, _) => Vec::new(),
            (true, true) => vcpu.take_dirty_pages()?,
            (true, false) => {
                let existing = memory.existing_pages();
                self.existing = existing.len() as u64;
                existing
            }
        };
        if let Some(follower) = &mut self.follower {
            pages.iter().for_each(|page| set(&mut follower.changed, *page));
            follower.ran = false;
        }
        let known = pages.len();
        pages.extend(drain(&mut self.touched));
        if known > 0 && pages.len() > known {
            pages.sort_unstable();
            pages.dedup();
        }
        Ok(pages)
    }

    /// Chooses the way of the next interval, given how many pages really changed in the one just measured.
    pub(super) fn choose(&mut self, vcpu: &Vcpu, changed: usize) -> Result<(), MachineError> {
        if !std::mem::take(&mut self.ran) {
            return Ok(());
        }
        let changed = changed as u64;
        self.existing = self.existing.max(changed);
        self.follower.take_if(|follower| follower.token.strong_count() == 0);
        let next = self.follower.is_some() || prefer_log(self.logged, changed, self.existing);
        if next != self.logged {
            vcpu.log_dirty_pages(next)?;
            self.logged = next;
        }
        Ok(())
    }
}

impl Follower {
    fn is(&self, token: &FollowToken) -> bool {
        std::ptr::eq(self.token.as_ptr(), Arc::as_ptr(token))
    }
}

/// Whether the log is expected to be cheaper. Changing costs refaults, so the other way must win by half.
fn prefer_log(logged: bool, changed: u64, existing: u64) -> bool {
    let (log, hash) = (changed.saturating_mul(LOGGED_PAGE), existing.saturating_mul(HASHED_PAGE));
    if logged { log <= hash.saturating_add(hash / 2) } else { log.saturating_add(log / 2) < hash }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_is_used_for_few_dirty_pages_and_left_with_hysteresis() {
        assert!(prefer_log(false, 655, 65_536));
        assert!(!prefer_log(false, 10_000, 65_536));
        assert!(prefer_log(true, 10_000, 65_536));
        assert!(!prefer_log(true, 20_000, 65_536));
        assert!(!prefer_log(false, 0, 0) && prefer_log(true, 0, 0));
    }

    #[test]
    fn touched_ranges_cover_every_page_they_overlap() {
        let mut dirty = DirtyPages::new(130);
        dirty.touch(4095, 2);
        dirty.touch(63 * 4096, 4097);
        dirty.touch(129 * 4096 + 5, 1);
        dirty.touch(100 * 4096, 0);
        assert_eq!(dirty.touched, [1 << 63 | 0b11, 1, 0b10]);
    }
}
