//! States of machines from other hosts.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: quorate_fuzz::seeds::write(quorate_fuzz::machine::seeds), |bytes: &[u8]| quorate_fuzz::machine::check(bytes));
