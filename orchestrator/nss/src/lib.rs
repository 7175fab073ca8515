//! `libnss_quorate.so.2`: users and groups of the UID registry for `getent`, `id`, `sudo` and every other program.
//!
//! # What it is for
//!
//! The C library loads it into each program that looks up a user, for a line such as
//! `passwd: files quorate [UNAVAIL=return]` in `nsswitch.conf`. It asks the gateway on this machine, which checks heads
//! and proofs, over a unix socket ([`quorate_nss_protocol`]).
//!
//! ```text
//! getpwnam("alice") ─▶ hooks ─▶ ask: request ─▶ gateway ─▶ found ──────▶ SUCCESS
//!                                                          absent ─────▶ NOTFOUND
//!                             anything else, or nothing in time ───────▶ UNAVAIL, errno EIO
//! ```
//!
//! NOTFOUND is said only when the gateway said `absent`. A missing socket, a malformed answer, a slow one, "no quorum", a
//! name that cannot be asked for and a configuration that does not parse are UNAVAIL: whoever takes silence for absence
//! lets an attacker who cuts the network choose what a name means. One exception lies in `libnss`: a name that is not
//! UTF-8, which no registry can bind, is NOTFOUND without a question.
//!
//! # A guest in foreign processes
//!
//! Nothing here panics: no indexing, no unwrapping, no arithmetic that can overflow; the profile turns checks off that would
//! end the program instead. What could panic in `libnss` is out of reach: its lock is never poisoned, and no field holds a
//! NUL. Nothing is kept between two calls but the lines of an enumeration under way. Sends raise no SIGPIPE. A call ends after 3 seconds, or what the configuration
//! says, however many answers it needs. Environment variables are never read: the program may be setuid.
//!
//! # What it does not promise
//!
//! Passwords and supplementary groups are not in the registry. An enumeration may join answers about different states.
#![forbid(unsafe_code)]
#![cfg_attr(not(test), deny(clippy::indexing_slicing, clippy::arithmetic_side_effects, clippy::panic))]

mod ask;
mod config;
mod hooks;

use hooks::Quorate;
use libnss::{libnss_group_hooks, libnss_initgroups_hooks, libnss_passwd_hooks};

libnss_passwd_hooks!(quorate, Quorate);
libnss_group_hooks!(quorate, Quorate);
libnss_initgroups_hooks!(quorate, Quorate);
