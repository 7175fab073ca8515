//! States of machines from other hosts: what decodes has one encoding, and a stream that is taken is the certified one.

use std::io::Read;
use std::sync::LazyLock;

use quorate_attest::id::PlatformClass;
use quorate_attest::merkle::{Frontier, Sha256Tree};
use quorate_vmm::checkpoint::Checkpoint;
use quorate_vmm::cpu::{CpuState, RSP};
use quorate_vmm::device::{DeviceState, Pending};
use quorate_vmm::image::Image;
use quorate_vmm::snapshot::PageSnapshot;
use quorate_vmm::state_stream::{Expected, Received, StateStreamError, receive, send};

use crate::cut::Cut;
use crate::image::{MEMORY, PROGRAM, file};
use crate::must;

const PAGE: usize = 4096;

/// A machine and the only stream that is its state.
struct Truth {
    image: Image,
    state: Checkpoint,
    stream: Vec<u8>,
    /// Bytes before the leaves.
    head: usize,
    /// Whether this host can run machines: without KVM even the true stream ends in an error.
    runs: bool,
}

static TRUTH: LazyLock<Truth> = LazyLock::new(|| {
    let image = must(Image::admit(&file(&PROGRAM, 0, &[(0, 22), (24, 8)])));
    let state = Checkpoint {
        image: image.digest(),
        platform: PlatformClass::from_bytes([0; 32]),
        cpu: CpuState::initial(image.entry()),
        device: DeviceState::default(),
        input_log: Frontier::<Sha256Tree>::default(),
        pages: must(PageSnapshot::genesis(&image, MEMORY)),
    };
    let mut stream = Vec::new();
    must(send(&mut stream, &state, None));
    let head = 24 + state.cpu.encode().len() + state.device.encode().len();
    let mut truth = Truth { image, state, stream, head, runs: false };
    truth.runs = truth.receive(&truth.stream).0.is_ok();
    if !truth.runs {
        eprintln!("this host runs no machines: only refusals are checked");
    }
    truth
});

/// Decodes the bytes, or spoils the stream as they say.
pub fn check(bytes: &[u8]) {
    let mut cut = Cut::new(bytes);
    match cut.below(5) {
        0 => registers(cut.rest()),
        1 => device(cut.rest()),
        2 => registers(&spoilt_registers(&mut cut)),
        3 => arrive(&[cut.rest(), &TRUTH.stream[TRUTH.head..]].concat()),
        _ => arrive(&spoilt_stream(&mut cut)),
    }
}

/// Only what a guest can change may differ from the state before its first instruction.
fn registers(bytes: &[u8]) {
    let Ok(state) = CpuState::decode(bytes) else { return };
    assert_eq!(state.encode(), bytes);
    let CpuState { general, rip, rflags, extended, .. } = state.clone();
    assert_eq!(
        CpuState { general, rflags, extended, ..CpuState::initial(rip) },
        state,
        "a stranger set the system"
    );
    assert!(rip < 1 << 47, "no guest runs at {rip:#x}");
    assert_eq!(rflags & 0x3000, 0, "ports for a guest");
    assert_eq!(rflags & 0x202, 0x202, "RFLAGS is not canonical");
    let vectors = state.extended.as_bytes();
    assert_eq!(vectors[26..28], [0, 0], "MXCSR has bits that fault");
    let tails = (0..8).flat_map(|register| &vectors[32 + register * 16 + 10..][..6]);
    assert!(tails.chain(&vectors[416..576]).all(|byte| *byte == 0), "reserved bytes are lost");
}

fn device(bytes: &[u8]) {
    let Ok(state) = DeviceState::decode(bytes) else { return };
    assert_eq!(state.encode(), bytes);
    assert!(bytes.len() <= DeviceState::BYTES_MAX);
    assert!(DeviceState::decode(&bytes[..bytes.len() - 1]).is_err(), "truncated");
    assert!(DeviceState::decode(&[bytes, &[0]].concat()).is_err(), "longer");
    assert_eq!((state.position().inputs, state.position().doorbells), (state.inputs, state.doorbells));
}

fn spoilt_registers(cut: &mut Cut<'_>) -> Vec<u8> {
    let mut state = TRUTH.state.cpu.clone();
    state.general[cut.below(16)] = cut.number();
    state.rip = cut.number();
    let mut bytes = state.encode();
    for _ in 0..cut.below(4) {
        let place = usize::from(cut.word()) % bytes.len();
        bytes[place] = cut.byte();
    }
    bytes
}

