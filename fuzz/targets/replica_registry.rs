//! A replica of the registry of services, fed with inputs.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: quorate_fuzz::seeds::write(quorate_fuzz::seeds::registry), |bytes: &[u8]| quorate_fuzz::replica::registry(bytes));
