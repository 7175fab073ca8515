//! The complete state of one slot as a stream of bytes, verified page by page as it arrives.
//!
//! ```text
//! header   magic "QRTSTATE", version u32, length of CPU state u32, length of device state u32, reserved u32
//! CPU      canonical CPU state, see [`crate::cpu`]
//! device   canonical device state, see [`crate::device`]
//! leaves   32 bytes for each page of the memory, in order
//! pages    4,096 bytes for each leaf that is not that of a zero page, in the same order
//! ```
//!
//! All integers are little-endian. The receiver knows from the certified statement what must come: registers, device
//! state and leaves have to lead to its digests before a single page is taken, and the leaves then say how many pages
//! follow and what each of them hashes to. So a sender cannot make the receiver keep, or wait for, more bytes than the
//! certified memory has, and a wrong page is named the moment it arrives.
//!
//! Reading and verifying overlap: one thread takes bytes from the stream while the other copies pages to their final
//! address and hashes them there.

#[cfg(test)]
mod tests;

use std::io::{Read, Write};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};

use quorate_attest::merkle::{Frontier, Sha256Tree};

use crate::checkpoint::Checkpoint;
use crate::cpu::{CpuState, CpuStateError};
use crate::device::DeviceState;
use crate::image::Image;
use crate::incoming::{IncomingError, IncomingMachine};
use crate::machine::Machine;
use crate::measurement::Measurement;
use crate::page_tree::{Digest, PAGE_BYTES, Page};
use crate::snapshot::PageSnapshot;

const MAGIC: [u8; 8] = *b"QRTSTATE";
const VERSION: u32 = 1;
const HEADER_BYTES: usize = 24;
/// Longest encoding of registers or device state.
const PART_BYTES_MAX: u32 = 16_384;
/// Pages that travel between the threads at once.
const BATCH_PAGES: usize = 256;
/// Batches that may wait for verification.
const BATCHES_WAITING: usize = 4;

/// Why a state could not be received.
#[derive(Debug, thiserror::Error)]
pub enum StateStreamError {
    /// The stream failed or ended early.
    #[error("the stream of state broke off: {0}")]
    Stream(#[from] std::io::Error),
    /// A field of the stream is not what the format says.
    #[error("the stream's {field} is invalid")]
    Format {
        /// Which field.
        field: &'static str,
    },
    /// Registers do not decode.
    #[error(transparent)]
    Cpu(#[from] CpuStateError),
    /// A component or page is not the certified one.
    #[error(transparent)]
    Incoming(#[from] IncomingError),
}

impl StateStreamError {
    /// Stable identifier of the failure.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Stream(_) => "StreamStalled",
            Self::Format { .. } | Self::Cpu(_) => "SnapshotInvalid",
            Self::Incoming(error) => error.kind(),
        }
    }
}

/// What moved.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Moved {
    /// Bytes of the stream.
    pub bytes: u64,
    /// Pages in it.
    pub pages: u64,
}

/// Changes pages on their way out. Honest senders have none; tests of receivers do.
pub type Alter<'a> = dyn FnMut(u32, &mut Page) + 'a;

/// Sends the state of a checkpoint.
///
/// # Errors
/// The stream's.
pub fn send(
    out: &mut impl Write,
    state: &Checkpoint,
    alter: Option<&mut Alter<'_>>,
) -> std::io::Result<Moved> {
    let (cpu, device) = (state.cpu.encode(), state.device.encode());
    let mut head = Vec::with_capacity(HEADER_BYTES + cpu.len() + device.len());
    head.extend_from_slice(&MAGIC);
    for value in [VERSION, cpu.len() as u32, device.len() as u32, 0] {
        head.extend_from_slice(&value.to_le_bytes());
    }
    head.extend_from_slice(&cpu);
    head.extend_from_slice(&device);
    out.write_all(&head)?;
    let mut leaves = Vec::with_capacity(state.pages.tree().count() as usize * size_of::<Digest>());
    state.pages.tree().leaves().for_each(|leaf| leaves.extend_from_slice(leaf));
    for part in leaves.chunks(BATCH_PAGES * PAGE_BYTES) {
        out.write_all(part)?;
    }
    let pages = send_pages(out, &state.pages, alter)?;
    out.flush()?;
    Ok(Moved { bytes: (head.len() + leaves.len()) as u64 + pages * PAGE_BYTES as u64, pages })
}

