//! The genesis of a machine, computed without KVM.
