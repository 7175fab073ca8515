//! One replica of a service: the state machine that its guest is.

use alloc::vec::Vec;
use core::marker::PhantomData;

use quorate_attest::encoding::Bounded;
use quorate_attest::id::VmId;
use quorate_attest::key::PublicKey;
use quorate_attest::request::{Reply, status};
use quorate_attest::service::{Applied, Genesis, Input, Output, StateEntry};
use quorate_attest::state_tree::{StateCommitment, StateTree};
use quorate_attest::vm::{InputPolicy, VmSpec};

use crate::envelope::{open, to_nobody};
use crate::import::Import;
use crate::running::Running;
use crate::{Limits, Service};

/// Feed it the inputs of its VM in order, emit what it returns.
#[derive(Debug)]
pub struct Replica<S> {
    limits: Limits,
    vm: Option<VmId>,
    /// Whose inputs count: the key that the VM's specification names, or else whoever began the service here.
    feeder: Option<PublicKey>,
    stage: Stage,
    /// What the newest input with requests led to: whoever fed it may have lost the answer.
    answered: Applied,
    service: PhantomData<fn() -> S>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Stage {
    /// Neither genesis nor a whole state was seen.
    Empty,
    Importing(Import),
    Running(Running),
}

impl<S> Clone for Replica<S> {
    fn clone(&self) -> Self {
        let Self { limits, vm, feeder, ref stage, ref answered, service } = *self;
        Self { limits, vm, feeder, stage: stage.clone(), answered: answered.clone(), service }
    }
}

/// Replicas are equal that behave alike from here on; the same log may have come to them in other inputs.
impl<S> PartialEq for Replica<S> {
    fn eq(&self, other: &Self) -> bool {
        let parts = |replica: &Self| (replica.limits, replica.vm, replica.feeder);
        parts(self) == parts(other) && self.stage == other.stage
    }
}

impl<S> Eq for Replica<S> {}

impl<S: Service> Replica<S> {
    /// A replica that has seen no input.
    pub fn new(limits: Limits) -> Self {
        let answered = Applied { first: 0, executed: Vec::new() };
        Self { limits, vm: None, feeder: None, stage: Stage::Empty, answered, service: PhantomData }
    }

    /// The VM this replica runs in, once input 0 told it.
    pub fn vm(&self) -> Option<VmId> {
        self.vm
    }

    /// Number of the next entry of the service's log; 0 before genesis.
    pub fn next(&self) -> u64 {
        self.running().map_or(0, |service| service.next)
    }

    /// The state, once there is one.
    pub fn state(&self) -> Option<&StateTree> {
        self.running().map(|service| &service.tree)
    }

    /// Service time in milliseconds since 1970; 0 until enough voters have told it.
    pub fn time_ms(&self) -> u64 {
        self.running().map_or(0, |service| service.clock.time_ms())
    }

    fn running(&self) -> Option<&Running> {
        match &self.stage {
            Stage::Running(service) => Some(service),
            Stage::Empty | Stage::Importing(_) => None,
        }
    }

    /// [`handle_paced`](Self::handle_paced) where nobody waits.
    pub fn handle(&mut self, input: &[u8]) -> Vec<u8> {
        self.handle_paced(input, &mut || {})
    }

    /// Takes one input and returns its output; empty for the specification of the VM, which has none. Calls `pace` after
    /// each request.
    pub fn handle_paced(&mut self, input: &[u8], pace: &mut dyn FnMut()) -> Vec<u8> {
        let Some(vm) = self.vm else { return self.learn(input) };
        let mut wrapper = match open(&vm, input) {
            Ok(wrapper) => wrapper,
            Err(refusal) => return refusal.encoded(),
        };
        let Ok(inner) = Input::decoded(&core::mem::take(&mut wrapper.body)) else {
            return Reply::to(&wrapper, status::MALFORMED, Vec::new()).encoded();
        };
        let output = match self.feeder.filter(|feeder| *feeder != wrapper.client) {
            // A question changes nothing, and is not signed.
            Some(_) if !matches!(inner, Input::Query(_)) => {
                Output::Refused { status: status::NOT_AUTHORIZED, next: self.next() }
            }
            _ => self.take(inner, pace),
        };
        if self.running().is_some() {
            self.feeder = self.feeder.or(Some(wrapper.client));
        }
        Reply::to(&wrapper, status::OK, output.encoded()).encoded()
    }

    fn learn(&mut self, input: &[u8]) -> Vec<u8> {
        match VmSpec::decoded(input) {
            Ok(spec) if spec.validate().is_ok() && spec.memory_bytes == self.limits.memory_bytes => {
                self.vm = Some(spec.id());
                if let InputPolicy::SignedBy(key) = spec.input_policy {
                    self.feeder = Some(key);
                }
                Vec::new()
            }
            _ => to_nobody(status::BAD_CONFIG).encoded(),
        }
    }

    fn take(&mut self, input: Input, pace: &mut dyn FnMut()) -> Output {
        match (input, &mut self.stage) {
            (Input::Apply { first, requests }, Stage::Running(service)) => {
                if let Some(again) = repeated(&self.answered, first, requests.len()) {
                    return Output::Applied(again);
                }
                let output = service.apply::<S>(first, &requests, pace);
                if let Output::Applied(applied) = &output
                    && !applied.executed.is_empty()
                {
                    self.answered = applied.clone();
                }
                output
            }
            (Input::Query(query), Stage::Running(service)) => service.query(&query),
            (Input::Genesis(genesis), Stage::Running(service)) if service.began_with(&genesis) => {
                service.begun()
            }
            // It has begun already.
            (Input::Genesis(_) | Input::Import { .. }, Stage::Running(service)) => {
                service.refuse(status::CONFLICT)
            }
            (Input::Apply { .. }, _) => not_begun(status::STALE),
            (Input::Query(_), _) => not_begun(status::NOT_FOUND),
            (Input::Genesis(genesis), _) => match Running::begin::<S>(&genesis, self.limits) {
                Ok(service) => {
                    let output = service.begun();
                    self.stage = Stage::Running(service);
                    output
                }
                Err(status) => not_begun(status),
            },
            (Input::Import { genesis, number, entries, complete }, _) => {
                self.import(genesis, number, entries, complete.as_ref()).unwrap_or_else(not_begun)
            }
        }
    }

    /// Takes a part. One that is refused, or begins another import, ends the one under way.
    fn import(
        &mut self,
        genesis: Genesis,
        number: u64,
        entries: Vec<StateEntry>,
        complete: Option<&StateCommitment>,
    ) -> Result<Output, u16> {
        let mut import = match core::mem::replace(&mut self.stage, Stage::Empty) {
            Stage::Importing(import) if import.continues(&genesis, number, &entries) => import,
            _ => Import::new(genesis, number, self.limits)?,
        };
        import.extend(entries)?;
        self.stage = match complete {
            Some(expected) => Stage::Running(import.complete(expected)?),
            None => Stage::Importing(import),
        };
        Ok(Output::Applied(Applied { first: self.next(), executed: Vec::new() }))
    }
}

/// What came of entries that are asked for again, as many as are still known.
fn repeated(answered: &Applied, first: u64, count: usize) -> Option<Applied> {
    let skipped = usize::try_from(first.checked_sub(answered.first)?).ok()?;
    let known = answered.executed.get(skipped..).filter(|known| !known.is_empty() && count > 0)?;
    Some(Applied { first, executed: known.iter().take(count).cloned().collect() })
}

fn not_begun(status: u16) -> Output {
    Output::Refused { status, next: 0 }
}
