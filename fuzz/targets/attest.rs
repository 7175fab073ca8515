//! Statements, certificates, groups and texts of attestation.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: quorate_fuzz::seeds::write(quorate_fuzz::seeds::attest), |bytes: &[u8]| quorate_fuzz::attest::check(bytes));
