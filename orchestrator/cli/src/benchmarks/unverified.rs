//! A migration that trusts the source: what verified migrations are compared with.
//!
//! The same guest, load, state stream and bulk transport, and following by replay, in one process. Left out is what
//! verification costs: digests of pages and slots, verifiers, journals, certificates, heads and votes.
//!
//! ```text
//! guest thread ──inputs──▶ sender ══ bulk stream ══▶ destination
//!      ▲                     │  state, then batches of inputs, each answered by one byte
//!      └──────── stop ───────┘  the last batch follows the stop
//! ```

use std::io::{Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use quorate_attest::encoding::Bounded;
use quorate_attest::id::{ImageDigest, Nonce};
use quorate_attest::key::SecretKey;
use quorate_attest::merkle::{Frontier, Sha256Tree};
use quorate_attest::vm::{InputPolicy, OutputPolicy, VmSpec};
use quorate_guest_images::KV;
use quorate_kv::Operation;
use quorate_kv::client::{Client, genesis};
use quorate_transport::bulk::BulkStream;
use quorate_vmm::checkpoint::Checkpoint;
use quorate_vmm::snapshot::PageSnapshot;
use quorate_vmm::state_stream::{self, Expected, receive_unverified_for_benchmark};
use quorate_vmm::{Execution, Image, Measurement, Position};

use super::BenchError;
use super::bulk::Link;
use super::replay::to_idle;
use quorate_host::clock::monotonic_ns;

/// Inputs behind which a destination has caught up.
const CAUGHT_UP: usize = 4;
/// Answer to every batch.
const TAKEN: [u8; 1] = [1];

/// One migration.
#[derive(Clone, Copy, Debug)]
pub struct Migrated {
    /// From the start until the guest could run on, nanoseconds.
    pub total_ns: u64,
    /// From its stop until it could run on, nanoseconds.
    pub downtime_ns: u64,
    /// Bytes of state.
    pub bytes: u64,
}

/// A kv guest and the client that keeps it busy.
pub struct Guest {
    image: Image,
    execution: Execution,
    client: Client,
    requests: u64,
}

/// A batch of inputs that lead to a position.
struct Batch {
    inputs: Vec<Vec<u8>>,
    until: Position,
    last: bool,
}

impl Guest {
    /// A filled guest.
    pub fn start(memory_bytes: u64, filled: u64) -> Result<Self, BenchError> {
        let image = Image::admit(KV.elf)?;
        let key = SecretKey::from_seed([3; 32]);
        let spec = VmSpec {
            name: "unverified".into(),
            image: ImageDigest::from_bytes(KV.digest()),
            machine_version: 1,
            memory_bytes,
            input_policy: InputPolicy::ClientSigned,
            output_policy: OutputPolicy::Immediate,
            host: key.public(),
            nonce: Nonce::from_bytes([3; 16]),
        };
        let mut execution = Execution::genesis(&image, memory_bytes)?;
        to_idle(&mut execution)?;
        execution.feed(genesis(&spec))?;
        to_idle(&mut execution)?;
        let mut guest = Self { image, execution, client: Client::new(key, spec.id(), 0), requests: 0 };
        guest.ask(&Operation::Fill { bytes: filled, seed: 1 })?;
        Ok(guest)
    }

    fn ask(&mut self, operation: &Operation) -> Result<Vec<u8>, BenchError> {
        let input = self.client.request(operation, Nonce::from_bytes([9; 16])).encoded();
        self.execution.feed(input.clone())?;
        to_idle(&mut self.execution)?;
        Ok(input)
    }

    fn write(&mut self) -> Result<Vec<u8>, BenchError> {
        self.requests += 1;
        let key = format!("load/{}", self.requests % 256).into_bytes();
        self.ask(&Operation::Put { key, value: vec![b'v'; 128] })
    }

    fn checkpoint(&mut self) -> Result<(Checkpoint, Measurement), BenchError> {
        let measurement = self.execution.cut()?.pages.measurement;
        let pages = PageSnapshot::of_machine(self.execution.machine());
        Ok((Checkpoint::take(&mut self.execution, &measurement, &pages)?, measurement))
    }

    /// Serves `rate` requests a second until told to stop; tells every input and where it led. Returns when it stopped.
    fn serve(
        mut self,
        rate: f64,
        stop: &AtomicBool,
        done: &Sender<(Vec<u8>, Position)>,
    ) -> Result<(Self, u64), BenchError> {
        let started = Instant::now();
        for number in 0u32.. {
            let due = started + Duration::from_secs_f64(f64::from(number) / rate);
            while Instant::now() < due && !stop.load(Ordering::Acquire) {
                thread::sleep(due.saturating_duration_since(Instant::now()).min(Duration::from_micros(200)));
            }
            if stop.load(Ordering::Acquire) {
                break;
            }
            let input = self.write()?;
            // Whoever listens goes away only when the migration failed.
            let _ = done.send((input, self.execution.position()));
        }
        let stopped_ns = monotonic_ns();
        Ok((self, stopped_ns))
    }

    /// Moves the guest under load; afterwards it is the destination's.
    pub fn migrate(mut self, link: &Link, rate: f64) -> Result<(Self, Migrated), BenchError> {
        let (checkpoint, measurement) = self.checkpoint()?;
        let (image, memory_bytes) = (self.image.clone(), self.execution.machine().memory_bytes());
        let input_log = self.execution.input_log().clone();
        let (stop, base) = (AtomicBool::new(false), self.execution.position());
        let started_ns = monotonic_ns();
        let (mut to, from) = link.connect()?;
        let ended = || BenchError::unexpected("a thread of the migration panicked");
        thread::scope(|scope| {
            let (done, inputs) = channel();
            let (stopping, order) = (&stop, (image, memory_bytes, measurement, input_log));
            let destination = scope.spawn(move || arrive(from, order));
            let source = scope.spawn(move || self.serve(rate, stopping, &done));
            let sent = depart(&mut to, &checkpoint, &inputs, base, stopping);
            stop.store(true, Ordering::Release);
            let (old, stopped_ns) = source.join().map_err(|_| ended())??;
            let bytes = sent?;
            // Everything that was served between the last batch and the stop.
            let last = Batch { last: true, until: old.execution.position(), inputs: drain(&inputs).0 };
            deliver(&mut to, &last)?;
            let (execution, running_ns) = destination.join().map_err(|_| ended())??;
            let migrated = Migrated {
                total_ns: running_ns.saturating_sub(started_ns),
                downtime_ns: running_ns.saturating_sub(stopped_ns),
                bytes,
            };
            Ok((Self { execution, ..old }, migrated))
        })
    }
}

/// Sends the state, then batches until the destination has caught up, then asks the guest to stop.
fn depart(
    to: &mut BulkStream,
    checkpoint: &Checkpoint,
    inputs: &Receiver<(Vec<u8>, Position)>,
    base: Position,
    stop: &AtomicBool,
) -> Result<u64, BenchError> {
    let moved = state_stream::send(to, checkpoint, None)?;
    answered(to)?;
    let mut until = base;
    loop {
        let (batch, reached) = drain(inputs);
        until = reached.unwrap_or(until);
        if batch.len() <= CAUGHT_UP {
            stop.store(true, Ordering::Release);
        }
        let caught_up = stop.load(Ordering::Acquire);
        deliver(to, &Batch { inputs: batch, until, last: false })?;
        if caught_up {
            return Ok(moved.bytes);
        }
    }
}

/// Everything that has been served so far, and where it led.
fn drain(inputs: &Receiver<(Vec<u8>, Position)>) -> (Vec<Vec<u8>>, Option<Position>) {
    let (mut batch, mut until) = (Vec::new(), None);
    while let Ok((input, position)) = inputs.try_recv() {
        batch.push(input);
        until = Some(position);
    }
    (batch, until)
}

fn deliver(to: &mut BulkStream, batch: &Batch) -> Result<(), BenchError> {
    let bytes = quorate_attest::encoding::to_bytes(&(
        batch.last,
        batch.until.inputs,
        batch.until.doorbells,
        &batch.inputs,
    ));
    to.write_all(&(bytes.len() as u64).to_le_bytes())?;
    to.write_all(&bytes)?;
    answered(to)
}

fn answered(to: &mut BulkStream) -> Result<(), BenchError> {
    let mut answer = [0; 1];
    Ok(to.read_exact(&mut answer)?)
}

type Order = (Image, u64, Measurement, Frontier<Sha256Tree>);

/// The destination: state, batches, and the moment the guest could run on.
fn arrive(mut from: BulkStream, order: Order) -> Result<(Execution, u64), BenchError> {
    let (image, memory_bytes, measurement, input_log) = order;
    let expected = Expected {
        image: &image,
        memory_bytes,
        measurement,
        input_log: input_log.clone(),
        keep_pages: false,
    };
    let received = receive_unverified_for_benchmark(&mut from, &expected, &mut |_, _| {})?;
    let mut execution = Execution::resume_at(received.machine, input_log)?;
    from.write_all(&TAKEN)?;
    loop {
        let batch = receive_batch(&mut from)?;
        execution.replay(&batch.inputs, batch.until)?;
        if batch.last {
            to_idle(&mut execution)?;
            let running_ns = monotonic_ns();
            from.write_all(&TAKEN)?;
            return Ok((execution, running_ns));
        }
        from.write_all(&TAKEN)?;
    }
}

fn receive_batch(from: &mut BulkStream) -> Result<Batch, BenchError> {
    let mut length = [0; 8];
    from.read_exact(&mut length)?;
    let mut bytes = vec![0; u64::from_le_bytes(length) as usize];
    from.read_exact(&mut bytes)?;
    let (last, inputs, doorbells, batch): (bool, u64, u64, Vec<Vec<u8>>) =
        borsh::from_slice(&bytes).map_err(BenchError::unexpected)?;
    Ok(Batch { inputs: batch, until: Position { inputs, doorbells }, last })
}
