//! The messages of ordered services.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: quorate_fuzz::seeds::write(quorate_fuzz::seeds::messages), |bytes: &[u8]| quorate_fuzz::messages::check(bytes));
