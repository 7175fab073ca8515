//! Pulls the base state of a migration, each page verified on arrival, into the memory it will run in.

use std::net::SocketAddr;

use quorate_attest::key::PublicKey;
use quorate_attest::merkle::{Frontier, Sha256Tree};
use quorate_transport::bulk::{Bulk, Purpose};
use quorate_verifier::protocol::Refused;
use quorate_vmm::execution::Execution;
use quorate_vmm::image::Image;
use quorate_vmm::measurement::Measurement;
use quorate_vmm::state_stream::{Expected, receive};

use super::agent::Arrived;

/// What is pulled from whom.
#[derive(Debug)]
pub struct Order {
    /// This host's side of the bulk transport.
    pub bulk: Bulk,
    /// Who must serve it.
    pub source: PublicKey,
    /// Where.
    pub address: String,
    /// Token of the offer.
    pub token: [u8; 32],
    /// What the certified statement says about the state.
    pub expected: Measurement,
    /// The input log up to the slot.
    pub input_log: Frontier<Sha256Tree>,
    /// Size of the VM's memory.
    pub memory_bytes: u64,
}

/// Pulls. Blocks; `progress` gets pages done and in total, a few times a second at most.
///
/// # Errors
/// The connection, or the first thing that is not what was certified.
pub fn pull(order: &Order, image: &Image, progress: &dyn Fn(u64, u64)) -> Result<Arrived, Refused> {
    let refuse = |kind: &str, detail: &dyn std::fmt::Display| Refused {
        kind: kind.to_owned(),
        detail: detail.to_string(),
    };
    let address: SocketAddr = order.address.parse().map_err(|error| refuse("DecodeError", &error))?;
    let purpose = Purpose::new(order.token).map_err(|error| refuse(error.kind(), &error))?;
    let connected = order.bulk.connect(address, &order.source, purpose);
    let mut stream = connected.map_err(|error| refuse(error.kind(), &error))?;
    let expected = Expected {
        image,
        memory_bytes: order.memory_bytes,
        measurement: order.expected,
        input_log: order.input_log.clone(),
        keep_pages: true,
    };
    let mut reported = 0;
    let mut progress = |done: u64, total: u64| {
        let percent = (done * 100).checked_div(total).unwrap_or(100);
        if percent > reported {
            reported = percent;
            progress(done, total);
        }
    };
    let received =
        receive(&mut stream, &expected, &mut progress).map_err(|error| refuse(error.kind(), &error))?;
    let Some(checkpoint) = received.checkpoint else {
        return Err(refuse("SnapshotInvalid", &"the copy of the state was not kept"));
    };
    let execution = Execution::resume_at(received.machine, order.input_log.clone());
    let execution = execution.map_err(|error| refuse(error.kind(), &error))?;
    Ok(Arrived { execution, checkpoint, moved: received.moved })
}
