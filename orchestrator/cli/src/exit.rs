//! Exit codes of every command.

/// Done, or nothing to do.
pub const OK: u8 = 0;
/// Refused, or verification failed.
pub const REFUSED: u8 = 1;
/// Wrong use of the command line, or a file that cannot be read.
pub const USAGE: u8 = 2;
/// Valid, but older than demanded.
pub const STALE: u8 = 3;
/// No quorum.
pub const NO_QUORUM: u8 = 69;
/// Somebody lies beyond what the groups tolerate: nothing may be believed until people have looked.
pub const SAFETY: u8 = 70;
/// Storage failed.
pub const STORAGE: u8 = 74;
/// It may be tried again.
pub const RETRY: u8 = 75;
/// Not permitted: a key that others may read, no access to `/dev/kvm`.
pub const NOT_PERMITTED: u8 = 77;
/// Configuration.
pub const CONFIGURATION: u8 = 78;
