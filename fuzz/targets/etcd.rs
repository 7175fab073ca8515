//! Requests of etcd's protocol at the gateway.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(init: quorate_fuzz::seeds::write(quorate_fuzz::seeds::etcd), |bytes: &[u8]| quorate_fuzz::gateway::check(bytes));