fn send_pages(
    out: &mut impl Write,
    pages: &PageSnapshot,
    mut alter: Option<&mut Alter<'_>>,
) -> std::io::Result<u64> {
    let mut batch = Vec::with_capacity(BATCH_PAGES * PAGE_BYTES);
    let mut count = 0;
    for index in pages.tree().nonzero() {
        let Some(page) = pages.page(index) else { break };
        match &mut alter {
            None => batch.extend_from_slice(page),
            Some(alter) => {
                let mut page = *page;
                alter(index, &mut page);
                batch.extend_from_slice(&page);
            }
        }
        count += 1;
        if batch.len() == BATCH_PAGES * PAGE_BYTES {
            out.write_all(&batch)?;
            batch.clear();
        }
    }
    out.write_all(&batch)?;
    Ok(count)
}

/// What a receiver expects and how it wants it.
#[derive(Clone, Debug)]
pub struct Expected<'a> {
    /// The image of the VM.
    pub image: &'a Image,
    /// Size of its memory.
    pub memory_bytes: u64,
    /// The certified digests.
    pub measurement: Measurement,
    /// The input log up to the slot.
    pub input_log: Frontier<Sha256Tree>,
    /// Whether a copy of the pages is kept beside the machine.
    pub keep_pages: bool,
}

/// A state that arrived and is what was certified.
#[derive(Debug)]
pub struct Received {
    /// The machine, its memory in place.
    pub machine: Machine,
    /// The same state as a checkpoint, if wanted.
    pub checkpoint: Option<Checkpoint>,
    /// What moved.
    pub moved: Moved,
}

