//! The operations a guest can ask for, their limits and the errors it can get back.

use crate::{INPUT_BYTES_MAX, LOG_BYTES_MAX, OUTPUT_BYTES_MAX};

/// What a ring asks for. The discriminant is the number stored at the doorbell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u64)]
pub enum Operation {
    /// Wait for the next input and copy it into the buffer.
    Recv = 1,
    /// Emit the buffer as one output.
    Send = 2,
    /// Write the buffer to the console, which no statement certifies.
    Log = 3,
    /// Let the VMM stop here if it wants to. Long work rings this at bounded intervals.
    Yield = 4,
    /// End the program; the machine never runs again.
    Exit = 5,
}

impl Operation {
    /// Every operation, in order of its number.
    pub const ALL: [Self; 5] = [Self::Recv, Self::Send, Self::Log, Self::Yield, Self::Exit];

    /// The operation with this number, if there is one.
    pub const fn from_number(number: u64) -> Option<Self> {
        match number {
            1 => Some(Self::Recv),
            2 => Some(Self::Send),
            3 => Some(Self::Log),
            4 => Some(Self::Yield),
            5 => Some(Self::Exit),
            _ => None,
        }
    }

    /// The number stored at the doorbell and in word 0 of the mailbox.
    pub const fn number(self) -> u64 {
        self as u64
    }

    /// Largest value of word 2, or `None` where words 1 and 2 are not a range.
    pub const fn limit(self) -> Option<u64> {
        match self {
            Self::Recv => Some(INPUT_BYTES_MAX),
            Self::Send => Some(OUTPUT_BYTES_MAX),
            Self::Log => Some(LOG_BYTES_MAX),
            Self::Yield | Self::Exit => None,
        }
    }
}

/// Why the VMM refused an operation. The guest continues and finds [`code`](Self::code) as its result.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(i64)]
pub enum OperationError {
    /// The range wraps, or is not inside one region the guest may access as the operation needs.
    Fault = -1,
    /// The length exceeds the operation's limit.
    TooLarge = -2,
    /// No such operation, or word 0 and the stored value differ.
    UnknownOperation = -3,
    /// The next input is longer than the capacity. It was not consumed; word 1 holds its length.
    InputTooLarge = -4,
}

impl OperationError {
    /// Every error, in order of its code from -1 down.
    pub const ALL: [Self; 4] = [Self::Fault, Self::TooLarge, Self::UnknownOperation, Self::InputTooLarge];

    /// The negative number left in the result word.
    pub const fn code(self) -> i64 {
        self as i64
    }

    /// The error with this code, if there is one.
    pub const fn from_code(code: i64) -> Option<Self> {
        match code {
            -1 => Some(Self::Fault),
            -2 => Some(Self::TooLarge),
            -3 => Some(Self::UnknownOperation),
            -4 => Some(Self::InputTooLarge),
            _ => None,
        }
    }
}

impl core::fmt::Display for OperationError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Fault => "the range is not inside one accessible region",
            Self::TooLarge => "the length exceeds the operation's limit",
            Self::UnknownOperation => "there is no such operation",
            Self::InputTooLarge => "the next input is longer than the buffer",
        })
    }
}

impl core::error::Error for OperationError {}

/// A range of guest addresses that does not wrap. Whether it may be accessed depends on the image.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    start: u64,
    end: u64,
}

impl Span {
    /// The range `[pointer, pointer + length)`, or `None` if it wraps. An empty range is always accepted.
    pub const fn new(pointer: u64, length: u64) -> Option<Self> {
        match pointer.checked_add(length) {
            Some(end) => Some(Self { start: pointer, end }),
            None => None,
        }
    }

    /// First address.
    pub const fn start(self) -> u64 {
        self.start
    }

    /// First address behind the range.
    pub const fn end(self) -> u64 {
        self.end
    }

    /// Length in bytes.
    pub const fn length(self) -> u64 {
        self.end - self.start
    }

    /// Whether no address belongs to the range.
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// Whether the whole range lies in `region`. Empty ranges lie in every region.
    pub const fn is_inside(self, region: &core::ops::Range<u64>) -> bool {
        self.is_empty() || (self.start >= region.start && self.end <= region.end)
    }
}
