//! From exchanges to the threads of VMs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_attest::VerifyError;
use quorate_attest::id::VmId;
use quorate_attest::vm::{Mode, SlotStatement, VmSpec};
use quorate_transport::Role;
use quorate_vmm::{Image, genesis};
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{Semaphore, mpsc};

use super::Shared;
use super::conduct::{Conduct, Step};
use super::worker::{Job, Worker};
use crate::core::{Measurement, Record, Refusal, Registration, VmCore, VmState, answer_of, register};
use crate::protocol::{Done, FromVerifier, IMAGE_BYTES_MAX, NeedRegistration, Register, ToVerifier};

/// Requests that wait for one VM.
const JOBS_WAITING: usize = 32;
/// KiB of the requests that wait for all VMs together.
const QUEUED_KIB_MAX: usize = 256 << 10;
/// Folder of the images in the data directory.
pub(super) const IMAGES: &str = "images";

#[derive(Default)]
struct Vms {
    running: HashMap<VmId, Running>,
    /// VMs whose image has been lost; their state waits for the next registration.
    dormant: HashMap<VmId, VmState>,
}

struct Running {
    queue: mpsc::Sender<Job>,
    memory_bytes: u64,
}

/// All VMs of a node.
pub(super) struct Router<C> {
    shared: Arc<Shared<C>>,
    vms: Mutex<Vms>,
    /// Room for requests that wait.
    room: Arc<Semaphore>,
    /// One registration at a time: it is rare, and costs memory and a thread.
    registering: tokio::sync::Mutex<()>,
}

impl<C: Conduct> Router<C> {
    /// Starts the VMs that the sign-log knows.
    pub(super) fn start(shared: Arc<Shared<C>>, states: Vec<(VmId, VmState)>) -> std::io::Result<Arc<Self>> {
        let room = Arc::new(Semaphore::new(QUEUED_KIB_MAX));
        let router = Self { shared, vms: Mutex::default(), room, registering: tokio::sync::Mutex::default() };
        for (vm, state) in states {
            match router.load_image(&state.spec) {
                Ok((image, measurement)) => router.run(vm, state, image, measurement)?,
                Err(error) => {
                    tracing::warn!(vm_id = %vm, error, "image is lost; the VM waits for a registration");
                    router.vms().dormant.insert(vm, state);
                }
            }
        }
        Ok(Arc::new(router))
    }

    fn vms(&self) -> MutexGuard<'_, Vms> {
        self.vms.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn load_image(&self, spec: &VmSpec) -> Result<(Image, Measurement), String> {
        let name = spec.image.to_string();
        let elf = self.shared.data.read(IMAGES, &name, IMAGE_BYTES_MAX as u64).map_err(|e| e.to_string())?;
        let image = Image::admit(&elf).map_err(|e| e.to_string())?;
        if image.digest() != spec.image {
            return Err("the file is another image".to_owned());
        }
        let genesis = genesis::genesis(&image, spec.memory_bytes).map_err(|e| e.to_string())?;
        Ok((image, genesis.measurement))
    }

    fn run(&self, vm: VmId, state: VmState, image: Image, genesis: Measurement) -> std::io::Result<()> {
        let memory_bytes = state.spec.memory_bytes;
        let core = VmCore::new(Arc::clone(&self.shared.context), state, genesis);
        let worker = Worker::new(Arc::clone(&self.shared), core, image);
        let (queue, jobs) = mpsc::channel(JOBS_WAITING);
        let name = format!("vm-{}", &vm.to_string()[..8]);
        std::thread::Builder::new().name(name).spawn(move || worker.serve(jobs))?;
        self.vms().running.insert(vm, Running { queue, memory_bytes });
        Ok(())
    }

    /// Hands a request to its VM, or answers it.
    pub(super) async fn dispatch(&self, mut job: Job) {
        let answers = job.caller.answers.clone();
        let Some(vm) = vm_of(&job.request) else {
            return self.refuse(&answers, &VmId::ZERO, &Refusal::Unexpected { message: "Pages" }).await;
        };
        if !is_permitted(job.role, &job.request) {
            let error = VerifyError::KeyRoleMismatch { role: "host", got: job.caller.peer };
            return self.refuse(&answers, &vm, &error.into()).await;
        }
        let Ok(room) = Arc::clone(&self.room).try_acquire_many_owned(kib(&job.request)) else {
            return self.refuse(&answers, &vm, &Refusal::QueueFull { queue: "bytes" }).await;
        };
        job.caller.room = Some(room);
        let queue = self.vms().running.get(&vm).map(|running| running.queue.clone());
        let Some(queue) = queue else {
            return self.unknown(&answers, vm, job.request).await;
        };
        if let Err(TrySendError::Full(_)) = queue.try_send(job) {
            self.refuse(&answers, &vm, &Refusal::QueueFull { queue: "vm" }).await;
        }
    }

    async fn refuse(&self, answers: &mpsc::Sender<FromVerifier>, vm: &VmId, refusal: &Refusal) {
        let answer = answer_of(refusal);
        self.shared.note_refusal(vm, &answer.kind, &answer.detail);
        let _ = answers.send(FromVerifier::Refused(answer)).await;
    }

