//! How much a service may hold.

/// Entries of a state at most: beyond, one inserted key would cost too many hashes.
pub const ENTRIES_LIMIT: usize = 1 << 20;

/// Most clients whose last request is kept.
pub const CLIENTS_LIMIT: usize = 4096;

/// Most bytes of the body of an ordered reply: it is kept for repetition.
pub const REPLY_LIMIT: usize = 16_384;

/// Entries that only the kit may fill: clients, voters and the genesis.
const OWN_ENTRIES: usize = 2 * CLIENTS_LIMIT;

/// Entries that a state holds at most before the service is refused a new one.
pub(crate) const SERVICE_ENTRIES: usize = ENTRIES_LIMIT - OWN_ENTRIES;

/// What an entry of the tree costs beyond its bytes: its place and its share of the inner nodes, both in lists that may
/// be half empty or just being moved, and two allocation headers.
const ENTRY_BYTES: u64 = 384;

/// What a change costs beyond its bytes until it is made: a place in a half-full tree node and two allocation headers.
const CHANGE_BYTES: u64 = 192;

/// What the heap keeps for one input: the input, its decoded and re-encoded forms, the output and the allocator's tables.
const RESERVE_BYTES: u64 = 4 << 20;

/// Least heap behind the reserve: changes and kept replies need room for the longest ones.
const USABLE_BYTES_MIN: u64 = 2 << 20;

/// How much a service may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Memory of the machine in bytes; specifications must state the same.
    pub memory_bytes: u64,
    /// Most bytes that the service's entries cost together.
    pub state_bytes: u64,
    /// Most bytes that kept replies cost together.
    pub session_bytes: u64,
    /// Most bytes that the changes of one request cost together.
    pub change_bytes: u64,
}

impl Limits {
    /// The limits in a machine of this size: half of the heap for the service's entries, an eighth for kept replies and
    /// one for changes, behind a fixed reserve; the rest stays free so that fragmentation never decides whether an
    /// allocation succeeds.
    ///
    /// `None` if the heap is smaller than 6 MiB.
    pub fn for_machine(memory_bytes: u64, heap_bytes: u64) -> Option<Self> {
        let usable = heap_bytes.checked_sub(RESERVE_BYTES).filter(|bytes| *bytes >= USABLE_BYTES_MIN)?;
        Some(Self {
            memory_bytes,
            state_bytes: usable / 2,
            session_bytes: usable / 8,
            change_bytes: usable / 8,
        })
    }
}

pub(crate) fn entry_cost(key: &[u8], value: &[u8]) -> u64 {
    key.len() as u64 + value.len() as u64 + ENTRY_BYTES
}

pub(crate) fn change_cost(key: &[u8], value: Option<&[u8]>) -> u64 {
    key.len() as u64 + value.map_or(0, |value| value.len() as u64) + CHANGE_BYTES
}
