//! From exchanges to the threads of VMs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use quorate_attest::VerifyError;
use quorate_attest::id::VmId;
use quorate_attest::vm::VmSpec;
use quorate_transport::Role;
use quorate_vmm::{Image, genesis};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::Shared;
use super::conduct::{Conduct, Step};
use super::worker::{Job, Worker};
use crate::core::{Measurement, Record, Refusal, Registration, VmCore, VmState, answer_of, register};
use crate::protocol::{Done, FromVerifier, IMAGE_BYTES_MAX, NeedRegistration, Register, ToVerifier};

/// Requests that wait for one VM.
const JOBS_WAITING: usize = 64;
/// Folder of the images in the data directory.
const IMAGES: &str = "images";

#[derive(Default)]
struct Vms {
    running: HashMap<VmId, mpsc::Sender<Job>>,
    /// VMs whose image has been lost; their state waits for the next registration.
    dormant: HashMap<VmId, VmState>,
}

/// All VMs of a node.
pub(super) struct Router<C> {
    shared: Arc<Shared<C>>,
    vms: Mutex<Vms>,
    /// One registration at a time: it is rare, and costs memory and a thread.
    registering: tokio::sync::Mutex<()>,
}

impl<C: Conduct> Router<C> {
    /// Starts the VMs that the sign-log knows.
    pub(super) fn start(shared: Arc<Shared<C>>, states: Vec<(VmId, VmState)>) -> std::io::Result<Arc<Self>> {
        let router = Self { shared, vms: Mutex::default(), registering: tokio::sync::Mutex::default() };
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
        let core = VmCore::new(Arc::clone(&self.shared.context), state, genesis);
        let worker = Worker::new(Arc::clone(&self.shared), core, image);
        let (queue, jobs) = mpsc::channel(JOBS_WAITING);
        let name = format!("vm-{}", &vm.to_string()[..8]);
        std::thread::Builder::new().name(name).spawn(move || worker.serve(jobs))?;
        self.vms().running.insert(vm, queue);
        Ok(())
    }

    /// Hands a request to its VM, or answers it.
    pub(super) async fn dispatch(&self, job: Job) {
        let answers = job.caller.answers.clone();
        let Some(vm) = vm_of(&job.request) else {
            return self.refuse(&answers, &VmId::ZERO, &Refusal::Unexpected { message: "Pages" }).await;
        };
        if !is_permitted(job.role, &job.request) {
            let error = VerifyError::KeyRoleMismatch { role: "host", got: job.caller.peer };
            return self.refuse(&answers, &vm, &error.into()).await;
        }
        let queue = self.vms().running.get(&vm).cloned();
        let Some(queue) = queue else {
            return self.unknown(&answers, vm, job.request).await;
        };
        if let Err(TrySendError::Full(_)) = queue.try_send(job) {
            self.refuse(&answers, &vm, &Refusal::QueueFull { queue: "vm" }).await;
        }
    }

    async fn refuse(&self, answers: &mpsc::Sender<FromVerifier>, vm: &VmId, refusal: &Refusal) {
        self.shared.note_refusal(vm, refusal.kind(), &refusal.to_string());
        let _ = answers.send(FromVerifier::Refused(answer_of(refusal))).await;
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
        let known = self.vms().dormant.remove(&vm);
        let count = self.vms().running.len();
        if known.is_none() && count >= self.shared.vms_max {
            return Err(Some(Refusal::QueueFull { queue: "vms" }));
        }
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

fn vm_of(request: &ToVerifier) -> Option<VmId> {
    Some(match request {
        ToVerifier::Register(register) => register.spec.id(),
        ToVerifier::Propose(propose) => propose.proposal.statement.vm,
        ToVerifier::StateOffer(offer) => offer.vm,
        ToVerifier::HeadQuery(query) => query.vm,
        ToVerifier::Activate(activate) => activate.activation.vm,
        ToVerifier::Activated(certificate) => certificate.activation.vm,
        ToVerifier::Pages(_) => return None,
    })
}

/// Hosts may ask for everything. Others may ask what is signed by somebody else anyway.
fn is_permitted(role: Role, request: &ToVerifier) -> bool {
    let anyone = matches!(
        request,
        ToVerifier::HeadQuery(_)
            | ToVerifier::Activate(_)
            | ToVerifier::Activated(_)
            | ToVerifier::Register(_)
    );
    role == Role::Host || (anyone && role != Role::Client)
}
