//! The stress guest.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::vec;
use core::hint::black_box;

use quorate_guest_sdk::{
    BootInfo, INPUT_BYTES_MAX, Line, OperationError, log, misuse, recv, send, yield_now,
};
use quorate_stress::{Knock, Misbehaviour, Outcome, Place, Reply, Stress};

quorate_guest_sdk::entry!(main);

/// What the heap keeps for buffers and its own tables.
const RESERVE_BYTES: u64 = 2 << 20;

/// Exit code after an output was refused, which no sequence of inputs should bring about.
const EXIT_SEND_REFUSED: u64 = 2;

fn main(boot: &BootInfo) -> u64 {
    let heap_bytes = boot.heap_end - boot.heap_start;
    let mut stress = Stress::new(heap_bytes.saturating_sub(RESERVE_BYTES));
    let mut buffer = vec![0; INPUT_BYTES_MAX];
    log("stress: ready");
    loop {
        // A buffer of the longest input is never too small, so nothing but an input ends this call.
        let Ok(length) = recv(&mut buffer) else { continue };
        let sent = match stress.apply(&buffer[..length], &mut yield_now) {
            Outcome::Reply(reply) => send(&reply.encode()),
            Outcome::Emit { count, bytes } => emit(count, bytes),
            Outcome::Misbehave(misbehaviour) => {
                send(&Reply::Result(misbehave(misbehaviour, boot.memory_bytes)).encode())
            }
            Outcome::Exit(code) => return code,
        };
        if sent.is_err() {
            return EXIT_SEND_REFUSED;
        }
    }
}

fn emit(count: u32, bytes: u32) -> Result<(), OperationError> {
    let mut output = vec![0; bytes as usize];
    for number in 0..count {
        let front = output.len().min(4);
        output[..front].copy_from_slice(&number.to_le_bytes()[..front]);
        send(&output)?;
    }
    Ok(())
}

fn misbehave(misbehaviour: Misbehaviour, memory_bytes: u64) -> Option<i64> {
    let place = |place| place_of(place, memory_bytes);
    match misbehaviour {
        Misbehaviour::Store(at) => misuse::store(place(at)),
        Misbehaviour::Load(at) => return Some(misuse::load(place(at)).cast_signed()),
        Misbehaviour::Execute(at) => misuse::execute(place(at)),
        Misbehaviour::DivideByZero => misuse::divide_by_zero(),
        Misbehaviour::InvalidOpcode => misuse::invalid_opcode(),
        Misbehaviour::MisalignedVector => misuse::misaligned_vector(),
        Misbehaviour::Spin => misuse::spin(),
        Misbehaviour::StackOverflow => misuse::overflow_stack(),
        Misbehaviour::Panic => panic!("told to panic"),
        Misbehaviour::HeapOverflow => drop(black_box(vec![1u8; memory_bytes as usize])),
        Misbehaviour::Knock(how) => misuse::knock(knock_of(how)),
        Misbehaviour::Call { operation, pointer, length } => {
            return misuse::call(operation, pointer, length, memory_bytes);
        }
        Misbehaviour::Mismatch { stored, operation } => return Some(misuse::mismatch(stored, operation)),
        Misbehaviour::FloodLogs { count } => {
            (0..count).for_each(|number| log(Line::of(format_args!("line {number} of a flood")).as_str()));
        }
        Misbehaviour::FloodYields { count } => (0..count).for_each(|_| yield_now()),
    }
    Some(0)
}

fn place_of(place: Place, memory_bytes: u64) -> misuse::Place {
    match place {
        Place::Null => misuse::Place::Null,
        Place::Supervisor => misuse::Place::Supervisor,
        Place::Guard => misuse::Place::Guard,
        Place::Code => misuse::Place::Code,
        Place::ReadOnlyData => misuse::Place::ReadOnlyData,
        Place::Mailbox => misuse::Place::Mailbox,
        Place::Stack => misuse::Place::Stack,
        Place::BeyondMemory => misuse::Place::BeyondMemory(memory_bytes),
        Place::NonCanonical => misuse::Place::NonCanonical,
    }
}

fn knock_of(knock: Knock) -> misuse::Knock {
    match knock {
        Knock::Store1 => misuse::Knock::Store1,
        Knock::Store2 => misuse::Knock::Store2,
        Knock::Store4 => misuse::Knock::Store4,
        Knock::Store16 => misuse::Knock::Store16,
        Knock::Store32 => misuse::Knock::Store32,
        Knock::Misaligned => misuse::Knock::Misaligned,
        Knock::NextWord => misuse::Knock::NextWord,
        Knock::Load => misuse::Knock::Load,
        Knock::ReadModifyWrite => misuse::Knock::ReadModifyWrite,
    }
}
