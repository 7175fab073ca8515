//! A replica of the counter, fed with inputs.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: quorate_fuzz::seeds::write(quorate_fuzz::seeds::counter), |bytes: &[u8]| quorate_fuzz::replica::counter(bytes));
