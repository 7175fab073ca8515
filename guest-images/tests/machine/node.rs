//! A replica of a service in a machine or as a library, fed by its orchestrator.

use std::time::{Duration, Instant};

use elf::{ElfBytes, abi::PT_LOAD, endian::LittleEndian};
use quorate_attest::encoding::Bounded;
use quorate_attest::id::{GroupId, ImageDigest, Nonce};
use quorate_attest::key::{PublicKey, SecretKey};
use quorate_attest::request::Request;
use quorate_attest::service::{Applied, Executed, Genesis, Input, Ordered, Output, ServiceSpec};
use quorate_attest::vm::{InputPolicy, OutputPolicy, VmSpec};
use quorate_guest_images::GuestImage;
use quorate_kit::{Limits, Replica, Service, wire};

use super::guest::{End, Guest};

/// Voters about time.
pub const VOTERS: u8 = 4;

pub fn voter(number: u8) -> SecretKey {
    SecretKey::from_seed([200 + number; 32])
}

fn orchestrator(replica: u16) -> SecretKey {
    SecretKey::from_seed([100 + replica as u8; 32])
}

pub fn spec(image: GuestImage, memory_bytes: u64, config: Vec<u8>) -> ServiceSpec {
    ServiceSpec {
        name: image.name.into(),
        image: ImageDigest::from_bytes(image.digest()),
        memory_bytes,
        replicas: GroupId::from_bytes([1; 32]),
        nonce: Nonce::from_bytes([2; 16]),
        config,
    }
}

pub fn genesis(spec: ServiceSpec) -> Genesis {
    let voters: Vec<PublicKey> = (0..VOTERS).map(|number| voter(number).public()).collect();
    Genesis { spec, voters, f: 1 }
}

fn vm_spec(service: &ServiceSpec, replica: u16) -> VmSpec {
    VmSpec {
        name: service.vm_name(replica),
        image: service.image,
        machine_version: 1,
        memory_bytes: service.memory_bytes,
        input_policy: InputPolicy::ClientSigned,
        output_policy: OutputPolicy::Immediate,
        host: SecretKey::from_seed([50 + replica as u8; 32]).public(),
        nonce: Nonce::from_bytes([3; 16]),
    }
}

/// What the guest of this image may hold.
pub fn limits(image: GuestImage, memory_bytes: u64) -> Limits {
    let file = ElfBytes::<LittleEndian>::minimal_parse(image.elf).expect("an ELF file");
    let loads = file.segments().expect("segments").iter().filter(|segment| segment.p_type == PT_LOAD);
    let end = loads.map(|segment| segment.p_vaddr + segment.p_memsz).max().expect("a segment");
    Limits::for_machine(memory_bytes, memory_bytes - end.next_multiple_of(4096)).expect("room")
}

/// Takes inputs and gives outputs.
pub trait Machine {
    fn handle(&mut self, input: &[u8]) -> Vec<u8>;
}

impl<S: Service> Machine for Replica<S> {
    fn handle(&mut self, input: &[u8]) -> Vec<u8> {
        Replica::handle(self, input)
    }
}

impl Machine for Guest {
    fn handle(&mut self, input: &[u8]) -> Vec<u8> {
        let mut reaction = self.feed(input);
        assert!(matches!(reaction.end, End::Waiting), "{reaction:?}");
        assert!(reaction.outputs.len() <= 1, "one input, one output: {reaction:?}");
        reaction.outputs.pop().unwrap_or_default()
    }
}

/// A replica and the orchestrator that is its client.
pub struct Node<M> {
    pub machine: M,
    service: ServiceSpec,
    replica: u16,
    inputs: u64,
    next: u64,
    /// How long the machine worked.
    pub busy: Duration,
}

impl<M: Machine> Node<M> {
    /// Tells the machine which VM it is.
    pub fn new(mut machine: M, service: &ServiceSpec, replica: u16) -> Self {
        let output = machine.handle(&wire::vm_input(&vm_spec(service, replica)));
        assert!(output.is_empty(), "the specification has no output");
        Self { machine, service: service.clone(), replica, inputs: 0, next: 1, busy: Duration::ZERO }
    }

    /// And which service.
    pub fn begun(machine: M, service: &ServiceSpec, replica: u16) -> Self {
        let mut node = Self::new(machine, service, replica);
        let output = node.feed(&Input::Genesis(genesis(service.clone())));
        assert!(matches!(output, Output::Applied(_)), "{output:?}");
        node
    }

    /// The next input, signed for the VM.
    pub fn wrapped(&mut self, input: &Input) -> Request {
        self.inputs += 1;
        let vm = vm_spec(&self.service, self.replica).id();
        wire::wrap_signed(&orchestrator(self.replica), vm, self.inputs, input)
    }

    pub fn feed(&mut self, input: &Input) -> Output {
        let wrapper = self.wrapped(input);
        let input = wrapper.encoded();
        let start = Instant::now();
        let output = self.machine.handle(&input);
        self.busy += start.elapsed();
        wire::unwrap(&wrapper, &output).expect("the answer to this input")
    }

    /// Lets all requests be executed, in as few inputs as messages allow.
    pub fn apply(&mut self, requests: &[Vec<u8>]) -> Vec<Executed> {
        let all: Vec<Ordered> =
            requests.iter().map(|request| Ordered { log_index: 7, request: request.clone() }).collect();
        let mut results = Vec::new();
        while results.len() < all.len() {
            let rest = &all[results.len()..];
            let requests = rest[..wire::fitting(rest)].to_vec();
            match self.feed(&Input::Apply { first: self.next, requests }) {
                Output::Applied(Applied { first, executed })
                    if first == self.next && !executed.is_empty() =>
                {
                    self.next += executed.len() as u64;
                    results.extend(executed);
                }
                other => panic!("{other:?}"),
            }
        }
        results
    }

    /// Goes on behind this many entries.
    pub fn skip_to(&mut self, next: u64) {
        self.next = next;
    }
}
