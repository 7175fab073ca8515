//! The guest machine: one virtual CPU at CPL 3, static page tables, one doorbell.
//!
//! ```text
//! boot ──▶ run ──▶ WantsInput ──deliver──▶ run ──▶ Output ──▶ run ──▶ Yielded ──▶ run … Finished
//!            └──▶ Crashed (terminal)          measure: at any of these stops, except after a crash
//! ```
//!
//! Between two doorbells the guest's instructions are a pure function of its state: there is no clock, interrupt,
//! randomness or device it could ask. A ring is complete (memory and registers are those behind the store) before
//! [`Machine::run`] returns, so every stop is a point at which the state can be measured and from which any other
//! machine with the same state continues in the same way.
//!
//! What a guest asks wrongly it gets back as a negative result and continues; both are part of the deterministic
//! execution. Every exit that is not a ring is a [`CrashReport`] and ends the machine.
//!
//! # What a state consists of
//!
//! | piece | measured by | restored by |
//! | --- | --- | --- |
//! | memory, mailbox and tables included | page root | [`IncomingMachine`](crate::IncomingMachine), page by page |
//! | registers, vector and x87 state | CPU digest | [`CpuState`], loaded and read back before the first entry |
//! | counters, pending receive, exit code | device digest | [`DeviceState`]; the receive's buffer from the mailbox |
//! | XCR0, MSRs, CPUID | nothing: fixed by the machine version | set at every start |
//! | TSC, DR6, APIC base | nothing: the guest cannot read them | left as KVM creates them |
//! | events in flight | nothing: there are none behind a ring, which is checked | - |
//! | dirty log, watchdog, console | nothing: no influence on the guest | begin anew |
//!
//! Not provided: several CPUs, interrupts, time; protection against the host the machine runs on.

mod copy;
mod diagnose;
mod dirty;
mod doorbell;
mod error;
pub mod layout;
mod vcpu;

pub(crate) use dirty::FollowToken;
pub use error::MachineError;

use std::time::Duration;

use quorate_attest::id::PageRoot;
use quorate_guest_abi::Span;

use crate::cpu::CpuState;
use crate::crash::{CrashKind, CrashReport};
use crate::device::{DeviceState, Pending, Position};
use crate::image::Image;
use crate::measurement::{MeasuredPages, Measurement};
use crate::memory::GuestMemory;
use crate::page_tree::{Page, PageTree};
use crate::watchdog::Watch;
use dirty::DirtyPages;
use layout::{Extent, MemoryMap};
use vcpu::{Trap, Vcpu};

/// Why [`Machine::run`] came back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Exit {
    /// The guest waits for an input of at most this many bytes; a longer one is refused and stays first in line.
    WantsInput {
        /// Size of the guest's buffer.
        capacity: u32,
    },
    /// The guest emitted an output.
    Output(Vec<u8>),
    /// The guest wrote to the console, which no statement certifies.
    Log(Vec<u8>),
    /// The guest lets the host stop here if it wants to.
    Yielded,
    /// The guest has exited; it runs no more.
    Finished {
        /// Its exit code.
        code: u64,
    },
    /// The guest did what no guest may; it runs no more and is not measured.
    Crashed(Box<CrashReport>),
}

/// What became of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use = "a refused input is still first in line and must be delivered again"]
pub enum Delivery {
    /// The guest has it.
    Consumed,
    /// It is longer than the guest's buffer. The guest was told the length and will ask again.
    Refused,
}

/// What the constructor needs of an image; tests bring programs that admission would refuse.
pub(crate) struct Program<'a> {
    pub(crate) entry: u64,
    pub(crate) extents: Vec<Extent>,
    pub(crate) contents: Vec<(u64, &'a [u8])>,
    pub(crate) image: Option<Image>,
}

impl<'a> From<&'a Image> for Program<'a> {
    fn from(image: &'a Image) -> Self {
        Self {
            entry: image.entry(),
            extents: image.extents(),
            contents: image.contents().collect(),
            image: Some(image.clone()),
        }
    }
}

