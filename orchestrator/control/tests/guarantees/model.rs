//! Random sequences of commands, signed as they must be, against a model that is written down independently: it knows
//! states and numbers only, no signatures, no records and no log.

use std::collections::BTreeMap;

use crate::world::*;
use proptest::prelude::*;
use quorate_attest::id::*;
use quorate_attest::key::PublicKey;
use quorate_attest::state_tree::StateTree;
use quorate_attest::vm::{Action, Decision};
use quorate_control::*;

#[derive(Debug, Clone)]
enum Step {
    Create(u8),
    Delete(u8),
    Begin { vm: u8, to: u16, ahead: u64 },
    Handover { migration: prop::sample::Index, slot: u64 },
    NotStopped { migration: prop::sample::Index },
    Back { migration: prop::sample::Index, slot: u64 },
    Decline { migration: prop::sample::Index },
    Recover { vm: u8, to: u16, slot: u64, ahead: u64 },
    Activate { grant: prop::sample::Index },
    Head { vm: u8, slot: u64 },
    CreateService(u8),
    Call(u8),
    Upgrade { service: u8, image: u8, ahead: i8 },
    Replay { entry: prop::sample::Index },
    Restart,
}

fn step() -> impl Strategy<Value = Step> {
    let (vm, to, ahead, slot) = (0u8..2, 0u16..4, prop_oneof![6 => Just(0u64), 1 => 1..3u64], 0u64..20);
    let pick = any::<prop::sample::Index>;
    prop_oneof![
        2 => vm.clone().prop_map(Step::Create),
        1 => vm.clone().prop_map(Step::Delete),
        6 => (vm.clone(), to.clone(), ahead.clone())
            .prop_map(|(vm, to, ahead)| Step::Begin { vm, to, ahead }),
        6 => (pick(), slot.clone()).prop_map(|(migration, slot)| Step::Handover { migration, slot }),
        2 => pick().prop_map(|migration| Step::NotStopped { migration }),
        4 => (pick(), slot.clone()).prop_map(|(migration, slot)| Step::Back { migration, slot }),
        3 => pick().prop_map(|migration| Step::Decline { migration }),
        2 => (vm.clone(), to, slot.clone(), ahead)
            .prop_map(|(vm, to, slot, ahead)| Step::Recover { vm, to, slot, ahead }),
        6 => pick().prop_map(|grant| Step::Activate { grant }),
        2 => (vm, slot).prop_map(|(vm, slot)| Step::Head { vm, slot }),
        1 => (0u8..2).prop_map(Step::CreateService),
        3 => (0u8..3).prop_map(Step::Call),
        2 => (0u8..2, 0u8..4, -1i8..3).prop_map(|(service, image, ahead)| Step::Upgrade { service, image, ahead }),
        3 => pick().prop_map(|entry| Step::Replay { entry }),
        1 => Just(Step::Restart),
    ]
}

type At = (u64, StatementDigest);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Begun,
    Granted(At, PublicKey),
    Activated(At, PublicKey),
    GaveUp { declined: bool, grant: Option<(At, PublicKey)> },
    Overtaken,
}

#[derive(Debug, Clone)]
struct Journey {
    vm: VmId,
    generation: u64,
    from: PublicKey,
    to: PublicKey,
    state: State,
}

#[derive(Debug, Clone)]
struct Machine {
    generation: u64,
    next: u64,
    host: PublicKey,
    head: Option<At>,
    grants: Vec<(u64, At, PublicKey)>,
    active: Option<(u64, At, PublicKey)>,
    journey: Option<OperationId>,
}

impl Machine {
    fn is_settled(&self) -> bool {
        self.journey.is_none() && self.grants.is_empty()
    }

    fn reaches(&self, at: At) -> bool {
        self.head.is_none_or(|head| at.0 > head.0 || at == head)
    }

    fn grant(&mut self, generation: u64, at: At, host: PublicKey) {
        self.grants.push((generation, at, host));
        self.grants.sort_by_key(|grant| grant.0);
        if self.grants.len() > GRANTS_LIMIT {
            self.grants.remove(0);
        }
    }

