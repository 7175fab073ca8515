//! A replica of the registry of UIDs, fed with inputs.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: quorate_fuzz::seeds::write(quorate_fuzz::seeds::uid), |bytes: &[u8]| quorate_fuzz::replica::uid(bytes));