/// A running guest machine. It may move between threads; it runs on the one that calls [`Machine::run`].
pub struct Machine {
    // Closed before the memory it maps is given back.
    vcpu: Vcpu,
    memory: GuestMemory,
    map: MemoryMap,
    image: Option<Image>,
    device: DeviceState,
    /// The buffer of a pending receive, checked when it was rung for.
    buffer: Option<Span>,
    tree: PageTree,
    dirty: DirtyPages,
    watch: Option<Watch>,
    crash: Option<Box<CrashReport>>,
}

impl Machine {
    /// Starts a machine: the state before the first instruction of the image. Measured now, it is slot 0.
    pub fn boot(image: &Image, memory_bytes: u64) -> Result<Self, MachineError> {
        Self::boot_program(Program::from(image), memory_bytes)
    }

    pub(crate) fn boot_program(program: Program<'_>, memory_bytes: u64) -> Result<Self, MachineError> {
        let map = MemoryMap::new(&program.extents, memory_bytes)?;
        let mut memory = GuestMemory::new(memory_bytes)?;
        let mut dirty = DirtyPages::new(memory.page_count());
        let mut written = Ok(());
        let mut write = |address: u64, bytes: &[u8]| {
            if written.is_ok() {
                written = memory.write(address, bytes).map(|()| dirty.touch(address, bytes.len()));
            }
        };
        crate::genesis::write_memory(&map, program.contents, &mut write);
        written?;
        let tree = PageTree::zero(memory.page_count());
        let cpu = CpuState::initial(program.entry);
        let device = DeviceState::default();
        Self::assemble(Parts { memory, map, image: program.image, tree, dirty, device }, &cpu)
    }

    /// Continues in a given state. Memory is complete, and `tree` is the tree over it.
    pub(crate) fn resume(
        image: &Image,
        memory: GuestMemory,
        tree: PageTree,
        cpu: &CpuState,
        device: DeviceState,
    ) -> Result<Self, MachineError> {
        let map = MemoryMap::new(&image.extents(), memory.bytes())?;
        let dirty = DirtyPages::new(memory.page_count());
        cpu.check()?;
        Self::assemble(Parts { memory, map, image: Some(image.clone()), tree, dirty, device }, cpu)
    }

    fn assemble(parts: Parts, cpu: &CpuState) -> Result<Self, MachineError> {
        let Parts { memory, map, image, tree, dirty, device } = parts;
        let mut vcpu = Vcpu::new(&memory)?;
        vcpu.load(cpu)?;
        let (watch, crash) = (None, None);
        let mut machine = Self { vcpu, memory, map, image, device, buffer: None, tree, dirty, watch, crash };
        if device.pending == Pending::Recv {
            machine.buffer = Some(machine.pending_buffer()?);
        }
        Ok(machine)
    }

    /// Runs to the next doorbell that concerns the host. While an input is pending, says so again without running;
    /// after the end, says again how the guest ended.
    pub fn run(&mut self) -> Result<Exit, MachineError> {
        loop {
            if let Some(exit) = self.ring()? {
                return Ok(exit);
            }
        }
    }

    /// Runs to the next doorbell of any kind. `None`: the guest was refused something and may go on.
    pub(crate) fn ring(&mut self) -> Result<Option<Exit>, MachineError> {
        if let Some(report) = &self.crash {
            return Ok(Some(Exit::Crashed(report.clone())));
        }
        if let Some(code) = self.device.exited {
            return Ok(Some(Exit::Finished { code }));
        }
        if let Some(buffer) = self.buffer {
            return Ok(Some(Exit::WantsInput { capacity: buffer.length() as u32 }));
        }
        match self.run_to_store()? {
            Ok(value) => self.serve(value),
            Err(ending) => {
                let report = Box::new(self.report(ending)?);
                self.crash = Some(report.clone());
                Ok(Some(Exit::Crashed(report)))
            }
        }
    }

    /// Runs to a completed ring and gives the value stored, or what ended the guest.
    fn run_to_store(&mut self) -> Result<Result<u64, Ending>, MachineError> {
        self.dirty.guest_runs();
        if let Some(watch) = &self.watch {
            watch.enter();
        }
        let trap = self.run_to_trap();
        if let Some(watch) = &self.watch {
            watch.leave();
        }
        match trap? {
            Ok(Trap::Store { address: quorate_guest_abi::DOORBELL, bytes: 8, value }) => {
                // An instruction that stores more than 8 bytes, or reads too, traps a second time.
                Ok(self.vcpu.complete()?.map_or(Ok(value), |trap| Err(Ending::Trap(trap))))
            }
            Ok(trap) => Ok(Err(Ending::Trap(trap))),
            Err(ending) => Ok(Err(ending)),
        }
    }

