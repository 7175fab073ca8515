//! From a slot's state to the statement that the host signs.

use quorate_attest::group::GroupConfig;
use quorate_attest::id::PlatformClass;
use quorate_attest::id::{Generation, Slot, StatementDigest};
use quorate_attest::key::PublicKey;
use quorate_attest::request::{InputClass, classify};
use quorate_attest::vm::{InputPolicy, SlotBody, SlotStatement, VmSpec};

use super::vm_thread::SlotState;

/// What stays the same from slot to slot of one instance.
#[derive(Clone, Debug)]
pub struct Frame<'a> {
    /// The verifier group.
    pub group: &'a GroupConfig,
    /// The VM.
    pub spec: &'a VmSpec,
    /// Its generation.
    pub generation: Generation,
    /// The host that runs it.
    pub host: PublicKey,
    /// The platform it runs on.
    pub platform: PlatformClass,
}

/// Describes `slot`, which follows the statement `previous` (zero for slot 0).
pub fn describe(
    frame: &Frame<'_>,
    slot: Slot,
    previous: StatementDigest,
    state: &SlotState,
) -> SlotStatement {
    let counts = count_classes(frame.spec, state);
    SlotStatement {
        group: frame.group.id(),
        epoch: frame.group.epoch,
        vm: frame.spec.id(),
        slot,
        body: SlotBody {
            generation: frame.generation,
            image: frame.spec.image,
            machine_version: frame.spec.machine_version,
            platform: frame.platform,
            page_root: state.measurement.page_root,
            page_count: state.measurement.page_count,
            cpu: state.measurement.cpu,
            device: state.measurement.device,
            input_root: state.input_root,
            first_input: state.first_input,
            end_input: state.end_input,
            ordered: counts.ordered,
            client_signed: counts.client_signed,
            unauthenticated: counts.unauthenticated,
            output_root: state.output_root,
            output_count: state.outputs.len() as u64,
            doorbells: state.measurement.position.doorbells,
            previous,
            host: frame.host,
        },
    }
}

/// How much is known about the origin of a slot's inputs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ClassCounts {
    /// Proved by an ordered log.
    pub ordered: u64,
    /// Signed by a client.
    pub client_signed: u64,
    /// Nobody vouches but the host.
    pub unauthenticated: u64,
}

fn count_classes(spec: &VmSpec, state: &SlotState) -> ClassCounts {
    let total = state.inputs.len() as u64;
    if spec.input_policy != InputPolicy::Any {
        // Signatures were checked when the requests came in; only input 0, the VM's own specification, has none.
        let unauthenticated = u64::from(state.first_input == 0 && total > 0);
        return ClassCounts {
            ordered: 0,
            client_signed: total.saturating_sub(unauthenticated),
            unauthenticated,
        };
    }
    let mut counts = ClassCounts::default();
    for input in &state.inputs {
        match classify(spec, input) {
            InputClass::Ordered => counts.ordered += 1,
            InputClass::ClientSigned => counts.client_signed += 1,
            InputClass::Unauthenticated => counts.unauthenticated += 1,
        }
    }
    counts
}
