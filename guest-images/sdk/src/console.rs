//! A console line without an allocation, so that a panic in the allocator can still be reported.

use core::fmt;

use quorate_guest_abi::LOG_BYTES_MAX;

/// One line of at most [`LOG_BYTES_MAX`] bytes; what does not fit is cut off at a character boundary.
pub struct Line {
    bytes: [u8; LOG_BYTES_MAX as usize],
    length: usize,
    full: bool,
}

impl Line {
    /// Formats a line: `Line::of(format_args!("step {step}"))`.
    pub fn of(arguments: fmt::Arguments<'_>) -> Self {
        let mut line = Self { bytes: [0; LOG_BYTES_MAX as usize], length: 0, full: false };
        // An error only says that a `Display` gave up; what was written until then is still worth showing.
        let _ = fmt::write(&mut line, arguments);
        line
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.bytes[..self.length]).unwrap_or_default()
    }
}

impl fmt::Write for Line {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.full {
            return Ok(());
        }
        let room = self.bytes.len() - self.length;
        let kept = prefix(text, room);
        self.bytes[self.length..][..kept.len()].copy_from_slice(kept.as_bytes());
        self.length += kept.len();
        self.full = kept.len() < text.len();
        Ok(())
    }
}

/// The longest prefix of at most `room` bytes that ends at a character boundary.
pub(crate) fn prefix(text: &str, room: usize) -> &str {
    let mut end = room.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}
