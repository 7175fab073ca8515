//! What orchestrators tell each other beside the log.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: quorate_fuzz::seeds::write(quorate_fuzz::members::seeds), |bytes: &[u8]| quorate_fuzz::members::check(bytes));
