//! The socket of the NSS module.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: quorate_fuzz::seeds::write(quorate_fuzz::seeds::nss), |bytes: &[u8]| quorate_fuzz::nss::check(bytes));