/// Receives the state of a slot. `progress` gets pages done and pages in total.
///
/// # Errors
/// The stream breaks off, or something in it is not what was certified; nothing of the state is kept then.
pub fn receive(
    input: &mut (impl Read + Send),
    expected: &Expected<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Received, StateStreamError> {
    receive_with(IncomingMachine::write_page, input, expected, progress)
}

/// As [`receive`], but believes every page. For benchmarks only: the difference to [`receive`] is what the verification
/// of pages costs. Nothing that serves anybody may run on such a state.
///
/// # Errors
/// As [`receive`], except that no page is ever wrong.
pub fn receive_unverified_for_benchmark(
    input: &mut (impl Read + Send),
    expected: &Expected<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Received, StateStreamError> {
    receive_with(IncomingMachine::write_page_unverified_for_benchmark, input, expected, progress)
}

/// Puts a page where it belongs.
type WritePage = fn(&mut IncomingMachine, u32, &[u8]) -> Result<(), IncomingError>;

fn receive_with(
    write_page: WritePage,
    input: &mut (impl Read + Send),
    expected: &Expected<'_>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Received, StateStreamError> {
    let (cpu, device, head_bytes) = receive_head(input)?;
    if cpu.digest() != expected.measurement.cpu {
        return Err(IncomingError::RootMismatch { component: "cpu" }.into());
    }
    if device.digest() != expected.measurement.device {
        return Err(IncomingError::RootMismatch { component: "device" }.into());
    }
    let leaves = receive_leaves(input, expected.measurement.page_count)?;
    let leaf_bytes = leaves.len() * size_of::<Digest>();
    let mut incoming = IncomingMachine::new(expected.memory_bytes, leaves, &expected.measurement)?;
    let mut kept = expected.keep_pages.then(|| PageSnapshot::expecting(incoming.tree().clone()));
    let pages = receive_pages(write_page, input, &mut incoming, kept.as_mut(), progress)?;
    let machine = incoming.finish(expected.image, &cpu, &device)?;
    let checkpoint = kept.map(|pages| Checkpoint {
        image: expected.image.digest(),
        platform: crate::platform::PlatformClass::detect().0,
        cpu,
        device,
        input_log: expected.input_log.clone(),
        pages,
    });
    let bytes = (head_bytes + leaf_bytes) as u64 + pages * PAGE_BYTES as u64;
    Ok(Received { machine, checkpoint, moved: Moved { bytes, pages } })
}

fn receive_head(input: &mut impl Read) -> Result<(CpuState, DeviceState, usize), StateStreamError> {
    let mut header = [0; HEADER_BYTES];
    input.read_exact(&mut header)?;
    let word = |at: usize| header[at..].first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
    let (version, cpu_length, device_length, reserved) = (word(8), word(12), word(16), word(20));
    let fields = [
        ("magic", header[..8] == MAGIC),
        ("version", version == VERSION),
        ("length of CPU state", cpu_length <= PART_BYTES_MAX),
        ("length of device state", device_length <= PART_BYTES_MAX),
        ("reserved field", reserved == 0),
    ];
    if let Some((field, _)) = fields.iter().find(|(_, valid)| !valid) {
        return Err(StateStreamError::Format { field });
    }
    let mut cpu = vec![0; cpu_length as usize];
    input.read_exact(&mut cpu)?;
    let mut device = vec![0; device_length as usize];
    input.read_exact(&mut device)?;
    let length = HEADER_BYTES + cpu.len() + device.len();
    let cpu = CpuState::decode(&cpu)?;
    let device =
        DeviceState::decode(&device).map_err(|_| StateStreamError::Format { field: "device state" })?;
    Ok((cpu, device, length))
}

/// Reads the leaves, taking memory only as they arrive.
fn receive_leaves(input: &mut impl Read, count: u64) -> Result<Vec<Digest>, StateStreamError> {
    let mut leaves: Vec<Digest> = Vec::new();
    let mut buffer = vec![0; BATCH_PAGES * PAGE_BYTES];
    let mut missing = usize::try_from(count).map_err(|_| StateStreamError::Format { field: "page count" })?;
    while missing > 0 {
        let part = missing.min(buffer.len() / size_of::<Digest>());
        let bytes = &mut buffer[..part * size_of::<Digest>()];
        input.read_exact(bytes)?;
        leaves.extend(bytes.as_chunks::<{ size_of::<Digest>() }>().0);
        missing -= part;
    }
    Ok(leaves)
}

fn receive_pages(
    write_page: WritePage,
    input: &mut (impl Read + Send),
    incoming: &mut IncomingMachine,
    mut kept: Option<&mut PageSnapshot>,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<u64, StateStreamError> {
    let wanted: Vec<u32> = incoming.wanted().collect();
    let total = wanted.len() as u64;
    std::thread::scope(|scope| {
        let (filled, batches) = sync_channel(BATCHES_WAITING);
        let (returned, spare) = sync_channel(BATCHES_WAITING + 2);
        let sizes: Vec<usize> = wanted.chunks(BATCH_PAGES).map(|batch| batch.len() * PAGE_BYTES).collect();
        scope.spawn(move || {
            for size in sizes {
                let batch = read_batch(input, size, &spare);
                let failed = batch.is_err();
                // The receiver is gone once it has found a wrong page.
                if filled.send(batch).is_err() || failed {
                    return;
                }
            }
        });
        let mut done = 0;
        for indexes in wanted.chunks(BATCH_PAGES) {
            let batch = batches.recv().map_err(|_| std::io::Error::other("the reading thread ended"))??;
            for (index, page) in indexes.iter().zip(batch.as_chunks::<PAGE_BYTES>().0) {
                write_page(incoming, *index, page)?;
                if let Some(kept) = &mut kept {
                    // The copy in guest memory has just been verified, and these are the bytes it was made of.
                    kept.place(*index, Some(Arc::new(*page)));
                }
            }
            done += indexes.len() as u64;
            progress(done, total);
            // Dropped when the reader has enough buffers.
            let _ = returned.try_send(batch);
        }
        Ok(total)
    })
}

fn read_batch(input: &mut impl Read, size: usize, spare: &Receiver<Vec<u8>>) -> std::io::Result<Vec<u8>> {
    let mut batch = spare.try_recv().unwrap_or_default();
    batch.resize(size, 0);
    input.read_exact(&mut batch)?;
    Ok(batch)
}