fn spoilt_stream(cut: &mut Cut<'_>) -> Vec<u8> {
    let mut stream = TRUTH.stream.clone();
    for _ in 0..1 + cut.below(3) {
        let choice = cut.below(8);
        let place = match cut.byte() {
            // The header and the head, which few of all places are in.
            near @ 0..48 => usize::from(near),
            near @ 48..128 => usize::from(near - 48) * 40 + cut.below(40),
            _ => usize::from(cut.word()) * 2 + cut.below(2),
        };
        let Some(place) = place.checked_rem(stream.len()) else { break };
        match choice {
            0 => stream[place] ^= 1 << cut.below(8),
            1 => stream[place] = cut.byte(),
            2 => stream.truncate(place),
            3 => stream.insert(place, cut.byte()),
            4 => drop(stream.remove(place)),
            5 => stream.extend_from_slice(cut.take(64)),
            6 => {
                let page = stream.len().saturating_sub(PAGE * (1 + cut.below(4)));
                stream[page..].rotate_left(PAGE.min(place));
            }
            _ => {
                let bytes = cut.take(64);
                let end = stream.len().min(place + bytes.len());
                stream[place..end].copy_from_slice(&bytes[..end - place]);
            }
        }
    }
    stream
}

/// The true stream becomes the machine, whatever comes behind it; no other stream becomes one.
fn arrive(stream: &[u8]) {
    let truth = &*TRUTH;
    let true_one = stream.starts_with(&truth.stream);
    let (received, read) = truth.receive(stream);
    assert!(read <= truth.stream.len(), "{read} bytes are read of {}", truth.stream.len());
    match received {
        Ok(received) => {
            assert!(true_one && read == truth.stream.len(), "another state is taken");
            arrived(received);
        }
        Err(error) => {
            assert!(!true_one || !truth.runs, "the true state is refused: {error}");
            assert!(!error.kind().is_empty());
        }
    }
}

fn arrived(received: Received) {
    let (truth, mut machine) = (&*TRUTH, received.machine);
    assert_eq!(must(machine.measure()).measurement, truth.state.measurement());
    let Some(kept) = received.checkpoint else { panic!("the pages were not kept") };
    let mut again = Vec::new();
    assert_eq!(must(send(&mut again, &kept, None)), received.moved);
    assert!(again == truth.stream, "sent on, it is another stream");
}

impl Truth {
    /// The outcome, and how many bytes were read.
    fn receive(&self, stream: &[u8]) -> (Result<Received, StateStreamError>, usize) {
        let expected = Expected {
            image: &self.image,
            memory_bytes: MEMORY,
            measurement: self.state.measurement(),
            input_log: self.state.input_log.clone(),
            keep_pages: true,
        };
        let mut source = Source { stream, read: 0 };
        let mut last = 0;
        let received = receive(&mut source, &expected, &mut |done, total| {
            assert!(last < done && done <= total, "progress from {last} to {done} of {total}");
            last = done;
        });
        (received, source.read)
    }
}

struct Source<'a> {
    stream: &'a [u8],
    read: usize,
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let read = self.stream.read(buffer)?;
        self.read += read;
        Ok(read)
    }
}

/// Registers, doorbells and the head of a stream; the true one, and one for each way to spoil it.
pub fn seeds() -> Vec<Vec<u8>> {
    let truth = &*TRUTH;
    let with = |choice: u8, bytes: &[u8]| [&[choice][..], bytes].concat();
    let mut busy = truth.state.cpu.clone();
    (busy.general[RSP], busy.rip, busy.rflags) = (0x1f_fff0, 0x20_0008, 0x246);
    let exited = DeviceState { inputs: 3, doorbells: 9, pending: Pending::None, exited: Some(7) };
    let waits = DeviceState { pending: Pending::Recv, exited: None, ..exited };
    let mut seeds = vec![
        with(0, &truth.state.cpu.encode()),
        with(0, &busy.encode()),
        with(1, &exited.encode()),
        with(1, &waits.encode()),
        with(2, &[7, 9, 250, 0, 0, 0, 0, 0, 0x20, 0, 0, 0]),
        with(3, &truth.stream[..truth.head]),
    ];
    // The last of them writes nothing.
    seeds.extend((0..7).map(|choice| with(4, &[0, choice, 200, 0, 40 + choice, 1, 3])));
    seeds.push(with(4, &[0, 7, 200, 0, 0, 0, 0]));
    seeds
}
