//! The members of an ordered log in one process and one thread, from a seed.
//!
//! The validator is the one of production (`quorate_agreement_engine::validator`) on the engine's deterministic runtime and
//! simulated network: time is virtual, and a seed decides every delay, loss and order of tasks. So a run can be repeated exactly.
//! What differs from production is the index, which is in memory ([`Disk`]) and survives [`Cluster::crash`], and the links.
//!
//! ```
//! use std::time::Duration;
//! use quorate_agreement_simulation::{Disk, run, test_operations, operation};
//!
//! let (entries, _) = run(1, 4, async |mut cluster| {
//!     let disks: Vec<_> = (0..4).map(|_| Disk::default()).collect();
//!     for (member, disk) in disks.iter().enumerate() {
//!         cluster.start(member as u16, disk, test_operations(), |_| {}).await;
//!     }
//!     cluster.submit(2, operation(7));
//!     cluster.sleep(Duration::from_secs(5)).await;
//!     disks.iter().map(|disk| disk.entries().len()).collect::<Vec<_>>()
//! });
//! assert_eq!(entries, [1, 1, 1, 1]);
//! ```
//!
//! # Not simulated
//!
//! A crash stops a member's tasks between two steps. Writes that it had made without a sync are not lost with it, except in
//! the index, which knows only what was synced.

#![forbid(unsafe_code)]

mod byzantine;
mod cluster;
mod disk;

pub use byzantine::Behaviour;
pub use cluster::{Cluster, run};
pub use disk::{Disk, Entry};
pub use quorate_agreement_engine::application::Rules;
pub use quorate_agreement_engine::counters::Counts;

use std::sync::Arc;

/// Operations of at least 16 bytes, which are the identifier.
pub fn test_operations() -> Rules {
    let operation_id = |bytes: &[u8]| {
        let mut id = [0; 32];
        id[..16].copy_from_slice(bytes.get(..16)?);
        Some(id)
    };
    Rules {
        validate: Arc::new(|bytes| bytes.len() >= 16),
        operation_id: Arc::new(operation_id),
        ends_epoch: Arc::new(|_| false),
    }
}

/// An operation for [`test_operations`].
pub fn operation(number: u64) -> Vec<u8> {
    u128::from(number).to_be_bytes().to_vec()
}
