//! The smallest service: a total.

use quorate_attest::encoding::Bounded;
use quorate_attest::encoding::{from_bytes, to_bytes};
use quorate_attest::id::{Nonce, VmId};
use quorate_attest::key::SecretKey;
use quorate_attest::request::{Call, Reply, Request};
use quorate_attest::state_tree::StateTree;
use quorate_counter::{ADD, READ, TOTAL};

use crate::cut::Cut;
use crate::must;
use crate::world::{CLIENTS, Draft, Subject};

/// The counter, which begins at 40.
#[derive(Debug)]
pub struct Counter;

impl Subject for Counter {
    type Service = quorate_counter::Counter;

    fn config() -> Vec<u8> {
        to_bytes(&40u64)
    }

    fn key(client: u8) -> SecretKey {
        SecretKey::from_seed([0x63 + client; 32])
    }

    fn operation(cut: &mut Cut<'_>, _: &Draft<'_>) -> (u16, Vec<u8>) {
        match cut.below(3) {
            0 => (READ, Vec::new()),
            _ => (ADD, to_bytes(&cut.number())),
        }
    }

    fn script(seed: u64, length: usize, instance: VmId, execute: &mut dyn FnMut(Vec<u8>) -> Option<Reply>) {
        for step in 0..length as u64 {
            let key = Self::key((seed.wrapping_add(step) % u64::from(CLIENTS)) as u8);
            let (nonce, body) = (Nonce::from_bytes([4; 16]), to_bytes(&(seed ^ step)));
            let call = Call { op: ADD, sequence: 1_000_000 + step, nonce, epoch: 0, body };
            execute(Request::sign(&key, instance, call).encoded());
        }
    }

    fn check(tree: &StateTree) {
        let total: u64 = must(from_bytes(tree.get(&TOTAL).unwrap_or_default(), 8));
        assert!(total >= 40, "the total fell to {total}");
        assert_eq!(tree.from(&[1]).count(), 1, "entries beside the total");
    }

    fn check_entry(key: &[u8], value: &[u8]) {
        assert_eq!((key, value.len()), (&TOTAL[..], 8));
    }
}
