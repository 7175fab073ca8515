//! Proofs of answers, and of replicas that contradict themselves or others.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: quorate_fuzz::seeds::write(quorate_fuzz::proofs::seeds), |bytes: &[u8]| quorate_fuzz::proofs::check(bytes));
