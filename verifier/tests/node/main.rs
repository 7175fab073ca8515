//! The real program, over real connections, with real guests under KVM.

mod cluster;
mod crashes;
mod processes;
mod recovery;
mod vm;
