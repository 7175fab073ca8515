//! What the tests of services share.

pub(crate) mod fixture;