    fn run_to_trap(&mut self) -> Result<Result<Trap, Ending>, MachineError> {
        loop {
            match self.vcpu.enter()? {
                // Signals of others change nothing: the guest is entered again where it was.
                Trap::Interrupted => {
                    if let Some(watch) = self.watch.as_ref().filter(|watch| watch.has_expired()) {
                        return Ok(Err(Ending::Watchdog(watch.budget())));
                    }
                }
                trap => return Ok(Ok(trap)),
            }
        }
    }

    fn report(&self, ending: Ending) -> Result<CrashReport, MachineError> {
        let report = match ending {
            Ending::Trap(trap) => diagnose::diagnose(&self.vcpu, &self.memory, trap)?,
            Ending::Watchdog(budget) => {
                let mut report = diagnose::diagnose(&self.vcpu, &self.memory, Trap::Interrupted)?;
                report.kind = CrashKind::Watchdog { budget };
                report
            }
        };
        let symbol = |address| {
            let (name, offset) = self.image.as_ref()?.symbol_of(address)?;
            Some((name.to_owned(), offset))
        };
        Ok(report.symbolise(&symbol))
    }

    /// Where the execution stands.
    pub fn position(&self) -> Position {
        self.device.position()
    }

    /// State of the doorbell.
    pub fn device_state(&self) -> DeviceState {
        self.device
    }

    /// The image the machine was started from or claims to continue.
    pub fn image(&self) -> Option<&Image> {
        self.image.as_ref()
    }

    /// Size of memory in bytes.
    pub fn memory_bytes(&self) -> u64 {
        self.memory.bytes()
    }

    /// The canonical CPU state behind the last ring.
    pub fn cpu_state(&mut self) -> Result<CpuState, MachineError> {
        self.require_measurable()?;
        self.vcpu.state()
    }

    /// A copy of one page as it is now.
    ///
    /// # Panics
    /// If there is no such page.
    pub fn read_page(&self, index: u32) -> Box<Page> {
        Box::new(*self.memory.page(index))
    }

    /// The tree over memory as of the last [`measure`](Self::measure), or at the start of the machine.
    pub fn page_tree(&self) -> &PageTree {
        &self.tree
    }

    /// Measures the state: hashes what may have changed since the last time.
    pub fn measure(&mut self) -> Result<MeasuredPages, MachineError> {
        self.require_measurable()?;
        let cpu = self.vcpu.state()?.digest();
        let pages = self.dirty.take(&self.vcpu, &self.memory)?;
        let changed = self.tree.update(&self.memory.hash_pages(&pages));
        self.dirty.choose(&self.vcpu, changed.len())?;
        let measurement = Measurement {
            position: self.position(),
            page_root: PageRoot::from_bytes(self.tree.root()),
            page_count: self.tree.count().into(),
            cpu,
            device: self.device.digest(),
        };
        Ok(MeasuredPages { measurement, changed })
    }

    fn require_measurable(&self) -> Result<(), MachineError> {
        match &self.crash {
            Some(report) => Err(MachineError::Terminal(report.kind())),
            None => Ok(()),
        }
    }

    /// Sets the longest processor time between two doorbells. A guest that exceeds it ends as
    /// [`Crashed`](Exit::Crashed) with [`CrashKind::Watchdog`]: what depends on time is never certified.
    pub fn set_watchdog(&mut self, budget: Option<Duration>) -> Result<(), MachineError> {
        self.watch = budget.map(Watch::start).transpose().map_err(MachineError::Watchdog)?;
        Ok(())
    }
}

impl std::fmt::Debug for Machine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Machine")
            .field("device", &self.device)
            .field("tree", &self.tree)
            .finish_non_exhaustive()
    }
}

/// What [`Machine::assemble`] puts together.
struct Parts {
    memory: GuestMemory,
    map: MemoryMap,
    image: Option<Image>,
    tree: PageTree,
    dirty: DirtyPages,
    device: DeviceState,
}

/// How a guest ends other than by exiting.
enum Ending {
    Trap(Trap),
    Watchdog(Duration),
}

#[cfg(test)]
mod tests;
