//! One transition: whether a statement continues its predecessor, and whether inputs and state are what it says.
//!
//! Everything here is a pure comparison; nothing is remembered.

use quorate_attest::VerifyError;
use quorate_attest::id::{Epoch, ImageDigest, InputRoot, OutputRoot, PlatformClass, StatementDigest};
use quorate_attest::merkle::{Frontier, Sha256Tree, TreeHash};
use quorate_attest::request::{InputClass, MESSAGE_LIMIT, classify};
use quorate_attest::vm::{InputPolicy, SlotBody, SlotStatement, VmSpec};
use quorate_vmm::page_tree::PAGE_BYTES;

use super::refusal::Refusal;
use super::{Measurement, Observed};
use crate::protocol::{SLOT_DOORBELLS_MAX, SLOT_INPUT_BYTES_MAX, SLOT_INPUTS_MAX};

/// Checks that `next` continues `head` (or begins a chain) in everything that statements alone show.
pub fn check_link(spec: &VmSpec, head: Option<&SlotStatement>, next: &SlotStatement) -> Result<(), Refusal> {
    let body = &next.body;
    let before = Before::of(head);
    if body.previous != before.digest {
        return Err(Refusal::LogChainBroken { at: body.first_input, reason: "another previous statement" });
    }
    if next.epoch < before.epoch {
        return Err(VerifyError::EpochRetired { epoch: next.epoch, current: before.epoch }.into());
    }
    check_platform(spec, before.platform, body)?;
    check_range(before.end_input, body)?;
    if body.doorbells < before.doorbells {
        return Err(Refusal::RootMismatch { component: "doorbells" });
    }
    // A guest may ring for ever; a replay must end.
    let rung = body.doorbells - before.doorbells;
    if rung > SLOT_DOORBELLS_MAX {
        return Err(Refusal::TooLarge {
            what: "doorbells of the slot",
            limit: SLOT_DOORBELLS_MAX,
            got: rung,
        });
    }
    if head.is_none() {
        return check_genesis_range(body);
    }
    Ok(())
}

/// What slot k-1 fixes about slot k.
struct Before {
    digest: StatementDigest,
    epoch: Epoch,
    platform: Option<PlatformClass>,
    end_input: u64,
    doorbells: u64,
}

impl Before {
    fn of(head: Option<&SlotStatement>) -> Self {
        match head {
            None => Self {
                digest: StatementDigest::ZERO,
                epoch: Epoch::ZERO,
                platform: None,
                end_input: 0,
                doorbells: 0,
            },
            Some(head) => Self {
                digest: head.digest(),
                epoch: head.epoch,
                platform: Some(head.body.platform),
                end_input: head.body.end_input,
                doorbells: head.body.doorbells,
            },
        }
    }
}

