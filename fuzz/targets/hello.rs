//! The hello of transport connections, and what either end makes of it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: quorate_fuzz::seeds::write(quorate_fuzz::hello::seeds), |bytes: &[u8]| quorate_fuzz::hello::check(bytes));
