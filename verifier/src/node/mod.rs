//! The shell.
pub mod conduct;
