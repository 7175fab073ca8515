//! The service registry guest.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

quorate_kit::guest_main!(quorate_registry::Registry);
