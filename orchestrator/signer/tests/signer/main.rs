//! Signers as real processes: what they promised survives kills, and how they start and end is what operators are told.

mod lifecycle;
mod setup;
mod survival;
