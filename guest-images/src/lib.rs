//! The guest images, as bytes a host program carries with it.
//!
//! # What it is for
//!
//! An image is a guest's ELF file; its SHA-256 is part of a VM's identity. The build of this crate compiles the guest
//! programs of `services/` with a cargo of its own (`build.rs`) and embeds the files here, so that a host, a verifier
//! and an operator built from one commit name the same digests without fetching anything.
//!
//! # Layout of an image
//!
//! `guest.ld` decides: text (r-x) from 2 MiB, constants (r--) from the next 2 MiB boundary, data and bss (rw-) from the
//! one after. Symbols stay, for crash reports; debug information, notes, unwind tables and paths of the build machine do
//! not.
//!
//! # Reproducibility
//!
//! The same commit and compiler give the same bytes from any folder: `scripts/check-reproducible` builds twice and
//! compares. Another compiler version gives other digests.
//!
//! # What it does not promise
//!
//! Carrying an image says nothing about it: whoever boots one admits it first, like a stranger's.

#![forbid(unsafe_code)]

use sha2::{Digest, Sha256};

pub mod specimen;

/// A guest program.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct GuestImage {
    /// Name of the service.
    pub name: &'static str,
    /// The ELF file.
    pub elf: &'static [u8],
}

impl GuestImage {
    /// SHA-256 of the file: what VM specifications and statements name.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.elf).into()
    }

    /// The image with this name.
    pub fn by_name(name: &str) -> Option<Self> {
        ALL.into_iter().find(|image| image.name == name)
    }
}

impl std::fmt::Debug for GuestImage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GuestImage").field("name", &self.name).field("bytes", &self.elf.len()).finish()
    }
}

/// The tutorial's counter (`quorate-counter`).
pub const COUNTER: GuestImage =
    GuestImage { name: "counter", elf: include_bytes!(concat!(env!("OUT_DIR"), "/counter")) };

/// The key-value service (`quorate-kv`).
pub const KV: GuestImage = GuestImage { name: "kv", elf: include_bytes!(concat!(env!("OUT_DIR"), "/kv")) };

/// The service registry (`quorate-registry`).
pub const REGISTRY: GuestImage =
    GuestImage { name: "registry", elf: include_bytes!(concat!(env!("OUT_DIR"), "/registry")) };

/// The load and misbehaviour service (`quorate-stress`).
pub const STRESS: GuestImage =
    GuestImage { name: "stress", elf: include_bytes!(concat!(env!("OUT_DIR"), "/stress")) };

/// The UID registry (`quorate-uid`).
pub const UID: GuestImage = GuestImage { name: "uid", elf: include_bytes!(concat!(env!("OUT_DIR"), "/uid")) };

/// Every image.
pub const ALL: [GuestImage; 5] = [COUNTER, KV, REGISTRY, STRESS, UID];

#[cfg(test)]
mod tests;
