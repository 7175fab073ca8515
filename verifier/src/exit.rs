//! Exit codes of the node, as the operations manual lists them.

/// Ended as asked.
pub const OK: u8 = 0;
/// Wrong use of the command line.
pub const USAGE: u8 = 2;
/// Safety stop: conflicting certificates, or an own vote that the sign-log does not know.
pub const SAFETY: u8 = 70;
/// Storage failed; nothing was signed after the failure.
pub const STORAGE: u8 = 74;
/// Another process holds what this one needs; it may be tried again.
pub const RETRY: u8 = 75;
/// A file with secrets is readable by others.
pub const NOT_PERMITTED: u8 = 77;
/// Configuration or sign-state is missing or wrong.
pub const CONFIGURATION: u8 = 78;
