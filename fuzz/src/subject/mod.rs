//! The services whose replicas are fuzzed.

mod counter;
mod registry;
mod uid;

pub use counter::Counter;
pub use registry::Registry;
pub use uid::Uid;
