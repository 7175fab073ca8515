//! Frames, blocks, gossip and proofs of the orchestrators' log.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: quorate_fuzz::seeds::write(quorate_fuzz::ordered_log::seeds), |bytes: &[u8]| quorate_fuzz::ordered_log::check(bytes));
