//! What a measured machine is: the digests of a slot and the position they belong to.

use quorate_attest::id::{CpuDigest, DeviceDigest, PageRoot};

pub use crate::device::Position;

/// The digests of one state. Two machines of one image that measure alike behave alike from then on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Measurement {
    /// Where in the execution.
    pub position: Position,
    /// Root over all pages of memory.
    pub page_root: PageRoot,
    /// Number of 4 KiB pages, which the root alone does not say.
    pub page_count: u64,
    /// Digest of the CPU state.
    pub cpu: CpuDigest,
    /// Digest of the doorbell's state.
    pub device: DeviceDigest,
}

/// A measurement and what it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeasuredPages {
    /// The digests.
    pub measurement: Measurement,
    /// Pages whose contents changed since the previous measurement, ascending. For a machine that has not been
    /// measured before: its non-zero pages.
    pub changed: Vec<u32>,
}
