//! The state machine.

use alloc::vec::Vec;

use quorate_attest::encoding::Bounded;
use quorate_attest::error::VerifyError;
use quorate_attest::id::VmId;
use quorate_attest::request::{ABI, Reply, Request, status};
use quorate_attest::vm::VmSpec;

use crate::arena::Arena;
use crate::operation::{Answer, Operation, Refusal};
use crate::session::{Sessions, Verdict};
use crate::store::Store;

/// What the heap keeps for one input, its decoded and re-encoded forms, one reply and the allocator's tables.
const RESERVE_BYTES: u64 = 2 << 20;

/// Least heap behind the reserve: room for the table of clients to hold the longest reply more than once.
const USABLE_BYTES_MIN: u64 = 1 << 20;

/// How much the service may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Memory of the machine in bytes; the specification must state the same.
    pub memory_bytes: u64,
    /// Most entries.
    pub entries_max: usize,
    /// Most bytes that entries and arena cost together.
    pub data_bytes_max: u64,
    /// Most bytes that the table of clients costs.
    pub session_bytes_max: u64,
}

impl Limits {
    /// Most entries of any service.
    pub const ENTRIES_MAX: usize = 1_000_000;

    /// The limits in a machine of this size: five eighths of the heap for data and one for clients, behind a fixed
    /// reserve; the rest stays free so that fragmentation never decides whether an allocation succeeds.
    ///
    /// `None` if the heap is smaller than 3 MiB (machines of less than 10 MiB).
    pub fn for_machine(memory_bytes: u64, heap_bytes: u64) -> Option<Self> {
        let usable = heap_bytes.checked_sub(RESERVE_BYTES).filter(|bytes| *bytes >= USABLE_BYTES_MIN)?;
        Some(Self {
            memory_bytes,
            entries_max: Self::ENTRIES_MAX,
            data_bytes_max: usable / 8 * 5,
            session_bytes_max: usable / 8,
        })
    }
}

/// The service: feed it the inputs in order, emit what it returns.
pub struct Kv {
    limits: Limits,
    vm: Option<VmId>,
    inputs: u64,
    store: Store,
    arena: Arena,
    sessions: Sessions,
}

impl Kv {
    /// A service that has seen no input.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            vm: None,
            inputs: 0,
            store: Store::new(limits.entries_max),
            arena: Arena::default(),
            sessions: Sessions::new(limits.session_bytes_max),
        }
    }

    /// The VM this service belongs to, once the genesis input told it.
    pub fn vm(&self) -> Option<VmId> {
        self.vm
    }

    /// Clients remembered, at most [`CLIENTS_MAX`](crate::CLIENTS_MAX).
    pub fn clients(&self) -> usize {
        self.sessions.len()
    }

    /// [`apply_paced`](Self::apply_paced) where nobody waits.
    pub fn apply(&mut self, input: &[u8]) -> Vec<u8> {
        self.apply_paced(input, &mut || {})
    }

    /// Takes one input and returns its output; empty for the accepted genesis input, which has none. Calls `pace` at
    /// bounded intervals of work.
    pub fn apply_paced(&mut self, input: &[u8], pace: &mut dyn FnMut()) -> Vec<u8> {
        self.inputs += 1;
        let Some(vm) = self.vm else { return self.begin(input) };
        let request = match authenticate(&vm, input) {
            Ok(request) => request,
            Err(status) => return refuse(status, input),
        };
        match self.sessions.judge(&request, self.inputs) {
            Verdict::Again(reply) => reply,
            Verdict::Replayed => Reply::to(&request, status::REPLAYED, Vec::new()).encoded(),
            Verdict::Execute => {
                let (status, body) = match self.execute(&request, pace) {
                    Ok(answer) => (status::OK, answer.body()),
                    Err(status) => (status, Vec::new()),
                };
                let reply = Reply::to(&request, status, body).encoded();
                self.sessions.record(&request, reply.clone(), self.inputs);
                reply
            }
        }
    }

    fn begin(&mut self, input: &[u8]) -> Vec<u8> {
        match VmSpec::decoded(input) {
            Ok(spec) if spec.validate().is_ok() && spec.memory_bytes == self.limits.memory_bytes => {
                self.vm = Some(spec.id());
                Vec::new()
            }
            _ => refuse(status::BAD_CONFIG, input),
        }
    }

    fn execute(&mut self, request: &Request, pace: &mut dyn FnMut()) -> Result<Answer, u16> {
        if request.epoch != 0 {
            return Err(status::WRONG_EPOCH);
        }
        match Operation::decode(request.op, &request.body)? {
            Operation::Get { key } => {
                self.store.get(&key).map(|value| Answer::Value(value.to_vec())).ok_or(status::NOT_FOUND)
            }
            Operation::Put { key, value } => self.put(key, value).map(|replaced| Answer::Stored { replaced }),
            Operation::Delete { key } => match self.store.delete(&key) {
                true => Ok(Answer::Done),
                false => Err(status::NOT_FOUND),
            },
            Operation::CompareAndSwap { key, expected, value } => self.swap(key, expected.as_deref(), value),
            Operation::List { prefix, after, limit } => {
                Ok(Answer::Page(self.store.list(&prefix, after.as_deref(), limit.into())))
            }
            Operation::Fill { bytes, seed } => self.fill(bytes, seed, pace),
        }
    }

    fn put(&mut self, key: Vec<u8>, value: Vec<u8>) -> Result<bool, u16> {
        let budget = self.limits.data_bytes_max.saturating_sub(self.arena.bytes());
        self.store.put(key, value, budget).map_err(|_| status::LIMIT)
    }

    fn swap(&mut self, key: Vec<u8>, expected: Option<&[u8]>, value: Option<Vec<u8>>) -> Result<Answer, u16> {
        if self.store.get(&key) != expected {
            return Err(status::CONFLICT);
        }
        match value {
            Some(value) => self.put(key, value).map(|_| Answer::Done),
            None => {
                self.store.delete(&key);
                Ok(Answer::Done)
            }
        }
    }

    fn fill(&mut self, bytes: u64, seed: u64, pace: &mut dyn FnMut()) -> Result<Answer, u16> {
        if bytes > self.limits.data_bytes_max.saturating_sub(self.store.used_bytes()) {
            return Err(status::LIMIT);
        }
        let checksum = self.arena.refill(bytes, seed, pace).ok_or(status::LIMIT)?;
        Ok(Answer::Filled { bytes: self.arena.bytes(), checksum })
    }
}

fn authenticate(vm: &VmId, input: &[u8]) -> Result<Request, u16> {
    let request = Request::decoded(input).map_err(|_| status::MALFORMED)?;
    match request.verify(vm) {
        Ok(()) => Ok(request),
        Err(VerifyError::WrongVm { .. }) => Err(status::NOT_AUTHORIZED),
        Err(VerifyError::Inconsistent { .. }) => Err(status::MALFORMED),
        Err(_) => Err(status::BAD_SIGNATURE),
    }
}

fn refuse(status: u16, input: &[u8]) -> Vec<u8> {
    Refusal { abi: ABI, status, input: Refusal::digest(input) }.encoded()
}
