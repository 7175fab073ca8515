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
}

impl DirtyPages {
    pub(super) fn new(page_count: u32) -> Self {
        let words = page_count.div_ceil(64) as usize;
        Self { touched: vec![0; words], logged: false, ran: false, existing: 0 }
    }

    /// Marks the pages of a range the VMM wrote.
    pub(super) fn touch(&mut self, address: u64, bytes: usize) {
        if bytes == 0 {
            return;
        }
        let first = address / 4096;
        let last = (address + bytes as u64 - 1) / 4096;
        for page in first..=last {
            self.touched[page as usize / 64] |= 1 << (page % 64);
        }
    }

    /// Whether the coming interval is logged.
    #[cfg(test)]
    pub(super) fn is_logged(&self) -> bool {
        self.logged
    }

    /// Notes that the guest runs.
    pub(super) fn guest_runs(&mut self) {
        self.ran = true;
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
        let known = pages.len();
        for (base, word) in (0u32..).step_by(64).zip(&mut self.touched) {
            let mut bits = std::mem::take(word);
            while bits != 0 {
                pages.push(base + bits.trailing_zeros());
                bits &= bits - 1;
            }
        }
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
        let next = prefer_log(self.logged, changed, self.existing);
        if next != self.logged {
            vcpu.log_dirty_pages(next)?;
            self.logged = next;
        }
        Ok(())
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
