//! Copies of a machine's pages at one slot.