    async fn unknown(&self, answers: &mpsc::Sender<FromVerifier>, vm: VmId, request: ToVerifier) {
        let answer = match request {
            ToVerifier::Register(register) => self.register(vm, register).await,
            _ => Ok(FromVerifier::NeedRegistration(NeedRegistration {})),
        };
        match answer {
            // A host that went away does not want it any more.
            Ok(answer) => drop(answers.send(answer).await),
            Err(Some(refusal)) => self.refuse(answers, &vm, &refusal).await,
            // The node is about to end.
            Err(None) => {}
        }
    }

    async fn register(&self, vm: VmId, request: Register) -> Result<FromVerifier, Option<Refusal>> {
        let _one = self.registering.lock().await;
        self.admit(vm, request).await?;
        Ok(FromVerifier::Done(Done {}))
    }

    async fn admit(&self, vm: VmId, request: Register) -> Result<(), Option<Refusal>> {
        if self.vms().running.contains_key(&vm) {
            return Ok(());
        }
        self.check_room(&request.spec)?;
        let known = self.vms().dormant.remove(&vm);
        let shared = Arc::clone(&self.shared);
        let elf = request.image.clone();
        let fresh = known.is_none();
        // Decoding an image and waiting for the disk would hold up everybody else on this thread.
        let task = tokio::task::spawn_blocking(move || {
            let registration = register(&shared.context, &request).map_err(Some)?;
            store(&shared, &registration, &elf, fresh)?;
            Ok(registration)
        });
        let registered = match task.await {
            Ok(result) => result,
            Err(_) => Err(None),
        };
        match registered {
            Ok(Registration { spec, image, genesis, .. }) => {
                let state = known.unwrap_or_else(|| VmState::new(spec));
                self.run(vm, state, image, genesis).map_err(|error| {
                    tracing::error!(%error, vm_id = %vm, "no thread for the VM");
                    Some(Refusal::QueueFull { queue: "threads" })
                })
            }
            Err(refusal) => {
                known.and_then(|state| self.vms().dormant.insert(vm, state));
                Err(refusal)
            }
        }
    }

    fn check_room(&self, spec: &VmSpec) -> Result<(), Refusal> {
        let (vms, limits) = (self.vms(), &self.shared.limits);
        if vms.running.len() >= limits.vms_max {
            return Err(Refusal::QueueFull { queue: "vms" });
        }
        // A SAMPLED verifier loads no memory.
        let memory =
            vms.running.values().fold(spec.memory_bytes, |sum, vm| sum.saturating_add(vm.memory_bytes));
        if self.shared.context.mode == Mode::Replayed && memory > limits.memory_total_bytes_max {
            let limit = limits.memory_total_bytes_max;
            return Err(Refusal::TooLarge { what: "memory of all VMs", limit, got: memory });
        }
        Ok(())
    }

    /// Ends all VMs once their queues are empty.
    pub(super) fn close(&self) {
        self.vms().running.clear();
    }
}

fn store<C: Conduct>(
    shared: &Shared<C>,
    registration: &Registration,
    elf: &[u8],
    fresh: bool,
) -> Result<(), Option<Refusal>> {
    shared.conduct.step(Step::BeforeImage);
    if let Err(error) = shared.data.write(IMAGES, &registration.spec.image.to_string(), elf) {
        shared.end(super::Fatal::of_io("store an image", error));
        return Err(None);
    }
    shared.conduct.step(Step::AfterImage);
    if fresh {
        let record = Record::Registered { spec: registration.spec.clone() };
        shared.writer.persist(registration.vm, record).map_err(|_| None)?;
    }
    Ok(())
}

/// Memory that a waiting request takes, roughly.
fn kib(request: &ToVerifier) -> u32 {
    let bytes = match request {
        ToVerifier::Register(register) => register.image.len(),
        ToVerifier::Propose(propose) => propose.inputs.iter().map(|input| input.len() + 32).sum(),
        ToVerifier::StateOffer(offer) => offer.chain.len() * size_of::<SlotStatement>(),
        _ => 0,
    };
    u32::try_from(bytes >> 10).unwrap_or(u32::MAX).saturating_add(1)
}

fn vm_of(request: &ToVerifier) -> Option<VmId> {
    Some(match request {
        ToVerifier::Register(register) => register.spec.id(),
        ToVerifier::Propose(propose) => propose.proposal.statement.vm,
        ToVerifier::StateOffer(offer) => offer.vm,
        ToVerifier::HeadQuery(query) => query.vm,
        ToVerifier::Activate(activate) => activate.activation.vm,
        ToVerifier::Activated(certificate) => certificate.activation.vm,
        ToVerifier::SlotRequest(request) => request.vm,
        ToVerifier::StateRequest(request) => request.grant.decision.vm,
        ToVerifier::Pages(_) => return None,
    })
}

/// Hosts may ask for everything. Others may ask what is signed by somebody else anyway; operators may also carry slots
/// of a dead host from one verifier to another.
fn is_permitted(role: Role, request: &ToVerifier) -> bool {
    let anyone = matches!(
        request,
        ToVerifier::HeadQuery(_)
            | ToVerifier::Activate(_)
            | ToVerifier::Activated(_)
            | ToVerifier::Register(_)
    );
    let carried = matches!(request, ToVerifier::SlotRequest(_) | ToVerifier::Propose(_));
    role == Role::Host || (anyone && role != Role::Client) || (carried && role == Role::Operator)
}
