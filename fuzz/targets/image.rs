//! Files that would be images.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: quorate_fuzz::seeds::write(quorate_fuzz::image::seeds), |bytes: &[u8]| quorate_fuzz::image::check(bytes));
