//! The UID registry: an ordered service that binds user names to UIDs, one to one and for ever.
//!
//! # What it is for
//!
//! Files belong to numbers. Two names on one number, or a number given to somebody new, is a leak of whatever the first
//! owner left behind. The registry promises that neither a UID nor a name ever has two holders, that what was deleted is
//! not given out again by one admin alone, and that a client can prove who has a UID, that nobody has, and who had it.
//!
//! ```text
//! admin ─ Operation (+ Approval of a second admin) ─▶ ordered log ─▶ UidRegistry::apply on every replica
//!                                                                        │ uid → record, name → uid, history
//! reader ─ client::ask_uid, Listing ─▶ a fork of one replica ─▶ proof ───┘
//!        ─▶ proven_uid, proven_name ─▶ passwd(5) and group(5) lines
//! ```
//!
//! # Fields
//!
//! A name is `^[a-z_][a-z0-9_-]{0,30}[a-z0-9_$-]?$`; gecos at most 128 bytes without `:`, `,` and control characters; home
//! and shell are absolute paths of at most 255 bytes without `:` and control characters, the shell one of the configured
//! ones. Nobody gets 65534, 65535, 4294967294 or 4294967295 ([`REFUSED`]). 0 to 999 belong to the system.
//!
//! Every user has a group of the same name and number, and that is the primary group. There are no other groups here, so
//! the maps of groups are injective because those of users are.
//!
//! # Operations
//!
//! Bodies are borsh as `quorate_attest::encoding` demands it. `counter` is the one that the change shall have: changes of
//! the UID so far, plus one. A request made for another counter ends in 7 STALE, so that no admin changes what they have
//! not seen. An *approval* is `Option<{admin key, signature}>`.
//!
//! | op | body | who | besides 1 to 5 it may end in |
//! | --- | --- | --- | --- |
//! | 1 add user | uid, counter (1), name, gecos, home, shell | an admin | 7, 8, 10 |
//! | 2 add system user | as 1, approval; uid below 1000 | two admins | 7, 8, 10 |
//! | 3 delete user | uid, counter | an admin | 7, 8, 9 |
//! | 4 rename | uid, counter, name, approval | an admin; two below 1000 | 7, 8, 9, 10 |
//! | 5 set attributes | uid, counter, `Option` gecos, home, shell, approval | an admin; two below 1000 | 7, 8, 9, 10 |
//! | 6 allocate | name, gecos, home, shell | an admin | 8, 10 |
//! | 7 reissue | uid, counter, digest of the deletion, name, gecos, home, shell, approval | two admins | 7, 8, 9, 10 |
//! | 8 lookup | `{0, uid}` or `{1, name}` | anybody | 9 |
//! | 9 list | lowest uid, limit `u16` | anybody | |
//! | 10 history | uid, lowest counter, limit `u16` | anybody | 9 |
//!
//! 1 to 7 answer the [`Change`], 8 an [`Entry`], 9 and 10 a [`Page`]. A page has at most 256 entries, and fewer when they
//! would not fit into an ordered reply; readers ask the state instead ([`client`]), with proofs.
//!
//! Two admins decide whatever gives somebody a UID below 1000 or one that was another's. One may always delete: taking
//! away must be quick. The second admin signs [`Request::message`], which binds service, first admin, sequence number and
//! arguments: consent to one request is consent to no other. A forgotten client's request could be delivered again after
//! thousands of others, and then fails at its counter. Admins and all other configuration stand in the specification of
//! the service ([`Config`]) and never change.
//!
//! # Re-use
//!
//! A deleted UID keeps its record for ever. Only op 7 binds it again, `quarantine` entries of the log after the deletion,
//! as an action of its own in history. A name that was given up rests for as long, because sudo rules and mail go by
//! name; afterwards it is free, and the user of the UID that had it may take it back at any time.
//!
//! # State
//!
//! Numbers in keys are big endian.
//!
//! | key | value |
//! | --- | --- |
//! | `02 'u'` uid | [`UidRecord`], kept when the UID is given up |
//! | `02 'n'` name | [`NameRecord`], kept when the name is given up |
//! | `02 'h'` uid counter | [`Change`] with the [`Bind`], whose digest the next one names |
//! | `02 'a'` admin key, `02 's'` shell | empty |
//! | `02 'g'`, `02 'c'` | rules and ranges; totals |
//!
//! # Bounds
//!
//! At most 65,536 users at a time and 262,144 changes ever, or less by configuration; past them only deletions are
//! executed, for which one change per user is kept free. The guest needs room for that: a change costs at most 2,800 bytes
//! of the kit's state budget, commonly 1,700. Where the budget is smaller, additions end in 10, and so may deletions.
//!
//! # What it does not promise
//!
//! Admins are trusted with names: one of them may call a user `root`. Passwords, keys and supplementary groups are not
//! here. That an answer is new is the client's to ensure (a fresh word of a quorum about the order), not the proof's.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod client;
pub mod collect;
mod config;
mod field;
mod ledger;
mod operation;
mod record;
mod service;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use config::{
    ADMINS_LIMIT, CHANGES_LIMIT, Config, ConfigError, QUARANTINE, RANGES_LIMIT, Range, Rules, SHELLS_LIMIT,
    USERS_LIMIT,
};
pub use field::{
    FieldError, GECOS_LIMIT, Gecos, NAME_LIMIT, Name, PATH_LIMIT, Path, REFUSED, SYSTEM_END, Uid,
};
pub use operation::{Answer, Approval, Attributes, Entry, Operation, PAGE_LIMIT, Page, Request, Subject, op};
pub use record::{
    Action, Bind, Change, Holder, NameRecord, Profile, UID_BIND, UidRecord, admin_key, history_key, name_key,
    shell_key, uid_key, uid_of_key,
};
pub use service::UidRegistry;

#[cfg(test)]
mod tests;
