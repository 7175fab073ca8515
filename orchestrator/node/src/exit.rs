//! Exit codes of the node, as the operations manual lists them.

pub use quorate_verifier::exit::{CONFIGURATION, NOT_PERMITTED, OK, RETRY, SAFETY, STORAGE, USAGE};
