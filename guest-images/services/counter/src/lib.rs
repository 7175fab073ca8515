//! The smallest ordered service: a total that clients add to.
//!
//! `docs/tutorial-service.md` builds it step by step. Not promised: anything about who adds; any client may.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

use alloc::vec::Vec;

use quorate_attest::encoding::{from_bytes, to_bytes};
use quorate_kit::{Call, Service, State, status};

/// Operation: adds a u64 and answers the new total.
pub const ADD: u16 = 1;

/// Operation: answers the total. Its body is empty.
pub const READ: u16 = 2;

/// Key of the total, a u64.
pub const TOTAL: [u8; 1] = [1];

/// The service. Its configuration is the total to begin with, a u64.
#[derive(Debug)]
pub struct Counter;

impl Service for Counter {
    fn genesis(state: &mut State<'_>, config: &[u8]) -> Result<(), u16> {
        let total: u64 = from_bytes(config, 8).map_err(|_| status::BAD_CONFIG)?;
        state.put(TOTAL.to_vec(), to_bytes(&total))
    }

    fn apply(state: &mut State<'_>, call: &Call<'_>) -> Result<Vec<u8>, u16> {
        let total: u64 =
            state.get(&TOTAL).and_then(|value| from_bytes(value, 8).ok()).ok_or(status::NOT_FOUND)?;
        match call.op {
            ADD => {
                let amount: u64 = from_bytes(call.body, 8).map_err(|_| status::MALFORMED)?;
                let total = total.checked_add(amount).ok_or(status::LIMIT)?;
                state.put(TOTAL.to_vec(), to_bytes(&total))?;
                Ok(to_bytes(&total))
            }
            READ if call.body.is_empty() => Ok(to_bytes(&total)),
            READ => Err(status::MALFORMED),
            _ => Err(status::UNKNOWN_KIND),
        }
    }
}
