//! Byzantine hosts, one module for each kind of lie.

pub mod activation;
pub mod fork;
mod gate;
pub mod inputs;
pub mod liars;
pub mod pages;
pub mod replies;
pub mod rollback;
pub mod splice;

use quorate_attest::id::OutputRoot;
use quorate_attest::merkle::{Sha256Tree, TreeHash};
use quorate_attest::vm::{Proposal, SlotBody, SlotStatement};
use quorate_host::conduct::View;
use quorate_verifier::protocol::Propose;

/// The slot after the newest one in which nothing happened. It is a *true* statement about an execution, so that honest
/// verifiers sign it; beside the statement that the host makes about the same slot it is one of two histories.
pub(crate) fn idle_slot(view: &View<'_>) -> Option<Propose> {
    let vm = view.vm.as_ref()?;
    let head = vm.head?;
    let body = SlotBody {
        generation: vm.generation,
        first_input: head.body.end_input,
        ordered: 0,
        client_signed: 0,
        unauthenticated: 0,
        output_root: OutputRoot::from_bytes(Sha256Tree::empty()),
        output_count: 0,
        previous: head.digest(),
        host: view.loaded.key.public(),
        ..head.body.clone()
    };
    let statement = SlotStatement { slot: head.slot.next()?, body, ..head.clone() };
    Some(Propose { proposal: Proposal::sign(statement, &view.loaded.key), inputs: Vec::new() })
}
