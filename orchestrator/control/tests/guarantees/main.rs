//! What the control plane guarantees, through its public interface only.

mod clients;
mod groups;
mod migrations;
mod model;
mod recovery;
mod services;
mod snapshots;
mod speed;
mod totality;
mod vms;
mod world;