    fn take(&mut self) -> u64 {
        self.next += 1;
        self.next - 1
    }
}

#[derive(Default)]
struct Model {
    machines: BTreeMap<VmId, Machine>,
    journeys: BTreeMap<OperationId, Journey>,
    deleted: Vec<VmId>,
    services: BTreeMap<ServiceId, Numbers>,
}

/// A service: the next number, and from which numbers on which images execute.
#[derive(Debug, Clone)]
struct Numbers {
    next: u64,
    images: Vec<(u64, u8)>,
}

impl Model {
    fn create(&mut self, vm: VmId) -> bool {
        if self.machines.contains_key(&vm) || self.deleted.contains(&vm) {
            return false;
        }
        let (host, head, active, journey) = (host(0).public(), None, None, None);
        let machine = Machine { generation: 0, next: 1, host, head, grants: Vec::new(), active, journey };
        self.machines.insert(vm, machine);
        true
    }

    fn create_service(&mut self, service: ServiceId) -> bool {
        let new = Numbers { next: 1, images: vec![(0, 0x1a)] };
        !self.services.contains_key(&service) && self.services.insert(service, new).is_none()
    }

    fn call(&mut self, service: ServiceId) -> bool {
        let known = self.services.get_mut(&service);
        known.map(|numbers| numbers.next += 1).is_some()
    }

    fn upgrade(&mut self, service: ServiceId, image: u8, at: u64) -> bool {
        let Some(numbers) = self.services.get_mut(&service) else { return false };
        let (last, newest) = *numbers.images.last().unwrap();
        if (last, newest) == (at, image) {
            return true;
        }
        let fits = at >= numbers.next && at > last && newest != image;
        if fits {
            numbers.images.push((at, image));
        }
        fits
    }

    fn delete(&mut self, vm: VmId) -> bool {
        let fits = self.machines.get(&vm).is_some_and(Machine::is_settled);
        if fits {
            self.machines.remove(&vm);
            self.deleted.push(vm);
        }
        fits
    }

    fn begin(&mut self, id: OperationId, vm: VmId, to: PublicKey, generation: u64) -> bool {
        let Some(machine) = self.machines.get_mut(&vm) else { return false };
        if !machine.is_settled() || machine.host == to || machine.next != generation {
            return false;
        }
        machine.take();
        machine.journey = Some(id);
        let journey = Journey { vm, generation, from: machine.host, to, state: State::Begun };
        self.journeys.insert(id, journey);
        true
    }

    fn handover(&mut self, id: OperationId, at: At) -> bool {
        let journey = self.journeys.get_mut(&id).unwrap();
        let Some(machine) = self.machines.get_mut(&journey.vm) else { return false };
        match journey.state {
            State::Begun if machine.reaches(at) => {
                machine.grant(journey.generation, at, journey.to);
                journey.state = State::Granted(at, journey.to);
                true
            }
            State::Granted(before, _) | State::Activated(before, _) => before == at,
            _ => false,
        }
    }

    fn not_stopped(&mut self, id: OperationId, declined: bool) -> bool {
        let journey = self.journeys.get_mut(&id).unwrap();
        let Some(machine) = self.machines.get_mut(&journey.vm) else { return false };
        match journey.state {
            State::Begun => {
                machine.journey = None;
                journey.state = State::GaveUp { declined, grant: None };
                true
            }
            State::GaveUp { declined: before, grant: None } => before == declined,
            _ => false,
        }
    }

    fn back(&mut self, id: OperationId, at: At) -> bool {
        let journey = self.journeys.get(&id).unwrap().clone();
        let Some(machine) = self.machines.get_mut(&journey.vm) else { return false };
        let declined = match journey.state {
            State::Begun => false,
            State::GaveUp { grant: Some(grant), .. } => return grant == (at, journey.from),
            State::GaveUp { declined, grant: None } => declined,
            _ => return false,
        };
        if !machine.grants.is_empty() || machine.host != journey.from || !machine.reaches(at) {
            return false;
        }
        let generation = if journey.state == State::Begun { journey.generation } else { machine.take() };
        machine.grant(generation, at, journey.from);
        if let Some(other) = machine.journey.take() {
            self.journeys.get_mut(&other).unwrap().state = State::Overtaken;
        }
        let state = State::GaveUp { declined, grant: Some((at, journey.from)) };
        self.journeys.get_mut(&id).unwrap().state = state;
        true
    }

