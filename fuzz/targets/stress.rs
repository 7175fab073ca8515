//! The load service, fed with commands.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: quorate_fuzz::seeds::write(quorate_fuzz::stress::seeds), |bytes: &[u8]| quorate_fuzz::stress::check(bytes));
