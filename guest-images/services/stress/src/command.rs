//! What a stress guest can be told and what it answers: borsh, little-endian, no trailing bytes.

use alloc::vec::Vec;

use borsh::{BorshDeserialize, BorshSerialize};

/// How much each step does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Work {
    /// Bytes of the working set, rounded down to whole pages.
    pub working_set_bytes: u64,
    /// Pages of the working set that get eight new bytes.
    pub pages_per_step: u32,
    /// Rounds of integer mixing.
    pub integer_rounds: u32,
    /// Rounds over 64 double-precision numbers, which the compiler turns into vector instructions.
    pub float_rounds: u32,
    /// Dependent loads from the working set.
    pub chase_steps: u32,
}

/// One input.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Command {
    /// Replaces the working set by zeros of another size and sets the work of each step.
    Configure(Work),
    /// Fills the first bytes of the working set with incompressible words that depend on the seed only.
    Fill {
        /// Bytes, rounded down to whole words.
        bytes: u64,
        /// Seed of the words.
        seed: u64,
    },
    /// Performs this many steps, then answers once.
    Step {
        /// Number of steps.
        count: u32,
    },
    /// Sends this many outputs of this many bytes each instead of one answer.
    Emit {
        /// Number of outputs.
        count: u32,
        /// Bytes of each, at most the longest output.
        bytes: u32,
    },
    /// Breaks a rule.
    Misbehave(Misbehaviour),
    /// Ends the program.
    Exit {
        /// Exit code.
        code: u64,
    },
}

/// An address range the guest must not use in some way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Place {
    /// The page at address zero.
    Null,
    /// The tables and stubs of the machine.
    Supervisor,
    /// Below the stack.
    Guard,
    /// The program's instructions.
    Code,
    /// The program's constants.
    ReadOnlyData,
    /// The mailbox page.
    Mailbox,
    /// The stack.
    Stack,
    /// Behind the end of memory.
    BeyondMemory,
    /// An address no program can name.
    NonCanonical,
}

impl Place {
    /// Every place.
    pub const ALL: [Self; 9] = [
        Self::Null,
        Self::Supervisor,
        Self::Guard,
        Self::Code,
        Self::ReadOnlyData,
        Self::Mailbox,
        Self::Stack,
        Self::BeyondMemory,
        Self::NonCanonical,
    ];
}

/// An access to the doorbell that is not an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Knock {
    /// A store of one byte.
    Store1,
    /// A store of two bytes.
    Store2,
    /// A store of four bytes.
    Store4,
    /// A store of sixteen bytes.
    Store16,
    /// A store of thirty-two bytes.
    Store32,
    /// A store of eight bytes, four bytes further on.
    Misaligned,
    /// A store of eight bytes, to the next word of the page.
    NextWord,
    /// A load of eight bytes.
    Load,
    /// An exchange-and-add of eight bytes.
    ReadModifyWrite,
}

impl Knock {
    /// Every kind of access.
    pub const ALL: [Self; 9] = [
        Self::Store1,
        Self::Store2,
        Self::Store4,
        Self::Store16,
        Self::Store32,
        Self::Misaligned,
        Self::NextWord,
        Self::Load,
        Self::ReadModifyWrite,
    ];
}

/// A rule to break. Those that name an effect end the program; the others are answered by [`Reply::Result`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Misbehaviour {
    /// Store where the guest may not write. [`Place::Mailbox`] and [`Place::Stack`] are writable: nothing happens.
    Store(Place),
    /// Load. Ends the program where the guest may not read.
    Load(Place),
    /// Jump where nothing may be executed. [`Place::Code`] is executable: nothing happens.
    Execute(Place),
    /// `div` by zero.
    DivideByZero,
    /// `ud2`.
    InvalidOpcode,
    /// An aligned vector load from an odd address.
    MisalignedVector,
    /// A loop without a doorbell.
    Spin,
    /// Push until the stack is used up.
    StackOverflow,
    /// A Rust panic.
    Panic,
    /// An allocation that no heap can serve.
    HeapOverflow,
    /// Touch the doorbell in a way that is not an operation.
    Knock(Knock),
    /// Ring with these three words. A `Recv` that could be accepted is not performed.
    Call {
        /// Word 0, also stored at the doorbell.
        operation: u64,
        /// Word 1.
        pointer: u64,
        /// Word 2.
        length: u64,
    },
    /// Ring with different numbers at the doorbell and in the mailbox.
    Mismatch {
        /// Number stored at the doorbell.
        stored: u64,
        /// Word 0 of the mailbox.
        operation: u64,
    },
    /// Write this many console lines.
    FloodLogs {
        /// Number of lines.
        count: u32,
    },
    /// Yield this many times.
    FloodYields {
        /// Number of yields.
        count: u32,
    },
}

/// One output.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Reply {
    /// The command was carried out.
    Done {
        /// Steps since the program began.
        steps: u64,
        /// State of the integer work; depends on everything before.
        integer: u64,
        /// Bits of the sum of the floating-point work.
        float: u64,
        /// Bytes of the working set.
        working_set_bytes: u64,
    },
    /// The input is no command.
    Malformed,
    /// The working set does not fit, or a length is over its limit. Nothing changed.
    TooLarge,
    /// A misbehaviour ran to its end. `None`: it was not performed because this program would have suffered.
    Result(Option<i64>),
}

/// Bytes that are no [`Command`] or [`Reply`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommandError;

impl core::fmt::Display for CommandError {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("the bytes are no message of the stress service")
    }
}

impl core::error::Error for CommandError {}

/// Longest encoding of either message; longer inputs are not looked at.
const MESSAGE_BYTES_MAX: usize = 64;

macro_rules! codec {
    ($type:ty) => {
        impl $type {
            /// The encoding.
            pub fn encode(&self) -> Vec<u8> {
                let mut bytes = Vec::with_capacity(MESSAGE_BYTES_MAX);
                let written = self.serialize(&mut bytes);
                assert!(written.is_ok(), "writing into memory failed");
                bytes
            }

            /// Reads an encoding.
            ///
            /// # Errors
            ///
            /// If the bytes are malformed, truncated or followed by others.
            pub fn decode(bytes: &[u8]) -> Result<Self, CommandError> {
                if bytes.len() > MESSAGE_BYTES_MAX {
                    return Err(CommandError);
                }
                borsh::from_slice(bytes).map_err(|_| CommandError)
            }
        }
    };
}

codec!(Command);
codec!(Reply);
