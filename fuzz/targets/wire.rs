//! The frames of orchestrators, hosts, verifiers and host signers.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: quorate_fuzz::seeds::write(quorate_fuzz::seeds::wire), |bytes: &[u8]| quorate_fuzz::wire::check(bytes));