    fn decline(&mut self, id: OperationId) -> bool {
        let journey = self.journeys.get_mut(&id).unwrap();
        match journey.state {
            State::Granted(at, _) => {
                let machine = self.machines.get_mut(&journey.vm).unwrap();
                let generation = machine.take();
                machine.grant(generation, at, journey.from);
                machine.journey = None;
                journey.state = State::GaveUp { declined: true, grant: Some((at, journey.from)) };
                true
            }
            State::GaveUp { declined: true, grant: Some(_) } => self.machines.contains_key(&journey.vm),
            _ => self.not_stopped(id, true),
        }
    }

    fn recover(&mut self, vm: VmId, to: PublicKey, at: At, generation: u64) -> bool {
        let Some(machine) = self.machines.get_mut(&vm) else { return false };
        if !machine.reaches(at) || machine.next != generation {
            return false;
        }
        machine.take();
        machine.head = Some(at);
        machine.grant(generation, at, to);
        if let Some(other) = machine.journey.take() {
            self.journeys.get_mut(&other).unwrap().state = State::Overtaken;
        }
        true
    }

    fn activate(&mut self, vm: VmId, generation: u64, at: At, host: PublicKey) -> bool {
        let Some(machine) = self.machines.get_mut(&vm) else { return false };
        let wanted = (generation, at, host);
        if machine.active == Some(wanted) {
            return true;
        }
        if generation <= machine.generation || !machine.grants.contains(&wanted) {
            return false;
        }
        (machine.generation, machine.host, machine.active) = (generation, host, Some(wanted));
        machine.head = machine.head.filter(|head| head.0 >= at.0).or(Some(at));
        machine.grants.retain(|grant| grant.0 > generation);
        if let Some(id) = machine.journey
            && self.journeys[&id].generation == generation
        {
            machine.journey = None;
            self.journeys.get_mut(&id).unwrap().state = State::Activated(at, host);
        }
        true
    }

    fn head(&mut self, vm: VmId, at: At) -> bool {
        let Some(machine) = self.machines.get_mut(&vm) else { return false };
        let fits = machine.reaches(at);
        if fits {
            machine.head = Some(at);
        }
        fits
    }

    fn check(&self, control: &Control) {
        assert_eq!(control.services().count(), self.services.len());
        for (id, numbers) in &self.services {
            let service = control.service(id).unwrap();
            assert_eq!(service.progress.ordered, numbers.next);
            for (before, (from, image)) in numbers.images.iter().enumerate() {
                assert_eq!(service.image_at(*from), (ImageDigest::from_bytes([*image; 32]), before));
            }
        }
        assert_eq!(control.vms().count(), self.machines.len());
        for (id, machine) in &self.machines {
            let vm = control.vm(id).unwrap();
            assert_eq!((vm.generation.get(), vm.next_generation.get()), (machine.generation, machine.next));
            assert_eq!(vm.host, machine.host);
            assert_eq!(vm.head.map(|head| (head.slot.get(), head.statement)), machine.head);
            let grants: Vec<_> = vm.grants.iter().map(granted).collect();
            assert_eq!(grants, machine.grants);
            assert_eq!(vm.migration.as_ref().map(|(id, _)| *id), machine.journey);
        }
    }
}

fn granted(decision: &Decision) -> (u64, At, PublicKey) {
    match decision.action {
        Action::Grant { slot, statement, host } => (decision.generation.get(), (slot.get(), statement), host),
        Action::Migrate { .. } => panic!("no grant: {decision:?}"),
    }
}

/// A run: what happened and what must never happen twice.
struct Run {
    log: Log,
    model: Model,
    migrations: Vec<OperationId>,
    grants: BTreeMap<(VmId, u64), Decision>,
    succeeded: Vec<Vec<u8>>,
}

