//! The control plane, fed with entries of the ordered log.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: quorate_fuzz::seeds::write(quorate_fuzz::control::seeds), |bytes: &[u8]| quorate_fuzz::control::check(bytes));
