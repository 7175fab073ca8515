//! A service that does whatever a test needs.

use alloc::vec;
use alloc::vec::Vec;

use quorate_attest::encoding::{from_bytes, to_bytes};

use crate::{Call, Service, State, status};

pub struct Notes;

pub mod op {
    /// Key and value.
    pub const PUT: u16 = 1;
    /// Key.
    pub const REMOVE: u16 = 2;
    /// Writes `written`, then answers that many bytes (u32).
    pub const ECHO: u16 = 3;
    /// Writes `failed` and removes everything else, then fails with that status (u16).
    pub const FAIL: u16 = 4;
    /// Everything from one key to another.
    pub const LIST: u16 = 5;
    /// Service time.
    pub const TIME: u16 = 6;
    /// Removes every key.
    pub const CLEAR: u16 = 7;
    /// Writes keys `first..first + count` (u32 each) with values of that many bytes (u32).
    pub const FILL: u16 = 8;
}

pub const LIST_LIMIT: usize = 8;

fn everything(state: &State<'_>) -> Vec<Vec<u8>> {
    state.range(&[], &[0xff; 16]).map(|(key, _)| key.to_vec()).collect()
}

fn decoded<T: borsh::BorshSerialize + borsh::BorshDeserialize>(body: &[u8]) -> Result<T, u16> {
    from_bytes(body, 1 << 18).map_err(|_| status::MALFORMED)
}

impl Service for Notes {
    fn genesis(state: &mut State<'_>, config: &[u8]) -> Result<(), u16> {
        if config == b"bad" {
            state.put(vec![1], vec![1])?;
            return Err(status::BAD_CONFIG);
        }
        match config.is_empty() {
            true => Ok(()),
            false => state.put(b"config".to_vec(), config.to_vec()),
        }
    }

    fn apply(state: &mut State<'_>, call: &Call<'_>) -> Result<Vec<u8>, u16> {
        match call.op {
            op::PUT => {
                let (key, value): (Vec<u8>, Vec<u8>) = decoded(call.body)?;
                let before = state.get(&key).map(<[u8]>::to_vec);
                state.put(key, value)?;
                Ok(to_bytes(&before))
            }
            op::REMOVE => {
                let key: Vec<u8> = decoded(call.body)?;
                let before = state.get(&key).map(<[u8]>::to_vec);
                state.remove(&key);
                Ok(to_bytes(&before))
            }
            op::ECHO => {
                state.put(b"written".to_vec(), to_bytes(&call.number))?;
                Ok(vec![7; decoded::<u32>(call.body)? as usize])
            }
            op::FAIL => {
                let status = decoded(call.body)?;
                everything(state).iter().for_each(|key| state.remove(key));
                state.put(b"failed".to_vec(), vec![1])?;
                Err(status)
            }
            op::LIST => {
                let (low, high): (Vec<u8>, Vec<u8>) = decoded(call.body)?;
                let list = state.range(&low, &high).take(LIST_LIMIT);
                Ok(to_bytes(&list.map(|(key, value)| (key.to_vec(), value.to_vec())).collect::<Vec<_>>()))
            }
            op::TIME => Ok(to_bytes(&call.time_ms)),
            op::CLEAR => {
                everything(state).iter().for_each(|key| state.remove(key));
                Ok(Vec::new())
            }
            op::FILL => {
                let (first, count, bytes): (u32, u32, u32) = decoded(call.body)?;
                for number in first..first.saturating_add(count) {
                    state.put(
                        [&[1], &number.to_be_bytes()[..]].concat(),
                        vec![number as u8; bytes as usize],
                    )?;
                }
                Ok(Vec::new())
            }
            _ => Err(status::UNKNOWN_KIND),
        }
    }

    fn tick(state: &mut State<'_>, number: u64, time_ms: u64) {
        if time_ms >= 1 << 40 {
            // Far more than a request may change.
            everything(state).iter().for_each(|key| state.remove(key));
        }
        let _ = state.put(b"ticked".to_vec(), to_bytes(&(number, time_ms)));
    }
}
