//! The key-value service: a bounded map that clients change with signed requests, each at most once.
//!
//! # What it is for
//!
//! It is the service a VM runs when nothing else is asked for: small enough to read, real enough to lose data if a
//! migration rolled it back, split it or delivered a request twice. The library is the whole service, a pure state
//! machine ([`Kv::apply`]); the guest program around it only moves bytes through the doorbell. Hosts, verifiers and
//! tests use the client half of the same library ([`client`]).
//!
//! # Input 0: which VM this is
//!
//! The first input of a kv VM is the encoded [`VmSpec`](quorate_attest::vm::VmSpec) of that VM ([`client::genesis`]).
//! From it the service derives the VM's id, which every request must name. Until it has seen a valid one (of this
//! machine's version and memory size) it refuses every input with `BAD_CONFIG`; afterwards another one is just an input
//! that is no request. The genesis input needs no signature: the VM's id is its hash, and whoever follows the VM under
//! that id sees in the input log whether input 0 hashes to it. The service cannot check the rest (it does not know its
//! own image), so a verifier of a kv VM must compare input 0 with the specification it holds.
//!
//! # Inputs and outputs
//!
//! Input 0 has no output. Each later input has exactly one, in order:
//!
//! * a [`Reply`](quorate_attest::request::Reply) if the input is a [`Request`](quorate_attest::request::Request) for this
//!   VM with a valid signature;
//! * a [`Refusal`] otherwise. It names the input by its digest, not the client, nonce or sequence number the input
//!   claims: a host that forges a request in somebody's name must not obtain a certified answer to that client's
//!   genuine one.
//!
//! # Operations
//!
//! Bodies are borsh as `quorate_attest::encoding` demands it; lists and byte strings have a `u32` length.
//!
//! | op | body of the request | body of a reply with status 0 | other status |
//! | --- | --- | --- | --- |
//! | 1 get | key | the value's bytes, without a length | 9 |
//! | 2 put | key, value | `u8` 1 if a value was replaced, else 0 | 10 |
//! | 3 delete | key | empty | 9 |
//! | 4 compare and swap | key, expected `Option`, value `Option` (`None`: absent) | empty | 8, 10 |
//! | 5 list | prefix, after `Option<key>`, limit `u16` | entries (key, value length `u32`), more `bool` | |
//! | 6 fill (load test) | bytes `u64`, seed `u64` | bytes `u64`, checksum `u64` | 10 |
//!
//! Any operation may also end in 1 MALFORMED, 2 TOO_LARGE (key over 4,096 bytes, value over 65,536, more than 256
//! entries listed), 3 UNKNOWN_KIND or 12 WRONG_EPOCH (the service knows only epoch 0). A failed operation changes
//! nothing. `list` answers in key order, at most `limit` entries or 64 KiB of keys; `after` continues behind a key.
//!
//! `fill` replaces one arena of pseudo-random words, which no other operation reads: it brings a VM to a given size with
//! a single input. It counts against the same budget as the entries.
//!
//! # Exactly once
//!
//! A client numbers its requests with a rising sequence; **gaps are allowed**. Per client the service keeps the last
//! sequence, that request's signature and its reply:
//!
//! * a higher sequence is executed, whatever its result, and replaces what is kept;
//! * the same request again gets the kept reply, byte for byte, and changes nothing;
//! * another request with the same sequence, or a lower one, gets 6 REPLAYED.
//!
//! The table holds at most 4,096 clients and a bounded number of bytes; the client whose last authentic request lies
//! furthest back is forgotten first, and this depends on nothing but the inputs.
//!
//! # Bounds
//!
//! [`Limits::for_machine`] divides the heap between entries, arena and the table of clients, so that no sequence of
//! inputs exhausts it. Nothing reachable from an input panics. `fill` calls its `pace` hook every 2 MiB, where the guest
//! yields.
//!
//! # What it does not promise
//!
//! Any client may read and write any key. A client that was forgotten (after 4,096 others) can be made to repeat an old
//! request of its own. Keys and values are visible to the host, as everything in a VM is.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

mod arena;
pub mod client;
mod operation;
mod service;
mod session;
mod store;

pub use operation::{Answer, Entry, Operation, Page, Refusal, op};
pub use service::{Kv, Limits};
pub use session::CLIENTS_MAX;

/// Longest key.
pub const KEY_BYTES_MAX: usize = 4096;
/// Longest value.
pub const VALUE_BYTES_MAX: usize = 65_536;
/// Most entries of one [`Page`].
pub const PAGE_ENTRIES_MAX: u16 = 256;
/// Bytes of keys after which a [`Page`] ends early.
pub const PAGE_BYTES_MAX: usize = 65_536;

#[cfg(test)]
mod tests;
