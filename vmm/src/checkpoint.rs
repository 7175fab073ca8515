//! Checkpoint files: a machine at a cut, complete or as a difference to its predecessor.
//!
//! # What is saved, and who restores it
//!
//! | state | saved as | restored by |
//! | --- | --- | --- |
//! | memory | leaf digest and contents of every page that is not zero (full) or that changed (incremental) | [`IncomingMachine`], which copies each page to its final address and hashes it there |
//! | general registers, RIP, RFLAGS | CPU state `cpu-v1` | `Machine::resume` |
//! | x87, SSE, AVX, AVX-512, PKRU state | CPU state `cpu-v1` | `Machine::resume`, converted to the layout of the host |
//! | control, debug and segment registers, descriptor tables | CPU state `cpu-v1`; must be those of the machine version | `Machine::resume` |
//! | position, pending receive, exit code | device state `device-v1` | `Machine::resume` |
//! | arguments of a pending receive | in the mailbox page, which is memory | checked again when the machine is made |
//! | input log | its frontier: size and at most 64 digests | [`Execution::resume_at`] |
//! | image | its digest; the file itself is given to [`Checkpoint::restore`] | names the entry point, the rights of each region, the symbols |
//! | page tree | not saved: its leaves are | hashed again from the leaves, compared with the page root |
//!
//! | left out | why nothing is lost |
//! | --- | --- |
//! | XCR0, MSRs, CPUID, APIC base | fixed by the machine version |
//! | TSC, DR6 | the guest cannot read them |
//! | vCPU events, interrupts | there are none at a ring; `Machine` checks it |
//! | inputs and outputs since the last cut | a checkpoint is taken at a cut, where there are none |
//! | an input refused but not yet consumed | a cut is impossible then |
//! | console lines | not part of the VM's state and not certified |
//! | watchdog, way of finding dirty pages | settings of the host that influence no digest |
//! | inputs before the checkpoint | the frontier proves them; who needs them keeps them |
//! | slot, generation, certificate | of the statement, which is kept beside the file and names the same digests |
//!
//! # Format, version 1
//!
//! All integers are little-endian. The file consists of these parts, without gaps, and nothing follows:
//!
//! | part | bytes |
//! | --- | --- |
//! | header | 256 |
//! | CPU state | 3115 |
//! | device state | 18, or 26 after an exit |
//! | input log | 12 + 32 for each bit set in its size |
//! | table | 36 for each entry |
//! | seal | 32: BLAKE3 of everything before it |
//! | pages | 4096 for each entry of the table whose leaf is not that of a zero page, in the same order |
//!
//! The seal covers the pages through their leaf digests, so a page is hashed once, and a damaged one is named.
//!
//! | offset | bytes | header field |
//! | --- | --- | --- |
//! | 0 | 8 | `magic`: `QRTCKPT` and a zero byte |
//! | 8 | 4 | `version` of this format: 1 |
//! | 12 | 4 | `kind`: 1 full, 2 incremental |
//! | 16 | 4 | `machine_version`: 1 |
//! | 20 | 4 | `reserved`: zero |
//! | 24 | 8 | `memory_bytes`: multiple of 2 MiB, 8 MiB to 16 GiB |
//! | 32 | 32 | `image`: SHA-256 of the image file |
//! | 64 | 32 | `platform`: platform class of the host that made it |
//! | 96 | 32 | `page_root` of the machine |
//! | 128 | 32 | `parent`: page root of the predecessor; zero in a full checkpoint |
//! | 160 | 32 | `cpu`: digest of the CPU state |
//! | 192 | 32 | `device`: digest of the device state |
//! | 224 | 8 | `inputs` consumed |
//! | 232 | 8 | `doorbells` rung |
//! | 240 | 4 | `entries` of the table, at most memory_bytes / 4096 |
//! | 244 | 4 | `cpu_bytes`: 3115 |
//! | 248 | 4 | `device_bytes` |
//! | 252 | 4 | `log_bytes` |
//!
//! A table entry is a page index (4 bytes) and the leaf digest of the page (32 bytes). Indexes ascend strictly. In a full
//! checkpoint no entry has the leaf of a zero page, and every page without an entry is zero; in an incremental one,
//! every page without an entry is that of the predecessor. Either way the leaves must fold to `page_root`. There is
//! one encoding of a full checkpoint and one of a difference: equal states give equal files.
//!
//! # Reading
//!
//! Lengths are checked against the file and the memory size before anything is allocated; then the seal, then every
//! digest, then each page as it arrives. Reading says that the file is what was written, not that its state was ever
//! certified: compare [`Checkpoint::measurement`] and [`Checkpoint::input_root`] with a statement.
//!
//! # Writing
//!
//! The file is written beside its final name as `NAME.partial` with mode 0600, synced, renamed, and the directory
//! synced. After a crash there is the old file or the new one, and perhaps a `.partial` that the next write replaces.
//! One process at a time may write to a name. A checkpoint contains the guest's memory in the clear.

mod error;
mod file;
mod format;

#[cfg(test)]
mod tests;

pub use error::CheckpointError;