impl Run {
    fn submit(&mut self, command: &Command) -> (bool, Option<Decision>) {
        let operation = self.log.operation(&operator(0), command);
        let before: BTreeMap<VmId, Generation> =
            self.log.control.vms().map(|(id, vm)| (*id, vm.generation)).collect();
        let applied = self.log.apply(&operation);
        for (id, vm) in self.log.control.vms() {
            assert!(before.get(id).is_none_or(|old| vm.generation >= *old), "a generation fell");
        }
        // Who asks for a number twice gets two.
        if applied.result.is_ok() && !matches!(command, Command::CallService { .. }) {
            self.succeeded.push(operation);
        }
        if let Some(decision) =
            applied.decision.iter().find(|found| matches!(found.action, Action::Grant { .. }))
        {
            let first = self
                .grants
                .entry((decision.vm, decision.generation.get()))
                .or_insert_with(|| decision.clone());
            assert_eq!(first, decision, "two grants for one generation");
        }
        (applied.result.is_ok(), applied.decision)
    }

    fn at(&self, vm: VmId, slot: u64) -> At {
        (slot, self.log.statement(vm, slot).digest())
    }

    fn number(&self, key: &PublicKey) -> u16 {
        (0..4).find(|number| host(*number).public() == *key).unwrap()
    }

