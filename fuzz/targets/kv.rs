//! The key-value service, fed with inputs.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: quorate_fuzz::seeds::write(quorate_fuzz::kv::seeds), |bytes: &[u8]| quorate_fuzz::kv::check(bytes));