use std::path::Path;

use quorate_attest::id::{ImageDigest, InputRoot, PageRoot, PlatformClass};
use quorate_attest::merkle::{Frontier, Sha256Tree};

use crate::cpu::CpuState;
use crate::device::DeviceState;
use crate::execution::Execution;
use crate::image::Image;
use crate::incoming::IncomingMachine;
use crate::measurement::Measurement;
use crate::page_tree::{Digest, PageTree};
use crate::snapshot::PageSnapshot;

/// A machine at a cut, with everything needed to continue it elsewhere.
#[derive(Clone, Debug)]
pub struct Checkpoint {
    /// The image it runs.
    pub image: ImageDigest,
    /// Class of the host that made it.
    pub platform: PlatformClass,
    /// Registers.
    pub cpu: CpuState,
    /// State of the doorbell.
    pub device: DeviceState,
    /// The log of all inputs consumed.
    pub input_log: Frontier<Sha256Tree>,
    /// Memory.
    pub pages: PageSnapshot,
}

impl Checkpoint {
    /// Takes a checkpoint of an execution that has just been cut with this measurement and whose pages these are.
    pub fn take(
        execution: &mut Execution,
        measurement: &Measurement,
        pages: &PageSnapshot,
    ) -> Result<Self, CheckpointError> {
        let image =
            execution.machine().image().ok_or(CheckpointError::RootMismatch { component: "image" })?;
        let checkpoint = Self {
            image: image.digest(),
            platform: crate::platform::PlatformClass::detect().0,
            device: execution.machine().device_state(),
            input_log: execution.input_log().clone(),
            cpu: execution.machine_mut().cpu_state()?,
            pages: pages.clone(),
        };
        checkpoint.require(measurement)?;
        Ok(checkpoint)
    }

    /// The digests of the state, as a statement names them.
    pub fn measurement(&self) -> Measurement {
        Measurement {
            position: self.device.position(),
            page_root: PageRoot::from_bytes(self.pages.tree().root()),
            page_count: self.pages.tree().count().into(),
            cpu: self.cpu.digest(),
            device: self.device.digest(),
        }
    }

    /// Root of the log of all inputs.
    pub fn input_root(&self) -> InputRoot {
        InputRoot::from_bytes(self.input_log.root())
    }

    /// Says which component is not the measured one.
    pub fn require(&self, expected: &Measurement) -> Result<(), CheckpointError> {
        let own = self.measurement();
        let components = [
            ("memory", (own.page_root, own.page_count) == (expected.page_root, expected.page_count)),
            ("cpu", own.cpu == expected.cpu),
            ("device", (own.device, own.position) == (expected.device, expected.position)),
        ];
        match components.iter().find(|(_, equal)| !equal) {
            Some((component, _)) => Err(CheckpointError::RootMismatch { component }),
            None => Ok(()),
        }
    }

    /// Writes a full checkpoint.
    pub fn write_full(&self, path: &Path) -> Result<(), CheckpointError> {
        file::write(path, self, None)
    }

    /// Writes the difference to the predecessor whose page tree this is.
    pub fn write_incremental(&self, path: &Path, parent: &PageTree) -> Result<(), CheckpointError> {
        if parent.count() != self.pages.tree().count() {
            return Err(CheckpointError::RootMismatch { component: "parent" });
        }
        file::write(path, self, Some(parent))
    }

    /// Reads a full checkpoint.
    pub fn read(path: &Path) -> Result<Self, CheckpointError> {
        file::read(path, None)
    }

    /// Reads an incremental checkpoint that follows `parent`. Unchanged pages are shared with it.
    pub fn read_incremental(path: &Path, parent: &Checkpoint) -> Result<Self, CheckpointError> {
        file::read(path, Some(parent))
    }

    /// Reads a full checkpoint and the incremental ones that follow it, in order.
    pub fn read_chain<P: AsRef<Path>>(full: &Path, following: &[P]) -> Result<Self, CheckpointError> {
        following
            .iter()
            .try_fold(Self::read(full)?, |parent, path| Self::read_incremental(path.as_ref(), &parent))
    }

    /// Continues the execution. Every page is hashed at its final address on the way.
    pub fn restore(&self, image: &Image) -> Result<Execution, CheckpointError> {
        if image.digest() != self.image {
            return Err(CheckpointError::RootMismatch { component: "image" });
        }
        let platform = crate::platform::PlatformClass::detect().0;
        if platform != self.platform {
            return Err(CheckpointError::PlatformMismatch { made: self.platform, here: platform });
        }
        let leaves: Vec<Digest> = self.pages.tree().leaves().copied().collect();
        let mut incoming = IncomingMachine::new(self.pages.memory_bytes(), leaves, &self.measurement())?;
        for index in self.pages.tree().nonzero() {
            let page = self.pages.page(index).ok_or(CheckpointError::ChunkHashMismatch { index })?;
            incoming.write_page(index, page)?;
        }
        let machine = incoming.finish(image, &self.cpu, &self.device)?;
        Ok(Execution::resume_at(machine, self.input_log.clone())?)
    }
}
