//! The real program, over real connections, with real guests under KVM.

mod cluster;
mod crashes;
mod processes;
mod vm;
