//! Sources that tell the destination other inputs than those the guest consumed.

use quorate_attest::encoding::Bounded;
use quorate_attest::key::SecretKey;
use quorate_attest::request::Request;
use quorate_host::conduct::{Conduct, EarlierSlots, Step, View};
use quorate_host::protocol::Handover;
use quorate_verifier::protocol::Propose;
use quorate_vmm::page_tree::Page;
use quorate_vmm::snapshot::PageSnapshot;

use super::gate::Gate;

/// What is done to the inputs of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// The last one is left out.
    Drop,
    /// The last one comes twice.
    Extra,
    /// Two change places.
    Reorder,
    /// The body of one is another than its client signed.
    Forge,
}

/// Tampers with the inputs of every slot that has some.
#[derive(Debug)]
pub struct Tamper {
    how: How,
    gate: Gate,
}

impl Tamper {
    /// Tampers in one way.
    pub fn new(how: How) -> Self {
        Self { how, gate: Gate::default() }
    }

    fn tamper(&self, mut propose: Propose) -> Propose {
        let inputs = &mut propose.inputs;
        match self.how {
            How::Drop => drop(inputs.pop()),
            How::Extra => inputs.push(inputs.last().cloned().unwrap_or_else(|| b"one more".to_vec())),
            How::Reorder => {
                if let Some(other) = inputs.iter().position(|input| Some(input) != inputs.first()) {
                    inputs.swap(0, other);
                }
            }
            How::Forge => {
                if let Some(last) = inputs.last_mut() {
                    *last = forged(last);
                }
            }
        }
        propose
    }
}

/// The request with another body under the old signature.
fn forged(input: &[u8]) -> Vec<u8> {
    match Request::decoded(input) {
        Ok(mut request) => {
            match request.body.last_mut() {
                Some(last) => *last ^= 1,
                None => request.op ^= 1,
            }
            request.encoded()
        }
        Err(_) => b"nobody said this".to_vec(),
    }
}

impl Conduct for Tamper {
    fn reached(&self, step: Step, view: &View<'_>) {
        self.gate.reached(step, view);
    }

    fn forward(&self, propose: Propose) -> Option<Propose> {
        Some(self.tamper(propose))
    }

    fn handover(&self, handover: Handover, _key: &SecretKey, _earlier: &EarlierSlots<'_>) -> Handover {
        Handover { last: self.tamper(handover.last), ..handover }
    }

    fn alters_pages(&self) -> bool {
        true
    }

    /// Nothing happens to the pages; the transfer only waits until there are inputs to tamper with.
    fn page(&self, _index: u32, _page: &mut Page, _state: &PageSnapshot) {
        self.gate.wait(2, 1);
    }
}
