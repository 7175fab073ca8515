//! The guest of the UID registry.

#![no_std]
#![no_main]
#![forbid(unsafe_code)]

quorate_kit::guest_main!(quorate_uid::UidRegistry);