fn check_platform(spec: &VmSpec, platform: Option<PlatformClass>, body: &SlotBody) -> Result<(), Refusal> {
    let same: [(&'static str, bool); 4] = [
        ("image", body.image == spec.image && body.image != ImageDigest::ZERO),
        ("machine_version", body.machine_version == spec.machine_version),
        ("page_count", body.page_count == page_count(spec)),
        ("platform", platform.is_none_or(|platform| body.platform == platform)),
    ];
    match same.iter().find(|(_, same)| !same) {
        Some((field, _)) => Err(Refusal::PlatformMismatch { field }),
        None => Ok(()),
    }
}

/// Pages of a VM's memory.
pub(super) fn page_count(spec: &VmSpec) -> u64 {
    spec.memory_bytes / PAGE_BYTES as u64
}

fn check_range(end_before: u64, body: &SlotBody) -> Result<(), Refusal> {
    if body.first_input > end_before {
        return Err(Refusal::LogTruncated { want: end_before, got: body.first_input });
    }
    if body.first_input < end_before {
        return Err(Refusal::LogTrailingRecords { n: end_before - body.first_input });
    }
    let Some(count) = body.end_input.checked_sub(body.first_input) else {
        return Err(Refusal::LogTruncated { want: body.first_input, got: body.end_input });
    };
    let classes =
        body.ordered.checked_add(body.client_signed).and_then(|n| n.checked_add(body.unauthenticated));
    if classes != Some(count) {
        return Err(Refusal::InputUnauthenticated { class: "counted once", at: body.first_input });
    }
    Ok(())
}

/// Slot 0 is the state before the first instruction: nothing has come in or gone out.
fn check_genesis_range(body: &SlotBody) -> Result<(), Refusal> {
    if body.end_input != 0 {
        return Err(Refusal::LogTrailingRecords { n: body.end_input });
    }
    let nothing = Sha256Tree::empty();
    if body.input_root != InputRoot::from_bytes(nothing) {
        return Err(Refusal::LogChainBroken { at: 0, reason: "another root of no inputs" });
    }
    if body.output_count != 0 || body.output_root != OutputRoot::from_bytes(nothing) {
        return Err(Refusal::RootMismatch { component: "outputs" });
    }
    if body.doorbells != 0 {
        return Err(Refusal::RootMismatch { component: "doorbells" });
    }
    Ok(())
}

/// Checks the inputs against the statement and answers the log that they lead to.
pub fn check_inputs(
    spec: &VmSpec,
    log: &Frontier<Sha256Tree>,
    body: &SlotBody,
    inputs: &[Vec<u8>],
) -> Result<Frontier<Sha256Tree>, Refusal> {
    let (want, got) = (body.end_input - body.first_input, inputs.len() as u64);
    if got < want {
        return Err(Refusal::LogTruncated { want, got });
    }
    if got > want {
        return Err(Refusal::LogTrailingRecords { n: got - want });
    }
    check_sizes(inputs)?;
    let mut log = log.clone();
    let mut counted = Counted::default();
    for (input, at) in inputs.iter().zip(body.first_input..) {
        counted.add(spec, at, input)?;
        log.push(input);
    }
    if body.input_root != InputRoot::from_bytes(log.root()) {
        return Err(Refusal::LogChainBroken { at: body.first_input, reason: "inputs lead to another root" });
    }
    counted.compare(body)?;
    Ok(log)
}

fn check_sizes(inputs: &[Vec<u8>]) -> Result<(), Refusal> {
    let largest = inputs.iter().map(Vec::len).max().unwrap_or(0);
    let limits = [
        ("number of inputs", SLOT_INPUTS_MAX, inputs.len()),
        ("input", MESSAGE_LIMIT, largest),
        ("sum of inputs", SLOT_INPUT_BYTES_MAX, inputs.iter().map(Vec::len).sum()),
    ];
    match limits.iter().find(|(_, limit, got)| got > limit) {
        Some((what, limit, got)) => Err(Refusal::TooLarge { what, limit: *limit as u64, got: *got as u64 }),
        None => Ok(()),
    }
}

/// Inputs of each class.
#[derive(Default)]
struct Counted {
    ordered: u64,
    client_signed: u64,
    unauthenticated: u64,
}

impl Counted {
    fn add(&mut self, spec: &VmSpec, at: u64, input: &[u8]) -> Result<(), Refusal> {
        match classify(spec, input) {
            InputClass::Ordered => self.ordered += 1,
            InputClass::ClientSigned => self.client_signed += 1,
            InputClass::Unauthenticated if is_admissible(spec, at, input) => self.unauthenticated += 1,
            InputClass::Unauthenticated => {
                return Err(Refusal::InputUnauthenticated { class: "client-signed", at });
            }
        }
        Ok(())
    }

    fn compare(&self, body: &SlotBody) -> Result<(), Refusal> {
        let classes = [
            ("ordered", body.ordered == self.ordered),
            ("client-signed", body.client_signed == self.client_signed),
            ("unauthenticated", body.unauthenticated == self.unauthenticated),
        ];
        match classes.iter().find(|(_, same)| !same) {
            Some((class, _)) => Err(Refusal::InputUnauthenticated { class, at: body.first_input }),
            None => Ok(()),
        }
    }
}

/// Whether the VM takes an input that nobody vouches for. The first one may be the VM's own specification, which
/// tells a service who it is: everybody can check it against the VM's id.
fn is_admissible(spec: &VmSpec, at: u64, input: &[u8]) -> bool {
    spec.input_policy == InputPolicy::Any || (at == 0 && input == quorate_attest::encoding::to_bytes(spec))
}

/// Compares the state reached with the state stated. The error names the first component that differs.
pub fn compare(body: &SlotBody, observed: &Observed) -> Result<(), Refusal> {
    let Observed { measurement, output_root, output_count } = observed;
    let components = [
        ("memory", body.page_root == measurement.page_root && body.page_count == measurement.page_count),
        ("cpu", body.cpu == measurement.cpu),
        ("device", body.device == measurement.device),
        ("outputs", body.output_root == *output_root && body.output_count == *output_count),
        ("doorbells", body.doorbells == measurement.position.doorbells),
    ];
    match components.iter().find(|(_, same)| !same) {
        Some((component, _)) => Err(Refusal::RootMismatch { component }),
        None => Ok(()),
    }
}

/// What a machine in the state of `statement` measures.
pub fn measurement_of(statement: &SlotStatement) -> Measurement {
    let body = &statement.body;
    Measurement {
        position: quorate_vmm::Position { inputs: body.end_input, doorbells: body.doorbells },
        page_root: body.page_root,
        page_count: body.page_count,
        cpu: body.cpu,
        device: body.device,
    }
}

/// What slot 0 of a VM is.
pub(super) fn observed_at_genesis(measurement: &Measurement) -> Observed {
    let output_root = OutputRoot::from_bytes(Sha256Tree::empty());
    Observed { measurement: *measurement, output_root, output_count: 0 }
}