    /// Submits a step's command and answers whether the log and the model agree that it succeeds.
    fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        let vm_of = |number: &u8| spec(&format!("vm-{number}"), 0).id();
        let some = |index: &prop::sample::Index, run: &Self| {
            (!run.migrations.is_empty()).then(|| *index.get(&run.migrations))
        };
        let (got, want) = match step {
            Step::Create(number) => {
                let command = Command::CreateVm { spec: spec(&format!("vm-{number}"), 0) };
                (self.submit(&command).0, self.model.create(vm_of(number)))
            }
            Step::Delete(number) => {
                let vm = vm_of(number);
                (self.submit(&Command::DeleteVm { vm }).0, self.model.delete(vm))
            }
            Step::Begin { vm, to, ahead } => {
                let (vm, destination) = (vm_of(vm), host(*to).public());
                let next = self.log.control.vm(&vm).map_or(1, |vm| vm.next_generation.get()) + ahead;
                let command = Command::Begin { vm, destination, generation: Generation(next) };
                let (done, decision) = self.submit(&command);
                let id = decision.filter(|_| done).map_or(OperationId::ZERO, |decision| decision.operation);
                if done {
                    self.migrations.push(id);
                }
                (done, self.model.begin(id, vm, destination, next))
            }
            Step::Recover { vm, to, slot, ahead } => {
                let vm = vm_of(vm);
                let Some(record) = self.log.control.vm(&vm) else { return Ok(()) };
                let next = record.next_generation.get() + ahead;
                let (at, to) = (self.at(vm, *slot), host(*to).public());
                let slot = self.log.certificate(vm, *slot);
                let command = Command::Recover { vm, host: to, generation: Generation(next), slot };
                (self.submit(&command).0, self.model.recover(vm, to, at, next))
            }
            Step::Head { vm, slot } => {
                let vm = vm_of(vm);
                if self.log.control.vm(&vm).is_none() {
                    return Ok(());
                }
                let (at, certificate) = (self.at(vm, *slot), self.log.certificate(vm, *slot));
                (self.submit(&Command::Head { certificate }).0, self.model.head(vm, at))
            }
            Step::Activate { grant } => {
                if self.grants.is_empty() {
                    return Ok(());
                }
                let all: Vec<Decision> = self.grants.values().cloned().collect();
                let grant = grant.get(&all);
                let (generation, at, host) = granted(grant);
                let command = Command::Activate { certificate: self.log.activation(grant) };
                (self.submit(&command).0, self.model.activate(grant.vm, generation, at, host))
            }
            Step::CreateService(number) => {
                let spec = service_spec(&format!("service-{number}"));
                let id = spec.id();
                (self.submit(&Command::CreateService { spec }).0, self.model.create_service(id))
            }
            Step::Call(number) => {
                let service = service_spec(&format!("service-{number}")).id();
                let command = Command::CallService { service, request: vec![*number] };
                (self.submit(&command).0, self.model.call(service))
            }
            Step::Upgrade { service, image, ahead } => {
                let service = service_spec(&format!("service-{service}")).id();
                let next = self.model.services.get(&service).map_or(1, |numbers| numbers.next);
                let number = next.saturating_add_signed(i64::from(*ahead));
                let digest = ImageDigest::from_bytes([*image; 32]);
                let command = Command::UpgradeService { service, image: digest, number };
                (self.submit(&command).0, self.model.upgrade(service, *image, number))
            }
            Step::Replay { entry } => {
                if !self.succeeded.is_empty() {
                    let before = self.log.control.commitment();
                    self.log.apply(&entry.get(&self.succeeded).clone());
                    prop_assert_eq!(self.log.control.commitment(), before, "a replay changed the state");
                }
                return Ok(());
            }
            Step::Restart => {
                let restored = Control::decode(&self.log.control.encode()).unwrap();
                prop_assert_eq!(&restored, &self.log.control);
                self.log.control = restored;
                return Ok(());
            }
            Step::Handover { migration, .. }
            | Step::NotStopped { migration }
            | Step::Back { migration, .. }
            | Step::Decline { migration } => match some(migration, self) {
                Some(id) if self.log.control.vm(&self.model.journeys[&id].vm).is_some() => {
                    self.move_on(step, id)
                }
                _ => return Ok(()),
            },
        };
        prop_assert_eq!(got, want, "{:?}", step);
        Ok(())
    }

    fn move_on(&mut self, step: &Step, id: OperationId) -> (bool, bool) {
        let Journey { vm, from, to, .. } = self.model.journeys[&id].clone();
        let abort = |evidence| Command::Abort { vm, migration: id, evidence };
        match step {
            Step::Handover { slot, .. } => {
                let relinquish = self.log.relinquish(vm, *slot, self.number(&to));
                let at = (*slot, relinquish.statement);
                let done = self.submit(&Command::Handover { migration: id, relinquish }).0;
                (done, self.model.handover(id, at))
            }
            Step::Back { slot, .. } => {
                let relinquish = self.log.relinquish(vm, *slot, self.number(&from));
                let at = (*slot, relinquish.statement);
                let done = self.submit(&abort(AbortEvidence::Relinquished(relinquish))).0;
                (done, self.model.back(id, at))
            }
            Step::Decline { .. } => {
                let refusal = self.log.refusal(vm, &id, self.number(&to));
                (self.submit(&abort(AbortEvidence::Declined(refusal))).0, self.model.decline(id))
            }
            _ => (self.submit(&abort(AbortEvidence::NotStopped)).0, self.model.not_stopped(id, false)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn test_random_commands_do_what_the_model_says(steps in proptest::collection::vec(step(), 1..60)) {
        let mut run = Run {
            log: Log::new(),
            model: Model::default(),
            migrations: Vec::new(),
            grants: BTreeMap::new(),
            succeeded: Vec::new(),
        };
        run.step(&Step::Create(0))?;
        run.step(&Step::Create(1))?;
        for step in &steps {
            run.step(step)?;
            run.model.check(&run.log.control);
            let recomputed = StateTree::from_sorted(run.log.control.tree().entries().to_vec()).commitment();
            prop_assert_eq!(run.log.control.commitment(), recomputed);
        }
    }

    #[test]
    fn test_same_entries_lead_to_the_same_outcomes_and_roots_everywhere(
        steps in proptest::collection::vec(step(), 1..40),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut run = Run {
            log: Log::new(),
            model: Model::default(),
            migrations: Vec::new(),
            grants: BTreeMap::new(),
            succeeded: Vec::new(),
        };
        run.step(&Step::Create(0))?;
        for step in &steps {
            run.step(step)?;
        }
        let cut = cut.index(run.succeeded.len());
        let mut first = Log::new().control;
        let mut second = Log::new().control;
        for (index, operation) in run.succeeded.iter().enumerate() {
            if index == cut {
                second = Control::decode(&second.encode()).unwrap();
            }
            prop_assert_eq!(first.apply(index as u64, operation), second.apply(index as u64, operation));
            prop_assert_eq!(first.root(), second.root());
        }
        prop_assert_eq!(first, second);
    }
}
